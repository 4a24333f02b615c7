"""The adaptive limit, against a simulated upstream: what it finds, how soon, and that it finds it again."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from gwproxy.dataplane.adaptive import AdaptiveLimit
from gwproxy.dataplane.concurrency import Places
from gwproxy.model import Adaptive, Concurrency
from gwproxy.tally import Tally


class Simulated:
    """A service that works on ``capacity`` requests at once, and clients that always want more than it may be given.

    What is beyond its capacity waits in it, as in any service: latency grows with what is in flight.
    """

    def __init__(self, asked: Adaptive, most: int = 1000, capacity: float = 50, base: float = 0.02, demand: int = 10**6) -> None:
        self.now = 1000.0
        self.capacity, self.base, self.demand = capacity, base, demand
        self.limit = AdaptiveLimit(asked, most, lambda: self.now)
        self.flying: list[float] = []  # when each was sent, in order
        self.seen: list[int] = []
        self._dice = random.Random(3)
        self._credit = 0.0

    def run(self, seconds: float, fails: Callable[[], bool] = lambda: False) -> int:
        """Let time pass in steps of a millisecond; return the limit."""
        for _ in range(int(seconds * 1000)):
            self.now += 0.001
            while len(self.flying) < min(self.limit.limit, self.demand):
                self.flying.append(self.now)
            self._credit += self.capacity / self.base * 0.001
            while self._credit >= 1 and self.flying and self.now - self.flying[0] >= self.base * self._dice.uniform(0.9, 1.1):
                self._credit -= 1
                began = self.flying.pop(0)
                if fails():
                    self.limit.failed(len(self.flying) + 1)
                else:
                    self.limit.answered(self.now - began, len(self.flying) + 1)
            self._credit = min(self._credit, 1.0)
            self.seen.append(self.limit.limit)
        return self.limit.limit


def test_finds_what_an_upstream_can_do_and_finds_it_again_when_that_changes() -> None:
    service = Simulated(Adaptive(), capacity=50)
    assert 40 <= service.run(10) <= 100, "with 50 at once it does all it can; twice that doubles the latency"
    assert service.limit.base == pytest.approx(0.02, rel=0.2)
    service.capacity = 10
    assert 8 <= service.run(10) <= 30
    service.capacity = 100
    assert 80 <= service.run(20) <= 200


def test_an_upstream_that_got_slower_for_good_is_measured_anew() -> None:
    service = Simulated(Adaptive(remeasure=20), capacity=50)
    service.run(10)
    service.base = 0.1
    service.run(30)
    assert service.limit.base == pytest.approx(0.1, rel=0.2)
    usual = sorted(service.seen[-10_000:])[5_000]  # not the last one: that may be of a measurement
    assert 40 <= usual <= 100


def test_a_measurement_is_short_and_gives_the_limit_back() -> None:
    service = Simulated(Adaptive(remeasure=5), capacity=50)
    service.run(4)
    found, service.seen = service.limit.limit, []
    service.run(3)
    low = [limit for limit in service.seen if limit == 4]
    assert 0 < len(low) <= 1000, "milliseconds"
    assert service.limit.limit >= found * 0.7


def test_failures_shrink_it_by_a_tenth_a_window_down_to_the_least() -> None:
    service = Simulated(Adaptive(), capacity=50)
    before = service.run(8)
    dice = random.Random(1)
    assert service.run(0.5, lambda: dice.random() < 0.3) <= before * 0.95
    assert service.run(10, lambda: True) == 4
    assert service.run(10) >= 35, "and it grows again"


def test_what_is_not_used_does_not_grow() -> None:
    service = Simulated(Adaptive(initial=20), demand=5)
    assert service.run(20) <= 20


@pytest.mark.parametrize(("asked", "most"), [(Adaptive(min=30), 20), (Adaptive(min=4, initial=500), 60), (Adaptive(min=1, initial=1), 5)])
def test_bounds_are_kept_at_any_time(asked: Adaptive, most: int) -> None:
    service = Simulated(asked, most)
    service.run(6)
    dice = random.Random(2)
    service.run(3, lambda: dice.random() < 0.5)
    assert min(service.seen) >= min(asked.min, most)
    assert max(service.seen) <= most
    assert max(service.seen) == most, "this upstream can take them all"


def test_an_upstream_that_never_becomes_quiet_is_not_strangled() -> None:
    """Long streams hold their places: a measurement that finds no quiet ends after five windows, and the limit is as before."""
    now = [0.0]
    limit = AdaptiveLimit(Adaptive(remeasure=10), 100, lambda: now[0])
    for _ in range(20):
        now[0] += 0.05
        limit.answered(0.02, 2)
    assert (limit.base, limit.limit) == (0.02, 20)
    low = 0
    for _ in range(800):
        now[0] += 0.05
        limit.answered(0.02, 60)
        low += limit.limit == 4
    assert limit.base == 0.02
    assert limit.limit > 20
    assert low <= 4 * 5 * 5, "five windows of 0.2 s, at most four times in 40 s"


def test_few_requests_are_enough_in_time() -> None:
    now = [0.0]
    limit = AdaptiveLimit(Adaptive(), 100, lambda: now[0])
    for _ in range(7):
        now[0] += 0.5
        limit.answered(0.03, 1)
    assert limit.base == 0.03
    assert limit.limit == 20


def test_one_that_is_described_anew_goes_on() -> None:
    service = Simulated(Adaptive(), capacity=50)
    found = service.run(8)
    after = AdaptiveLimit(Adaptive(tolerance=0.5), 1000, lambda: service.now, service.limit)
    assert (after.limit, after.base) == (found, service.limit.base)
    assert AdaptiveLimit(Adaptive(), 10, lambda: service.now, service.limit).limit == 10


def test_places_follow_it() -> None:
    places = Places("users", Concurrency(adaptive=Adaptive(min=2, initial=2)), Tally(), "users")
    assert places.limit == 2
    places.resize(5)
    for _ in range(5):
        places.take()
    places.resize(3)
    places.give_back()
    places.give_back()
    assert (places.in_flight, places.limit) == (3, 3)
