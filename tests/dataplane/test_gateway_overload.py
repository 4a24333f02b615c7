"""What a gateway refuses because it, or an upstream, has enough to do; and that every place at an upstream comes back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from werkzeug.test import TestResponse

from gwproxy import Context, Outcome, Plugin, hookimpl
from gwproxy.dataplane.health import ask
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Health
from tests.service import Gate, Service

SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha"


class Watch(Plugin):
    """Sees every response that leaves, and does in post_proxy what the test says."""

    name = "watch"

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.outcomes: list[Outcome] = []
        self.phases: list[str] = []
        self.then: Callable[[Context], object] = lambda ctx: None

    @hookimpl
    def pre_auth(self, ctx: Context) -> None:
        self.phases.append("pre_auth")

    @hookimpl
    def post_proxy(self, ctx: Context) -> None:
        self.then(ctx)

    @hookimpl
    def response(self, ctx: Context) -> None:
        assert ctx.response is not None
        self.statuses.append(ctx.response.status)
        ctx.on_finish(self.outcomes.append)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def gate(watch: Watch) -> Gate:
    return Gate(watch)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service().running() as running:
        yield running


def configure(gate: Gate, *urls: str, **upstream: Any) -> LiveUpstream:
    """Serve one upstream by two routes; return it."""
    routes = [{"path": path, "upstream": "users"} for path in ("/a", "/b")]
    upstreams = {"users": {"targets": [{"url": url} for url in urls], "concurrency": {"limit": 1, "queue": 0}, **upstream}}
    gate.serve({"routes": routes, "upstreams": upstreams, "plugins": [{"name": "watch", "on_error": "fail"}]})
    return next(iter(gate.app.upstreams))


def check_busy(answer: TestResponse) -> None:
    assert (answer.status_code, answer.json, answer.headers["Retry-After"]) == (503, {"error": "Service Unavailable"}, "1")


def url_of(upstream: Any) -> str:
    return f"http://127.0.0.1:{upstream.origin.port}"


def test_R46_a_place_is_held_until_the_response_is_over_and_shared_by_routes(gate: Gate, serve: Any) -> None:
    live = configure(gate, url_of(serve([HALF], [SHORT])))
    streaming = gate.client.get("/a")
    assert live.places.in_flight == 1
    check_busy(gate.client.get("/b"))
    assert gate.app.tally.get("upstream_refused", "users") == 1
    streaming.close()
    assert gate.client.get("/b").data == b"ok"
    assert live.places.in_flight == 0


def test_health_checks_take_no_place(gate: Gate, serve: Any) -> None:
    live = configure(gate, url_of(serve([HALF], [SHORT])))
    streaming = gate.client.get("/a")
    assert ask(live, live.targets[0], Health())[0]
    streaming.close()


def test_a_request_in_the_queue_is_served_when_its_turn_comes(gate: Gate, serve: Any) -> None:
    live = configure(gate, url_of(serve([HALF], [SHORT])), concurrency={"limit": 1, "queue": 1, "wait": 20})
    streaming, waiting = gate.client.get("/a"), []
    thread = threading.Thread(target=lambda: waiting.append(gate.client.get("/b")))
    thread.start()
    deadline = time.monotonic() + 10
    while live.places.queued == 0:
        assert time.monotonic() < deadline
    streaming.close()
    thread.join(10)
    assert waiting[0].data == b"ok"
    assert (live.places.in_flight, live.places.refused) == (0, 0)


def abort(ctx: Context) -> None:
    ctx.abort(403)


def replace(ctx: Context) -> None:
    ctx.response = None


def crash(ctx: Context) -> None:
    raise ValueError


def read(ctx: Context) -> None:
    assert ctx.response is not None
    ctx.response.get_data()


@pytest.mark.parametrize(
    ("answers", "then", "status"),
    [
        ([SHORT], None, 200),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], None, 204),
        ([b"garbage\r\n\r\n"], None, 502),
        ([HALF, None], read, 502),
        ([HALF], abort, 403),
        ([HALF], replace, 500),
        ([HALF], crash, 500),
        ([SHORT], crash, 500),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"], None, 502),
    ],
    ids=["whole", "204", "garbage", "cut", "aborted", "removed", "crashed", "crashed_whole", "unrequested_101"],
)
def test_every_way_to_end_gives_the_place_back_once(
    gate: Gate, watch: Watch, serve: Any, answers: list[bytes | None], then: Callable[[Context], object] | None, status: int
) -> None:
    live = configure(gate, url_of(serve(answers)))
    watch.then = then or watch.then
    answer = gate.client.get("/a")
    assert answer.status_code == status
    answer.close()
    assert (live.places.in_flight, live.targets[0].active, gate.app.gateway.in_flight) == (0, 0, set())


def test_retries_hold_one_place_whatever_target_they_go_to(gate: Gate, service: Service) -> None:
    live = configure(gate, "http://127.0.0.1:1", service.url, retries={"attempts": 3, "on": ["connect", "503"]})
    for statuses in ([], [503], [503, 503]):
        service.statuses[:] = statuses
        gate.client.get("/a").close()
        service.statuses.clear()
        assert (live.places.in_flight, [target.active for target in live.targets]) == (0, [0, 0])


@pytest.mark.parametrize("phase", ["post_proxy", "response"])
def test_a_killed_greenlet_gives_back_what_it_holds(gate: Gate, watch: Watch, serve: Any, monkeypatch: Any, phase: str) -> None:
    def killed(*_: object) -> None:
        gevent.get_hub().loop.run_callback(gevent.getcurrent().throw, gevent.GreenletExit)  # as a drain does, into a hook that waits
        gevent.sleep(5)

    live = configure(gate, url_of(serve([HALF])))
    if phase == "post_proxy":
        watch.then = killed
    else:
        watch.statuses = type("Deadly", (list,), {"append": killed})()
    with pytest.raises(gevent.GreenletExit):
        gate.client.get("/a")
    assert (live.places.in_flight, live.targets[0].active, gate.app.gateway.in_flight) == (0, 0, set())


def test_an_open_circuit_refuses_before_anybody_waits_and_a_refused_probe_makes_way(gate: Gate, service: Service) -> None:
    breaker = {"failures": 1, "open_for": 30}
    live = configure(gate, service.url, breaker=breaker, concurrency={"limit": 1, "queue": 1, "wait": 0.05})
    assert live.breaker is not None
    live.places.take()
    live.breaker.failed(None)
    with pytest.raises(ServiceUnavailable, match="circuit is open"):
        live.admit()
    assert live.places.refused == 0
    live.breaker._clock = lambda: time.monotonic() + 31
    check_busy(gate.client.get("/a"))  # the probe: it waited in vain
    assert live.breaker.state == "half_open"
    live.places.give_back()
    assert gate.client.get("/a").status_code == 200
    assert live.breaker.state == "closed"


def test_R46_beyond_max_in_flight_requests_are_shed_before_any_phase(
    gate: Gate, watch: Watch, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    configure(gate, url_of(serve([HALF], [SHORT])), concurrency={"limit": 9})
    gate.app.gateway.max_in_flight = 1
    streaming = gate.client.get("/a")
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            answer = gate.client.post("/b", data=b"unread")
            check_busy(answer)
            answer.close()
    assert (watch.phases, watch.statuses) == (["pre_auth"], [200] + [503] * 20)
    assert [outcome.bytes_in for outcome in watch.outcomes] == [0] * 20
    assert gate.app.tally.get("shed") == 20
    assert caplog.messages[0] == "request_shed in_flight=1 suppressed=0"
    assert len(caplog.messages) <= 3
    assert gate.client.get("/.well-known/gwproxy/ready").status_code == 200
    streaming.close()
    assert gate.client.get("/b").status_code == 200
