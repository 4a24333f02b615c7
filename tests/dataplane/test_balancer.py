"""Which target gets the next request."""

from __future__ import annotations

from collections import Counter

import pytest

from gwproxy import Context, Headers, Request
from gwproxy.dataplane.balancer import ConsistentHash, least_connections, round_robin, weighted_random
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Target, Upstream
from gwproxy.tally import Tally


def targets(*weights: int) -> list[LiveTarget]:
    return [LiveTarget(f"http://10.0.0.{index}:8000", weight) for index, weight in enumerate(weights, 1)]


def ctx(address: str = "192.0.2.1", path: str = "/", **headers: str) -> Context:
    return Context(Request("GET", path, headers=Headers(headers.items()), remote_addr=address))


def test_a_target_knows_its_parts() -> None:
    target = LiveTarget("https://[2001:db8::1]:8443/base/")
    assert (target.base, target.prefix, target.authority) == ("https://[2001:db8::1]:8443", "/base", "[2001:db8::1]:8443")
    plain = LiveTarget("http://users")
    assert (plain.origin.port, plain.authority, plain.prefix) == (80, "users", "")


def test_round_robin_is_smooth_and_by_weight() -> None:
    them = targets(5, 1, 1)
    picked = [them.index(round_robin(them, ctx())) for _ in range(7)]
    assert picked == [0, 0, 1, 0, 2, 0, 0]


def test_least_connections_counts_what_is_in_flight_by_weight() -> None:
    them = targets(1, 2)
    them[0].active, them[1].active = 1, 2
    assert least_connections(them, ctx()) is them[1]
    them[1].active = 5
    assert least_connections(them, ctx()) is them[0]


def test_random_is_by_weight() -> None:
    them = targets(1, 3)
    share = Counter(them.index(weighted_random(them, ctx())) for _ in range(4000))
    assert 0.6 < share[1] / 4000 < 0.9


def test_consistent_hash_keeps_a_key_and_moves_only_those_of_a_target_that_left() -> None:
    them = targets(1, 1, 1, 1)
    ring = ConsistentHash(them, "client")
    contexts = [ctx(f"10.1.{n // 250}.{n % 250}") for n in range(1000)]
    before = [ring(them, c) for c in contexts]
    assert before == [ring(them, c) for c in contexts]
    after = [ring(them[1:], c) for c in contexts]
    assert all(old is new for old, new in zip(before, after, strict=True) if old is not them[0])
    counts = Counter(id(target) for target in before)
    assert all(120 < count < 400 for count in counts.values())


@pytest.mark.parametrize(
    ("hash_on", "same", "other"),
    [
        ("header:X-Key", ctx("1.1.1.1", **{"X-Key": "a"}), ctx("1.1.1.1", **{"X-Key": "omega"})),
        ("cookie:session", ctx("1.1.1.1", Cookie="session=a"), ctx("1.1.1.1", Cookie="session=omega")),
        ("path", ctx("1.1.1.1", "/a"), ctx("1.1.1.1", "/b")),
    ],
)
def test_consistent_hash_by_what_is_configured(hash_on: str, same: Context, other: Context) -> None:
    them = targets(*[1] * 50)
    ring = ConsistentHash(them, hash_on)
    elsewhere = ctx("2.2.2.2", same.request.path)
    elsewhere.request.headers = same.request.headers
    assert ring(them, same) is ring(them, elsewhere)
    assert ring(them, same) is not ring(them, other)


def upstream(*weights: int) -> LiveUpstream:
    described = Upstream(targets=tuple(Target(url=t.url, weight=t.weight) for t in targets(*weights)))
    return LiveUpstream("users", described, Tally())


def test_pick_prefers_what_was_not_tried() -> None:
    live = upstream(1, 1)
    first = live.pick(ctx())
    assert live.pick(ctx(), [first]) is not first
    assert live.pick(ctx(), list(live.targets)) in live.targets


def test_pick_passes_over_what_is_unhealthy_and_weight_zero() -> None:
    live = upstream(1, 1, 0)
    live.targets[0].healthy = False
    assert {live.pick(ctx()) for _ in range(10)} == {live.targets[1]}
    live.targets[1].healthy = False
    with pytest.raises(ServiceUnavailable):
        live.pick(ctx())


def test_an_upstream_survives_a_change_that_does_not_concern_it() -> None:
    them = Upstreams()
    users = Upstream(targets=(Target(url="http://10.0.0.1"),))
    orders = Upstream(targets=(Target(url="http://10.0.0.2"),))
    first = them.named("users", users)
    assert them.named("users", users.model_copy()) is first
    them.keep([first, them.named("orders", orders)])
    assert {live.name for live in them} == {"users", "orders"}
    changed = them.named("users", orders)
    assert changed is not first
    them.keep([changed])
    assert [live.name for live in them] == ["users"]


def test_urls_that_plugins_choose_are_bounded() -> None:
    them = Upstreams()
    for number in range(300):
        them.direct(f"http://10.0.0.1:{1000 + number}")
    assert len(them._direct) == 256
    assert them.direct("http://10.0.0.1:1299") is them.direct("http://10.0.0.1:1299")
