"""pii_log: an entry for each request with personal data, which holds none itself."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from typing import Any

import fakeredis
import orjson
import pytest
from pydantic import ValidationError

from gwproxy import Consumer, Context, Headers, Outcome, Request, Response, Route
from gwproxy.errors import BadGateway
from gwproxy.http.bodies import RequestBody, ResponseBody
from gwproxy.plugins.pii_log import PiiLog, PiiLogConfig
from gwproxy.store.log_buffer import LogBuffer
from gwproxy.store.shared import RedisStore
from tests.plugins.conftest import Gateway

JSON = {"Content-Type": "application/json"}
PERSON = b'{"id":7,"email":"jane@example.com","note":"call +4915112345678"}'


@pytest.fixture
def plugin(gateway: Gateway) -> PiiLog:
    made = PiiLog()
    made.worker_started(gateway)
    return made


def config(**fields: Any) -> PiiLogConfig:
    return PiiLogConfig.model_validate_json(orjson.dumps(fields))


def request(
    path: str = "/api/users/7",
    query: str = "",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    chunked: bool = False,
    params: dict[str, str] | None = None,
) -> Context:
    made = Request(
        "POST",
        path,
        query,
        Headers((headers or {}).items()),
        remote_addr="203.0.113.7",
        body=RequestBody(io.BytesIO(body), None if chunked else len(body)),
    )
    ctx = Context(made, Route(id="users", path="/api", upstream="http://10.0.0.5"), params=params, request_id="req-1")
    ctx.response = Response(204)
    return ctx


def answer(body: bytes | ResponseBody, headers: dict[str, str] = JSON) -> Response:
    return Response(200, Headers(headers.items()), body, upstream=True)


def served(plugin: PiiLog, gateway: Gateway, ctx: Context, using: PiiLogConfig | None = None) -> dict[str, Any] | None:
    """Take a request through the plugin as the gateway does; return its entry, None if there is none."""
    using = using or config()
    plugin.pre_proxy(ctx, using)
    list(ctx.request.body)  # forwarded: what nobody kept is gone
    plugin.response(ctx, using)
    for finish in ctx.finishers:
        finish(Outcome(status=200, bytes_in=0, bytes_out=12, duration=0.01, completed=True))
    return orjson.loads(gateway.logged[-1][1]) if gateway.logged else None


def fields(entry: dict[str, Any] | None) -> list[tuple[str, str, str, str]]:
    assert entry is not None
    return [(field["where"], field["name"], field["kind"], field["masked"]) for field in entry["fields"]]


def test_name_priority_and_defaults():
    made = PiiLogConfig()
    assert (PiiLog.name, PiiLog.priority) == ("pii_log", 890)
    assert (made.sinks, made.where, made.scan_limit) == (("redis",), ("path", "query", "request", "response"), 262_144)
    assert {"email", "phone", "ssn", "iban", "card_number"} <= set(made.fields)


@pytest.mark.parametrize(
    "given",
    [
        {"patterns": ["ssn"]},
        {"where": []},
        {"where": ["headers"]},
        {"fields": [""]},
        {"scan_limit": 10},
        {"scan_limit": "2MiB"},
        {"custom_patterns": {"x": 1}},
        {"custom_patterns": {"Not A Name": "a"}},
        {"custom_patterns": {"x": "a" * 513}},
        {"custom_patterns": {f"x{n}": "a" for n in range(21)}},
    ],
)
def test_what_makes_no_sense_is_refused(given):
    with pytest.raises(ValidationError):
        config(**given)


@pytest.mark.parametrize(("pattern", "reason"), [("(", "missing"), ("(?=x)", "invalid"), ("x*", "matches the empty text")])
def test_N17_a_pattern_that_cannot_be_used_is_refused_by_name(pattern, reason):
    with pytest.raises(ValidationError, match=rf"'staff' is no usable RE2 expression: .*{reason}"):
        config(custom_patterns={"staff": pattern})


def test_a_pattern_may_not_take_the_name_of_a_built_in_one():
    with pytest.raises(ValidationError, match="'email' is built in"):
        config(custom_patterns={"email": "x"})


def test_an_entry_says_who_saw_what_and_where(plugin, gateway):
    ctx = request()
    ctx.authenticate("alice", Consumer(id="acme", match={"user_id": "alice"}))
    ctx.response = answer(PERSON)
    entry = served(plugin, gateway, ctx)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("timestamp"))
    assert entry == {
        "route": "users",
        "user_id": "alice",
        "consumer": "acme",
        "client_ip": "203.0.113.7",
        "method": "POST",
        "path": "/api/users/7",
        "request_id": "req-1",
        "status": 200,
        "completed": True,
        "fields": [
            {"where": "response", "name": "email", "kind": "email", "masked": "j***@e***.com", "count": 1},
            {"where": "response", "name": "note", "kind": "phone", "masked": "+49***78", "count": 1},
        ],
    }


def test_entries_are_in_a_list_of_their_own():
    client = fakeredis.FakeRedis()
    gateway, plugin = Gateway(), PiiLog()
    gateway.store = RedisStore(client, LogBuffer(client, "gw:"))
    plugin.worker_started(gateway)
    served(plugin, gateway, request(query="email=jane@example.com"))
    gateway.store.logs.close()
    (entry,) = client.lrange("gw:pii_log", 0, -1)
    assert orjson.loads(entry)["fields"][0]["name"] == "email"


def test_a_request_without_personal_data_leaves_no_entry(plugin, gateway):
    ctx = request(query="page=2", body=b'{"n":1}', headers=JSON)
    ctx.response = answer(b'[{"id":1,"title":"x"}]')
    assert served(plugin, gateway, ctx) is None


def test_no_value_stands_in_the_log(plugin, gateway):
    ctx = request("/api/jane@example.com", "q=jane%40example.com&ssn=123-45-6789", PERSON, JSON)
    ctx.response = answer(b'{"list":[' + PERSON + b'],"card_number":4111111111111111,"dob":"1990-01-02"}')
    served(plugin, gateway, ctx)
    line = gateway.logged[0][1]
    for value in (b"jane", b"example.com", b"6789", b"15112345", b"411111", b"1990"):
        assert value not in line


def test_paths_are_masked_segment_by_segment(plugin, gateway):
    entry = served(plugin, gateway, request("/api/users/jane%40example.com/cards/4111111111111111"))
    assert entry["path"] == "/api/users/j***@e***.com/cards/***1111"
    assert fields(entry) == [("path", "segment 3", "email", "j***@e***.com"), ("path", "segment 5", "card", "***1111")]


def test_path_parameters_are_personal_by_name(plugin, gateway):
    entry = served(plugin, gateway, request("/people/Jane%20Doe/7", params={"full_name": "Jane%20Doe", "id": "7"}))
    assert entry["path"] == "/people/J***/7"
    assert fields(entry) == [("path", "full_name", "full_name", "J***")]


def test_the_path_is_masked_also_where_paths_are_not_looked_at(plugin, gateway):
    entry = served(plugin, gateway, request("/u/jane@example.com", "email=x@example.org"), config(where=["query"]))
    assert entry["path"] == "/u/j***@e***.com"
    assert fields(entry) == [("query", "email", "email", "x***@e***.org")]


def test_queries_are_looked_at_by_name_and_by_value(plugin, gateway):
    entry = served(plugin, gateway, request(query="firstName=Jane-Marie&to=%2B4915112345678&page=2&empty="))
    assert fields(entry) == [("query", "firstName", "first_name", "J***"), ("query", "to", "phone", "+49***78")]


def test_request_bodies_are_looked_at_and_still_forwarded(plugin, gateway):
    ctx = request(body=PERSON, headers=JSON)
    assert fields(served(plugin, gateway, ctx)) == [
        ("request", "email", "email", "j***@e***.com"),
        ("request", "note", "phone", "+49***78"),
    ]
    assert b"".join(ctx.request.body) == PERSON


def test_forms_are_looked_at(plugin, gateway):
    ctx = request(body=b"ssn=123-45-6789&x=jane%40example.com", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert fields(served(plugin, gateway, ctx)) == [("request", "ssn", "ssn", "1***"), ("request", "x", "email", "j***@e***.com")]


def test_only_what_the_operator_asks_for(plugin, gateway):
    ctx = request("/u/a@example.com", "email=b@example.com", PERSON, JSON)
    ctx.response = answer(PERSON)
    using = config(where=["response"], fields=["id"], patterns=["phone"])
    assert fields(served(plugin, gateway, ctx, using)) == [("response", "id", "id", "***"), ("response", "note", "phone", "+49***78")]


def test_patterns_of_the_operators_own(plugin, gateway):
    ctx = request("/staff/EMP-1234")
    entry = served(plugin, gateway, ctx, config(custom_patterns={"staff": "EMP-[0-9]+"}))
    assert fields(entry) == [("path", "segment 2", "staff", "E***")]
    assert entry["path"] == "/staff/E***"


@pytest.mark.parametrize(
    ("coding", "data"),
    [("gzip", gzip.compress(PERSON, mtime=0)), ("GZIP", gzip.compress(PERSON, mtime=0)), ("deflate", zlib.compress(PERSON))],
)
def test_compressed_bodies_are_looked_at_and_leave_as_they_came(plugin, gateway, coding, data):
    ctx = request()
    ctx.response = answer(data, {**JSON, "Content-Encoding": coding})
    assert fields(served(plugin, gateway, ctx))[0] == ("response", "email", "email", "j***@e***.com")
    assert b"".join(ctx.response.body) == data


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("br", b"whatever"),
        ("gzip", b"not gzip"),
        ("gzip", gzip.compress(PERSON, mtime=0)[:-4]),
        ("gzip", gzip.compress(PERSON, mtime=0) + gzip.compress(PERSON, mtime=0)),
        ("gzip, br", b"x"),
        ("identity", b'{"email":'),
        ("identity", b"[" * 2000),
        ("identity", PERSON.decode().encode("utf-16")),
    ],
)
def test_B14_a_body_that_cannot_be_read_is_noted(plugin, gateway, coding, data):
    ctx = request()
    ctx.response = answer(data, {**JSON, "Content-Encoding": coding})
    entry = served(plugin, gateway, ctx)
    assert (entry["fields"], entry["unread"]) == ([], ["response"])


def test_B14_a_gzip_bomb_is_not_inflated(plugin, gateway):
    bomb = gzip.compress(b'"' + b"a" * 50_000_000 + b'"')
    assert len(bomb) < 100_000
    ctx = request()
    ctx.response = answer(bomb, {**JSON, "Content-Encoding": "gzip"})
    assert served(plugin, gateway, ctx)["unread"] == ["response"]


def endless() -> Iterator[bytes]:
    pytest.fail("somebody waited for the stream")
    yield b""


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson", "image/png", "text/html"])
def test_streams_and_other_types_are_never_buffered_nor_noted(plugin, gateway, kind):
    ctx = request()
    ctx.response = answer(ResponseBody(chunks=endless()), {"Content-Type": kind})
    assert served(plugin, gateway, ctx) is None


def test_a_response_declared_too_long_is_not_read(plugin, gateway):
    ctx = request()
    ctx.response = answer(ResponseBody(chunks=endless(), length=2000))
    assert served(plugin, gateway, ctx, config(scan_limit=1024))["unread"] == ["response"]


def test_a_response_that_turns_out_too_long_is_streamed_on(plugin, gateway):
    ctx = request()
    ctx.response = answer(ResponseBody(chunks=iter([b"x" * 1000] * 2000)))
    assert served(plugin, gateway, ctx)["unread"] == ["response"]
    assert len(b"".join(ctx.response.body)) == 2_000_000


def broken() -> Iterator[bytes]:
    yield b'{"email": "a@'
    raise BadGateway("the body was cut")


def test_a_response_that_breaks_off_while_it_is_read_is_noted(plugin, gateway):
    ctx = request(query="email=a@example.com")
    ctx.response = answer(ResponseBody(chunks=broken()))
    with pytest.raises(BadGateway):
        plugin.response(ctx, config())
    ctx.finishers[0](Outcome(status=200, bytes_in=0, bytes_out=12, duration=0.01, completed=False))
    entry = orjson.loads(gateway.logged[-1][1])
    assert (entry["unread"], fields(entry)) == (["response"], [("query", "email", "email", "a***@e***.com")])


def test_a_long_or_chunked_request_is_noted_and_not_refused(plugin, gateway):
    for ctx in (request(body=b"1" * 2000, headers=JSON), request(body=PERSON, headers=JSON, chunked=True)):
        assert served(plugin, gateway, ctx, config(scan_limit=1024))["unread"] == ["request"]


def test_a_request_refused_before_its_body_came_is_not_noted(plugin, gateway):
    ctx = request(body=PERSON, headers=JSON)
    ctx.response = Response.error(401)
    plugin.response(ctx, config())
    ctx.finishers[0](Outcome(401, 0, 0, 0.1, completed=True))
    assert gateway.logged == []


def test_a_body_of_which_not_all_was_looked_at_says_so(plugin, gateway):
    ctx = request()
    ctx.response = answer(orjson.dumps([1] * 30_000))
    entry = served(plugin, gateway, ctx)
    assert (entry["truncated"], entry["fields"]) == (True, [])


def test_a_request_that_matched_no_route_is_looked_at(plugin, gateway):
    ctx = Context(Request("GET", "/u/jane@example.com"))
    ctx.response = Response.error(404)
    plugin.response(ctx, config())
    ctx.finishers[0](Outcome(404, 0, 27, 0.01, completed=True))
    entry = orjson.loads(gateway.logged[0][1])
    assert (entry["route"], entry["path"]) == (None, "/u/j***@e***.com")


def test_a_worker_that_stops_writes_what_waits(tmp_path):
    class Silent(Gateway):
        def spawn(self, function: Any) -> None: ...

        def in_thread(self, function: Any, *args: Any) -> None:
            function(*args)

    plugin, gateway = PiiLog(), Silent()
    plugin.worker_started(gateway)
    served(plugin, gateway, request(query="email=a@example.com"), config(sinks=["file"], file=str(tmp_path / "pii.log")))
    plugin.worker_stopping()
    assert orjson.loads((tmp_path / "pii.log").read_bytes())["fields"][0]["where"] == "query"
