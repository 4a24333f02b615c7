"""Passive ejection: what counts, how many may be out, how long, and how they return. No test waits: the clock is the test's."""

from __future__ import annotations

import pytest

from gwproxy.dataplane.ejection import Ejections
from gwproxy.dataplane.target import LEAST_SHARE, LiveTarget
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.model import Ejection, Target, Upstream
from gwproxy.tally import Tally


class Bench:
    """An upstream of so many targets, at a time that the test sets."""

    def __init__(self, count: int = 4, ramp: float = 20.0, **keys: object) -> None:
        self.now = 1000.0
        self.tally = Tally()
        described = Ejection(**keys)  # type: ignore[arg-type]
        targets = tuple(Target(url=f"http://10.0.0.{number}:8000") for number in range(1, count + 1))
        self.live = LiveUpstream("users", Upstream(targets=targets, ejection=described), self.tally)
        self.ejections = Ejections("users", described, ramp, lambda: self.live.members.seats, self.tally, lambda: self.now)
        self.targets = self.live.targets

    def fail(self, target: LiveTarget, times: int) -> None:
        for _ in range(times):
            self.ejections.failed(target, OSError("refused"))

    def states(self) -> list[str]:
        return [target.state for target in self.targets]

    def later(self, seconds: float) -> None:
        self.now += seconds
        for target in self.targets:
            target.passed(self.now)


def test_failures_in_a_row_eject_and_one_good_answer_begins_anew() -> None:
    bench = Bench(consecutive_errors=3)
    first = bench.targets[0]
    bench.fail(first, 2)
    bench.ejections.answered(first, 200)
    bench.fail(first, 2)
    assert first.up
    bench.fail(first, 1)
    assert bench.states() == ["ejected", "healthy", "healthy", "healthy"]
    assert first.why == "3 failures in a row, the last one: refused"
    assert bench.tally.shown() == {"targets_ejected:users": 1}


@pytest.mark.parametrize(
    ("statuses", "status", "ejected"),
    [(("502", "503", "504"), 503, True), (("502",), 503, False), (("5xx",), 500, True), (("5xx",), 499, False), ((), 503, False)],
)
def test_which_answers_are_failures(statuses: tuple[str, ...], status: int, ejected: bool) -> None:
    bench = Bench(consecutive_errors=1, statuses=statuses)
    bench.ejections.answered(bench.targets[0], status)
    assert bench.targets[0].up is not ejected


def test_a_share_of_failures_ejects_once_there_were_enough_requests() -> None:
    bench = Bench(consecutive_errors=None, error_rate=0.5, min_requests=10, window=10)
    first, second = bench.targets[:2]
    for number in range(9):
        bench.ejections.answered(first, 503 if number % 2 else 200)
    assert first.up, "too few"
    bench.ejections.answered(first, 503)
    assert not first.up
    assert first.why == "5 of 10 requests failed, the last one: status 503"
    for number in range(30):
        bench.ejections.answered(second, 503 if number % 3 == 0 else 200)
    assert second.up, "a third is less than a half"


def test_what_failed_before_the_window_does_not_count() -> None:
    bench = Bench(consecutive_errors=None, error_rate=0.5, min_requests=10, window=10)
    for _ in range(9):
        bench.ejections.answered(bench.targets[0], 503)
    bench.later(10.1)
    for _ in range(20):
        bench.ejections.answered(bench.targets[0], 200)
    bench.fail(bench.targets[0], 1)
    assert bench.targets[0].up


@pytest.mark.parametrize(
    ("count", "max_share", "out"), [(4, 0.5, 2), (3, 0.5, 1), (1, 0.5, 0), (1, 1, 1), (2, 0.5, 1), (10, 0.1, 1), (10, 0.3, 3)]
)
def test_no_more_than_a_share_of_the_targets_are_out(count: int, max_share: float, out: int) -> None:
    bench = Bench(count, consecutive_errors=1, max_share=max_share)
    for target in bench.targets:
        bench.fail(target, 1)
    assert bench.states().count("ejected") == out
    assert bench.tally.get("ejections_withheld", "users") == count - out


def test_targets_that_checks_have_taken_out_count_among_them() -> None:
    bench = Bench(4, consecutive_errors=1, max_share=0.5)
    bench.targets[0].judged(False, "status 500")
    bench.targets[1].judged(False, "status 500")
    bench.fail(bench.targets[2], 1)
    assert bench.states() == ["unhealthy", "unhealthy", "healthy", "healthy"]


def test_it_returns_by_itself_a_part_of_its_share_at_a_time() -> None:
    bench = Bench(consecutive_errors=1, base_time=30, ramp=20.0)
    first = bench.targets[0]
    bench.fail(first, 1)
    bench.later(29.9)
    assert first.state == "ejected"
    bench.later(0.1)
    assert (first.state, first.share) == ("returning", LEAST_SHARE)
    for seconds, share in [(5, 0.25), (5, 0.5), (5, 0.75), (5, 1.0)]:
        bench.later(seconds)
        assert first.share == pytest.approx(share)
    assert first.state == "healthy"


def test_each_further_ejection_is_longer_up_to_a_bound_and_calm_forgives() -> None:
    bench = Bench(consecutive_errors=1, base_time=30, max_time=100)
    first = bench.targets[0]
    lengths = []
    for calm in (0, 0, 0, 0, 75, 1000):
        bench.later(calm)
        bench.fail(first, 1)
        assert first.ejected_until is not None
        lengths.append(first.ejected_until - bench.now)
        bench.later(lengths[-1])
        assert first.up
    assert lengths == [30, 60, 90, 100, 90, 30], "75 s forgive two of four ejections, 1000 s all of them"


def test_what_was_under_way_when_it_was_taken_out_does_not_eject_it_again() -> None:
    bench = Bench(consecutive_errors=1, base_time=30)
    bench.fail(bench.targets[0], 5)
    assert bench.tally.shown() == {"targets_ejected:users": 1}
    bench.later(30)
    assert bench.targets[0].up


def test_checks_and_ejections_are_two_reasons_and_both_must_be_over() -> None:
    bench = Bench(consecutive_errors=1, base_time=30)
    first = bench.targets[0]
    bench.fail(first, 1)
    first.judged(False, "status 500")
    bench.later(31)
    assert first.state == "unhealthy"
    first.judged(True, "status 200")
    assert first.up


@pytest.mark.parametrize(("slow_start", "ramp"), [(None, 30.0), (8.0, 8.0)])
def test_the_return_takes_slow_start_or_as_long_as_it_was_out(slow_start: float | None, ramp: float) -> None:
    targets = (Target(url="http://10.0.0.1"), Target(url="http://10.0.0.2"))
    live = LiveUpstream("users", Upstream(targets=targets, ejection=Ejection(consecutive_errors=1), slow_start=slow_start), Tally())
    assert live.ejections is not None
    live.ejections.failed(live.targets[0], OSError("refused"))
    until = live.targets[0].ejected_until
    assert until is not None
    live.targets[0].passed(until)
    live.targets[0].passed(until + ramp / 2)
    assert live.targets[0].share == pytest.approx(0.5)
