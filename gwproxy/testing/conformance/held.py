"""How long hooks hold the worker: the longest time that one ran without letting any other request run."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import greenlet
from gevent import monkey

SAMPLE_EVERY = 0.01  # seconds


#: Those that measure now.
_HOLDING: list[Holding] = []


@lru_cache(maxsize=1)
def _listen() -> None:
    """Hear of files that are opened; for as long as the process lives: there is no way to end it."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            for holding in _HOLDING:
                holding.note_open(arguments[0])

    sys.addaudithook(audit)


class Holding:
    """Measures what runs within it, for :meth:`gwproxy.testing.InProcessGateway.request`.

    Waiting that gevent knows of does not count: other requests run meanwhile. So the process has to be patched as a worker's is.

    :param package: whose lines are named.

    :ivar longest: seconds, by phase.
    :ivar lines: where the longest was seen, by phase: file and line.
    :ivar opened: files that were opened while a hook ran, by phase.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._began = 0.0
        self._slice = 0.0
        self._phase = ""
        self._current: object = None
        self._main = monkey.get_original("_thread", "get_ident")()
        self._closed = False
        self.longest: dict[str, float] = {}
        self.lines: dict[str, str] = {}
        self.opened: dict[str, str] = {}
        _listen()
        _HOLDING.append(self)
        monkey.get_original("_thread", "start_new_thread")(self._sample, ())

    def clear(self) -> None:
        """Forget what was measured."""
        self.longest, self.lines, self.opened = {}, {}, {}

    def close(self) -> None:
        """Stop looking."""
        self._closed = True
        _HOLDING.remove(self)

    @contextmanager
    def __call__(self, plugin: str, phase: str) -> Iterator[None]:
        """Measure a hook."""
        self._current, self._slice = greenlet.getcurrent(), 0.0
        before = greenlet.settrace(self._switched)
        self._began, self._phase = time.perf_counter(), phase
        try:
            yield
        finally:
            self._phase = ""
            greenlet.settrace(before)
            self._end(phase)

    def _end(self, phase: str) -> None:
        self._slice = max(self._slice, time.perf_counter() - self._began)
        self.longest[phase] = max(self.longest.get(phase, 0.0), self._slice)

    def _switched(self, _event: str, between: tuple[object, object]) -> None:
        origin, target = between
        if origin is self._current:
            self._slice = max(self._slice, time.perf_counter() - self._began)
        elif target is self._current:
            self._began = time.perf_counter()

    def _sample(self) -> None:
        sleep = monkey.get_original("time", "sleep")
        while not self._closed:
            sleep(SAMPLE_EVERY)
            phase, frame = self._phase, sys._current_frames().get(self._main)
            while phase and frame is not None:
                if self._is_own(frame.f_globals):
                    self.lines[phase] = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                    break
                frame = frame.f_back

    def note_open(self, path: object) -> None:
        """Note that somebody opens a file."""
        if self._phase and monkey.get_original("_thread", "get_ident")() == self._main:
            self.opened.setdefault(self._phase, str(path))

    def _is_own(self, names: dict[str, Any]) -> bool:
        module = str(names.get("__name__", ""))
        return module == self._package or module.startswith(f"{self._package}.")
