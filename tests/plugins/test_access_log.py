"""access_log: one entry for every request, with what the contract names, and without secrets."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Iterator
from typing import Any

import fakeredis
import orjson
import pytest
from pydantic import ValidationError

from gwproxy import Consumer, Context, Headers, Outcome, Request, Response, Route, Timeouts
from gwproxy.context import Shadowed, UpstreamChoice
from gwproxy.errors import BadGateway
from gwproxy.http.bodies import RequestBody, ResponseBody
from gwproxy.plugins.access_log import AccessLog, AccessLogConfig
from gwproxy.store.log_buffer import LogBuffer
from gwproxy.store.shared import RedisStore
from tests.plugins.conftest import Gateway

CONTRACT = (
    *("method", "path", "status", "user_id", "latency_ms", "timestamp", "route", "consumer", "upstream", "request_id"),
    *("client_ip", "bytes", "completed"),
)
ALWAYS = (*CONTRACT, "host")
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def plugin(gateway: Gateway) -> AccessLog:
    made = AccessLog()
    made.worker_started(gateway)
    return made


def config(**fields: Any) -> AccessLogConfig:
    return AccessLogConfig.model_validate_json(orjson.dumps(fields))


def request(
    method: str = "POST", query: str = "", headers: dict[str, str] | None = None, body: bytes = b"", *, chunked: bool = False
) -> Context:
    made = Request(
        method,
        "/api/users/7",
        query,
        Headers((headers or {}).items()),
        host="api.example.com",
        remote_addr="203.0.113.7",
        body=RequestBody(io.BytesIO(body), None if chunked else len(body)),
    )
    route = Route(id="users", path="/api/users", upstream="http://10.0.0.5:8000")
    ctx = Context(made, route, upstream=UpstreamChoice("http://10.0.0.5:8000", "/api/users/7?token=x", Timeouts()), request_id="req-1")
    ctx.response = Response(200)
    return ctx


def served(plugin: AccessLog, gateway: Gateway, ctx: Context, using: AccessLogConfig, outcome: Outcome | None = None) -> dict[str, Any]:
    """Take a request through the plugin as the gateway does, and return its entry."""
    plugin.pre_proxy(ctx, using)
    list(ctx.request.body)  # forwarded: what nobody kept is gone
    plugin.response(ctx, using)
    return finished(gateway, ctx, outcome)


def finished(gateway: Gateway, ctx: Context, outcome: Outcome | None = None) -> dict[str, Any]:
    before = len(gateway.logged)
    for finish in ctx.finishers:
        finish(outcome or Outcome(status=200, bytes_in=0, bytes_out=12, duration=0.0123456, completed=True))
    assert len(gateway.logged) == before + 1
    entry: dict[str, Any] = orjson.loads(gateway.logged[-1][1])
    return entry


def answer(body: bytes | ResponseBody, **headers: str) -> Response:
    return Response(200, Headers((name.replace("_", "-"), value) for name, value in headers.items()), body, upstream=True)


def test_defaults_are_those_of_the_contract():
    made = AccessLogConfig()
    assert (made.log_body, made.redact, made.sinks) == (False, (), ("redis",))
    assert (AccessLog.name, AccessLog.priority) == ("access_log", 900)
    assert config(logBody=True).log_body is True


@pytest.mark.parametrize("fields", [{"redact": [""]}, {"redact": "email"}, {"body_limit": "2MiB"}, {"headers": [1]}, {"sinks": ["file"]}])
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        config(**fields)


def test_an_entry_has_exactly_the_fields_of_the_contract_and_the_host(plugin, gateway):
    ctx = request()
    ctx.authenticate("alice", Consumer(id="acme", match={"user_id": "alice"}))
    entry = served(plugin, gateway, ctx, config(), Outcome(201, 5, 120, 0.0123456, completed=False))
    assert tuple(entry) == ALWAYS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("timestamp"))
    assert entry == {
        "method": "POST",
        "path": "/api/users/7",
        "status": 201,
        "user_id": "alice",
        "latency_ms": 12.346,
        "route": "users",
        "consumer": "acme",
        "upstream": "http://10.0.0.5:8000",
        "request_id": "req-1",
        "client_ip": "203.0.113.7",
        "bytes": 120,
        "completed": False,
        "host": "api.example.com",
    }


def test_the_newest_ten_thousand_are_kept(plugin, gateway):
    served(plugin, gateway, request(), config())
    assert [(name, keep) for name, _, keep in gateway.logged] == [("access_log", 10_000)]


def test_entries_are_in_the_list_of_the_contract_newest_last():
    client = fakeredis.FakeRedis()
    gateway, plugin = Gateway(), AccessLog()
    gateway.store = RedisStore(client, LogBuffer(client, "gw:"))
    plugin.worker_started(gateway)
    for number in range(3):
        ctx = request(query=f"n={number}")
        plugin.response(ctx, config())
        ctx.finishers[0](Outcome(200, 0, 0, 0.1, completed=True))
    gateway.store.logs.close()
    assert [orjson.loads(entry)["query"] for entry in client.lrange("gw:access_log", 0, -1)] == ["n=0", "n=1", "n=2"]


def test_a_request_that_matched_no_route_is_logged(plugin, gateway):
    ctx = Context(Request("GET", "/nowhere", remote_addr="203.0.113.7"), request_id="req-2")
    ctx.response = Response.error(404)
    plugin.response(ctx, config(log_body=True))
    entry = finished(gateway, ctx, Outcome(404, 0, 27, 0.001, completed=True))
    assert (entry["route"], entry["upstream"], entry["consumer"], entry["user_id"], entry["status"]) == (None, None, None, None, 404)
    assert entry["response_body"] == {"error": "Route not found"}


def test_nothing_is_written_before_the_request_has_ended(plugin, gateway):
    ctx = request()
    plugin.pre_proxy(ctx, config())
    plugin.response(ctx, config())
    assert gateway.logged == []


def test_H20_secrets_in_the_query_are_masked(plugin, gateway):
    entry = served(plugin, gateway, request(query="page=2&access_token=abc&email=a@b.c"), config(redact=["Email"]))
    assert entry["query"] == "page=2&access_token=***&email=***"
    assert "token" not in entry["upstream"]


def test_H20_headers_are_logged_when_named_and_never_their_secrets(plugin, gateway):
    ctx = request(
        headers={"Authorization": "Bearer s3cret", "Cookie": "sid=s3cret", "X-Api-Key": "s3cret", "User-Agent": "curl", "X-Tag": "t"}
    )
    named = config(headers=["authorization", "Cookie", "X-Api-Key", "User-Agent", "X-Tag", "X-None"], redact=["x_tag"])
    entry = served(plugin, gateway, ctx, named)
    assert entry["headers"] == {"authorization": "***", "Cookie": "***", "X-Api-Key": "***", "User-Agent": "curl", "X-Tag": "***"}
    assert b"s3cret" not in gateway.logged[0][1]


def test_headers_are_not_logged_unless_named(plugin, gateway):
    entry = served(plugin, gateway, request(headers={"User-Agent": "curl"}), config())
    assert "headers" not in entry


def test_H19_odd_values_do_not_break_the_line(plugin, gateway):
    ctx = request(query="q=\x1b[31m\x9b\xff", headers={"User-Agent": 'a"\x1b\xff'})
    ctx.state["user_id"] = "\ud800"
    entry = served(plugin, gateway, ctx, config(headers=["User-Agent"]))
    assert entry["user_id"] == "\\ud800"
    assert entry["headers"] == {"User-Agent": 'a"\x1b\xff'}
    assert not re.search(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]", gateway.logged[0][1])


def test_what_shadow_plugins_would_have_done_is_logged(plugin, gateway):
    ctx = request()
    ctx.shadowed.append(Shadowed("rate_limit", "post_auth", "abort", "429"))
    entry = served(plugin, gateway, ctx, config())
    assert entry["shadowed"] == [{"plugin": "rate_limit", "phase": "post_auth", "action": "abort", "detail": "429"}]


def test_a_body_that_a_plugin_found_too_long_is_noted(plugin, gateway):
    ctx = request()
    ctx.response = answer(b"x" * 3_000_000)
    assert ctx.response.get_data() is None
    assert served(plugin, gateway, ctx, config())["body_unread"] == ["response"]


def test_bodies_are_not_logged_by_default_nor_read(plugin, gateway):
    ctx = request(headers=JSON, body=b'{"a":1}')
    ctx.response = answer(ResponseBody(chunks=iter([b"1"]), length=1), Content_Type="application/json")
    entry = served(plugin, gateway, ctx, config())
    assert tuple(entry) == ALWAYS
    assert not ctx.response.body.complete


def test_bodies_are_logged_masked(plugin, gateway):
    ctx = request(headers=JSON, body=b'{"name":"Jo","password":"x","card":{"number":"4"}}')
    ctx.response = answer(ResponseBody(chunks=iter([b'[{"id":1,', b'"apiKey":"k"}]']), length=23), Content_Type="application/json")
    entry = served(plugin, gateway, ctx, config(log_body=True, redact=["card"]))
    assert entry["request_body"] == {"name": "Jo", "password": "***", "card": "***"}
    assert entry["response_body"] == [{"id": 1, "apiKey": "***"}]
    assert "body_unread" not in entry
    assert b"".join(ctx.request.body) == b'{"name":"Jo","password":"x","card":{"number":"4"}}', "it is still forwarded"
    assert b"".join(ctx.response.body) == b'[{"id":1,"apiKey":"k"}]'


def test_forms_are_masked_and_text_is_logged_as_it_is(plugin, gateway):
    ctx = request(headers={"Content-Type": "application/x-www-form-urlencoded"}, body=b"user=jo&password=x")
    ctx.response = answer(b"caf\xc3\xa9 \xff", Content_Type="text/plain")
    entry = served(plugin, gateway, ctx, config(log_body=True))
    assert entry["request_body"] == "user=jo&password=***"
    assert entry["response_body"] == "café �"


def test_empty_bodies_are_not_mentioned(plugin, gateway):
    ctx = request("GET", headers=JSON)
    ctx.response = answer(b"", Content_Type="application/json")
    assert tuple(served(plugin, gateway, ctx, config(log_body=True))) == ALWAYS


def test_a_body_that_cannot_be_masked_is_not_logged(plugin, gateway):
    ctx = request(headers=JSON, body=b'{"password":"x"')
    ctx.response = answer(gzip.compress(b'{"password":"x"}'), Content_Type="application/json", Content_Encoding="gzip")
    entry = served(plugin, gateway, ctx, config(log_body=True))
    assert entry["body_unread"] == ["request", "response"]
    assert tuple(entry) == (*ALWAYS, "body_unread")


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "image/png"}, {}, {"Content-Type": "text/plain", "Content-Encoding": "gzip"}, {"Content-Type": "text/event-stream"}],
)
def test_a_request_body_that_is_not_text_is_left_alone(plugin, gateway, headers):
    ctx = request(headers=headers, body=b"12345")
    plugin.pre_proxy(ctx, config(log_body=True))
    assert ctx.request.body.received == 0
    assert served(plugin, gateway, ctx, config(log_body=True))["body_unread"] == ["request"]


def test_a_long_or_chunked_request_is_left_alone(plugin, gateway):
    for ctx in (request(headers=JSON, body=b"1" * 101), request(headers=JSON, body=b"1", chunked=True)):
        plugin.pre_proxy(ctx, config(log_body=True, body_limit=100))
        assert ctx.request.body.received == 0
        assert served(plugin, gateway, ctx, config(log_body=True, body_limit=100))["body_unread"] == ["request"]


def test_a_request_is_never_refused_because_of_the_log(plugin, gateway):
    ctx = request(headers=JSON, body=b"[" + b"1," * 100 + b"1]")
    ctx.route = ctx.route.model_copy(update={"max_buffer": 50})
    ctx.request._max_buffer = 50
    entry = served(plugin, gateway, ctx, config(log_body=True))
    assert entry["body_unread"] == ["request"]


def test_a_stream_is_never_waited_for(plugin, gateway):
    def endless() -> Iterator[bytes]:
        pytest.fail("somebody waited for the stream")
        yield b""

    for body, kind in (
        (ResponseBody(chunks=endless()), "application/json"),
        (ResponseBody(chunks=endless(), length=5), "text/event-stream"),
        (ResponseBody(chunks=endless(), length=101), "application/json"),
    ):
        ctx = request("GET")
        ctx.response = answer(body, Content_Type=kind)
        entry = served(plugin, gateway, ctx, config(log_body=True, body_limit=100))
        assert entry["body_unread"] == ["response"]


def test_the_logged_body_is_the_one_that_was_seen_though_another_leaves(plugin, gateway):
    ctx = request("GET")
    ctx.response = answer(b'{"a":1}', Content_Type="application/json")
    plugin.response(ctx, config(log_body=True))
    ctx.response = Response.error(500)
    entry = finished(gateway, ctx, Outcome(500, 0, 33, 0.1, completed=True))
    assert (entry["status"], entry["response_body"]) == (500, {"a": 1})


def test_two_entries_of_a_route_log_by_themselves(plugin, gateway):
    ctx = request(query="email=x")
    plugin.response(ctx, config())
    plugin.response(ctx, config(redact=["email"]))
    for finish in ctx.finishers:
        finish(Outcome(200, 0, 0, 0.1, completed=True))
    assert [orjson.loads(entry)["query"] for _, entry, _ in gateway.logged] == ["email=x", "email=***"]


def broken() -> Iterator[bytes]:
    yield b'{"email": "a@'
    raise BadGateway("the body was cut")


def test_a_response_that_breaks_off_while_it_is_read_is_logged(plugin, gateway):
    ctx = request()
    ctx.response = answer(ResponseBody(chunks=broken(), length=100), Content_Type="application/json")
    with pytest.raises(BadGateway):
        plugin.response(ctx, config(log_body=True))
    entry = finished(gateway, ctx)
    assert (entry["body_unread"], "response_body" in entry) == (["response"], False)


def test_a_worker_that_stops_writes_what_waits(tmp_path):
    class Silent(Gateway):
        def spawn(self, function: Any) -> None: ...

        def in_thread(self, function: Any, *args: Any) -> None:
            function(*args)

    plugin, ctx = AccessLog(), request()
    plugin.worker_started(Silent())
    plugin.response(ctx, config(sinks=["file"], file=str(tmp_path / "access.log")))
    ctx.finishers[0](Outcome(200, 0, 0, 0.1, completed=True))
    plugin.worker_stopping()
    (line,) = (tmp_path / "access.log").read_bytes().splitlines()
    assert orjson.loads(line)["path"] == "/api/users/7"
