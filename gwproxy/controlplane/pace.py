"""How a worker shares its time between requests and the making of a configuration."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

#: Seconds of work between two pauses: the least, and the most.
SHORTEST, LONGEST = 0.001, 0.015
#: Seconds after which a pause ends although requests are waiting; those whose turn it is come first.
PATIENCE = 0.002
#: Seconds of work for each second that the pause before took: a worker that is never idle gives a third of its time.
SHARE = 0.5
#: Seconds after which it gives more, and how much more for each second from then on: a change has to be live in two.
HURRY, IMPATIENCE = 0.7, 4.0
#: Seconds without a call after which the next one begins another work.
BREAK = 0.2


def let_others() -> None:
    """Let everything else that is ready run first, requests above all: until the loop is idle, or for :data:`PATIENCE`.

    Not ``gevent.sleep(0)``: that comes back before the loop has looked at a single socket, a hundred times and more in a row.
    """
    with gevent.Timeout(PATIENCE, False):
        gevent.idle(-2)  # the lowest priority: only what nobody else is ready for


class Pace:
    """Called after each small piece of work, lets others run when enough has been worked. A call costs 0.1 us.

    Where nobody else is ready a pause takes no time, and work goes on in slices of :data:`SHORTEST`. Where requests are always
    waiting, a slice grows with what the loop needs for a round of them, so that the work gets done all the same, and in time.

    :param let_others: the pause.
    """

    __slots__ = ("_began", "_clock", "_let_others", "_until")

    def __init__(self, let_others: Callable[[], object] = let_others, clock: Callable[[], float] = time.perf_counter) -> None:
        self._let_others = let_others
        self._clock = clock
        self._began = self._until = clock()

    def __call__(self) -> None:
        """Go on at once, or after the others."""
        now = self._clock()
        if now < self._until:
            return
        if now > self._until + BREAK:
            self._began = now
        self._let_others()
        resumed = self._clock()
        share = SHARE + IMPATIENCE * max(0.0, resumed - self._began - HURRY)
        self._until = resumed + min(max(SHORTEST, share * (resumed - now)), LONGEST)
