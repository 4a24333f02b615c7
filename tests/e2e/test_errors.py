"""Every error the gateway makes itself, as a client gets it: status, text, headers, and nothing that is nobody's business."""

from __future__ import annotations

import json
import queue
import socket
import time
from collections.abc import Callable, Iterator

import jwt
import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, free_port, publish, until
from tests.e2e.raw import Answer, RawClient, chunked, head
from tests.e2e.scripted import ScriptedService, Seen
from tests.e2e.strangers import SECRET, install

pytestmark = pytest.mark.e2e

ORIGIN = "https://app.example.com"
JWT_SECRET = "a-secret-of-more-than-32-bytes-for-tests"
JWT = {"name": "jwt_auth", "config": {"secret": JWT_SECRET}}

TEXTS = {
    400: "Bad Request",
    401: "Authentication required",
    403: "Forbidden",
    404: "Route not found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Payload too large",
    414: "URI Too Long",
    417: "Expectation Failed",
    429: "Rate limit exceeded",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@pytest.fixture(scope="module")
def service() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.close()


@pytest.fixture(scope="module")
def full() -> Iterator[int]:
    """A port whose backlog is full: connecting to it gets no answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        yield port
        for sock in waiting:
            sock.close()


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    service: ScriptedService,
    full: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    url = service.url

    def fault(phase: str, kind: str = "raise", **entry: object) -> list[object]:
        return [{"name": "stranger_fault", "config": {"phase": phase, "kind": kind}, **entry}]

    nowhere = f"http://127.0.0.1:{free_port()}"
    document = {
        "plugins": [{"name": "cors", "config": {"origins": [ORIGIN]}}, {"name": "stranger_stamp"}],
        "consumers": [{"id": "acme", "groups": ["gold"], "match": {"user_id": "acme"}}],
        "upstreams": {"fragile": {"targets": [{"url": nowhere}], "breaker": {"failures": 4, "window": 60, "open_for": 30}}},
        "routes": [
            {"path": "/ok", "upstream": url},
            {"path": "/only-get", "methods": ["GET"], "upstream": url},
            {"path": "/private", "upstream": url, "plugins": [JWT]},
            {"path": "/members", "upstream": url, "plugins": [JWT, {"name": "stranger_members"}]},
            {"path": "/small", "upstream": url, "max_body": 10},
            {"path": "/limited", "upstream": url, "plugins": [{"name": "rate_limit", "config": {"limit": 1, "window_seconds": 600}}]},
            {"path": "/fault/pre_auth", "upstream": url, "plugins": fault("pre_auth")},
            {"path": "/fault/post_auth", "upstream": url, "plugins": fault("post_auth")},
            {"path": "/fault/pre_proxy", "upstream": url, "plugins": fault("pre_proxy")},
            {"path": "/fault/post_proxy", "upstream": url, "plugins": fault("post_proxy")},
            {"path": "/fault/response", "upstream": url, "plugins": fault("response", on_error="fail")},
            {"path": "/ignored/response", "upstream": url, "plugins": fault("response")},
            {"path": "/ignored/pre_auth", "upstream": url, "plugins": fault("pre_auth", on_error="ignore")},
            {"path": "/budget", "upstream": url, "plugins": fault("post_auth", "sleep", budget=0.2)},
            {"path": "/refused", "upstream": nowhere},
            {"path": "/unresolvable", "upstream": "http://no-such-host.invalid"},
            {"path": "/upstream", "upstream": url, "timeout": {"head": 0.3, "read": 0.3}},
            {"path": "/total", "upstream": url, "timeout": {"total": 0.3}},
            {"path": "/connect", "upstream": f"http://127.0.0.1:{full}", "timeout": {"connect": 0.3}},
            {"path": "/open", "upstream": "fragile"},
            {"path": "/broken", "upstream": url, "plugins": [{"name": "stranger_broken"}]},
            {"path": "/claim", "upstream": url, "plugins": [{"name": "stranger_claim"}]},
            {
                "path": "/deny",
                "upstream": url,
                "plugins": [{"name": "rate_limit", "config": {"limit": 1000, "on_store_error": "deny"}}],
            },
        ],
    }
    publish(redis_server, document)
    path = install(tmp_path_factory.mktemp("site"))
    settings = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_HEADER_TIMEOUT": "0.6", "GWPROXY_BODY_TIMEOUT": "0.6"}
    return start_gateway(PYTHONPATH=path, **settings).ready()


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[RawClient]:
    with RawClient(gateway.port) as client:
        yield client


def check(answer: Answer, status: int, text: str | None = None, *, by_parser: bool = False, vary: bool = True) -> None:
    """Check a refusal: exact status and text, JSON, plugins' headers, and no word about the inside.

    :param by_parser: it was refused before it could be shown to plugins.
    """
    assert answer.status == status
    assert answer.json() == {"error": text or TEXTS[status]}
    assert answer.get("Content-Type") == "application/json"
    assert answer.all("Content-Length") == [str(len(answer.body))]
    assert not answer.cut
    said = (answer.raw + answer.body).decode("latin-1")
    for inside in ("Traceback", "File ", ".py", "127.0.0.1", "10.0.0.5", "no-such-host", "redis", SECRET, JWT_SECRET, "gunicorn", "Error:"):
        assert inside not in said
    if not by_parser:
        assert answer.all("Access-Control-Allow-Origin") == [ORIGIN]
        assert answer.all("Vary") == (["Origin"] if vary else [])
        assert answer.get("X-Stamp") == str(status)
        assert answer.get("X-Request-ID")


def ask(client: RawClient, target: str, *fields: str, method: str = "GET", body: bytes = b"") -> Answer:
    return client.ask(target, f"Origin: {ORIGIN}", *fields, method=method, body=body)


def token(**claims: object) -> str:
    return "Authorization: Bearer " + jwt.encode({"sub": "acme", "exp": int(time.time()) + 60, **claims}, JWT_SECRET, "HS256")


# ---- refused by the parser


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (head("ok"), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
        (head("/ok", "Expect: the-unexpected"), 417),
        (head("/ok", "Transfer-Encoding: xchunked", method="POST"), 501),
        (head("/ok", "Transfer-Encoding: gzip, chunked", method="POST"), 501),
        (head("/" + "a" * 9000), 414),
        (head("/ok", "X-Long: " + "a" * 9000), 431),
        (head("/ok", *(f"X-{number}: 1" for number in range(101))), 431),
    ],
    ids=[
        *("P16 no HTTP", "no path", "N18 no Host", "P16 HTTP/2.0", "N18 two Hosts", "P09 space before colon", "P01 CL and TE", "P06 +1"),
        *("P21 Expect", "P02 xchunked", "P02 gzip", "P23 target", "P23 field", "P23 fields"),
    ],
)
def test_what_the_parser_refuses(client: RawClient, data: bytes, status: int) -> None:
    client.send(data)
    answer = client.answer()
    check(answer, status, by_parser=True)
    assert answer.get("Connection") == "close"
    assert answer.closed


def test_a_slow_head_is_408(client: RawClient) -> None:
    client.send(b"GET /ok HTTP/1.1\r\nHost: a")
    check(client.answer(), 408, by_parser=True)


# ---- refused by the gateway


@pytest.mark.parametrize("target", ["/ok/%2", "/ok/%zz", "/ok/../x", "/ok/%2e%2e/x", "/ok/a%5Cb", "/ok/%0d%0aX:y", "/ok/%00", "/ok#x"])
def test_a_malformed_target_is_400(client: RawClient, target: str) -> None:
    check(ask(client, target), 400)


@pytest.mark.parametrize("host", ["", "a b", "a,b", "a/b", "user@a", "a:99999999"])
def test_N18_a_host_that_is_none_is_400(client: RawClient, host: str) -> None:
    client.send(head("/ok", host=host))
    check(client.answer(), 400, by_parser=True)


def test_two_origins_are_400(client: RawClient) -> None:
    client.send(head("/ok", "Origin: https://a.example", "Origin: https://b.example"))
    check(client.answer(), 400, by_parser=True)


def test_401_without_a_credential(client: RawClient) -> None:
    answer = ask(client, "/private")
    check(answer, 401)
    assert answer.all("WWW-Authenticate") == ["Bearer"]


@pytest.mark.parametrize("credential", ["expired", "forged", "nonsense"])
def test_401_with_a_bad_credential(client: RawClient, credential: str) -> None:
    forged = jwt.encode({"sub": "acme", "exp": int(time.time()) + 60}, "another-secret-of-more-than-32-bytes", "HS256")
    fields = {"expired": token(exp=1), "forged": f"Authorization: Bearer {forged}", "nonsense": "Authorization: Bearer a.b.c"}
    answer = ask(client, "/private", fields[credential])
    check(answer, 401, "Invalid token")
    assert answer.all("WWW-Authenticate")[0].startswith("Bearer")


def test_403_for_a_caller_that_is_known_but_not_allowed(client: RawClient) -> None:
    check(ask(client, "/members", token(sub="somebody")), 403)
    assert ask(client, "/members", token()).status == 200


@pytest.mark.parametrize(("target", "method"), [("/nowhere", "GET"), ("/okay", "GET"), ("/only-get", "POST"), ("*", "OPTIONS")])
def test_404_without_a_route(client: RawClient, target: str, method: str) -> None:
    check(ask(client, target, method=method), 404)


@pytest.mark.parametrize(("target", "method"), [("/ok", "TRACE"), ("a.example:443", "CONNECT"), ("/ok", "CONNECT")])
def test_N08_405_for_connect_and_trace(client: RawClient, target: str, method: str) -> None:
    answer = ask(client, target, method=method)
    check(answer, 405)
    assert answer.closed


@pytest.mark.parametrize(
    "sent", [("Content-Length: 10", b"abc"), ("Transfer-Encoding: chunked", b"3\r\nabc\r\n")], ids=["sized", "chunked"]
)
def test_B03_a_slow_body_is_408(client: RawClient, sent: tuple[str, bytes]) -> None:
    client.send(head("/ok", sent[0], f"Origin: {ORIGIN}", method="POST") + sent[1])
    check(client.answer(), 408)


def test_a_malformed_chunk_is_400(client: RawClient) -> None:
    client.send(head("/ok", "Transfer-Encoding: chunked", f"Origin: {ORIGIN}", method="POST") + b"3\r\nabc\r\nxyz\r\n")
    check(client.answer(), 400)


def test_B06_413_for_a_declared_body_before_it_is_read(client: RawClient) -> None:
    client.send(head("/small", "Content-Length: 11", f"Origin: {ORIGIN}", method="POST"))
    check(client.answer(), 413)


def test_413_for_a_chunked_body_as_it_streams(client: RawClient, service: ScriptedService) -> None:
    came: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def take(seen: Seen) -> None:
        try:
            for piece in seen.pieces():
                came.put(piece)
            came.put(b"complete")
        except EOFError:
            came.put(b"cut")

    service.on("/small/upload", take)
    client.send(head("/small/upload", "Transfer-Encoding: chunked", f"Origin: {ORIGIN}", method="POST") + b"6\r\nabcdef\r\n")
    assert came.get(timeout=10) == b"abcdef"
    client.send(b"6\r\nghijkl\r\n")
    check(client.answer(), 413)
    assert came.get(timeout=10) == b"cut"


def test_a_body_of_exactly_the_limit_is_fine(client: RawClient) -> None:
    assert ask(client, "/small", method="POST", body=b"x" * 10).status == 200
    client.send(head("/small", "Transfer-Encoding: chunked", method="POST") + chunked(b"x" * 5, b"y" * 5))
    assert client.answer().status == 200


def test_B13_an_upload_that_is_refused_early_still_gets_its_answer(client: RawClient) -> None:
    client.send(head("/private", f"Content-Length: {4 << 20}", f"Origin: {ORIGIN}", method="POST") + b"x" * (4 << 20))
    check(client.answer(), 401)


def test_L11_429_over_a_limit(client: RawClient) -> None:
    assert ask(client, "/limited").status == 200
    answer = ask(client, "/limited")
    check(answer, 429)
    assert 0 < int(answer.get("Retry-After") or 0) <= 600
    assert (answer.get("X-RateLimit-Limit"), answer.get("X-RateLimit-Remaining")) == ("1", "0")


@pytest.mark.parametrize("phase", ["pre_auth", "post_auth", "pre_proxy", "post_proxy", "response"])
def test_X01_500_if_a_plugin_raises(client: RawClient, phase: str) -> None:
    check(ask(client, f"/fault/{phase}"), 500, vary=phase != "response")  # there, cors has had its turn


@pytest.mark.parametrize("phase", ["pre_auth", "response"])
def test_a_plugin_that_may_fail_changes_nothing(client: RawClient, phase: str) -> None:
    answer = ask(client, f"/ignored/{phase}")
    assert (answer.status, answer.body) == (200, b"ok")


def test_X04_500_if_a_plugin_runs_out_of_its_budget(client: RawClient) -> None:
    began = time.monotonic()
    check(ask(client, "/budget"), 500)
    assert 0.2 <= time.monotonic() - began < 5


def test_an_upgrade_the_route_does_not_support_is_501(client: RawClient) -> None:
    check(ask(client, "/ok", "Connection: Upgrade", "Upgrade: websocket"), 501)


# ---- the upstream's fault


@pytest.mark.parametrize("target", ["/refused", "/unresolvable"])
def test_U01_502_if_there_is_no_upstream(client: RawClient, target: str) -> None:
    check(ask(client, target), 502)


def _reset(seen: Seen) -> None:
    seen.reset()


@pytest.mark.parametrize(
    "script",
    [
        lambda seen: None,
        _reset,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    ],
    ids=["closed", "reset", "ssh", "099", "999", "two lengths", "gzip, chunked", "folded", "101", "70 KB"],
)
def test_502_if_the_upstream_answers_what_is_no_answer(client: RawClient, service: ScriptedService, script: object) -> None:
    service.on("/upstream/odd", script)  # type: ignore[arg-type]
    check(ask(client, "/upstream/odd", method="POST", body=b"x"), 502)


def test_U02_504_if_the_upstream_is_silent(client: RawClient, service: ScriptedService) -> None:
    service.on("/upstream/silent", lambda seen: None if seen.gone() else b"")
    check(ask(client, "/upstream/silent"), 504)


def test_U03_504_if_the_head_trickles(client: RawClient, service: ScriptedService) -> None:
    def trickle(seen: Seen) -> None:
        seen.send(b"HTTP/1.1 200 OK\r\n")
        while True:  # ends when the gateway closes
            seen.send(b"X-More: 1\r\n")
            time.sleep(0.05)

    service.on("/upstream/trickle", trickle)
    check(ask(client, "/upstream/trickle"), 504)


def test_504_beyond_the_total_time(client: RawClient, service: ScriptedService) -> None:
    service.on("/total/silent", lambda seen: None if seen.gone() else b"")
    check(ask(client, "/total/silent"), 504)


def test_504_if_connecting_takes_too_long(client: RawClient) -> None:
    check(ask(client, "/connect"), 504)


# ---- not available


def test_503_with_an_open_circuit(client: RawClient) -> None:
    assert [ask(client, "/open").status for _ in range(2)] == [502, 502]  # two attempts each; one connection, so one worker
    answer = ask(client, "/open")
    check(answer, 503)
    assert 0 < int(answer.get("Retry-After") or 0) <= 30


def test_X09_503_if_a_plugin_of_the_route_is_not_loaded(client: RawClient) -> None:
    check(ask(client, "/broken"), 503)


@pytest.mark.parametrize("target", ["/claim", "/deny"])
def test_503_if_a_needed_store_is_away(client: RawClient, redis_server: RedisServer, target: str) -> None:
    assert ask(client, target).status == 200
    redis_server.stop()
    try:
        answer = ask(client, target)
        assert ask(client, "/ok").status == 200
    finally:
        redis_server.start()
    check(answer, 503)
    assert answer.get("Retry-After") == "1"
    until(lambda: ask(client, target).status == 200, "the store to be used again")


def test_503_without_a_configuration_yet(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer) -> None:
    gateway = start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="empty:")
    until(lambda: gateway.get("/.well-known/gwproxy/live").status_code == 200, "a worker")
    with RawClient(gateway.port) as client:
        assert client.ask("/.well-known/gwproxy/ready").json() == {"status": "starting"}
        answer = client.ask("/ok")
    check(answer, 503, by_parser=True)
    assert answer.get("Retry-After") == "1"


# ---- too late for an error


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"3\r\nabc\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n", b""),
    ],
    ids=["U08 sized", "U09 chunked", "U11 bad chunk"],
)
def test_a_body_that_breaks_off_cuts_the_connection(client: RawClient, service: ScriptedService, sent: bytes, got: bytes) -> None:
    def script(seen: Seen) -> None:
        seen.send(sent)

    service.on("/upstream/cut", script)
    client.send(head("/upstream/cut"))
    assert b" 200 " in client.until(b"\r\n\r\n").partition(b"\r\n")[0]
    assert client.rest() == got  # no terminal chunk, no word of an error


def test_a_body_that_stalls_cuts_the_connection(client: RawClient, service: ScriptedService) -> None:
    def stall(seen: Seen) -> None:
        seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        assert seen.gone()

    service.on("/upstream/stall", stall)
    answer = ask(client, "/upstream/stall")
    assert (answer.status, answer.body, answer.cut) == (200, b"abc", True)


# ---- of all


@pytest.mark.parametrize("target", ["/nowhere", "/private", "/refused", "/fault/pre_auth"])
def test_HEAD_gets_the_error_without_its_body(client: RawClient, target: str) -> None:
    expected = ask(client, target)
    answer = ask(client, target, method="HEAD")
    assert (answer.status, answer.get("Content-Length")) == (expected.status, expected.get("Content-Length"))
    assert ask(client, "/ok").body == b"ok"  # nothing came behind the head


def test_a_request_is_served_after_an_error_on_the_same_connection(client: RawClient) -> None:
    for target in ("/nowhere", "/ok/%2", "/private", "/refused", "/fault/pre_auth"):
        ask(client, target)
    assert ask(client, "/ok").body == b"ok"


def test_no_secret_is_logged(gateway: GatewayProcess) -> None:
    log = gateway.output()
    assert "plugin_failed plugin=stranger_fault phase=post_auth" in log  # the operator is told, with the traceback
    assert "plugin_over_budget plugin=stranger_fault" in log
    assert JWT_SECRET not in log
    assert "eyJ" not in log  # no token
    assert json.dumps(JWT_SECRET) not in log
