"""The log of what is refused before the app sees it: a flood of bad requests must not become a flood of lines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

logger = logging.getLogger("gwproxy.worker")


class RefusalLog:
    """Writes a few lines a second at most; the next line says how many were kept back.

    :param per_second: lines a second.
    """

    def __init__(self, per_second: int = 5, clock: Callable[[], float] = monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._second = -1
        self._written = 0
        self._suppressed = 0

    def write(self, event: str, client: str, status: int, reason: str) -> None:
        """Log one refusal.

        :param status: what the client was told; 0 if nothing.
        :param reason: which rule; never what the client sent.
        """
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= self._per_second:
            self._suppressed += 1
            return
        self._written += 1
        suppressed, self._suppressed = self._suppressed, 0
        logger.warning("%s client=%s status=%d reason=%r suppressed=%d", event, client, status, reason, suppressed)
