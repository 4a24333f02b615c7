"""A log of what comes in floods: one line a second, which says how many were kept back."""

from __future__ import annotations

import time
from collections.abc import Callable


class Throttle:
    """Lets one event a second be told."""

    __slots__ = ("_clock", "_suppressed", "_told_at")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told_at = -1.0
        self._suppressed = 0

    def due(self) -> int | None:
        """Return how many events were kept back since the last one that was told; None: keep this one back, too."""
        now = self._clock()
        if now - self._told_at < 1.0:
            self._suppressed += 1
            return None
        suppressed, self._suppressed = self._suppressed, 0
        self._told_at = now
        return suppressed
