"""Garbage collection, kept from stalling requests: held off while a configuration is made, and spared what is served."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Hold collections off meanwhile.

    Hundreds of thousands of objects are made, and all of them live on: a collector that looks at them over and over finds
    nothing and stalls the worker for a tenth of a second each time.
    """
    # PERF: without this, 10,000 routes take half as long again, with stretches of 0.1 s and more (benchmarks/changes.py).
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Collector:
    """Sets a configuration that is served aside, where collections do not look at it, and looks at everything now and then.

    A configuration needs no collection: nothing in it refers back, so it is freed when the last request has let go of it, set
    aside or not. But with it, all else is set aside that lives at that moment, and what of it later dies in a circle stays.
    That is found by a whole collection, which takes 0.1 s with 10,000 routes: after a change, when no request was seen for
    a while; without such a while, after :data:`MOST` changes.

    :param idle: whether there is no request.
    """

    #: Looks in a row that find no request, until there is time for a whole collection; the watcher looks every half second.
    QUIET = 20
    #: Changes after which a whole collection is made in any case.
    MOST = 1000
    #: Seconds between two whole collections in quiet moments.
    REST = 60.0

    def __init__(self, idle: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._idle = idle
        self._clock = clock
        self._aside = 0  # changes since everything was looked at
        self._quiet = 0
        self._last = clock()

    def set_aside(self) -> None:
        """Spare everything that lives now. Takes no time, if nothing was collected since it was made."""
        gc.freeze()
        self._aside += 1

    def look(self) -> None:
        """Collect everything if it is time for that."""
        self._quiet = self._quiet + 1 if self._idle() else 0
        rested = self._clock() - self._last >= self.REST
        if self._aside >= self.MOST or (self._aside and rested and self._quiet >= self.QUIET):
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._aside, self._last = 0, self._clock()
