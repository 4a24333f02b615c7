"""Garbage collection, kept from stalling requests: held off while a configuration is made, and spared what is served."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from gevent.hub import Hub

# Python has no word for "look at just this": what is tracked anew is looked at first, and both calls are of its stable interface.
_UNTRACK = ctypes.pythonapi.PyObject_GC_UnTrack
_TRACK = ctypes.pythonapi.PyObject_GC_Track
for _call in (_UNTRACK, _TRACK):
    _call.argtypes, _call.restype = [ctypes.py_object], None

#: What code of any package may refer to, and is not its own: from there one gets to everything.
_NOBODYS = (logging.Logger, logging.Manager, Hub)


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

    #: Objects made since the last collection, up to which it takes no longer than a small one to look at what is not set aside yet.
    FEW = 5_000

    def set_aside(self, *, clean: bool = False) -> None:
        """Spare everything that lives now. Takes no time, if nothing was collected since it was made.

        :param clean: leave out what has died in circles, unless that would take long: it would keep code that is let go of.
        """
        if clean and gc.get_freeze_count() and gc.get_count()[0] < self.FEW:
            gc.collect()
        gc.freeze()
        self._aside += 1

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Set aside what lives now, and at the end collect what was made meanwhile and is garbage already.

        Code that is loaded leaves circles behind. Set aside with what lives on, they would keep it for as long.
        """
        self.set_aside(clean=True)
        try:
            yield
        finally:
            gc.collect()  # of some thousand objects

    def look(self) -> None:
        """Collect everything if it is time for that."""
        self._quiet = self._quiet + 1 if self._idle() else 0
        rested = self._clock() - self._last >= self.REST
        if self._aside >= self.MOST or (self._aside and rested and self._quiet >= self.QUIET):
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._aside, self._last = 0, self._clock()


class Remains:
    """What is left of code that is used no more: found by a collection of just that, wherever it was set aside.

    Classes and modules refer back to themselves, so that only a collection frees them; and one that looks at everything takes as
    long as there is a worker. This one costs what the code itself is worth: some hundred microseconds a plugin.

    :param package: the name of the package in which the code lived; what is not of it is left alone.
    :param roots: what leads to all of it. The caller must not refer to it any more once it asks for :meth:`collect`.
    """

    #: Objects that are looked at. What has more waits for a whole collection.
    MOST = 50_000

    def __init__(self, package: str, roots: Iterable[object]) -> None:
        self._package = package
        self._roots = list(roots)
        self._classes = [weakref.ref(root) for root in self._roots if isinstance(root, type)]
        self._found: list[weakref.ref[Any]] = []  # what there was, where it can be told without keeping it: for another try

    @property
    def alive(self) -> bool:
        """Whether something still refers to a class of it."""
        return any(reference() is not None for reference in self._classes)

    def collect(self, pause: Callable[[], object] = lambda: None) -> bool:
        """Free it, if nothing refers to it from outside; return whether it is gone.

        :param pause: called after each slice of the search.
        """
        found = self._reachable(pause)
        self._found = [weakref.ref(thing) for thing in found if type(thing).__weakrefoffset__]
        for thing in found:  # into the youngest generation, out of whichever it is in
            _UNTRACK(thing)
            _TRACK(thing)
            del thing
        found.clear()
        gc.collect(0)
        return not self.alive

    def _reachable(self, pause: Callable[[], object]) -> list[Any]:
        """Return what the roots lead to, without the classes and the modules of others; the roots are forgotten."""
        roots = self._roots or [thing for reference in self._found if (thing := reference()) is not None]
        self._roots = []
        foreign = {id(part) for module in list(sys.modules.values()) if isinstance(module, ModuleType) for part in (module, vars(module))}
        seen: dict[int, Any] = {}
        while roots and len(seen) < self.MOST:
            taken = []
            for thing in roots:
                if id(thing) in seen or id(thing) in foreign or not gc.is_tracked(thing) or self._is_elsewhere(thing):
                    continue
                seen[id(thing)] = thing
                taken.append(thing)
            pause()
            roots = gc.get_referents(*taken)
        return list(seen.values())

    def _is_elsewhere(self, thing: object) -> bool:
        if isinstance(thing, type):
            return not f"{thing.__module__}.".startswith(f"{self._package}.")
        return isinstance(thing, _NOBODYS)
