"""Requests that end before they are forwarded, or that a plugin has left in a state in which they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from gwproxy import Context, Headers, Outcome, Plugin, Response, hookimpl
from gwproxy.model import Timeouts
from gwproxy.process import compiled
from tests.service import Gate, Service


class Watch(Plugin):
    """Sees what leaves, and what has left."""

    name = "watch"

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, int]] = []
        self.outcomes: list[Outcome] = []

    @hookimpl
    def response(self, ctx: Context) -> None:
        assert ctx.response is not None
        self.seen.append((ctx.route.id if ctx.route else None, ctx.response.status))
        ctx.response_headers["X-Watched"] = "yes"
        ctx.on_finish(self.outcomes.append)


class Careless(Plugin):
    """Does in one phase what the test says."""

    name = "careless"
    priority = 950  # after Watch, in the response phase

    def __init__(self) -> None:
        self.before: Callable[[Any], object] = lambda ctx: None
        self.after: Callable[[Any], object] = lambda ctx: None

    @hookimpl
    def pre_proxy(self, ctx: Context) -> None:
        self.before(ctx)

    @hookimpl
    def response(self, ctx: Context) -> None:
        self.after(ctx)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service().running() as running:
        yield running


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def careless() -> Careless:
    return Careless()


@pytest.fixture
def gate(watch: Watch, careless: Careless, service: Service) -> Gate:
    gate = Gate(watch, careless)
    plugins = [{"name": "watch"}, {"name": "careless"}]
    routes = [
        {"path": "/", "upstream": service.url, "max_body": 10, "plugins": plugins},
        {"path": "/needs", "upstream": service.url, "plugins": [{"name": "watch"}, {"name": "missing"}]},
    ]
    gate.serve(routes, lenient=True)
    return gate


@pytest.mark.parametrize(
    ("path", "request_", "route", "status"),
    [
        ("/", {"data": b"x" * 11}, "root", 413),
        ("/", {"headers": {"Connection": "Upgrade", "Upgrade": "websocket"}, "environ_overrides": {"gwproxy.hijack": None}}, "root", 501),
        ("/needs", {}, "needs", 503),
    ],
    ids=["413", "501", "503"],
)
def test_what_a_matched_route_refuses_passes_its_own_response_hooks(
    gate: Gate, watch: Watch, path: str, request_: dict[str, Any], route: str, status: int
) -> None:
    answer = gate.client.post(path, **request_)
    assert (answer.status_code, answer.headers["X-Watched"]) == (status, "yes")
    assert watch.seen == [(route, status)]
    answer.close()
    assert [outcome.status for outcome in watch.outcomes] == [status]
    assert not gate.app.gateway.in_flight


def active(gate: Gate) -> int:
    """Count the upstream connections in use, and the places taken at upstreams."""
    upstreams = list(gate.app.upstreams)
    return sum(target.active for live in upstreams for target in live.targets) + sum(live.places.in_flight for live in upstreams)


def assign(path: str, value: object) -> Callable[[Any], object]:
    """Return what sets an attribute of the context, of any type: plugins are not always typed."""
    *owners, name = path.split(".")

    def run(ctx: Any) -> None:
        for owner in owners:
            ctx = getattr(ctx, owner)
        setattr(ctx, name, value)

    return run


@pytest.mark.parametrize(
    "before",
    [
        assign("upstream", None),
        assign("request.headers", None),
        assign("upstream.base", "http://127.0.0.1:99999"),
        assign("upstream.target", "/a b"),
        assign("upstream.target", "/a\r\nX-Evil: 1"),
        assign("upstream.url", "http://127.0.0.1:99999/"),
        assign("upstream.url", "http://127.0.0.1:0/"),
        assign("upstream.timeout", "soon"),
        assign("upstream.timeout", 0),
        lambda ctx: (ctx.authenticate("ada"), ctx.state.update(user_id=5)),
        lambda ctx: ctx.abort(403, None, [("X-A", "a\r\nX-Evil: 1")]),
        lambda ctx: ctx.abort(403, None, [("X A", "a")]),
    ],
)
def test_X10_a_context_that_cannot_be_forwarded_is_500_with_every_promise_of_the_response_phase(
    gate: Gate, watch: Watch, careless: Careless, service: Service, before: Callable[[Any], object]
) -> None:
    service.seen.clear()
    careless.before = before
    answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (500, {"error": "Internal Server Error"})
    assert answer.headers["X-Watched"] == "yes"
    assert watch.seen == [("root", 500)]
    answer.close()
    assert [(outcome.status, outcome.completed) for outcome in watch.outcomes] == [(500, True)]
    assert (service.seen, gate.app.gateway.in_flight) == ([], set())


@pytest.mark.parametrize("after", [assign("response", "done"), assign("response.status", "200")])
def test_X10_a_response_of_a_wrong_type_does_not_leave(
    gate: Gate, careless: Careless, caplog: pytest.LogCaptureFixture, after: Callable[[Any], object]
) -> None:
    careless.after = after
    # Compiled, it is refused where it is assigned: the hook raises, which in this phase is logged, and the upstream's response leaves.
    assert gate.client.get("/").status_code == (200 if compiled() else 500)
    assert ("plugin_failed plugin=careless phase=response" if compiled() else "response_retracted") in caplog.text


@pytest.mark.parametrize(
    "after",
    [
        assign("response", None),
        assign("response.status", 99),
        assign("response.status", 101),
        assign("response.status", 999),
    ],
)
def test_X10_a_response_that_cannot_leave_is_500(gate: Gate, watch: Watch, careless: Careless, after: Callable[[Any], object]) -> None:
    careless.after = after
    answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (500, {"error": "Internal Server Error"})
    assert answer.headers["X-Watched"] == "yes"
    answer.close()
    assert [outcome.status for outcome in watch.outcomes] == [500]
    assert not gate.app.gateway.in_flight
    assert active(gate) == 0


def test_a_plugin_may_answer_with_a_response_of_its_own(gate: Gate, careless: Careless) -> None:
    careless.after = assign("response", Response(299, Headers([("X-Own", "1")]), b"mine"))
    answer = gate.client.get("/")
    assert (answer.status_code, answer.headers["X-Own"], answer.data) == (299, "1", b"mine")
    assert active(gate) == 0, "the upstream's answer is given back"


def test_in_the_response_phase_the_response_has_what_plugins_added_to_it(gate: Gate, careless: Careless) -> None:
    seen: list[list[str]] = []
    careless.before = lambda ctx: ctx.response_headers.add("Set-Cookie", "mine=1")
    careless.after = lambda ctx: seen.append(ctx.response.headers.getlist("Set-Cookie"))
    answer = gate.client.get("/")
    assert seen == [["mine=1"]]
    assert answer.headers.getlist("Set-Cookie") == ["mine=1"]


def test_a_plugin_may_give_a_number_of_seconds_as_timeout(gate: Gate, careless: Careless) -> None:
    seen: list[Timeouts] = []

    def before(ctx: Context) -> None:
        assert ctx.upstream is not None
        ctx.upstream.timeout = 2.5
        seen.append(ctx.upstream.timeout)

    careless.before = cast(Callable[[Any], object], before)
    assert gate.client.get("/").status_code == 200
    assert seen == [Timeouts(connect=5.0, head=2.5, read=2.5)]
