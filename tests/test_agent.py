"""What a worker gives its plugins beside requests."""

from __future__ import annotations

import sys
from pathlib import Path

import gevent
import pytest

from gwproxy.agent import WorkerGateway
from gwproxy.store.shared import LocalStore


@pytest.fixture
def gateway(tmp_path: Path) -> WorkerGateway:
    return WorkerGateway(LocalStore(), "worker-1", tmp_path)


@pytest.mark.parametrize("function", [lambda: sys.exit(3), lambda: 1 / 0], ids=["exit", "error"])
def test_R33_what_a_plugin_runs_in_the_background_cannot_end_the_worker(
    gateway: WorkerGateway, function: object, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.spawn(function)  # type: ignore[arg-type]
    (greenlet,) = gateway._background
    greenlet.join(5)
    assert greenlet.successful()
    assert any("background_failed" in record.message for record in caplog.records)


def test_what_has_ended_in_the_background_is_forgotten_and_the_rest_ends_with_the_worker(gateway: WorkerGateway) -> None:
    done: list[int] = []
    for number in range(5):
        gateway.spawn(done.append, number)
        gevent.sleep(0)
    gateway.spawn(gevent.sleep, 60)
    assert done == [0, 1, 2, 3, 4]
    assert len(gateway._background) <= 2
    waiting = gateway._background[-1]
    gateway.close()
    waiting.join(5)
    assert waiting.dead


def test_a_thread_gives_back_what_the_function_returns_or_raises(gateway: WorkerGateway) -> None:
    assert gateway.in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        gateway.in_thread(divmod, 7, 0)
