"""Every error the gateway makes itself, as a client gets it: status, text, headers, and nothing that is nobody's business."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator

import jwt
import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish
from tests.e2e.errors import JWT_SECRET, ORIGIN, PLUGINS, ask, check
from tests.e2e.raw import RawClient, chunked, head
from tests.e2e.scripted import ScriptedService, Seen
from tests.ports import free_port

pytestmark = pytest.mark.e2e

JWT = {"name": "jwt_auth", "config": {"secret": JWT_SECRET}}


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    service: ScriptedService,
    strangers: str,
    path: dict[str, str],
) -> GatewayProcess:
    url = service.url

    def fault(phase: str, kind: str = "raise", **entry: object) -> list[object]:
        return [{"name": "stranger_fault", "config": {"phase": phase, "kind": kind}, **entry}]

    nowhere = f"http://127.0.0.1:{free_port()}"
    document = {
        "plugins": PLUGINS,
        "consumers": [{"id": "acme", "groups": ["gold"], "match": {"user_id": "acme"}}],
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
        ],
    }
    redis_server.client().flushall()  # what the other path has counted
    publish(redis_server, document)
    settings = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_HEADER_TIMEOUT": "0.6", "GWPROXY_BODY_TIMEOUT": "0.6"}
    return start_gateway(PYTHONPATH=strangers, **settings, **path).ready()


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[RawClient]:
    with RawClient(gateway.port) as client:
        yield client


def token(**claims: object) -> str:
    return "Authorization: Bearer " + jwt.encode({"sub": "acme", "exp": int(time.time()) + 60, **claims}, JWT_SECRET, "HS256")


# ---- refused by the gateway


@pytest.mark.parametrize("target", ["/ok/%2", "/ok/%zz", "/ok/../x", "/ok/%2e%2e/x", "/ok/a%5Cb", "/ok/%0d%0aX:y", "/ok/%00", "/ok#x"])
def test_a_malformed_target_is_400(client: RawClient, target: str) -> None:
    check(ask(client, target), 400)


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
