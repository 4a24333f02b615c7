"""The gateway in one process is the gateway: its router, chains, forwarding and errors."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

import gwproxy
from gwproxy import Context, Gateway, Plugin, PluginConfig, hookimpl
from gwproxy.errors import ConfigurationRefused, PluginRefused
from gwproxy.testing import InProcessGateway, Reply
from tests.service import Service


class TenantConfig(PluginConfig):
    header: str = "X-Tenant"


class Tenant(Plugin):
    name = "tenant"
    config_model = TenantConfig

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        self.store = gateway.store

    @hookimpl
    def post_auth(self, ctx: Context, config: TenantConfig) -> None:
        tenant, dot, _ = ctx.request.host.partition(".")
        if not dot:
            ctx.abort(403, {"error": "Unknown tenant"})
        ctx.request.headers[config.header] = ctx.state["tenant"] = tenant

    @hookimpl
    def response(self, ctx: Context, config: TenantConfig) -> None:
        ctx.on_finish(lambda outcome: self.store.log("tenants", str(outcome.status).encode()))


def test_an_answer_what_the_upstream_saw_and_the_trace(gateway: InProcessGateway) -> None:
    gateway.use(Tenant, {"header": "X-T"})
    gateway.upstream.reply(201, json={"a": 1}, headers=[("X-From", "upstream")])
    answer = gateway.post("/x?y=1", headers={"Host": "acme.example.com"}, json={"b": 2})
    assert (answer.status, answer.json(), answer.headers["X-From"]) == (201, {"a": 1}, "upstream")
    assert (answer.upstream.method, answer.upstream.target, answer.upstream.json()) == ("POST", "/x?y=1", {"b": 2})
    assert answer.upstream.headers.getlist("X-T") == ["acme"]
    assert answer.upstream.host == "upstream.test"
    assert answer.decisions == [
        "tenant post_auth: changed request.headers, state.tenant",
        "tenant response: passed",
        "tenant on_finish: passed",
    ]
    assert (answer.route, answer.state["tenant"], answer.completed) == ("root", "acme", True)
    assert gateway.store.logged["tenants"] == [b"201"]


def test_an_abort_reaches_no_upstream(gateway: InProcessGateway) -> None:
    gateway.use(Tenant)
    answer = gateway.get("/", headers={"Host": "localhost"})
    assert (answer.status, answer.json(), answer.seen) == (403, {"error": "Unknown tenant"}, ())
    assert answer.decisions[0] == "tenant post_auth: aborted 403"
    with pytest.raises(AssertionError, match="saw 0 requests; answered 403"):
        _ = answer.upstream


def test_a_crash_is_the_500_that_clients_get_and_its_error_is_in_the_trace(gateway: InProcessGateway) -> None:
    class Crash(Plugin):
        name = "crash"

        @hookimpl
        def pre_proxy(self, ctx: Context) -> None:
            ctx.state["nobody"]

    gateway.use(Crash)
    answer = gateway.get()
    assert (answer.status, answer.json(), answer.seen) == (500, {"error": "Internal Server Error"}, ())
    assert answer.decisions == ["crash pre_proxy: failed KeyError: 'nobody'"]
    assert isinstance(answer.trace[0].error, KeyError)


def test_what_a_hook_returns_is_refused_here_too(gateway: InProcessGateway) -> None:
    class Returns(Plugin):
        name = "returns"

        @hookimpl
        def pre_auth(self, ctx: Context) -> None:
            return 403  # type: ignore[return-value]

    gateway.use(Returns)
    answer = gateway.get()
    assert answer.status == 500
    assert answer.decisions == ["returns pre_auth: failed TypeError: it returned int; a hook returns None"]


def test_an_abort_that_is_swallowed_is_one_all_the_same(gateway: InProcessGateway) -> None:
    class Swallows(Plugin):
        name = "swallows"

        @hookimpl
        def pre_auth(self, ctx: Context) -> None:
            with contextlib.suppress(BaseException):
                ctx.abort(418)

    gateway.use(Swallows)
    answer = gateway.get()
    assert (answer.status, answer.decisions) == (418, ["swallows pre_auth: aborted 418"])


def test_installed_plugins_by_name_in_a_whole_configuration(gateway: InProcessGateway) -> None:
    gateway.environ["GW_KEY"] = "k" * 32
    gateway.serve(
        {
            "plugins": [{"name": "cors"}],
            "routes": [
                {"path": "/in", "upstream": "http://inner.test/base", "plugins": [{"name": "jwt_auth", "config": {"secret": "${GW_KEY}"}}]},
                {"path": "/out", "upstream": "http://outer.test"},
            ],
        }
    )
    refused = gateway.get("/in", headers={"Origin": "https://a.example"})
    assert (refused.status, refused.json(), refused.route) == (401, {"error": "Authentication required"}, "in")
    assert refused.headers["Access-Control-Allow-Origin"] == "*"
    assert gateway.get("/out").upstream.host == "outer.test"
    unmatched = gateway.get("/nowhere", headers={"Origin": "https://a.example"})
    assert (unmatched.status, unmatched.route) == (404, None)
    assert unmatched.headers["Access-Control-Allow-Origin"] == "*"


def test_shadow_is_shadow(gateway: InProcessGateway) -> None:
    gateway.use(Tenant, mode="shadow")
    answer = gateway.get("/", headers={"Host": "localhost"})
    assert answer.status == 200
    assert "tenant post_auth: aborted 403" in answer.decisions


def test_bodies_go_through_in_pieces_and_the_trace_says_who_reads_them(gateway: InProcessGateway) -> None:
    class Reads(Plugin):
        name = "reads"

        @hookimpl
        def pre_proxy(self, ctx: Context) -> None:
            ctx.state["size"] = len(ctx.request.get_data())

        @hookimpl
        def post_proxy(self, ctx: Context) -> None:
            assert ctx.response is not None
            ctx.response.get_data()

    gateway.route()
    gateway.upstream.answering = lambda seen: Reply(body=(b"x" * 70_000, b"y" * 70_000))
    streamed = gateway.request("PUT", "/", body=[b"a", b"bc"])
    assert (streamed.upstream.body, len(streamed.body)) == (b"abc", 140_000)
    assert len(streamed.pieces) > 1
    gateway.use(Reads)
    read = gateway.request("PUT", "/", body=[b"a", b"bc"])
    assert (read.upstream.body, len(read.body), read.state["size"]) == (b"abc", 140_000, 3)
    assert [traced.read for traced in read.trace] == [("request",), ("response",)]


def test_an_upstream_that_refuses_hangs_up_or_breaks_off(gateway: InProcessGateway) -> None:
    gateway.route()
    gateway.upstream.refusing = True
    assert gateway.get().status == 502
    gateway.upstream.refusing = False
    gateway.upstream.answering = lambda seen: None
    assert gateway.get().status == 502

    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise OSError("enough")

    gateway.upstream.answering = lambda seen: Reply(body=pieces())
    answer = gateway.get()
    assert (answer.status, len(answer.body), answer.completed) == (200, 100_000, False)


def test_a_real_upstream_is_really_connected_to(gateway: InProcessGateway) -> None:
    with Service().running() as service:
        gateway.route(upstream=service.url)
        answer = gateway.get("/a", headers={"X-A": "1"})
    assert (answer.status, answer.json()["target"], answer.seen) == (200, "/a", ())
    assert len(service.seen) == 1


def test_what_is_not_valid_is_refused_with_its_place(gateway: InProcessGateway) -> None:
    with pytest.raises(ConfigurationRefused, match=r"routes\[0\].plugins\[0\].config.hedaer"):
        gateway.use(Tenant, {"hedaer": "X"})
    with pytest.raises(PluginRefused, match="no such plugin is installed"):
        gateway.use("not_there")


def test_lifecycle_hooks_run_and_their_errors_are_the_tests(gateway: InProcessGateway) -> None:
    events: list[Any] = []

    class Lives(Plugin):
        name = "lives"

        @hookimpl
        def worker_started(self, gateway: Gateway) -> None:
            events.append(gateway.in_thread(lambda: 7))

        @hookimpl
        def configuration_applied(self, revision: int, digest: str) -> None:
            events.append(revision)

        @hookimpl
        def worker_stopping(self) -> None:
            raise ValueError("cannot stop")

    own = InProcessGateway(Lives)
    own.use("lives")
    own.route("/other")
    with pytest.raises(ValueError, match="cannot stop"):
        own.close()
    assert events == [7, 1, 2]


def test_no_port_is_opened_and_a_test_takes_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> None:
        raise AssertionError("a socket was bound or connected")

    class Deaf(socket.socket):
        bind = listen = connect = forbidden  # type: ignore[assignment]

    monkeypatch.setattr(socket, "socket", Deaf)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        with InProcessGateway() as gateway:
            gateway.use("request_transform", {"add_headers": {"X-A": "1"}})
            assert gateway.get("/x").upstream.headers["X-A"] == "1"
        times.append(time.perf_counter() - began)
    assert min(times) < 0.05  # the first one has imported the plugins, and another may have waited for a processor


def test_the_pytest_plugin_imports_nothing_of_the_package() -> None:
    code = "import sys, pytest, _gwproxy_pytest; print({name.split('.')[0] for name in sys.modules} & {'gwproxy', 'gevent', 'pydantic'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_all_that_is_public_says_what_it_is() -> None:
    import gwproxy.testing as kit

    assert all((getattr(kit, name).__doc__ or "").strip() for name in kit.__all__ if name not in ("UPSTREAM", "Verdict"))
    assert gwproxy.testing.InProcessGateway is InProcessGateway
