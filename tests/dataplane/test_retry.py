"""Which retries a budget affords, with a clock of its own, and what a Retry-After asks for."""

from __future__ import annotations

import random

import pytest

from gwproxy.dataplane.failures import UpstreamFailed
from gwproxy.dataplane.retry import Budget, RetryPolicy, pause_asked
from gwproxy.model import Retries, RetryBudget
from gwproxy.tally import Tally
from tests.clock import Clock

RESET = UpstreamFailed("reset", phase="head", sent=True)
STALE = UpstreamFailed("closed", phase="head", sent=True, reused=True)
REFUSED = UpstreamFailed("refused", phase="connect")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def policy(clock: Clock, budget: RetryBudget | None) -> tuple[RetryPolicy, Tally]:
    tally = Tally()
    return RetryPolicy(Retries(attempts=3, on=("connect", "reset", "503"), budget=budget), tally, "users", clock), tally


def test_R16_in_an_outage_retries_are_the_share_of_the_requests_and_what_is_allowed_beside(clock: Clock) -> None:
    """Every request fails, for a minute: in each ten seconds no more than a fifth is sent again, and 2 a second beside."""
    budget = Budget(RetryBudget(share=0.2, min_per_second=2), clock)
    retried: list[float] = []
    for _ in range(60 * 50):
        budget.requested()
        retried += [clock.now] if budget.spend() else []
        clock.now += 0.02
    for start in range(100, 151):
        within = sum(1 for at in retried if start <= at < start + 10)
        assert within <= 500 * 0.2 + 20 + 1
    assert len(retried) >= 0.9 * (3000 * 0.2 + 2 * 60), "and no less than that is allowed"


def test_a_retry_waits_at_random_longer_each_time_up_to_a_bound(clock: Clock) -> None:
    retries, _ = policy(clock, None)
    drawn = {attempts: [retries.pause(RESET, True, attempts) for _ in range(2000)] for attempts in (1, 2, 3, 9)}
    for attempts, most in ((1, 0.025), (2, 0.075), (3, 0.175), (9, 0.25)):
        assert 0.0 <= min(drawn[attempts]) < most / 10
        assert most * 0.9 < max(drawn[attempts]) <= most
    assert len(set(drawn[1])) > 1900


def test_what_nobody_has_noticed_is_sent_again_at_once_and_null_never_waits(clock: Clock) -> None:
    retries, _ = policy(clock, None)
    assert [retries.pause(failure, elsewhere, 1) for failure, elsewhere in ((STALE, False), (REFUSED, True))] == [0.0, 0.0]
    never = RetryPolicy(Retries(backoff=None), Tally(), "users", clock)
    assert never.pause(RESET, False, 1) == 0.0


@pytest.mark.parametrize(("share", "floor", "afforded"), [(0.0, 0.0, 0), (0.0, 1.0, 10), (0.2, 0.0, 20), (0.2, 1.0, 30), (1.0, 0.0, 100)])
def test_what_a_budget_affords_of_a_hundred_failures(clock: Clock, share: float, floor: float, afforded: int) -> None:
    budget = Budget(RetryBudget(share=share, min_per_second=floor), clock)
    for _ in range(100):
        budget.requested()
    assert sum(budget.spend() for _ in range(100)) == afforded


def test_what_is_ten_seconds_old_counts_no_more(clock: Clock) -> None:
    budget = Budget(RetryBudget(share=0.5, min_per_second=0), clock)
    for _ in range(10):
        budget.requested()
    assert [budget.spend() for _ in range(6)] == [True] * 5 + [False]
    clock.now += 9
    assert not budget.spend()
    clock.now += 1
    assert not budget.spend(), "the requests are forgotten with the retries"
    budget.requested()
    budget.requested()
    assert budget.spend()
    clock.now += 1e6
    assert not budget.spend()


def test_buckets_count_as_a_window_that_slides(clock: Clock) -> None:
    """Against the plain definition, at any times: all that lies in the last ten seconds, by whole seconds."""
    dice = random.Random(7)
    budget = Budget(RetryBudget(share=0.3, min_per_second=0.4), clock)
    requests: list[int] = []
    retries: list[int] = []
    for _ in range(5000):
        clock.now += dice.choice((0, 0.01, 0.3, 2.7, 11))
        second = int(clock.now)
        if dice.random() < 0.7:
            budget.requested()
            requests.append(second)
            continue
        recent = [sum(1 for at in found if at > second - 10) for found in (requests, retries)]
        allowed = recent[1] + 1 <= 0.4 * 10 + 0.3 * recent[0]
        assert budget.spend() == allowed
        retries += [second] if allowed else []


def test_only_what_an_upstream_in_trouble_has_to_bear_is_paid_for(clock: Clock) -> None:
    retries, tally = policy(clock, RetryBudget(share=0, min_per_second=0))
    free = [(STALE, False), (REFUSED, True)]
    paid = [(RESET, True), (RESET, False), (None, True), (None, False), (REFUSED, False)]
    assert [retries.affords(failure, elsewhere) for failure, elsewhere in free] == [True, True]
    assert [retries.affords(failure, elsewhere) for failure, elsewhere in paid] == [False] * 5
    assert tally.shown() == {"retries:users": 2, "retries_over_budget:users": 5}


def test_without_a_budget_every_retry_is_afforded(clock: Clock) -> None:
    retries, _ = policy(clock, None)
    assert all(retries.affords(RESET, False) for _ in range(10_000))


def test_an_upstream_without_retries_has_ten_a_second(clock: Clock) -> None:
    retries = RetryPolicy(None, Tally(), "http://10.0.0.5", clock)
    assert not retries.counts
    assert sum(retries.affords(REFUSED, False) for _ in range(1000)) == 100


def test_what_was_spent_stays_spent_when_the_upstream_is_described_anew(clock: Clock) -> None:
    before, _ = policy(clock, RetryBudget(share=0, min_per_second=1))
    assert sum(before.affords(RESET, False) for _ in range(100)) == 10
    described = Retries(budget=RetryBudget(share=0, min_per_second=1.2))
    after = RetryPolicy(described, Tally(), "users", clock)
    after.goes_on(before, described, clock)
    assert sum(after.affords(RESET, False) for _ in range(100)) == 2
    assert not before.affords(RESET, False)
    clock.now += 10
    assert before.affords(RESET, False)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 120 ", 120),
        ("86400", 3600),
        ("9" * 400, 3600),
        ("Thu, 01 Jan 1970 00:17:00 GMT", 20),
        ("Thu, 01 Jan 1970 00:16:00 GMT", 0),
        ("Thu, 01 Jan 2170 00:16:00 GMT", 3600),
        ("-1", 0),
        ("1.5", 0),
        ("soon", 0),
        ("\xb2", 0),
        ("", 0),
        ("Thu, 99 Jan 1970 00:17:00 GMT", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(value: str, seconds: float) -> None:
    assert pause_asked(value, 1000.0) == seconds
