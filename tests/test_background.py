"""What runs beside requests, in greenlets and in threads."""

from __future__ import annotations

import sys
import threading

import gevent
import pytest
from gevent import monkey

from gwproxy.background import Background


@pytest.fixture
def greenlets(monkeypatch: pytest.MonkeyPatch) -> Background:
    """As in a worker, whose process is patched; here only the choice that hangs on it."""
    monkeypatch.setattr(monkey, "is_module_patched", lambda name: True)
    return Background()


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("function", [lambda: sys.exit(3), interrupt, lambda: 1 / 0], ids=["exit", "interrupt", "error"])
def test_R33_what_runs_in_the_background_cannot_end_the_worker(
    greenlets: Background, function: object, caplog: pytest.LogCaptureFixture
) -> None:
    greenlets.run(function)  # type: ignore[arg-type]
    (greenlet,) = greenlets._greenlets
    greenlet.join(5)
    assert greenlet.successful()
    assert any("background_failed" in record.message for record in caplog.records)


def test_what_has_ended_is_forgotten_and_the_rest_ends_with_the_worker(greenlets: Background) -> None:
    done: list[int] = []
    for number in range(5):
        greenlets.run(done.append, number)
        gevent.sleep(0)
    greenlets.run(gevent.sleep, 60)
    assert done == [0, 1, 2, 3, 4]
    assert len(greenlets._greenlets) <= 2
    waiting = greenlets._greenlets[-1]
    greenlets.close()
    waiting.join(5)
    assert waiting.dead


def test_where_nobody_switches_greenlets_it_is_a_thread() -> None:
    background, ran = Background(), threading.Event()
    where: list[threading.Thread] = []

    def note() -> None:
        where.append(threading.current_thread())
        ran.set()

    background.run(note)
    assert ran.wait(10)
    assert where[0] is not threading.current_thread()
    assert where[0].daemon
    background.close()
