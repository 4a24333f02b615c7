"""The circuit breaker, with a clock of its own."""

from __future__ import annotations

import pytest

from gwproxy.dataplane.breaker import CircuitBreaker
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(Breaker(failures=3, window=10, open_for=5), clock)


def test_opens_after_failures_within_the_window_and_says_when_to_come_back(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        breaker.check()
        breaker.failed()
    assert breaker.state == "open"
    with pytest.raises(ServiceUnavailable) as refused:
        breaker.check()
    assert refused.value.headers == (("Retry-After", "5"),)


def test_failures_that_are_far_apart_do_not_open_it(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(9):
        breaker.failed()
        clock.now += 6
    assert breaker.state == "closed"
    breaker.check()


def test_half_open_lets_one_request_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    clock.now += 5
    assert breaker.state == "half_open"
    breaker.check()
    with pytest.raises(ServiceUnavailable):
        breaker.check()
    breaker.succeeded()
    assert breaker.state == "closed"
    breaker.check()
    breaker.check()


def test_a_failed_probe_opens_it_again(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    clock.now += 5
    breaker.check()
    breaker.failed()
    assert breaker.state == "open"
    with pytest.raises(ServiceUnavailable):
        breaker.check()


def test_a_probe_that_never_reports_makes_way_for_another(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    clock.now += 5
    breaker.check()
    clock.now += 5
    breaker.check()


def test_successes_while_closed_forgive_nothing_within_the_window(breaker: CircuitBreaker) -> None:
    for _ in range(2):
        breaker.failed()
        breaker.succeeded()
    breaker.failed()
    assert breaker.state == "open"
