"""The life of a request, through the real app, router, chain and transport, to a real service in a thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gwproxy import Context, Outcome, Plugin, PluginConfig, StoreUnavailable, hookimpl
from gwproxy.model import Timeouts
from tests.service import Gate, Service


class ProbeConfig(PluginConfig):
    tag: str = "probe"
    abort_in: str | None = None
    raise_in: str | None = None
    status: int = 403


class Probe(Plugin):
    """Records what happens; aborts or raises where its config says."""

    name = "probe"
    config_model = ProbeConfig

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.contexts: list[Context] = []
        self.outcomes: list[Outcome] = []

    def note(self, ctx: Context, config: ProbeConfig, phase: str) -> None:
        self.phases.append(f"{config.tag}:{phase}")
        if config.raise_in == phase:
            raise StoreUnavailable("away") if config.status == 503 else ValueError("secret detail")
        if config.abort_in == phase:
            ctx.abort(config.status, {"error": "Forbidden"})

    @hookimpl
    def pre_auth(self, ctx: Context, config: ProbeConfig) -> None:
        self.contexts.append(ctx)
        ctx.response_headers["X-Probe"] = config.tag
        ctx.on_finish(self.outcomes.append)
        self.note(ctx, config, "pre_auth")

    @hookimpl
    def post_auth(self, ctx: Context, config: ProbeConfig) -> None:
        self.note(ctx, config, "post_auth")

    @hookimpl
    def pre_proxy(self, ctx: Context, config: ProbeConfig) -> None:
        self.note(ctx, config, "pre_proxy")

    @hookimpl
    def post_proxy(self, ctx: Context, config: ProbeConfig) -> None:
        self.note(ctx, config, "post_proxy")

    @hookimpl
    def response(self, ctx: Context, config: ProbeConfig) -> None:
        assert ctx.response is not None
        self.note(ctx, config, f"response:{ctx.response.status}")


class Who(Plugin):
    """Authenticates whoever sends X-Key; challenges others."""

    name = "who"

    @hookimpl
    def auth(self, ctx: Context) -> None:
        key = ctx.request.headers.get("X-Key")
        if key is None:
            ctx.challenge("Key")
            return
        if key == "bad":
            ctx.abort(401, {"error": "Invalid token"})
        ctx.authenticate(key)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service().running() as running:
        yield running


@pytest.fixture(autouse=True)
def _forget(service: Service) -> None:
    service.seen.clear()
    service.statuses.clear()


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def gate(probe: Probe) -> Gate:
    return Gate(probe, Who())


def test_no_configuration_is_503_with_retry_after(gate: Gate) -> None:
    answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (503, {"error": "Service Unavailable"})
    assert answer.headers["Retry-After"] == "1"


def test_all_phases_run_in_order_and_headers_are_on_what_leaves(gate: Gate, probe: Probe, service: Service) -> None:
    gate.serve([{"path": "/a", "upstream": service.url, "plugins": [{"name": "probe"}]}])
    answer = gate.client.get("/a/b?x=%20", headers={"X-Client": "1"})
    assert answer.status_code == 200
    assert probe.phases == [f"probe:{phase}" for phase in ("pre_auth", "post_auth", "pre_proxy", "post_proxy", "response:200")]
    assert answer.headers["X-Probe"] == "probe"
    assert answer.headers.getlist("Set-Cookie") == ["a=1", "b=2"]
    assert service.seen[0]["target"] == "/a/b?x=%20"
    assert answer.headers["X-Request-ID"] == dict(service.seen[0]["headers"])["X-Request-ID"]


@pytest.mark.parametrize("phase", ["pre_auth", "post_auth", "pre_proxy"])
def test_an_abort_skips_everything_but_response(gate: Gate, probe: Probe, service: Service, phase: str) -> None:
    gate.serve([{"path": "/", "upstream": service.url, "plugins": [{"name": "probe", "config": {"abort_in": phase}}]}])
    answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (403, {"error": "Forbidden"})
    assert probe.phases[-1] == "probe:response:403"
    assert probe.phases[-2] == f"probe:{phase}"
    assert answer.headers["X-Probe"] == "probe"
    assert service.seen == []


def test_an_abort_after_the_upstream_replaces_its_answer(gate: Gate, probe: Probe, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url, "plugins": [{"name": "probe", "config": {"abort_in": "post_proxy"}}]}])
    answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (403, {"error": "Forbidden"})
    assert "Set-Cookie" not in answer.headers


def test_a_crash_is_500_without_a_detail(gate: Gate, probe: Probe, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url, "plugins": [{"name": "probe", "config": {"raise_in": "pre_proxy"}}]}])
    answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (500, {"error": "Internal Server Error"})
    assert probe.phases[-1] == "probe:response:500"
    assert service.seen == []


def test_a_needed_store_that_is_away_is_503(gate: Gate, service: Service) -> None:
    config = {"raise_in": "post_auth", "status": 503}
    gate.serve([{"path": "/", "upstream": service.url, "plugins": [{"name": "probe", "config": config}]}])
    answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (503, {"error": "Service Unavailable"})
    assert "Retry-After" in answer.headers


def test_an_unmatched_request_passes_the_global_response_hooks_with_no_route(gate: Gate, probe: Probe, service: Service) -> None:
    gate.serve({"routes": [{"path": "/a", "upstream": service.url}], "plugins": [{"name": "probe"}]})
    answer = gate.client.get("/b")
    assert (answer.status_code, answer.json) == (404, {"error": "Route not found"})
    assert probe.phases == ["probe:response:404"]


def test_an_entry_of_the_route_replaces_the_global_one_and_disabled_removes_it(gate: Gate, probe: Probe, service: Service) -> None:
    routes = [
        {"path": "/global", "upstream": service.url},
        {"path": "/own", "upstream": service.url, "plugins": [{"name": "probe", "config": {"tag": "own"}}]},
        {"path": "/none", "upstream": service.url, "plugins": [{"name": "probe", "enabled": False}]},
    ]
    gate.serve({"routes": routes, "plugins": [{"name": "probe", "config": {"tag": "global"}}]})
    assert gate.client.get("/global").headers["X-Probe"] == "global"
    assert gate.client.get("/own").headers["X-Probe"] == "own"
    assert "X-Probe" not in gate.client.get("/none").headers


def test_the_same_plugin_twice_runs_twice_by_priority_then_list_order(gate: Gate, probe: Probe, service: Service) -> None:
    entries = [
        {"name": "probe", "config": {"tag": "b"}},
        {"name": "probe", "config": {"tag": "c"}},
        {"name": "probe", "config": {"tag": "a"}, "priority": 1},
    ]
    gate.serve([{"path": "/", "upstream": service.url, "plugins": entries}])
    gate.client.get("/")
    assert probe.phases[:3] == ["a:pre_auth", "b:pre_auth", "c:pre_auth"]


def test_authentication_reaches_the_upstream_and_forged_identity_does_not(gate: Gate, service: Service) -> None:
    gate.serve(
        {
            "routes": [
                {"path": "/open", "upstream": service.url},
                {"path": "/closed", "upstream": service.url, "plugins": [{"name": "who"}]},
            ],
            "consumers": [{"id": "acme", "groups": ["gold", "eu"], "match": {"user_id": "ada"}}],
        }
    )
    forged = {"X-User-Id": "eve", "X-Consumer": "eve", "X-Consumer-Groups": "gold"}
    gate.client.get("/open", headers=forged)
    gate.client.get("/closed", headers={**forged, "X-Key": "ada"})
    opened, closed = (dict(seen["headers"]) for seen in service.seen)
    assert not {"X-User-Id", "X-Consumer", "X-Consumer-Groups"} & set(opened)
    assert (closed["X-User-Id"], closed["X-Consumer"], closed["X-Consumer-Groups"]) == ("ada", "acme", "gold,eu")


def test_the_three_answers_of_authentication(gate: Gate, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url, "plugins": [{"name": "who"}]}])
    missing = gate.client.get("/")
    assert (missing.status_code, missing.json) == (401, {"error": "Authentication required"})
    assert missing.headers["WWW-Authenticate"] == "Key"
    bad = gate.client.get("/", headers={"X-Key": "bad"})
    assert (bad.status_code, bad.json, bad.headers["WWW-Authenticate"]) == (401, {"error": "Invalid token"}, "Bearer")
    assert gate.client.get("/", headers={"X-Key": "ada"}).status_code == 200


def test_a_route_whose_plugin_is_not_there_answers_503_and_others_serve(gate: Gate, service: Service) -> None:
    routes = [
        {"path": "/needs", "upstream": service.url, "plugins": [{"name": "missing"}]},
        {"path": "/fine", "upstream": service.url},
    ]
    gate.serve(routes, lenient=True)
    assert gate.client.get("/needs").json == {"error": "Service Unavailable"}
    assert gate.client.get("/fine").status_code == 200


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
def test_N08_trace_and_connect_are_405(gate: Gate, service: Service, method: str) -> None:
    gate.serve([{"path": "/", "upstream": service.url}])
    answer = gate.client.open("/", method=method)
    assert (answer.status_code, answer.json) == (405, {"error": "Method Not Allowed"})


@pytest.mark.parametrize("path", ["/a/%2e%2e/b", "/a%00", "/a%5cb", "/a%zz"])
def test_N11_a_path_that_can_be_read_two_ways_is_400_and_is_seen_by_the_logs(gate: Gate, probe: Probe, service: Service, path: str) -> None:
    gate.serve({"routes": [{"path": "/", "upstream": service.url}], "plugins": [{"name": "probe"}]})
    answer = gate.client.get("/", environ_overrides={"RAW_URI": path})
    assert (answer.status_code, answer.json) == (400, {"error": "Bad Request"})
    assert probe.phases == ["probe:response:400"]


def test_an_upgrade_that_is_not_supported_is_501(gate: Gate, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url}])
    answer = gate.client.get("/", headers={"Connection": "Upgrade", "Upgrade": "websocket"})
    assert (answer.status_code, answer.json) == (501, {"error": "Not Implemented"})


def test_a_body_over_the_limit_is_413_declared_or_not(gate: Gate, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url, "max_body": 10}])
    assert gate.client.post("/", data=b"x" * 10).status_code == 200
    answer = gate.client.post("/", data=b"x" * 11)
    assert (answer.status_code, answer.json) == (413, {"error": "Payload too large"})
    assert len(service.seen) == 1


def test_strip_path_and_a_path_in_the_upstream(gate: Gate, service: Service) -> None:
    routes = [
        {"path": "/api/users", "upstream": f"{service.url}/v2/", "strip_path": True},
        {"path": "/t/{id}/x", "upstream": service.url, "strip_path": True},
        {"path": "~^/v[0-9]+/", "upstream": f"{service.url}/r", "strip_path": True},
    ]
    gate.serve(routes)
    for path in ("/api/users/7", "/api/users", "/t/5/x", "/v12/y?q"):
        gate.client.get(path)
    assert [seen["target"] for seen in service.seen] == ["/v2/7", "/v2/", "/", "/r/y?q"]


def test_host_is_the_upstreams_own_unless_preserved(gate: Gate, service: Service) -> None:
    gate.serve([{"path": "/a", "upstream": service.url}, {"path": "/b", "upstream": service.url, "preserve_host": True}])
    gate.client.get("/a", base_url="http://api.example.com:81")
    gate.client.get("/b", base_url="http://api.example.com:81")
    first, second = (dict(seen["headers"]) for seen in service.seen)
    assert first["Host"] == service.url.removeprefix("http://")
    assert first["X-Forwarded-Host"] == "api.example.com:81"
    assert second["Host"] == "api.example.com:81"


def test_on_finish_is_told_how_it_went(gate: Gate, probe: Probe, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url, "plugins": [{"name": "probe"}]}])
    answer = gate.client.post("/", data=b"12345")
    size = len(answer.data)
    answer.close()
    (outcome,) = probe.outcomes
    assert (outcome.status, outcome.bytes_in, outcome.bytes_out, outcome.completed) == (200, 5, size, True)
    assert outcome.duration > 0
    assert gate.app.gateway.in_flight == set()


def test_head_has_no_body_and_keeps_the_length(gate: Gate, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url}])
    answer = gate.client.head("/")
    assert answer.data == b""
    assert int(answer.headers["Content-Length"]) > 0


def test_a_request_keeps_the_snapshot_it_started_with(gate: Gate, probe: Probe, service: Service) -> None:
    gate.serve([{"path": "/", "id": "old", "upstream": service.url, "plugins": [{"name": "probe"}]}])
    swapped = []

    def swap(ctx: Context, config: ProbeConfig, phase: str) -> None:
        Probe.note(probe, ctx, config, phase)
        if not swapped:
            swapped.append(1)
            gate.serve([{"path": "/elsewhere", "upstream": service.url}])

    probe.note = swap  # type: ignore[method-assign]
    assert gate.client.get("/").status_code == 200
    assert "probe:response:200" in probe.phases
    assert gate.client.get("/").status_code == 404


class Rewriter(Plugin):
    name = "rewriter"

    @hookimpl
    def pre_proxy(self, ctx: Context) -> None:
        assert ctx.upstream is not None
        assert ctx.upstream.timeout == Timeouts()
        ctx.upstream.url = ctx.request.headers["X-To"]
        ctx.request.headers["X-Bad"] = "ok"
        if "X-Break" in ctx.request.headers:
            ctx.request.headers._items.append(("x-evil", "X-Evil", "a\r\nInjected: 1"))


def test_a_plugin_may_send_the_request_elsewhere(service: Service) -> None:
    gate = Gate(Rewriter())
    gate.serve([{"path": "/", "upstream": "http://127.0.0.1:9", "plugins": [{"name": "rewriter"}]}])
    assert gate.client.get("/x", headers={"X-To": f"{service.url}/y?z=1"}).status_code == 200
    assert service.seen[0]["target"] == "/y?z=1"


def test_what_a_plugin_assigns_is_the_whole_path_also_with_several_targets(service: Service) -> None:
    gate = Gate(Rewriter())
    upstream = {"targets": [{"url": f"{service.url}/one"}, {"url": f"{service.url}/two"}]}
    routes = [{"path": "/", "upstream": "users", "plugins": [{"name": "rewriter"}]}, {"path": "/plain", "upstream": "users"}]
    gate.serve({"routes": routes, "upstreams": {"users": upstream}})
    for path in ("/x", "/x", "/plain", "/plain"):
        gate.client.get(path, headers={"X-To": "http://users/y?z=1"})
    assert sorted(seen["target"] for seen in service.seen) == ["/one/plain", "/two/plain", "/y?z=1", "/y?z=1"]


def test_H14_a_line_break_in_a_request_header_is_500_and_nothing_is_sent(service: Service) -> None:
    gate = Gate(Rewriter())
    gate.serve([{"path": "/", "upstream": service.url, "plugins": [{"name": "rewriter"}]}])
    answer = gate.client.get("/x", headers={"X-To": f"{service.url}/", "X-Break": "1"})
    assert (answer.status_code, answer.json) == (500, {"error": "Internal Server Error"})
    assert service.seen == []


def test_preflights_match_by_the_requested_method(gate: Gate, probe: Probe, service: Service) -> None:
    routes = [{"path": "/", "methods": ["PUT"], "headers": {"x-version": "2"}, "upstream": service.url, "plugins": [{"name": "probe"}]}]
    gate.serve(routes)
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "PUT"}
    assert gate.client.options("/", headers=preflight).status_code == 200
    assert gate.client.options("/").status_code == 404
    assert gate.client.options("/", headers={**preflight, "Access-Control-Request-Method": "GET"}).status_code == 404
