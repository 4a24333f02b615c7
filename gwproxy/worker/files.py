"""File descriptors: each request needs two, its client's and its upstream's."""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("gwproxy.worker")

#: For listeners, the store, logs, plugins, and what Python itself has open.
_OTHERS = 256


def raise_file_limit(connections: int) -> None:
    """Let the process open what so many connections need, as far as the system's hard limit allows.

    The soft limit is 1,024 on many systems, for the sake of programs that use ``select``.
    """
    needed = 2 * connections + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = needed if hard == unlimited else min(needed, hard)
    if soft != unlimited and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    if soft != unlimited and soft < needed:
        log.warning("files_limited limit=%d needed=%d connections=%d", soft, needed, connections)
