"""When an entry of a plugin is switched off, and who may try it again."""

from __future__ import annotations

import pytest

from gwproxy.dataplane.entry_breaker import EntryBreaker
from gwproxy.model import PluginBreaker
from gwproxy.plugin import Entry
from gwproxy.tally import Tally


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def breaker(clock: Clock, tally: Tally) -> EntryBreaker:
    return EntryBreaker(("some", "1.0", Entry(route="a")), PluginBreaker(failures=3, window=10, open_for=30), tally, clock)


def fail(breaker: EntryBreaker, times: int = 3, phase: str = "response") -> None:
    for _ in range(times):
        breaker.failed(phase, "raised", 0)


def test_so_many_failures_in_the_window_switch_it_off(breaker: EntryBreaker, clock: Clock, tally: Tally) -> None:
    fail(breaker, 2)
    clock.now += 11
    fail(breaker, 2)
    assert breaker.off_until == 0.0
    fail(breaker, 1)
    assert breaker.off_until == clock.now + 30
    assert tally.get("plugin_switched_off", "some") == 1
    told = {"plugin": "some", "version": "1.0", "route": "a", "entry": 0, "phase": "response", "why": "raised", "seconds": 30.0}
    assert (breaker.shown(), breaker.retry_after) == (told, 30)


def test_what_was_under_way_says_nothing_new(breaker: EntryBreaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 5
    fail(breaker)
    breaker.succeeded("response", 0)
    assert breaker.off_until == clock.now + 25


def test_one_request_tries_all_its_hooks_and_the_phase_that_failed_decides(breaker: EntryBreaker, clock: Clock) -> None:
    fail(breaker)
    assert breaker.lets(0) == 0
    clock.now += 31
    ticket = breaker.lets(0)
    assert ticket > 0
    assert breaker.lets(0) == 0  # another request
    breaker.succeeded("pre_auth", ticket)
    assert breaker.off_until
    assert breaker.lets(ticket) == ticket
    breaker.succeeded("response", ticket)
    assert breaker.off_until == 0.0


def test_one_that_fails_again_is_off_as_long_once_more(breaker: EntryBreaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 31
    breaker.failed("response", "over_budget", breaker.lets(0))
    assert (breaker.off_until, breaker.lets(0)) == (clock.now + 30, 0)


def test_who_does_not_get_that_far_makes_way_for_another(breaker: EntryBreaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += 31
    first = breaker.lets(0)
    clock.now += 31
    second = breaker.lets(0)
    assert 0 < first != second > 0
    breaker.succeeded("response", first)
    assert breaker.off_until
    breaker.succeeded("response", second)
    assert breaker.off_until == 0.0


def test_a_request_tries_several_with_one_ticket(clock: Clock, tally: Tally) -> None:
    breakers = [EntryBreaker(("some", "1", Entry(index=n)), PluginBreaker(failures=1, open_for=1), tally, clock) for n in range(2)]
    for breaker in breakers:
        fail(breaker, 1)
    clock.now += 2
    ticket = breakers[0].lets(0)
    assert breakers[1].lets(ticket) == ticket
