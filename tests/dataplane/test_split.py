"""Which of several upstreams a request goes to: by lot, by key, by canary; shares and moves with stated bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from gwproxy import Context, Plugin, hookimpl
from gwproxy.dataplane.split import Traffic
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.model import Route, Split
from tests.service import Gate, Service

KEYS = [f"user-{number}" for number in range(20_000)]


def traffic(weights: dict[str, int], sticky: str | None = None) -> Traffic:
    route = Route(path="/", upstream=next(iter(weights)), split=Split(weights=weights, sticky=sticky))
    upstreams = Upstreams()
    return Traffic(route, upstreams.of_url(route.upstream), upstreams.of_url)


def picks(weights: dict[str, int], keys: list[Any] = KEYS) -> list[str]:
    made = traffic(weights)
    return [made.pick(key).name for key in keys]


def check_shares(found: list[str], weights: dict[str, int]) -> None:
    """As if they were thrown for: off by more than four standard deviations once in 16,000 times."""
    total = sum(weights.values())
    for name, weight in weights.items():
        share = weight / total
        expected = len(found) * share
        assert abs(found.count(name) - expected) <= 4 * (expected * (1 - share)) ** 0.5, name


@pytest.mark.parametrize(
    "weights",
    [{"http://a": 1, "http://b": 1}, {"http://a": 99, "http://b": 1}, {"http://a": 5, "http://b": 3, "http://c": 0, "http://d": 2}],
)
@pytest.mark.parametrize(
    "keys", [KEYS, [f"10.0.{n >> 8}.{n & 255}" for n in range(20_000)], [None] * 20_000], ids=["users", "addresses", "lot"]
)
def test_shares_are_the_weights(weights: dict[str, int], keys: list[Any]) -> None:
    check_shares(picks(weights, keys), weights)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"http://a": 90, "http://b": 10}, {"http://a": 70, "http://b": 30}),
        ({"http://a": 50, "http://b": 50}, {"http://a": 50, "http://b": 50, "http://c": 10}),
        ({"http://a": 5, "http://b": 3, "http://c": 2}, {"http://a": 5, "http://b": 3, "http://c": 12}),
    ],
)
def test_with_other_weights_only_those_move_that_must_and_all_to_the_one_that_grew(before: dict[str, int], after: dict[str, int]) -> None:
    moves = Counter(pair for pair in zip(picks(before), picks(after), strict=True) if pair[0] != pair[1])
    grown = [name for name in after if after[name] / sum(after.values()) > before.get(name, 0) / sum(before.values())]
    assert {to for _, to in moves} == set(grown)
    least = sum(after[name] / sum(after.values()) - before.get(name, 0) / sum(before.values()) for name in grown)
    assert moves.total() == pytest.approx(len(KEYS) * least, rel=0.12)


def test_a_key_stays_with_its_upstream_in_every_worker_whatever_the_order() -> None:
    """The choices are those of any process, of today and of next year: workers of two versions agree."""
    found = picks({"http://a": 1, "http://b": 1}, KEYS[:16])
    assert found == picks({"http://b": 1, "http://a": 1}, KEYS[:16])
    assert "".join(name[-1] for name in found) == "aababaaaabaaabaa"


def test_no_hash_is_too_extreme() -> None:
    from gwproxy.dataplane.split import _ALL, _score

    scores = [_score(0, 1, hashed) for hashed in (0, 1, _ALL, _ALL - 1)]
    assert all(0 < score < float("inf") for score in scores)


@pytest.fixture
def services() -> Iterator[dict[str, Service]]:
    with Service().running() as old, Service().running() as new:
        yield {"old": old, "new": new}


class Who(Plugin):
    """Authenticates whoever says who it is."""

    name = "who"
    version = "1.0"
    priority = 200

    @hookimpl
    def auth(self, ctx: Context) -> None:
        if user := ctx.request.headers.get("X-Name"):
            ctx.authenticate(user)


class Elsewhere(Plugin):
    """Sends requests with a header to the URL that it names."""

    name = "elsewhere"
    version = "1.0"
    priority = 100

    @hookimpl
    def pre_auth(self, ctx: Context) -> None:
        if (url := ctx.request.headers.get("X-To")) and ctx.upstream is not None:
            ctx.upstream.url = url


@pytest.fixture
def gate() -> Gate:
    return Gate(Who(), Elsewhere())


def serve(gate: Gate, services: dict[str, Service], prefix: str = "", plugins: list[Any] | None = None, **route: Any) -> None:
    upstreams = {name: {"targets": [{"url": service.url + prefix}]} for name, service in services.items()}
    routes = [{"path": "/", "upstream": "old", "plugins": plugins or [], **route}]
    gate.serve({"routes": routes, "upstreams": upstreams})


def reached(gate: Gate, services: dict[str, Service], **asked: Any) -> str:
    """Send a request; return who got it."""
    before = {name: len(service.seen) for name, service in services.items()}
    assert gate.client.get(asked.pop("path", "/x"), **asked).status_code == 200
    [name] = [name for name, service in services.items() if len(service.seen) > before[name]]
    return name


EVEN = {"old": 50, "new": 50}


def test_by_lot_each_request_anew(gate: Gate, services: dict[str, Service]) -> None:
    serve(gate, services, split={"weights": {"old": 80, "new": 20}})
    found = [reached(gate, services) for _ in range(200)]
    check_shares(found, {"old": 80, "new": 20})


def test_a_weight_of_0_gets_nothing(gate: Gate, services: dict[str, Service]) -> None:
    serve(gate, services, split={"weights": {"old": 0, "new": 1}})
    assert {reached(gate, services) for _ in range(50)} == {"new"}


def test_sticky_by_a_cookie_that_the_gateway_sets_beside_those_of_the_upstream(gate: Gate, services: dict[str, Service]) -> None:
    serve(gate, services, split={"weights": EVEN, "sticky": "cookie:gw_split", "max_age": 60})
    sides = set()
    for _ in range(40):
        gate.client.delete_cookie("gw_split")
        before = {name: len(service.seen) for name, service in services.items()}
        answer = gate.client.get("/x")
        [first] = [name for name, service in services.items() if len(service.seen) > before[name]]
        *others, ours = answer.headers.getlist("Set-Cookie")
        assert others == ["a=1", "b=2"]
        assert ours.startswith("gw_split=")
        assert ours.endswith("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax")
        assert {reached(gate, services) for _ in range(3)} == {first}
        sides.add(first)
        assert len(gate.client.get("/x").headers.getlist("Set-Cookie")) == 2, "who has one gets no other"
    assert sides == {"old", "new"}


def test_a_cookie_over_tls_is_secure(gate: Gate, services: dict[str, Service]) -> None:
    serve(gate, services, split={"weights": EVEN, "sticky": "cookie:c"})
    assert gate.client.get("/x", base_url="https://localhost").headers.getlist("Set-Cookie")[-1].endswith("; Secure")


@pytest.mark.parametrize(("sticky", "field"), [("user", "X-Name"), ("header:X-Tenant", "X-Tenant")])
def test_sticky_by_who_asks(gate: Gate, services: dict[str, Service], sticky: str, field: str) -> None:
    plugins = [{"name": "who"}] if sticky == "user" else []
    serve(gate, services, plugins=plugins, split={"weights": EVEN, "sticky": sticky})
    sides = set()
    for number in range(30):
        found = {reached(gate, services, headers={field: f"n-{number}"}) for _ in range(4)}
        assert len(found) == 1
        sides |= found
    assert sides == {"old", "new"}


@pytest.mark.parametrize("sticky", ["user", "client"])
def test_sticky_by_address_where_there_is_no_user(gate: Gate, services: dict[str, Service], sticky: str) -> None:
    serve(gate, services, split={"weights": EVEN, "sticky": sticky})
    sides = set()
    for number in range(30):
        found = {reached(gate, services, environ_base={"REMOTE_ADDR": f"192.0.2.{number}"}) for _ in range(4)}
        assert len(found) == 1
        sides |= found
    assert sides == {"old", "new"}


@pytest.mark.parametrize(
    ("canary", "headers", "cookies", "expected"),
    [
        ({"header": "X-Canary"}, {"X-Canary": "always"}, {}, "new"),
        ({"header": "X-Canary"}, {"x-canary": "always"}, {}, "new"),
        ({"header": "X-Canary"}, {"X-Canary": "Always"}, {}, "old"),
        ({"header": "X-Canary"}, {}, {"X-Canary": "always"}, "old"),
        ({"header": "X-Canary"}, {}, {}, "old"),
        ({"cookie": "beta", "value": "1"}, {}, {"other": "x", "beta": "1"}, "new"),
        ({"cookie": "beta", "value": "1"}, {}, {"beta": "0"}, "old"),
        ({"cookie": "beta", "value": "1"}, {"beta": "1"}, {}, "old"),
        ({"cookie": "beta", "header": "X-Beta", "value": "1"}, {"X-Beta": "1"}, {}, "new"),
        ({"cookie": "beta", "header": "X-Beta", "value": "1"}, {"X-Beta": "0"}, {"beta": "1"}, "new"),
    ],
)
def test_a_canary_is_asked_for_by_header_or_cookie(
    gate: Gate, services: dict[str, Service], canary: dict[str, str], headers: dict[str, str], cookies: dict[str, str], expected: str
) -> None:
    serve(gate, services, canary={"upstream": "new", **canary})
    for name, value in cookies.items():
        gate.client.set_cookie(name, value)
    assert {reached(gate, services, headers=headers) for _ in range(3)} == {expected}


def test_a_canary_comes_before_a_split(gate: Gate, services: dict[str, Service]) -> None:
    serve(gate, services, split={"weights": {"old": 1}, "sticky": "cookie:c"}, canary={"upstream": "new", "header": "X-Canary"})
    answer = gate.client.get("/x", headers={"X-Canary": "always"})
    assert answer.headers.getlist("Set-Cookie") == ["a=1", "b=2"], "and sets no cookie of the split"
    assert len(services["new"].seen) == 1
    assert reached(gate, services) == "old"


@pytest.mark.parametrize("strip", [False, True])
def test_each_upstream_has_its_own_path_and_host(gate: Gate, services: dict[str, Service], strip: bool) -> None:
    serve(gate, services, "/base", path="/api", strip_path=strip, canary={"upstream": "new", "header": "X-Canary"})
    for name, headers in (("old", {}), ("new", {"X-Canary": "always"})):
        assert reached(gate, services, path="/api/x?q=1", headers=headers) == name
        seen = services[name].seen[-1]
        assert seen["target"] == ("/base/x?q=1" if strip else "/base/api/x?q=1")
        assert dict(seen["headers"])["Host"] == services[name].url.partition("//")[2]


def test_preserve_host_is_the_client_s_with_whichever_upstream(gate: Gate, services: dict[str, Service]) -> None:
    serve(gate, services, preserve_host=True, canary={"upstream": "new", "header": "X-Canary"})
    for headers in ({}, {"X-Canary": "always"}):
        name = reached(gate, services, headers=headers, base_url="http://api.example.com")
        assert dict(services[name].seen[-1]["headers"])["Host"] == "api.example.com"


def test_a_plugin_that_has_chosen_is_not_overruled_and_one_that_rewrites_rewrites_either(gate: Gate, services: dict[str, Service]) -> None:
    serve(gate, services, "/base", plugins=[{"name": "elsewhere"}], split={"weights": {"old": 0, "new": 1}})
    assert reached(gate, services) == "new"
    assert reached(gate, services, headers={"X-To": services["old"].url + "/there"}) == "old"
    assert services["old"].seen[-1]["target"] == "/there"


def test_a_failing_upstream_of_a_split_is_none_of_the_other_s_business(gate: Gate, services: dict[str, Service]) -> None:
    upstreams: dict[str, Any] = {
        name: {"targets": [{"url": service.url}], "breaker": {"failures": 1}} for name, service in services.items()
    }
    route = {"path": "/", "upstream": "old", "split": {"weights": EVEN, "sticky": "header:X-Key"}}
    gate.serve({"routes": [route], "upstreams": upstreams})
    sides = {reached(gate, services, headers={"X-Key": key}): key for key in "abcdefgh"}
    services["new"].statuses = [503]
    assert [gate.client.get("/x", headers={"X-Key": sides[name]}).status_code for name in ("new", "new", "old")] == [503, 503, 200]


def test_upstreams_of_a_split_live_as_long_as_a_route_refers_to_them(gate: Gate, services: dict[str, Service]) -> None:
    def document(weight: int) -> dict[str, Any]:
        targets = {name: {"targets": [{"url": service.url, "weight": weight}]} for name, service in services.items()}
        return {
            "routes": [{"path": "/", "upstream": "old", "split": {"weights": EVEN}, "mirror": {"upstream": "new"}}],
            "upstreams": targets,
        }

    gate.serve(document(1))
    snapshot = gate.app.gateway.snapshot
    assert snapshot is not None
    assert {live.name for live in snapshot.upstreams} == {"old", "new"}
    gate.app.upstreams.keep(snapshot.upstreams)
    assert {live.name for live in gate.app.upstreams} == {"old", "new"}
    before = snapshot.routes[0]
    gate.serve(document(1))
    assert gate.app.gateway.snapshot is not None
    assert list(gate.app.gateway.snapshot.routes[0].upstreams()) == list(before.upstreams())
    gate.serve(document(2))
    assert gate.app.gateway.snapshot is not None
    assert not {id(live) for live in gate.app.gateway.snapshot.upstreams} & {id(live) for live in before.upstreams()}
