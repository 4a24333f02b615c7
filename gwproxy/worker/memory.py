"""How much memory the worker has, and whether that is too much."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from gwproxy.process import resident

log = logging.getLogger("gwproxy.worker")

#: Seconds between two looks.
LOOK_SECONDS = 1.0

#: Seconds a worker serves whatever it has: one that needs more than it may must not be replaced in a circle.
GRACE_SECONDS = 60.0


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
