"""What is measured of hooks and requests, and what is told of it."""

from __future__ import annotations

import gc
import math
from bisect import bisect_left

import pytest

from gwproxy import Plugin
from gwproxy.dataplane.answered import MOST, OTHERS, Answered
from gwproxy.dataplane.histogram import BOUNDS, Histogram, bucket_of, cumulative
from gwproxy.dataplane.measures import KEPT_ROWS, Measures
from gwproxy.model import PluginBreaker
from gwproxy.plugin import Entry
from gwproxy.tally import Tally


def plugin_of(version: str) -> Plugin:
    return type("Some", (Plugin,), {"name": "some", "version": version})()


@pytest.fixture
def measures() -> Measures:
    return Measures(Tally())


def test_a_time_is_right_to_a_fifth() -> None:
    for exact in (0.000_002, 0.000_05, 0.001_3, 0.25, 7.0):
        histogram = Histogram()
        for _ in range(100):
            histogram.add(exact)
        for share in (0.5, 0.99):
            found = histogram.quantile(share)
            assert found is not None
            assert exact / 1.42 <= found <= exact * 1.42
        assert histogram.seconds == pytest.approx(exact * 100)


def test_a_bucket_ends_exactly_at_its_bound() -> None:
    times = [time for bound in BOUNDS for time in (math.nextafter(bound, 0.0), bound, math.nextafter(bound, 1.0), bound * 1.2)]
    for time in [-1.0, 0.0, 1e-9, *times, 1e9]:
        assert bucket_of(time) == bisect_left(BOUNDS, time)


def test_quantiles_tell_the_slow_from_the_many() -> None:
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    for seconds in [0.001] * 98 + [1.0] * 2:
        histogram.add(seconds)
    assert histogram.quantile(0.5) < 0.0015  # type: ignore[operator]
    assert histogram.quantile(0.99) > 0.7  # type: ignore[operator]


def test_what_is_beyond_all_bounds_is_counted() -> None:
    histogram = Histogram()
    histogram.add(1e6)
    assert histogram.buckets[-1] == histogram.count == 1
    assert histogram.quantile(0.99) == BOUNDS[-1]


def test_what_is_shown_is_what_is_merged() -> None:
    one, other = Histogram(), Histogram()
    for seconds in (0.0, 0.001, 0.001, 3.0):
        one.add(seconds)
    other.add(0.001)
    other.merge(one.shown())
    assert (other.count, other.buckets[bisect_left(BOUNDS, 0.001)]) == (5, 3)
    assert other.minus(one).count == 1


@pytest.mark.parametrize("shown", [None, [], {"buckets": [1]}, {"buckets": {"x": 1, "-1": 1, "999": 1, "1": -3, "2": "4"}, "seconds": "x"}])
def test_what_anybody_may_have_written_is_nothing(shown: object) -> None:
    histogram = Histogram()
    histogram.merge(shown)
    assert (histogram.count, histogram.seconds) == (0, 0.0)


def test_powers_of_two_of_microseconds_are_told_of() -> None:
    histogram = Histogram()
    histogram.add(3e-6)
    told = dict(cumulative(histogram.buckets))
    assert (told[2e-6], told[4e-6], told[8e-6]) == (0, 1, 1)


def test_a_row_a_plugin_version_and_phase(measures: Measures) -> None:
    old, new = plugin_of("1"), plugin_of("2")
    first = measures.step(old, "auth")
    assert measures.step(old, "auth") is first
    assert measures.step(new, "auth") is not first
    first.took(0.001, 0.0)
    first.took(0.001, 0.5)
    first.ended(403, False)
    (row,) = measures.rows()  # those that have counted something
    assert row.shown()["decisions"] == {"aborted_4xx": 1}
    assert (row.spent.count, row.waited.count) == (2, 1)


def test_versions_that_are_gone_are_kept_for_a_while_and_not_for_ever(measures: Measures) -> None:
    gc.freeze()  # of what thousands of tests have left, each collection would be a second
    try:
        for version in range(200):
            plugin = plugin_of(str(version))
            for phase in ("auth", "response"):
                measures.step(plugin, phase).took(0.001, 0.0)
            del plugin
            gc.collect()
    finally:
        gc.unfreeze()
    assert [of for of, _, _ in measures.plugins()] == []
    assert KEPT_ROWS <= len(measures.rows()) <= KEPT_ROWS + 4
    assert measures.rows()[-1].of[1] == "199"


def test_a_breaker_survives_a_change_as_long_as_somebody_has_it_and_its_rules(measures: Measures) -> None:
    plugin, entry, rules = plugin_of("1"), Entry(route="a"), PluginBreaker(failures=1)
    breaker = measures.breaker(plugin, entry, rules)
    breaker.failed("auth", "raised", 0)
    assert measures.breaker(plugin, Entry(route="a"), PluginBreaker(failures=1)) is breaker
    assert measures.off() == [breaker]
    assert measures.breaker(plugin, entry, PluginBreaker(failures=2)).off_until == 0.0
    assert measures.breaker(plugin_of("2"), entry, rules).off_until == 0.0  # another version has another chance
    del breaker
    gc.collect()
    assert measures.off() == []


def test_routes_have_a_row_each_as_far_as_there_are_any() -> None:
    answered = Answered()
    for number in range(MOST + 50):
        for status in (200, 503):
            answered.count(f"r{number}", status, 0.1, 0.08 if status == 200 else 0.0, 0.02, 10, 20)
    rows = {row["route"]: row for row in answered.shown()}
    assert len(rows) == MOST + 1
    assert rows[OTHERS]["statuses"] == {"2xx": 50, "5xx": 50}
    assert (rows["r0"]["bytes_in"], rows["r0"]["bytes_out"]) == (20, 40)
    assert sum(rows["r0"]["upstream"]["buckets"].values()) == 1  # what was not forwarded took no upstream any time
    assert rows["r0"]["gateway"]["seconds"] == 0.04


def test_an_upgraded_connection_has_no_latency() -> None:
    answered = Answered()
    answered.count("ws", 101, 3600.0, 0.1, 0.01, 5, 5)
    (row,) = answered.shown()
    assert (row["statuses"], row["total"]["buckets"]) == ({"1xx": 1}, {})
