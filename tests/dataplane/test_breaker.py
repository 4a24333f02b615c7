"""The circuit breaker, with a clock of its own."""

from __future__ import annotations

import pytest

from gwproxy.dataplane.breaker import CircuitBreaker, Probe
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Breaker
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(Breaker(failures=3, window=10, open_for=5), clock)


def opened(breaker: CircuitBreaker, clock: Clock) -> CircuitBreaker:
    """Open it, and let the time pass after which it may be probed."""
    for _ in range(3):
        breaker.failed(breaker.check())
    assert breaker.state == "open"
    clock.now += 5
    assert breaker.state == "half_open"
    return breaker


def refuses(breaker: CircuitBreaker) -> str:
    """Return what it tells of when to come back."""
    with pytest.raises(ServiceUnavailable) as refused:
        breaker.check()
    [(name, value)] = refused.value.headers
    assert name == "Retry-After"
    return value


def test_opens_after_failures_within_the_window_and_says_when_to_come_back(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(3):
        assert breaker.check() is None
        breaker.failed(None)
    assert breaker.state == "open"
    assert refuses(breaker) == "5"
    clock.now += 3.5
    assert refuses(breaker) == "2"


def test_failures_that_are_far_apart_do_not_open_it(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(9):
        breaker.failed(None)
        clock.now += 6
    assert breaker.state == "closed"
    breaker.check()


def test_half_open_lets_one_request_probe(breaker: CircuitBreaker, clock: Clock) -> None:
    probe = opened(breaker, clock).check()
    assert isinstance(probe, Probe)
    assert refuses(breaker) == "1"
    breaker.succeeded(probe)
    assert breaker.state == "closed"
    assert breaker.check() is breaker.check() is None


def test_half_open_lets_as_many_probe_as_it_says_and_wants_as_many_successes(clock: Clock) -> None:
    breaker = opened(CircuitBreaker(Breaker(failures=3, window=10, open_for=5, half_open=3), clock), clock)
    probes = [breaker.check() for _ in range(3)]
    refuses(breaker)
    for probe in probes[:2]:
        breaker.succeeded(probe)
        assert breaker.state == "half_open"
        refuses(breaker)
    breaker.succeeded(probes[2])
    assert breaker.state == "closed"


def test_a_failed_probe_opens_it_again_whatever_others_have_proved(clock: Clock) -> None:
    breaker = opened(CircuitBreaker(Breaker(failures=3, window=10, open_for=5, half_open=2), clock), clock)
    good, bad = breaker.check(), breaker.check()
    breaker.succeeded(good)
    breaker.failed(bad)
    assert (breaker.state, refuses(breaker)) == ("open", "5")
    clock.now += 5
    breaker.succeeded(breaker.check())
    assert breaker.state == "half_open", "what was proved before it opened again does not count"


def test_only_probes_are_believed_while_it_is_not_closed(breaker: CircuitBreaker, clock: Clock) -> None:
    late = breaker.check()  # sent while it was closed, answered long after
    probe = opened(breaker, clock).check()
    breaker.succeeded(late)
    assert breaker.state == "half_open"
    breaker.failed(late)
    breaker.failed(late)
    breaker.succeeded(probe)
    assert breaker.state == "closed"
    breaker.succeeded(probe)
    breaker.failed(late)
    assert breaker.state == "closed", "one failure of the three that open it"


def test_a_withdrawn_probe_makes_way_for_another(breaker: CircuitBreaker, clock: Clock) -> None:
    probe = opened(breaker, clock).check()
    breaker.withdrawn(probe)
    other = breaker.check()
    breaker.failed(probe)
    assert breaker.state == "half_open", "it proves nothing any more"
    breaker.succeeded(other)
    breaker.withdrawn(other)
    assert breaker.state == "closed"


def test_a_probe_that_takes_long_makes_way_for_another(breaker: CircuitBreaker, clock: Clock) -> None:
    slow = opened(breaker, clock).check()
    clock.now += 4.9
    refuses(breaker)
    clock.now += 0.1
    assert breaker.check() is not None
    breaker.failed(slow)
    assert breaker.state == "open"


def test_successes_while_closed_forgive_nothing_within_the_window(breaker: CircuitBreaker) -> None:
    for _ in range(2):
        breaker.failed(None)
        breaker.succeeded(None)
    breaker.failed(None)
    assert breaker.state == "open"


def test_one_that_is_described_anew_goes_on_where_the_other_was(breaker: CircuitBreaker, clock: Clock) -> None:
    for _ in range(2):
        breaker.failed(None)
    after = CircuitBreaker(Breaker(failures=3, window=10, open_for=60), clock, breaker)
    after.failed(None)
    assert (after.state, breaker.state) == ("open", "closed"), "a copy: the one before may serve on"
    again = CircuitBreaker(Breaker(failures=9), clock, after)
    assert again.state == "open"
