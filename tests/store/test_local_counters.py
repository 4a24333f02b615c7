from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwproxy.store.local_counters import LocalCounters
from tests.clock import Clock

ALGORITHMS = ("fixed_window", "sliding_window", "token_bucket")


@pytest.fixture
def clock():
    return Clock(1_000.0)


@pytest.fixture
def counters(clock):
    return LocalCounters(clock=clock)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_limit_passes_then_nothing_and_refused_ones_are_not_counted(counters, clock, algorithm):
    took = [counters.take("k", limit=3, window=60, algorithm=algorithm) for _ in range(6)]
    assert [one.allowed for one in took] == [True] * 3 + [False] * 3
    assert [one.remaining for one in took] == [2, 1, 0, 0, 0, 0]
    assert {one.limit for one in took} == {3}
    clock.now += took[-1].retry_after
    assert counters.take("k", limit=3, window=60, algorithm=algorithm).allowed


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_retry_after_is_exact_and_reset_makes_it_whole(counters, clock, algorithm):
    for _ in range(5):
        clock.now += 0.25
        last = counters.take("k", limit=5, window=10, algorithm=algorithm)
    assert last.remaining == 0
    clock.now += last.retry_after - 0.01
    assert not counters.take("k", limit=5, window=10, algorithm=algorithm).allowed
    clock.now += 0.01
    again = counters.take("k", limit=5, window=10, algorithm=algorithm)
    assert again.allowed
    clock.now += again.reset
    assert counters.take("k", limit=5, window=10, algorithm=algorithm).remaining == 4


def test_a_fixed_window_begins_with_its_first_request(counters, clock):
    clock.now = 59.9
    assert counters.take("k", limit=2, window=60, algorithm="fixed_window").reset == 60.0
    clock.now += 59
    assert counters.take("k", limit=2, window=60, algorithm="fixed_window").reset == pytest.approx(1.0)


def test_a_bucket_fills_evenly(counters, clock):
    for _ in range(10):
        counters.take("k", limit=10, window=10, algorithm="token_bucket")
    clock.now += 2.5
    took = [counters.take("k", limit=10, window=10, algorithm="token_bucket") for _ in range(3)]
    assert [one.allowed for one in took] == [True, True, False]
    assert took[-1].retry_after == pytest.approx(0.5)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=120), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_L06_no_sliding_window_holds_more_than_the_limit(pauses, limit):
    clock = Clock(1_000.0)
    counters = LocalCounters(clock=clock)
    passed = []
    for pause in pauses:
        clock.now += pause
        if counters.take("k", limit=limit, window=10, algorithm="sliding_window").allowed:
            passed.append(clock.now)
    for begin in passed:
        assert sum(begin <= at < begin + 10 for at in passed) <= limit


@given(st.lists(st.floats(0, 3), min_size=1, max_size=120), st.integers(1, 8), st.sampled_from(["fixed_window", "token_bucket"]))
@settings(max_examples=60, deadline=None)
def test_L06_the_others_hold_to_twice_the_limit(pauses, limit, algorithm):
    clock = Clock(1_000.0)
    counters = LocalCounters(clock=clock)
    passed = []
    for pause in pauses:
        clock.now += pause
        if counters.take("k", limit=limit, window=10, algorithm=algorithm).allowed:
            passed.append(clock.now)
    for begin in passed:
        assert sum(begin <= at < begin + 10 for at in passed) <= 2 * limit


def test_a_place_in_a_sliding_window_comes_back_at_most_a_slice_late(counters, clock):
    clock.now = 1_000.0
    counters.take("k", limit=1, window=60, algorithm="sliding_window")
    clock.now += 61.0
    assert counters.take("k", limit=1, window=60, algorithm="sliding_window").allowed


def test_L09_memory_is_bounded_and_the_least_used_is_forgotten(clock):
    counters = LocalCounters(most=50, clock=clock)
    counters.take("busy", limit=1, window=600, algorithm="fixed_window")
    for n in range(1000):
        counters.take(f"k{n}", limit=1, window=600, algorithm="fixed_window")
        assert not counters.take("busy", limit=1, window=600, algorithm="fixed_window").allowed
        assert len(counters) <= 50


def test_L09_what_expired_is_forgotten_in_small_steps(counters, clock):
    for n in range(100):
        counters.take(f"k{n}", limit=1, window=1, algorithm="fixed_window")
    clock.now += 2
    for n in range(50):
        counters.take("k", limit=1000, window=1, algorithm="fixed_window")
        assert len(counters) >= 100 - 2 * n - 2
    assert len(counters) <= 2


def test_another_limit_or_algorithm_for_the_same_name_takes_effect(counters):
    for _ in range(5):
        counters.take("k", limit=5, window=60, algorithm="sliding_window")
    assert not counters.take("k", limit=2, window=60, algorithm="sliding_window").allowed
    assert counters.take("k", limit=6, window=60, algorithm="sliding_window").allowed
    assert counters.take("k", limit=2, window=60, algorithm="token_bucket").remaining == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("limit", "window"), [(0, 1.0), (-5, 0.0), (1, float("1e300")), (10**12, 1e-9)])
def test_it_never_raises(counters, algorithm, limit, window):
    decision = counters.take("k", limit=limit, window=window, algorithm=algorithm)
    assert decision.allowed
    assert decision.remaining >= 0
