"""Copies of requests: what is in them, what is dropped and counted, and that the request itself knows nothing of them."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from gwproxy import Context, Plugin, hookimpl
from tests.service import Gate, Service


class Reader(Plugin):
    """Reads every body before it is forwarded."""

    name = "reader"
    version = "1.0"
    priority = 300

    @hookimpl
    def pre_proxy(self, ctx: Context) -> None:
        ctx.request.get_data()
        ctx.request.headers["X-Read"] = "1"


@pytest.fixture
def services() -> Iterator[tuple[Service, Service]]:
    with Service().running() as main, Service().running() as copies:
        yield main, copies


@pytest.fixture
def gate() -> Gate:
    return Gate(Reader())


def serve(gate: Gate, services: tuple[Service, Service], prefix: str = "", plugins: tuple[str, ...] = (), **mirror: Any) -> None:
    main, copies = services
    route = {
        "path": "/api",
        "strip_path": True,
        "upstream": "main",
        "mirror": {"upstream": "copies", **mirror},
        "plugins": [{"name": name} for name in plugins],
    }
    upstreams = {"main": {"targets": [{"url": main.url}]}, "copies": {"targets": [{"url": copies.url + prefix}]}}
    gate.serve({"routes": [route], "upstreams": upstreams})


def settled(gate: Gate) -> None:
    """Let the copies that are under way come to their end; here they run only when they are let."""
    snapshot = gate.app.gateway.snapshot
    assert snapshot is not None
    mirror = snapshot.routes[0].mirror
    assert mirror is not None
    with gevent.Timeout(10):
        while mirror.upstream.copies:
            gevent.sleep(0.001)
    assert mirror.upstream.targets[0].active == 0


def dropped(gate: Gate) -> dict[str, int]:
    return {name: count for name, count in gate.app.tally.shown().items() if name.startswith("mirror")}


def test_a_copy_is_the_request_as_it_was_forwarded_but_for_its_host(gate: Gate, services: tuple[Service, Service]) -> None:
    serve(gate, services, "/base", ("reader",))
    assert gate.client.put("/api/x?q=%2F", data=b"hello", headers={"X-Any": "1"}).status_code == 200
    settled(gate)
    [seen], [copy] = services[0].seen, services[1].seen
    assert (copy["method"], copy["target"], copy["body"]) == ("PUT", "/base/x?q=%2F", "hello")
    assert dict(copy["headers"])["Host"] == services[1].url.partition("//")[2]
    without = [[pair for pair in one["headers"] if pair[0] != "Host"] for one in (seen, copy)]
    assert without[0] == without[1]
    assert ("X-Read", "1") in copy["headers"]


@pytest.mark.parametrize("plugins", [(), ("reader",)], ids=["streamed", "read"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("size", "copied"), [(1, True), (100_000, True), (100_001, False)])
def test_bodies_up_to_a_size(
    gate: Gate, services: tuple[Service, Service], plugins: tuple[str, ...], chunked: bool, size: int, copied: bool
) -> None:
    serve(gate, services, plugins=plugins, max_body=100_000)
    body = b"ab" * (size // 2) + b"c" * (size % 2)
    environ = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"} if chunked else {}
    data: Any = io.BytesIO(body) if chunked else body
    answer = gate.client.post("/api", input_stream=data, environ_overrides=environ) if chunked else gate.client.post("/api", data=body)
    assert (answer.status_code, len(answer.json["body"])) == (200, size)
    settled(gate)
    assert [one["body"] for one in services[1].seen] == ([body.decode()] if copied else [])
    assert dropped(gate) == ({"mirrored": 1} if copied else {"mirror_dropped:body": 1})


def test_beyond_the_limit_nothing_waits_and_what_was_dropped_is_counted(gate: Gate, services: tuple[Service, Service]) -> None:
    serve(gate, services, limit=3)
    assert {gate.client.get("/api").status_code for _ in range(10)} == {200}  # nobody lets the copies run meanwhile
    assert dropped(gate) == {"mirrored": 3, "mirror_dropped:limit": 7}
    settled(gate)
    assert (len(services[0].seen), len(services[1].seen)) == (10, 3)
    gate.client.get("/api")
    settled(gate)
    assert len(services[1].seen) == 4


def test_a_share_of_the_requests(gate: Gate, services: tuple[Service, Service]) -> None:
    serve(gate, services, share=0.25, limit=1000)
    for _ in range(400):
        gate.client.get("/api")
    copies = dropped(gate)["mirrored"]
    assert abs(copies - 100) <= 4 * (400 * 0.25 * 0.75) ** 0.5
    serve(gate, services, share=0)
    gate.client.get("/api")
    assert dropped(gate)["mirrored"] == copies


@pytest.mark.parametrize("trouble", ["silent", "gone", "refuses", "hangs_up"])
def test_whatever_becomes_of_a_copy_is_not_the_client_s_business(gate: Gate, services: tuple[Service, Service], trouble: str) -> None:
    serve(gate, services)
    statuses = {"refuses": [503, 503], "hangs_up": [None, None]}
    services[1].statuses = statuses.get(trouble, [])  # type: ignore[assignment]
    if trouble == "gone":
        services[1]._server.server_close()
    began = time.monotonic()
    assert gate.client.get("/api").status_code == 200
    assert gate.client.post("/api", data=b"x").status_code == 200
    assert time.monotonic() - began < 5
    if trouble != "gone":
        settled(gate)
    assert dropped(gate).get("mirror_dropped:failed", 0) == (2 if trouble == "hangs_up" else 0)
    assert len(services[1].seen) == (0 if trouble == "gone" else 2), "each once"


def test_a_request_that_cannot_be_sent_leaves_no_copy_behind(gate: Gate, services: tuple[Service, Service]) -> None:
    class Breaks(Plugin):
        name = "breaks"
        version = "1.0"
        priority = 1

        @hookimpl
        def pre_proxy(self, ctx: Context) -> None:
            assert ctx.upstream is not None
            ctx.upstream.target = "/\u20ac"

    gate = Gate(Breaks())
    serve(gate, services, plugins=("breaks",))
    assert gate.client.get("/api").status_code == 500
    settled(gate)
    assert (services[0].seen, services[1].seen) == ([], [])


def test_no_healthy_target_is_counted(gate: Gate, services: tuple[Service, Service]) -> None:
    serve(gate, services)
    snapshot = gate.app.gateway.snapshot
    assert snapshot is not None
    assert snapshot.routes[0].mirror is not None
    snapshot.routes[0].mirror.upstream.targets[0].judged(False, "for the test")
    assert gate.client.get("/api").status_code == 200
    assert dropped(gate) == {"mirror_dropped:target": 1}


def test_what_a_plugin_has_refused_is_not_copied(gate: Gate, services: tuple[Service, Service]) -> None:
    class Refuses(Plugin):
        name = "refuses"
        version = "1.0"
        priority = 1

        @hookimpl
        def pre_proxy(self, ctx: Context) -> None:
            ctx.abort(403)

    gate = Gate(Refuses())
    serve(gate, services, plugins=("refuses",))
    assert gate.client.get("/api").status_code == 403
    assert dropped(gate) == {}
