from __future__ import annotations

import contextlib
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gwproxy.ports import Decision
from gwproxy.store.breaker import Breaker
from gwproxy.store.connection import connect
from gwproxy.store.counters import Counters, load_script
from gwproxy.store.local_counters import LocalCounters
from gwproxy.store.roundtrips import RoundTrips

ALGORITHMS = ("fixed_window", "sliding_window", "token_bucket")


@pytest.fixture
def counters(client):
    return Counters(RoundTrips(client, Breaker(), timeout=5.0))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_limit_passes_then_nothing(counters, client, algorithm):
    took = [counters.take("gw:rl:k", limit=3, window=60, algorithm=algorithm) for _ in range(5)]
    assert [one.allowed for one in took] == [True, True, True, False, False]
    assert [one.remaining for one in took] == [2, 1, 0, 0, 0]
    assert 0 < took[-1].retry_after <= 62
    assert took[-1].reset <= 62
    assert took[0].retry_after == 0.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_L07_S06_every_counter_has_a_lifetime_from_its_first_write(counters, client, algorithm):
    counters.take("gw:rl:k", limit=3, window=60, algorithm=algorithm)
    assert 0 < client.pttl("gw:rl:k") <= 61_000


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_L05_many_at_once_never_exceed_the_limit(server, algorithm):
    passed = []

    def worker() -> None:
        with contextlib.closing(connect(server.url, timeout=5.0)) as own:
            counters = Counters(RoundTrips(own, Breaker(), timeout=5.0))
            passed.extend(counters.take("k", limit=100, window=600, algorithm=algorithm).allowed for _ in range(40))

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 320
    assert sum(passed) == 100


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_L10_a_flushed_script_is_loaded_again_unnoticed(counters, client, algorithm):
    counters.take("k", limit=5, window=60, algorithm=algorithm)
    client.script_flush()
    assert counters.take("k", limit=5, window=60, algorithm=algorithm).remaining == 3
    assert counters.take("k", limit=5, window=60, algorithm=algorithm).remaining == 2


def test_L10_one_round_trip_a_decision(counters, client):
    counters.take("k", limit=5, window=60, algorithm="fixed_window")
    client.config_resetstat()
    for _ in range(10):
        counters.take("k", limit=5, window=60, algorithm="fixed_window")
    stats = client.info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 10
    assert "cmdstat_eval" not in stats


def test_another_algorithm_for_the_same_key_begins_anew(counters, client):
    for algorithm in (*ALGORITHMS, *ALGORITHMS):
        assert counters.take("k", limit=1, window=60, algorithm=algorithm).allowed
        assert not counters.take("k", limit=1, window=60, algorithm=algorithm).allowed


def test_a_shorter_window_shortens_the_one_under_way(counters):
    counters.take("k", limit=1, window=3600, algorithm="fixed_window")
    assert counters.take("k", limit=1, window=10, algorithm="fixed_window").reset <= 10


def test_L09_a_sliding_window_is_at_most_61_slices(client, scripted):
    for n in range(500):
        scripted(n * 400_000, "sliding_window", 10_000, 60.0)
    assert client.hlen("k") <= 61 + 2


@pytest.fixture
def scripted(client):
    """The shipped script on the test's own clock: ``TIME`` is replaced in its text, nothing in the product."""
    source = load_script("counters.lua")
    assert source.count("redis.call('TIME')") == 1
    script = client.register_script(source.replace("redis.call('TIME')", "{0, tonumber(ARGV[4])}"))

    def take(microseconds: int, algorithm: str, limit: int, window: float) -> Decision:
        now = 1_700_000_000_000_000 + microseconds
        allowed, remaining, reset, retry = script(keys=["k"], args=[algorithm, limit, round(window * 1e6), now])
        return Decision(allowed == 1, limit, remaining, reset / 1000, retry / 1000)

    return take


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(
    steps=st.lists(st.tuples(st.integers(0, 400_000_000), st.booleans()), min_size=1, max_size=60),
    limit=st.integers(1, 7),
    window=st.sampled_from([97.0, 600.0, 1234.567]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_redis_and_memory_decide_the_same(client, scripted, algorithm, steps, limit, window):
    client.delete("k")
    now = 0
    local = LocalCounters(clock=lambda: (1_700_000_000_000_000 + now) / 1e6)
    for pause, long in steps:
        now += pause if long else pause // 1000
        now -= now % 1000  # what the float clock can tell
        here = local.take("k", limit=limit, window=window, algorithm=algorithm)
        there = scripted(now, algorithm, limit, window)
        assert there.allowed == here.allowed
        assert there.remaining == here.remaining
        assert there.reset == pytest.approx(here.reset, abs=0.0021)
        assert there.retry_after == pytest.approx(here.retry_after, abs=0.0021)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_L08_a_clock_that_went_back_neither_opens_nor_locks(client, scripted, algorithm):
    for _ in range(2):
        scripted(5_000_000_000, algorithm, 2, 60.0)
    assert not scripted(0, algorithm, 2, 60.0).allowed
    assert scripted(0, algorithm, 2, 60.0).retry_after <= 61
    # A refused request writes nothing: the lifetime set before ends it, by no clock that could have gone back.
    assert 0 < client.pttl("k") <= 61_000
