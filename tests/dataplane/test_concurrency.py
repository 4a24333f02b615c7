"""The places of an upstream, by themselves: who gets one, who waits, who is refused."""

from __future__ import annotations

import logging
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gwproxy.dataplane.concurrency import Places
from gwproxy.dataplane.failures import ClientLeft, UpstreamBusy
from gwproxy.dataplane.throttle import Throttle
from gwproxy.model import Concurrency
from gwproxy.tally import Tally

ROOT = Path(__file__).parents[2]


def places(limit: int = 1, queue: int = 0, wait: float = 20.0) -> Places:
    return Places("users", Concurrency(limit=limit, queue=queue, wait=wait), Tally(), "users")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Waiting:
    """Somebody who waits for a place, in a thread."""

    def __init__(self, these: Places, note: Callable[[str], object], gone: Callable[[], bool] | None = None) -> None:
        before = these.queued
        self._these, self._note, self._gone = these, note, gone
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        until(lambda: these.queued > before)

    def _run(self) -> None:
        try:
            self._these.take(self._gone)
        except (UpstreamBusy, ClientLeft) as error:
            self._note(type(error).__name__)
        else:
            self._note("in")

    def end(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


def test_R22_R46_beyond_limit_and_queue_the_answer_is_at_once() -> None:
    these = places(limit=2)
    these.take()
    these.take()
    with pytest.raises(UpstreamBusy) as caught:
        these.take()
    assert (caught.value.status, caught.value.headers) == (503, (("Retry-After", "1"),))
    assert (these.in_flight, these.queued, these.refused) == (2, 0, 1)
    these.give_back()
    these.take()


def test_places_go_to_who_waits_longest() -> None:
    these, order = places(queue=3), []
    these.take()
    waiting = [Waiting(these, lambda end, name=name: order.append(name)) for name in "abc"]
    with pytest.raises(UpstreamBusy):
        these.take()  # the queue is full
    for turn, one in enumerate(waiting, 1):
        these.give_back()
        one.end()
        assert order == ["a", "b", "c"][:turn]
    these.give_back()
    assert (these.in_flight, these.queued) == (0, 0)


def test_who_has_waited_long_enough_is_refused() -> None:
    these = places(queue=1, wait=0.05)
    these.take()
    began = time.monotonic()
    with pytest.raises(UpstreamBusy):
        these.take()
    assert time.monotonic() - began >= 0.05
    assert (these.in_flight, these.queued, these.refused) == (1, 0, 1)


def test_a_client_that_left_gives_up_its_stand_to_who_is_there() -> None:
    these, ends = places(queue=2), []
    these.take()
    left = Waiting(these, ends.append, lambda: True)
    left.end()  # long before anybody gives a place back
    assert (ends, these.queued, these.refused) == (["ClientLeft"], 0, 0)
    gone = threading.Event()
    one, other = Waiting(these, ends.append, gone.is_set), Waiting(these, ends.append)
    gone.set()
    these.give_back()
    one.end()
    other.end()
    assert ends == ["ClientLeft", "ClientLeft", "in"]
    assert (these.in_flight, these.queued) == (1, 0)


def test_a_limit_that_grows_lets_in_who_waits_longest_and_one_that_shrinks_throws_nobody_out() -> None:
    these, order = places(queue=3), []
    these.take()
    waiting = [Waiting(these, lambda end, name=name: order.append(name)) for name in "abc"]
    these.resize(3)
    for one in waiting[:2]:
        one.end()
    assert (sorted(order), these.in_flight, these.queued) == (["a", "b"], 3, 1)
    these.resize(1)
    these.give_back()
    these.give_back()
    assert (these.in_flight, these.queued) == (1, 1), "given back, and handed to nobody"
    these.give_back()
    waiting[2].end()
    assert (order[2], these.in_flight) == ("c", 1)


def test_refusals_are_logged_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    these = places()
    these.take()
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            with pytest.raises(UpstreamBusy):
                these.take()
    assert these.refused == 50
    assert caplog.messages[0] == "upstream_busy upstream=users queue=full in_flight=1 queued=0 suppressed=0"
    assert len(caplog.messages) <= 3


def test_what_was_kept_back_is_told_with_the_next_line() -> None:
    now = [100.0]
    throttle = Throttle(lambda: now[0])
    assert [throttle.due() for _ in range(4)] == [0, None, None, None]
    now[0] += 1
    assert [throttle.due(), throttle.due()] == [3, None]


@pytest.mark.parametrize("resized", [False, True], ids=["fixed", "resized"])
def test_places_are_conserved_among_threads(resized: bool) -> None:
    """As under a threaded WSGI server: nobody else's place is ever given away, and none is lost."""
    these = places(limit=3, queue=4, wait=0.002)
    lock, inside, most, ends = threading.Lock(), 0, 0, []

    def visit(seed: int) -> None:
        nonlocal inside, most
        dice = random.Random(seed)
        for _ in range(150):
            try:
                these.take((lambda: dice.random() < 0.1) if dice.random() < 0.5 else None)
            except (UpstreamBusy, ClientLeft) as error:
                ends.append(type(error).__name__)
                continue
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(dice.choice((0, 0.0005, 0.003)))
            with lock:
                inside -= 1
            these.give_back()
            ends.append("in")

    threads = [threading.Thread(target=visit, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    dice = random.Random(99)
    while resized and any(thread.is_alive() for thread in threads):
        these.resize(dice.choice((1, 2, 3)))
        time.sleep(0.0005)
    for thread in threads:
        thread.join(60)
    assert (these.in_flight, these.queued, most) == (0, 0, 3)
    assert len(ends) == 12 * 150
    assert {"in", "UpstreamBusy"} <= set(ends)


def test_places_are_conserved_among_greenlets_whatever_happens() -> None:
    """As in a worker, where greenlets are killed, too; see interleaving.py."""
    command = [sys.executable, "-m", "tests.dataplane.interleaving"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = {state for state, count in re.findall(r"(\w+)=(\d+)", done.stdout) if int(count)}
    assert ends >= {"served", "refused", "left", "killed"}
