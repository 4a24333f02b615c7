"""What an upstream gets of a request, and a client of a response: byte for byte, but for what a proxy has to change."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish
from tests.e2e.raw import HOST, RawClient, head
from tests.e2e.scripted import OK, ScriptedService, Seen, passed

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService) -> GatewayProcess:
    routes = [
        {"path": "/", "upstream": service.url},
        {"path": "/stripped", "upstream": f"{service.url}/base", "strip_path": True},
        {"path": "/kept-host", "upstream": service.url, "preserve_host": True},
    ]
    publish(redis_server, routes)
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready()


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[RawClient]:
    with RawClient(gateway.port) as client:
        yield client


# ---- the target


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb", "/a%2fb"),
        ("/%2F%2f", "/%2F%2f"),
        ("/[x]", "/[x]"),
        ("/a;params;b=1/c;d", "/a;params;b=1/c;d"),
        ("/a//b///c", "/a/b/c"),
        ("//a", "/a"),
        ("/%41%7e%2D", "/A~-"),
        ("/%2541", "/%2541"),
        ("/%c3%a9%FF", "/%c3%a9%FF"),
        ("/!$&'()*+,=:@|^`{}\"<>", "/!$&'()*+,=:@|^`{}\"<>"),
        ("/a/", "/a/"),
        ("/a?", "/a"),
        ("/a?x=1&y=%20&y=%2f&z=[a]&//..%2e&%zz&q=?x", "/a?x=1&y=%20&y=%2f&z=[a]&//..%2e&%zz&q=?x"),
        ("http://gw.example/a%2Fb?x", "/a%2Fb?x"),
        ("http://gw.example", "/"),
        ("/stripped/a%2Fb?x", "/base/a%2Fb?x"),
        ("/stripped", "/base/"),
        ("/stripped?x", "/base/?x"),
    ],
)
def test_the_target_as_the_upstream_sees_it(client: RawClient, service: ScriptedService, sent: str, got: str) -> None:
    assert passed(service, client, sent).head.startswith(f"GET {got} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE"])
def test_the_method(client: RawClient, service: ScriptedService, method: str) -> None:
    assert passed(service, client, "/m", method=method).method == method


# ---- the request's fields

ADDED = {
    "host",
    "x-request-id",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-for",
    "x-real-ip",
    "forwarded",
    "via",
}


def test_H16_nothing_is_added_but_what_is_documented(client: RawClient, service: ScriptedService) -> None:
    seen = passed(service, client, "/h")
    assert {name.lower() for name, _ in seen.fields} == ADDED
    assert seen.get("Host") == f"127.0.0.1:{service.port}"
    assert seen.get("X-Forwarded-For") == seen.get("X-Real-IP") == "127.0.0.1"
    assert (seen.get("X-Forwarded-Host"), seen.get("X-Forwarded-Port"), seen.get("X-Forwarded-Proto")) == (HOST, "80", "http")
    assert seen.get("Forwarded") == f'for=127.0.0.1;proto=http;host="{HOST}"'
    assert seen.get("Via") == "1.1 gwproxy"
    assert re.fullmatch("[0-9a-f]{32}", seen.get("X-Request-ID") or "")
    assert all(len(seen.all(name)) == 1 for name in ADDED)


def test_fields_keep_order_case_repetitions_and_bytes(client: RawClient, service: ScriptedService) -> None:
    sent = [
        "x-lower: 1",
        "X-UPPER: 2",
        "X-Many: a",
        "Accept: */*",
        "X-Many: b",
        "x-many: c",
        "X-Bytes: caf\xe9 \xff",
        "X-Empty:",
        "X-Tab: a\tb",
    ]
    seen = passed(service, client, "/h", *sent)
    got = [f"{name}: {value}".rstrip() for name, value in seen.fields if name.lower() not in ADDED]
    assert got == sent


def test_H10_cookies_on_two_lines_are_one(client: RawClient, service: ScriptedService) -> None:
    assert passed(service, client, "/h", "Cookie: a=1", "X: y", "Cookie: b=2; c=3").all("Cookie") == ["a=1; b=2; c=3"]


def test_H01_H03_hop_by_hop_fields_end_here(client: RawClient, service: ScriptedService) -> None:
    seen = passed(
        service,
        client,
        "/h",
        "Connection: keep-alive, X-Nominated, Authorization, Host",
        "X-Nominated: 1",
        "Authorization: Basic eDp5",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Trailer: X",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "Proxy: http://evil.example",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    )
    assert {name.lower() for name, _ in seen.fields} == ADDED | {"authorization"}


def test_H05_H08_H09_what_a_client_may_not_say_is_dropped(client: RawClient, service: ScriptedService) -> None:
    seen = passed(
        service,
        client,
        "/h",
        "X-User-Id: root",
        "X-User-Role: admin",
        "X-Consumer: acme",
        "X-Consumer-Groups: gold",
        "X_User_Id: root",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Prefix: /evil",
        "X-Real-IP: 1.2.3.4",
        "Forwarded: for=1.2.3.4",
        "Via: 1.1 evil",
    )
    assert {name.lower() for name, _ in seen.fields} == ADDED
    for word in (b"root", b"gold", b"1.2.3.4", b"evil", b"https"):
        assert word not in seen.head


def test_ids_and_traces_of_the_client_are_kept(client: RawClient, service: ScriptedService) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    seen = passed(service, client, "/h", "X-Request-ID: my-id.1", f"traceparent: {trace}", "tracestate: a=1,b=2")
    assert (seen.all("X-Request-ID"), seen.all("traceparent"), seen.all("tracestate")) == (["my-id.1"], [trace], ["a=1,b=2"])
    seen = passed(service, client, "/h", "X-Request-ID: not an id", "traceparent: 00-zz", "tracestate: a=1")
    assert re.fullmatch("[0-9a-f]{32}", seen.get("X-Request-ID") or "")
    assert (seen.all("traceparent"), seen.all("tracestate")) == ([], [])


def test_the_host_is_kept_if_the_route_says_so(client: RawClient, service: ScriptedService) -> None:
    seen = passed(service, client, "/kept-host", host="API.example:8080")
    assert (seen.get("Host"), seen.get("X-Forwarded-Host"), seen.get("X-Forwarded-Port")) == (
        "API.example:8080",
        "API.example:8080",
        "8080",
    )


@pytest.mark.parametrize(
    ("sent", "framing"),
    [
        (head("/b", "Content-Length: 5", method="POST") + b"hello", ["content-length: 5"]),
        (head("/b", "Content-Length: 005", method="POST") + b"hello", ["content-length: 5"]),
        (
            head("/b", "Transfer-Encoding: chunked", method="POST") + b"2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n",
            ["transfer-encoding: chunked"],
        ),
        (head("/b", "Content-Length: 0", method="POST"), ["content-length: 0"]),
        (head("/b", method="POST"), ["content-length: 0"]),
        (head("/b", "Content-Length: 5", method="DELETE") + b"hello", ["content-length: 5"]),
        (head("/b", "Content-Length: 5") + b"hello", ["content-length: 5"]),
        (head("/b"), []),
    ],
    ids=["sized", "P07 leading zeros", "P12 chunked", "empty", "none", "DELETE", "GET", "GET without"],
)
def test_R05_a_body_is_framed_once(client: RawClient, service: ScriptedService, sent: bytes, framing: list[str]) -> None:
    while not service.requests.empty():
        service.requests.get()
    bodies = []
    service.on("/b", lambda seen: bodies.append(seen.body) or OK)  # type: ignore[func-returns-value]
    client.send(sent)
    assert client.answer().status == 200
    seen = service.next()
    lines = [f"{name}: {value}".lower() for name, value in seen.fields]
    assert [line for line in lines if line.startswith(("content-length", "transfer-encoding", "trailer", "x-t:"))] == framing
    assert bodies == [b"hello" if b"hello" in sent or b"llo" in sent else b""]


# ---- the response


def test_a_response_keeps_order_case_repetitions_and_bytes(client: RawClient, service: ScriptedService) -> None:
    lines = [
        "server: upstream/1",
        "Date: Mon, 01 Jan 2024 00:00:00 GMT",
        "Set-Cookie: a=1; Path=/",
        "x-lower: 1",
        "Set-Cookie: b=2; Path=/",
        "X-MANY: caf\xe9",
        "x-many: \xff",
        'ETag: W/"1"',
        "Content-Length: 2",
    ]
    service.on("/r", "\r\n".join(["HTTP/1.1 200 Fine", *lines, "", "ok"]).encode("latin-1"))
    answer = client.ask("/r")
    got = [f"{name}: {value}" for name, value in answer.fields if name not in ("X-Request-ID", "Connection")]
    assert got == lines
    assert answer.body == b"ok"


def test_hop_by_hop_fields_of_the_upstream_end_here(client: RawClient, service: ScriptedService) -> None:
    hops = "Connection: X-Nominated\r\nX-Nominated: 1\r\nKeep-Alive: timeout=9\r\nProxy-Connection: x\r\nTrailer: X-T\r\nUpgrade: h2c\r\n"
    coming = f"HTTP/1.1 200 OK\r\n{hops}Proxy-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n"
    service.on("/r", coming.encode())
    answer = client.ask("/r")
    assert {name.lower() for name, _ in answer.fields} <= {"x-request-id", "date", "transfer-encoding", "content-length"}
    assert answer.body == b"ok"
    assert client.ask("/ok").body == b"ok"  # the trailer was not taken for a response


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_R03_redirects_are_passed_on(client: RawClient, service: ScriptedService, status: int) -> None:
    location = "http://internal.example:8000/a b?[x]"
    service.on("/r", f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 5\r\n\r\nmoved".encode())
    answer = client.ask("/r")
    assert (answer.status, answer.all("Location"), answer.body) == (status, [location], b"moved")


@pytest.mark.parametrize(
    ("method", "coming"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 12345\r\n\r\n'),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"),
    ],
    ids=["HEAD", "HEAD chunked", "204", "304", "interim"],
)
def test_U33_responses_without_a_body(client: RawClient, service: ScriptedService, method: str, coming: bytes) -> None:
    service.on("/r", coming)
    answer = client.ask("/r", method=method)
    final = coming.rpartition(b"HTTP/1.1 ")[2]
    assert answer.status == int(final[:3])
    assert answer.all("Content-Length") == (["12345"] if b"12345" in coming else [])
    assert answer.get("ETag") == ('"1"' if b"ETag" in coming else None)
    assert client.ask("/ok").body == b"ok"  # the very next bytes are the next response


def test_U31_a_compressed_body_is_not_touched(client: RawClient, service: ScriptedService) -> None:
    for body in (gzip.compress(b"text"), b"not gzip at all"):
        service.on("/r", b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = client.ask("/r", "Accept-Encoding: gzip")
        assert (answer.body, answer.get("Content-Encoding")) == (body, "gzip")


def test_a_body_without_a_length_ends_with_its_connection(client: RawClient, service: ScriptedService) -> None:
    def script(seen: Seen) -> None:
        seen.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

    service.on("/r", script)
    assert client.ask("/r").body == b"until the end"
    client.send(b"GET /r HTTP/1.0\r\nHost: a\r\n\r\n")
    answer = client.answer()
    assert (answer.body, answer.closed, answer.get("Transfer-Encoding")) == (b"until the end", True, None)


@pytest.mark.parametrize("status", [200, 201, 206, 299, 400, 401, 404, 418, 429, 451, 499, 500, 503, 599])
def test_any_status_of_an_upstream_passes(client: RawClient, service: ScriptedService, status: int) -> None:
    service.on("/r", f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nup".encode())
    answer = client.ask("/r")
    assert (answer.status, answer.body, answer.all("WWW-Authenticate")) == (status, b"up", [])


def test_P14_pipelined_requests_are_answered_in_order(client: RawClient, service: ScriptedService) -> None:
    for number in range(3):
        service.on(f"/p/{number}", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
    client.send(head("/p/0") + head("/p/1", "Content-Length: 2", method="POST") + b"xy" + head("/p/2"))
    assert [client.answer().body for _ in range(3)] == [b"0", b"1", b"2"]


def test_R02_nobody_gets_the_cookies_of_another(gateway: GatewayProcess, service: ScriptedService) -> None:
    service.on("/login", lambda seen: f"HTTP/1.1 200 OK\r\nSet-Cookie: user={seen.get('X-Name')}\r\nContent-Length: 0\r\n\r\n".encode())
    with RawClient(gateway.port) as alice, RawClient(gateway.port) as bob:
        for _ in range(5):  # both workers, and their pooled connections
            assert alice.ask("/login", "X-Name: alice").all("Set-Cookie") == ["user=alice"]
            assert passed(service, bob, "/whoami").all("Cookie") == []
            assert bob.ask("/login", "X-Name: bob").all("Set-Cookie") == ["user=bob"]
            assert passed(service, alice, "/whoami", "Cookie: user=alice").all("Cookie") == ["user=alice"]
