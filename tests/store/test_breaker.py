from __future__ import annotations

import threading

import pytest
import redis

from gwproxy.errors import StoreUnavailable
from gwproxy.store.breaker import Breaker
from tests.clock import Clock


def failing(error: Exception):
    def fail():
        raise error

    return fail


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def breaker(clock):
    return Breaker(failures=3, open_for=1.0, clock=clock)


def trip(breaker: Breaker, times: int = 3) -> None:
    for _ in range(times):
        with pytest.raises(StoreUnavailable):
            breaker.call(failing(redis.ConnectionError("refused")))


@pytest.mark.parametrize(
    "error",
    [
        redis.ConnectionError("x"),
        redis.TimeoutError("x"),  # no ConnectionError
        redis.exceptions.ReadOnlyError("x"),
        redis.BusyLoadingError("x"),
        redis.AuthenticationError("x"),
        redis.exceptions.RedisClusterException("x"),  # no RedisError
        ConnectionResetError("x"),
        TimeoutError("x"),
    ],
)
def test_Q11_whatever_an_unavailable_store_raises_is_translated(breaker, error):
    with pytest.raises(StoreUnavailable, match="x") as caught:
        breaker.call(failing(error))
    assert caught.value.__cause__ is error


def test_errors_of_the_caller_are_not_the_stores(breaker):
    for _ in range(5):
        with pytest.raises(KeyError):
            breaker.call(failing(KeyError("bug")))
    assert not breaker.is_open


def test_it_opens_after_failures_in_a_row_and_says_why(breaker):
    trip(breaker, 2)
    assert breaker.call(lambda: "well") == "well"
    trip(breaker, 2)
    assert not breaker.is_open  # the success in between counts
    trip(breaker, 1)
    with pytest.raises(StoreUnavailable, match=r"left alone.*refused"):
        breaker.call(lambda: pytest.fail("called while open"))
    with pytest.raises(StoreUnavailable):
        breaker.check()


def test_one_probe_after_a_while_decides(breaker, clock):
    trip(breaker)
    clock.now += 1.0
    breaker.check()
    trip(breaker, 1)
    assert breaker.is_open  # one failure was enough this time
    clock.now += 1.0
    assert breaker.call(lambda: 7) == 7
    assert not breaker.is_open
    trip(breaker, 2)
    assert not breaker.is_open  # it starts counting anew


def test_Q03_two_timeouts_in_a_row_are_enough(clock):
    opened = []
    breaker = Breaker(failures=9, timeouts=2, clock=clock, opened=lambda: opened.append(1))
    for error in (redis.TimeoutError("slow"), redis.ConnectionError("refused"), redis.TimeoutError("slow")):
        with pytest.raises(StoreUnavailable):
            breaker.call(failing(error))
    assert not breaker.is_open  # not in a row
    with pytest.raises(StoreUnavailable):
        breaker.call(failing(TimeoutError("slow")))
    assert (breaker.is_open, opened) == (True, [1])


class Rounds:
    """Ends ``attend`` after some rounds; ``each`` is done in every one."""

    def __init__(self, rounds: int, each=lambda: None) -> None:
        self._left = rounds
        self._each = each

    def wait(self, timeout: float) -> bool:
        assert 0 < timeout <= 1.0
        self._each()
        self._left -= 1
        return self._left < 0


def test_Q03_while_it_is_attended_no_call_probes(breaker, clock):
    trip(breaker)

    def refused() -> None:
        clock.now += 60.0
        with pytest.raises(StoreUnavailable, match="left alone"):
            breaker.call(lambda: pytest.fail("a request was made to probe"))

    breaker.attend(failing(redis.ConnectionError("still away")), Rounds(3, refused))
    assert breaker.call(lambda: "probed by a call, now that nobody attends") is not None


def test_what_attends_it_probes_only_while_it_is_open_and_closes_it(breaker, caplog):
    caplog.set_level("INFO")
    probes = []
    breaker.attend(lambda: probes.append(1), Rounds(3))
    assert probes == []
    trip(breaker)
    trip_again = breaker.is_open
    breaker.attend(lambda: probes.append(1), Rounds(3))
    assert (trip_again, breaker.is_open, probes) == (True, False, [1])
    assert [record.message.split()[0] for record in caplog.records] == ["store_breaker_opened", "store_breaker_closed"]


def test_a_probe_that_fails_in_an_unforeseen_way_is_not_the_last(breaker, caplog):
    trip(breaker)
    answers = iter([KeyError("bug"), None])

    def probe() -> None:
        answer = next(answers)
        if answer is not None:
            raise answer

    breaker.attend(probe, Rounds(2))
    assert not breaker.is_open
    assert any("store_probe_failed" in record.message for record in caplog.records)


def test_only_one_call_probes(breaker, clock):
    trip(breaker)
    clock.now += 1.0
    inside, leave = threading.Event(), threading.Event()

    def slow():
        inside.set()
        return leave.wait(10)

    probe = threading.Thread(target=breaker.call, args=(slow,))
    probe.start()
    assert inside.wait(10)
    with pytest.raises(StoreUnavailable):
        breaker.call(lambda: pytest.fail("a second probe"))
    leave.set()
    probe.join()
    assert not breaker.is_open


def test_a_killed_probe_leaves_the_next_call_to_probe(breaker, clock):
    class Killed(BaseException):
        pass

    def killed():
        raise Killed

    trip(breaker)
    clock.now += 1.0
    with pytest.raises(Killed):
        breaker.call(killed)
    assert breaker.call(lambda: 1) == 1


def test_calls_do_not_wait_for_each_other(breaker):
    barrier = threading.Barrier(4, timeout=10)
    threads = [threading.Thread(target=breaker.call, args=(barrier.wait,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken
