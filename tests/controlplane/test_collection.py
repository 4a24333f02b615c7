from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gwproxy.controlplane.collection import Collector, uncollected


class Circle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


class Worker:
    """A collector whose worker is as idle, and as old, as the test says."""

    def __init__(self) -> None:
        self.idle = True
        self.now = 0.0
        self.collector = Collector(lambda: self.idle, lambda: self.now)

    def change(self) -> weakref.ref[Circle]:
        """Apply a configuration while something lives that dies afterwards; return what tells whether it was found."""
        circle = Circle()
        self.collector.set_aside()
        return weakref.ref(circle)

    def look(self, times: int) -> None:
        for _ in range(times):
            self.collector.look()


@pytest.fixture
def worker() -> Iterator[Worker]:
    yield Worker()
    gc.unfreeze()
    gc.collect()


def test_what_is_set_aside_is_not_looked_at(worker: Worker) -> None:
    grave = worker.change()
    gc.collect()
    assert grave() is not None
    assert gc.get_freeze_count() > 1000


def test_a_while_without_requests_is_used_to_look_at_everything(worker: Worker) -> None:
    grave = worker.change()
    worker.now = Collector.REST
    worker.look(Collector.QUIET - 1)
    assert grave() is not None
    worker.look(1)
    assert grave() is None
    assert gc.get_freeze_count() > 1000  # and set aside again


@pytest.mark.parametrize(("idle_before", "now"), [(False, Collector.REST), (True, Collector.REST - 1)], ids=["requests", "just-done"])
def test_otherwise_it_waits(worker: Worker, idle_before: bool, now: float) -> None:
    grave = worker.change()
    worker.now = now
    for _ in range(Collector.QUIET):
        worker.idle = True
        worker.look(Collector.QUIET - 1)
        worker.idle = idle_before
        worker.look(1)
    assert grave() is not None


def test_without_a_change_nothing_is_done(worker: Worker) -> None:
    circle = Circle()
    grave = weakref.ref(circle)
    gc.freeze()
    del circle
    worker.now = 10 * Collector.REST
    worker.look(10 * Collector.QUIET)
    assert grave() is not None


def test_very_many_changes_do_not_wait(worker: Worker) -> None:
    grave = worker.change()
    worker.idle = False
    for _ in range(Collector.MOST - 2):
        worker.collector.set_aside()
        worker.look(1)
    assert grave() is not None
    worker.collector.set_aside()
    worker.look(1)
    assert grave() is None


def test_collections_are_held_off_and_go_on_as_they_were() -> None:
    with uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
