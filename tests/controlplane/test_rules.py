"""By what a canary ends by itself."""

from __future__ import annotations

from typing import Any

import pytest

from gwproxy.context import Outcome
from gwproxy.controlplane.rules import Decision, Rule, Rules
from gwproxy.controlplane.sides import Numbers
from gwproxy.dataplane.canary import Side
from gwproxy.errors import CommandFailed


def counted(**sides: dict[tuple[int, float], int]) -> dict[str, int]:
    """What workers would have counted of so many requests, by status and seconds."""
    found = {}
    for name, requests in sides.items():
        side = Side()
        for (status, duration), count in requests.items():
            for _ in range(count):
                side.count(Outcome(status, 0, 0, duration, True))
        found |= {f"{name}:{key}": count for key, count in side.counts().items()}
    return found


GOOD, BAD, LOST, SLOW = (200, 0.01), (500, 0.01), (404, 0.01), (200, 0.4)


def decide(rule: str, live: Any, candidate: Any, **options: Any) -> Decision | None:
    return Rules.of([rule], **options).decide(counted(live=live, candidate=candidate), age=5.0)


@pytest.mark.parametrize(
    ("rule", "live", "candidate", "reason"),
    [
        ("5xx > 1%", {}, {GOOD: 968, BAD: 32}, "5xx 3.2% > 1% (32 of 1,000 requests)"),
        ("5xx>1%", {GOOD: 5}, {GOOD: 990, BAD: 10}, None),
        ("5xx > 0%", {}, {GOOD: 999, BAD: 1}, "5xx 0.1% > 0% (1 of 1,000 requests)"),
        ("5xx > 1%", {}, {BAD: 99}, None),  # too few to tell
        ("5xx > 1%", {}, {LOST: 1000}, None),
        ("4xx > 2.5%", {}, {GOOD: 900, LOST: 100}, "4xx 10% > 2.5% (100 of 1,000 requests)"),
        ("4xx > live * 1.5", {GOOD: 900, LOST: 100}, {GOOD: 80, LOST: 20}, "4xx 20% > 15% (live * 1.5) (20 of 100 requests)"),
        ("4xx > live * 1.5", {GOOD: 900, LOST: 100}, {GOOD: 86, LOST: 14}, None),
        ("4xx > live + 5%", {GOOD: 900, LOST: 100}, {GOOD: 80, LOST: 20}, "4xx 20% > 15% (live + 5%) (20 of 100 requests)"),
        ("5xx > live", {GOOD: 99}, {BAD: 100}, None),  # the live side has too few to compare with
        ("5xx > live", {GOOD: 100}, {GOOD: 99, BAD: 1}, "5xx 1% > 0% (live) (1 of 100 requests)"),
        ("p99 > 250ms", {}, {GOOD: 98, SLOW: 2}, "p99 "),
        ("p90 > 250ms", {}, {GOOD: 98, SLOW: 2}, None),
        ("p50 > 0.25s", {}, {SLOW: 100}, "p50 "),
        ("p50 > live + 20ms", {GOOD: 100}, {SLOW: 100}, "p50 "),
        ("p50 > live + 20ms", {SLOW: 100}, {SLOW: 100}, None),
        ("p50 > live * 1.5", {GOOD: 100}, {SLOW: 100}, "p50 "),
        ("p50 > +20 ms", {GOOD: 100}, {SLOW: 100}, "p50 "),
        ("p50 > +0.5s", {GOOD: 100}, {SLOW: 100}, None),
        ("errors > +0.5%", {GOOD: 99, BAD: 1}, {GOOD: 98, BAD: 2}, "errors 2% > 1.5% (+0.5%) (2 of 100 requests)"),
        ("errors > 0.5%", {}, {GOOD: 990, BAD: 10}, "errors 1% > 0.5% (10 of 1,000 requests)"),
        ("errors > 1% or p50 > +20 ms", {GOOD: 100}, {SLOW: 100}, "p50 "),
        ("4xx > 1% or errors > 1%", {GOOD: 100}, {SLOW: 100}, None),
    ],
)
def test_a_rule_aborts_what_exceeds_its_bound(rule: str, live: Any, candidate: Any, reason: str | None) -> None:
    decision = decide(rule, live, candidate)
    assert (decision.outcome if decision else None) == ("aborted" if reason else None)
    assert reason is None or (decision is not None and decision.reason.startswith(reason))


def test_all_broken_rules_are_told() -> None:
    rules = Rules.of(["5xx > 1%", "4xx > 50%", "p99 > 100ms"])
    decision = rules.decide(counted(live={}, candidate={BAD: 10, SLOW: 90}), age=1.0)
    assert decision is not None
    assert decision.reason.startswith("5xx 10% > 1% (10 of 100 requests); p99 ")


NO_RULES = "; 5xx; 5xx > 1; 5xx > 10ms; p99 > 1%; 6xx > 1%; 5xx < 1%; 5xx > live - 1%; p99 > live + 1%; p99 > live + 5; 5xx > -1%"
NO_RULES += "; errors > 5ms; p99 > +5%; 5xx > + 1; p99 > +live"


@pytest.mark.parametrize("text", NO_RULES.split("; "))
def test_what_is_no_rule_says_what_one_is(text: str) -> None:
    with pytest.raises(CommandFailed, match="is no rule"):
        Rule.parse(text)


@pytest.mark.parametrize(
    ("age", "rules", "candidate", "promoted"),
    [
        (9.9, [], {GOOD: 500}, False),
        (10.0, [], {}, True),
        (10.0, ["5xx > 1%"], {GOOD: 99}, False),  # nothing is proved yet
        (10.0, ["5xx > 1%"], {GOOD: 100}, True),
        (10.0, ["p99 > live * 2"], {GOOD: 100}, False),  # there is nothing to compare with
        (3600.0, ["5xx > 1%"], {BAD: 100}, False),
    ],
)
def test_time_promotes_what_could_be_judged(age: float, rules: list[str], candidate: Any, promoted: bool) -> None:
    decision = Rules.of(rules, promote_after=10.0).decide(counted(live={}, candidate=candidate), age)
    assert (decision is not None and decision.outcome == "promoted") == promoted


def test_what_failed_and_went_out_all_the_same_is_an_error() -> None:
    counts = counted(live={GOOD: 100}, candidate={GOOD: 98, BAD: 2}) | {"candidate:failures": 3}
    decision = Rules.of(["errors > 4%", "5xx > 2%"]).decide(counts, age=1.0)
    assert decision is not None
    assert decision.reason == "errors 5% > 4% (5 of 100 requests)"


def test_a_promotion_tells_both_sides() -> None:
    rules = Rules.of(["errors > 5%"], promote_after=10.0)
    decision = rules.decide(counted(live={GOOD: 199, BAD: 1}, candidate={GOOD: 98, BAD: 2}), 10.0)
    assert decision is not None
    assert decision.reason == "after 10s: 5xx 2% (2 of 100 requests), live 0.5% (1 of 200); p99 11.3ms, live 11.3ms"
    alone = rules.decide(counted(live={}, candidate={GOOD: 98, BAD: 2}), 10.0)
    assert alone is not None
    assert alone.reason == "after 10s: 5xx 2% (2 of 100 requests)"


def test_the_minimum_of_requests_is_the_operators() -> None:
    assert decide("5xx > 1%", {}, {BAD: 5}, min_requests=5) is not None
    assert decide("5xx > 1%", {}, {BAD: 4}, min_requests=5) is None


def test_rules_are_kept_as_they_were_written() -> None:
    rules = Rules.of(["5xx  >  1%", "p99 > live + 20ms"], promote_after=600.0, min_requests=7)
    assert Rules.load(rules.dump()) == rules
    assert Rules.load("") == Rules()
    assert [rule.text for rule in rules.abort_if] == ["5xx > 1%", "p99 > live + 20ms"]
    assert Rules.of(["errors > 0.5%  or p99 > +20 ms", "4xx > live"]) == Rules.of(["errors > 0.5%", "p99 > +20 ms", "4xx > live"])
    for text in ("[", "[]", "7", '{"abort_if": [7]}', '{"min_requests": "x"}', '{"abort_if": ["x"]}'):
        with pytest.raises(CommandFailed):
            Rules.load(text)


@pytest.mark.parametrize("seconds", [0.0007, 0.0031, 0.017, 0.25, 0.9, 4.2, 61.0])
def test_a_percentile_is_right_to_a_fifth(seconds: float) -> None:
    numbers = Numbers.of(counted(live={(200, seconds): 1000}), "live")
    for percent in (50, 90, 99):
        found = numbers.percentile(percent)
        assert found is not None
        assert seconds / 1.2 < found < seconds * 1.2


def test_percentiles_of_a_mixture() -> None:
    numbers = Numbers.of(counted(live={(200, 0.010): 900, (200, 1.0): 90, (502, 30.0): 10}), "live")
    shown = numbers.shown()
    assert (shown["requests"], shown["5xx"], shown["5xx_percent"], shown["4xx_percent"]) == (1000, 10, 1.0, 0.0)
    assert 8 < shown["p50_ms"] < 12
    assert 8 < shown["p90_ms"] < 12
    assert 800 < shown["p99_ms"] < 1200
    assert Numbers.of({}, "live").shown() == {
        "requests": 0, "errors": 0, "4xx": 0, "5xx": 0, "errors_percent": 0.0, "4xx_percent": 0.0, "5xx_percent": 0.0,
        "p50_ms": None, "p90_ms": None, "p99_ms": None,
    }  # fmt: skip
