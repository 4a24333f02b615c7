"""How much memory the worker has, and whether that is too much."""

from __future__ import annotations

import logging
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

log = logging.getLogger("gwproxy.worker")

#: Seconds between two looks.
LOOK_SECONDS = 1.0

#: Seconds a worker serves whatever it has: one that needs more than it may must not be replaced in a circle.
GRACE_SECONDS = 60.0

_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the process's resident memory in bytes; where there is no ``/proc``, the most it ever had."""
    try:
        return int(_STATM.read_bytes().split()[1]) * _PAGE
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


class MemoryLimit:
    """Says when a worker has more resident memory than it may: once, and not in its first minute.

    :param limit: bytes; 0: none.
    """

    def __init__(self, limit: int, *, measure: Callable[[], int] = resident, clock: Callable[[], float] = monotonic) -> None:
        self._limit = limit
        self._measure = measure
        self._clock = clock
        self._began = self._looked_at = clock()
        self._warned = False

    def exceeded(self) -> int:
        """Return the bytes the worker has if that is too much, else 0. Looks once a second, however often it is asked."""
        now = self._clock()
        if not self._limit or now - self._looked_at < LOOK_SECONDS:
            return 0
        self._looked_at = now
        rss = self._measure()
        if rss <= self._limit:
            return 0
        if now - self._began >= GRACE_SECONDS:
            return rss
        if not self._warned:
            self._warned = True
            log.warning("memory_above_limit rss=%d limit=%d reason=%r", rss, self._limit, "in the worker's first minute: it serves on")
        return 0
