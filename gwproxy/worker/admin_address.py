"""Where this machine's admin listener is: no upstream is there."""

from __future__ import annotations

import logging
import socket
from typing import Any

from gwproxy.errors import CommandFailed
from gwproxy.settings import split_bind

log = logging.getLogger("gwproxy.worker")


def admin_addresses(bind: str | None) -> list[Any]:
    """Return the socket addresses that ``GWPROXY_ADMIN_BIND`` stands for; none for a UNIX socket, or if there is no listener.

    A name is resolved once. One that cannot be is logged: nobody listens there either.
    """
    if bind is None or bind.startswith("unix:"):
        return []
    try:
        host, port = split_bind(bind)
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104 - compared with
    except (CommandFailed, OSError, UnicodeError) as error:
        log.warning("admin_bind_unknown bind=%s reason=%s", bind, error)
        return []
    return [address for *_, address in found]
