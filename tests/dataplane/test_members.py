"""The targets of an upstream: who may be picked, what survives a change, how one that is new or back begins."""

from __future__ import annotations

from collections import Counter

import pytest

from gwproxy.dataplane.target import LEAST_SHARE
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Ejection, Health, Target, Upstream
from gwproxy.tally import Tally
from tests.dataplane.seats import ctx

HEALTH = Health()


def described(*weights: int, **keys: object) -> Upstream:
    targets = tuple(Target(url=f"http://10.0.0.{number}:8000", weight=weight) for number, weight in enumerate(weights, 1))
    return Upstream(targets=targets, **keys)  # type: ignore[arg-type]


def upstream(*weights: int, **keys: object) -> LiveUpstream:
    return LiveUpstream("users", described(*weights, **keys), Tally())


def picked(live: LiveUpstream, count: int) -> list[float]:
    counts = Counter(live.pick(ctx()) for _ in range(count))
    return [counts[target] / count for target in live.targets]


def test_pick_prefers_what_was_not_tried() -> None:
    live = upstream(1, 1)
    first = live.pick(ctx())
    assert live.pick(ctx(), [first]) is not first
    assert live.pick(ctx(), list(live.targets)) in live.targets


def test_pick_passes_over_what_is_unhealthy_or_drained() -> None:
    live = upstream(1, 1, 0)
    live.targets[0].judged(False, "")
    assert {live.pick(ctx()) for _ in range(10)} == {live.targets[1]}
    assert live.pick(ctx(), [live.targets[1]]) is live.targets[1], "a drained one gets no retry, either"
    live.targets[1].judged(False, "")
    with pytest.raises(ServiceUnavailable) as refused:
        live.pick(ctx())
    assert list(refused.value.headers) == [("Retry-After", "1")]


@pytest.mark.parametrize("weights", [(1,), (1, 1)], ids=["one target", "two targets"])
def test_when_all_are_down_it_fails_or_tries_anyway(weights: tuple[int, ...]) -> None:
    failing, trying = (upstream(*weights, 0, when_all_down=policy) for policy in ("fail", "try_anyway"))
    for live in (failing, trying):
        for target in live.targets:
            target.judged(False, "")
    with pytest.raises(ServiceUnavailable):
        failing.pick(ctx())
    assert picked(trying, 60) == [1 / len(weights)] * len(weights) + [0.0], "all that have a weight, and no drained one"
    trying.targets[0].judged(True, "")
    assert picked(trying, 60)[0] == 1.0, "as soon as one is up, it is the one"


def test_a_single_target_that_is_down_is_tried_anyway_where_that_is_asked_for() -> None:
    live = upstream(1, when_all_down="try_anyway")
    live.targets[0].judged(False, "")
    assert live.pick(ctx()) is live.targets[0]


def test_a_single_target_without_a_weight_gets_nothing() -> None:
    with pytest.raises(ServiceUnavailable):
        upstream(0, when_all_down="try_anyway").pick(ctx())


def test_an_upstream_survives_a_change_that_does_not_concern_it() -> None:
    them = Upstreams()
    users, orders = described(1), Upstream(targets=(Target(url="http://10.0.0.2"),))
    first = them.named("users", users)
    assert them.named("users", users.model_copy()) is first
    them.keep([first, them.named("orders", orders)])
    assert {live.name for live in them} == {"users", "orders"}
    changed = them.named("users", orders)
    assert changed is not first
    them.keep([changed])
    assert [live.name for live in them] == ["users"]


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "random"},
        {"retries": {"attempts": 3}},
        {"health": Health(interval=1)},
        {"ejection": Ejection(base_time=1)},
        {"slow_start": 9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_targets_keep_their_state_when_the_upstream_is_described_anew(change: dict[str, object]) -> None:
    them = Upstreams()
    before = them.named("users", described(1, 1, 1, health=HEALTH))
    before.targets[0].judged(False, "status 500")
    before.targets[1].ejected(100.0, 30, 300, 10, "reset")
    after = them.named("users", described(1, 5, 1, **{"health": HEALTH, **change}))
    them.keep([after])
    assert [(target.state, target.why) for target in after.targets] == [("unhealthy", "status 500"), ("ejected", "reset"), ("healthy", "")]
    assert picked(after, 10) == [0.0, 0.0, 1.0]
    assert not after.targets[1].passed(129.0)
    assert after.targets[1].passed(130.0)
    assert after.targets[1].up, "its time out goes on running"


def test_targets_keep_what_is_in_flight_when_only_weights_or_neighbours_change() -> None:
    them = Upstreams()
    before = them.named("users", described(1, 1, algorithm="least_connections"))
    before.targets[0].active = 5
    after = them.named("users", described(3, 1, 1, algorithm="least_connections"))
    assert after.targets[0].active == 5
    assert picked(after, 10)[0] == 0.0


def test_what_a_candidate_s_checks_say_is_nothing_to_what_serves() -> None:
    them = Upstreams()
    live = them.named("users", described(1, 1, health=HEALTH))
    candidate = them.named("users", described(1, 1, health=Health(path="/wrong")))
    candidate.targets[0].judged(False, "status 404")
    assert [target.up for target in live.targets] == [True, True]


def test_targets_of_upstreams_that_are_gone_are_forgotten() -> None:
    them = Upstreams()
    them.named("users", described(1, 1, health=HEALTH)).targets[0].judged(False, "")
    them.keep([])
    assert them.named("users", described(1, 1, health=HEALTH)).targets[0].up


def test_a_target_that_comes_back_grows_to_its_share_within_slow_start() -> None:
    live = upstream(1, 1, health=HEALTH, slow_start=10)
    back = live.targets[0]
    back.judged(False, "")
    back.judged(True, "", (100.0, 10.0))
    expected = [(100.0, LEAST_SHARE), (102.0, 0.2), (105.0, 0.5), (109.0, 0.9), (110.0, 1.0), (200.0, 1.0)]
    for now, share in expected:
        back.passed(now)
        assert back.share == pytest.approx(share)
        assert back.state == ("returning" if share < 1 else "healthy")
        assert picked(live, 1100)[0] == pytest.approx(share / (1 + share), abs=0.01)


def test_a_target_that_is_added_begins_with_a_part_and_those_of_the_first_configuration_with_all() -> None:
    them = Upstreams()
    first = them.named("users", described(1, 1, slow_start=10))
    assert [target.share for target in first.targets] == [1.0, 1.0]
    more = them.named("users", described(1, 1, 1, slow_start=10))
    assert [target.share for target in more.targets] == [1.0, 1.0, LEAST_SHARE]
    assert picked(more, 2100)[2] == pytest.approx(LEAST_SHARE / (2 + LEAST_SHARE), abs=0.01)


def test_without_slow_start_a_target_is_back_at_once() -> None:
    live = upstream(1, 1, health=HEALTH)
    live.targets[0].judged(False, "")
    live.targets[0].judged(True, "")
    assert picked(live, 10) == [0.5, 0.5]


def test_urls_that_plugins_choose_are_bounded() -> None:
    them = Upstreams()
    for number in range(300):
        them.direct(f"http://10.0.0.1:{1000 + number}")
    assert len(them._direct) == 256
    assert them.direct("http://10.0.0.1:1299") is them.direct("http://10.0.0.1:1299")
