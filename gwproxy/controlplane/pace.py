"""How a worker shares its time between requests and the making of a configuration."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

#: Seconds of work between two pauses.
SLICE = 0.001
#: The most seconds that requests get for each slice; fewer when none is waiting. So a busy worker needs up to four times as long.
SHARE = 0.003


def let_others() -> None:
    """Let everything else that is ready run first, requests above all: until the loop is idle, :data:`SHARE` at most.

    Not ``gevent.sleep(0)``: that comes back before the loop has looked at a single socket, a hundred times and more in a row.
    """
    with gevent.Timeout(SHARE, False):
        gevent.idle(-2)  # the lowest priority: only what nobody else is ready for


class Pace:
    """Called after each small piece of work, lets others run whenever :data:`SLICE` has been worked. A call costs 0.1 us."""

    __slots__ = ("_clock", "_let_others", "_resumed")

    def __init__(self, let_others: Callable[[], object] = let_others, clock: Callable[[], float] = time.perf_counter) -> None:
        self._let_others = let_others
        self._clock = clock
        self._resumed = clock()

    def __call__(self) -> None:
        """Go on at once, or after the others."""
        if self._clock() - self._resumed >= SLICE:
            self._let_others()
            self._resumed = self._clock()
