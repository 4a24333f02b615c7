"""Where no request may be forwarded to, by whatever address: this process's own listeners, and the machine's admin listener.

A request that was sent to the first would come back, and be sent there again, until nothing is left; one that reached the
second would do so from within, past whatever keeps others away from it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to

_own: frozenset[tuple[str, int]] = frozenset()


def listening_on(addresses: Iterable[Any]) -> None:
    """Say what this machine's gateway listens on, in place of what was said before.

    :param addresses: as of ``getsockname``; those of unix sockets are passed over, no upstream is one.
    """
    global _own
    _own = frozenset((_plain(address[0]), address[1]) for address in addresses if isinstance(address, tuple))


def leads_back(sock: socket.socket) -> bool:
    """Whether a connected socket has reached one of these listeners, by whatever address of this machine."""
    if not _own:
        return False
    address, port = sock.getpeername()[:2]
    host = _plain(address)
    if (host, port) in _own:
        return True
    # A connection to one's own machine has the same address at both ends, or a loopback address at the other.
    here = address == sock.getsockname()[0] or host.startswith("127.")
    return here and any((wildcard, port) in _own for wildcard in _WILDCARDS)


def _plain(host: str) -> str:
    """Return an address without the prefix that makes an IPv6 address of an IPv4 one."""
    return host.removeprefix("::ffff:")
