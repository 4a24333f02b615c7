"""WebSocket through the real gateway: the request that asks for it, and the messages that follow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import HOST, RawClient, head
from tests.e2e.scripted import ScriptedService, Seen
from tests.e2e.tunnels import HANDSHAKE, SWITCHING, WebSocketService, dial, tunnelled
from tests.ports import free_port

pytestmark = pytest.mark.e2e

SECRET = "a-secret-of-more-than-32-bytes-for-tests"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSocketService]:
    service = WebSocketService(tmp_path_factory.mktemp("websocket"))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.close()


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    service: WebSocketService,
    scripted: ScriptedService,
    path: dict[str, str],
) -> GatewayProcess:
    document: dict[str, Any] = {
        "plugins": [{"name": "cors", "config": {"origins": ["https://app.example.com"]}}],
        "routes": [
            tunnelled("/ws", service.url),
            tunnelled("/private", service.url, plugins=[{"name": "jwt_auth", "config": {"secret": SECRET}}]),
            tunnelled("/dead", f"http://127.0.0.1:{free_port()}"),
            tunnelled("/scripted", scripted.url, timeout={"head": 2}),
            {"path": "/plain", "upstream": scripted.url},
        ],
    }
    publish(redis_server, document)
    return start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url, **path).ready()


# ---- messages


@pytest.mark.parametrize("compression", ["deflate", None])
def test_messages_of_every_kind_come_back_as_they_were(gateway: GatewayProcess, compression: str | None) -> None:
    large = os.urandom(1 << 20)
    with dial(gateway, "/ws/echo", compression=compression) as client:
        for message in ("text, also ünïcode", "", b"\0binary\xff", b"", "x" * 65_536, large):
            client.send(message)
            assert client.recv(timeout=20) == message
        client.send(["in ", "three ", "fragments"])
        assert client.recv(timeout=20) == "in three fragments"
        client.send([large[:1000], large[1000:]])
        assert client.recv(timeout=20) == large
        assert client.ping().wait(20)


def test_many_small_messages_keep_their_order(gateway: GatewayProcess) -> None:
    with dial(gateway, "/ws/echo") as client:
        for number in range(500):
            client.send(str(number))
        assert [client.recv(timeout=20) for _ in range(500)] == [str(number) for number in range(500)]


def test_subprotocols_are_negotiated_end_to_end(gateway: GatewayProcess) -> None:
    with dial(gateway, "/ws/echo", subprotocols=["chat.v1", "unknown"]) as client:
        assert client.subprotocol == "chat.v1"
    with dial(gateway, "/ws/echo") as client:
        assert client.subprotocol is None


def test_bytes_that_come_with_a_head_are_the_first_of_the_tunnel(gateway: GatewayProcess, scripted: ScriptedService) -> None:
    def answer(seen: Seen) -> None:
        seen.sock.sendall(SWITCHING + b"first of the upstream")
        assert seen._exactly(5) == b"early"
        seen.sock.sendall(b", then the client's")

    scripted.on("/early", answer)
    with RawClient(gateway.port) as client:
        client.send(head("/scripted/early", *HANDSHAKE) + b"early")
        assert client.answer().status == 101
        assert client.rest() == b"first of the upstream, then the client's"


# ---- the request before it


def test_the_upstream_gets_the_handshake_and_who_is_calling(gateway: GatewayProcess) -> None:
    token = jwt.encode({"sub": "alice", "exp": int(time.time()) + 60}, SECRET, "HS256")
    fields = {"Authorization": f"Bearer {token}", "X-User-Id": "mallory", "Origin": "https://app.example.com"}
    with dial(gateway, "/private/about?a=%20b", additional_headers=fields) as client:
        about = json.loads(client.recv(timeout=20))
        assert client.response is not None
        assert client.response.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
        assert client.response.headers["X-Request-ID"] == dict(about["headers"])["X-Request-ID"]
        assert "Content-Length" not in client.response.headers
    headers = [(name.lower(), value) for name, value in about["headers"]]
    assert about["target"] == "/about?a=%20b"
    assert [value for name, value in headers if name in ("connection", "upgrade")] == ["Upgrade", "websocket"]
    assert [value for name, value in headers if name == "x-user-id"] == ["alice"]
    assert dict(headers)["x-forwarded-for"] == "127.0.0.1"
    assert dict(headers)["sec-websocket-version"] == "13"


def test_without_a_token_it_is_401_and_the_upstream_hears_nothing(gateway: GatewayProcess, service: WebSocketService) -> None:
    with pytest.raises(InvalidStatus) as caught:
        dial(gateway, "/private/unheard")
    answer = caught.value.response
    assert (answer.status_code, json.loads(answer.body)) == (401, {"error": "Authentication required"})
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    with dial(gateway, "/ws/heard"):
        until(lambda: service.said("open /heard"), "the service to say what it heard")
    assert "/unheard" not in service.output()


def test_an_upstream_that_refuses_is_an_ordinary_response(gateway: GatewayProcess) -> None:
    with RawClient(gateway.port) as client:
        answer = client.ask("/ws/forbidden", *HANDSHAKE)
        assert (answer.status, answer.body) == (403, b"not here\n")
        assert answer.get("X-Request-ID")
        assert client.ask("/ws/forbidden", *HANDSHAKE).status == 403  # the same connection


def test_an_upstream_that_is_dead_is_502(gateway: GatewayProcess) -> None:
    with RawClient(gateway.port) as client:
        answer = client.ask("/dead/echo", *HANDSHAKE)
    assert (answer.status, answer.json()) == (502, {"error": "Bad Gateway"})


@pytest.mark.parametrize("protocol", [b"", b"Upgrade: echo\r\n", b"Upgrade: websocket, echo\r\n"])
def test_an_upstream_that_switches_to_something_else_is_502(gateway: GatewayProcess, scripted: ScriptedService, protocol: bytes) -> None:
    scripted.on("/other", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + protocol + b"\r\n")
    with RawClient(gateway.port) as client:
        assert client.ask("/scripted/other", *HANDSHAKE).status == 502


def test_an_upgrade_is_asked_for_once(gateway: GatewayProcess, scripted: ScriptedService) -> None:
    """Not again when a reused connection dies: another request would be repeated then."""
    scripted.on("/once", lambda seen: None)
    with RawClient(gateway.port) as client:
        assert client.ask("/scripted/warm").status == 200
        scripted.next("/warm")
        assert client.ask("/scripted/once", *HANDSHAKE).status == 502
        scripted.next("/once")
        assert client.ask("/scripted/after").status == 200
        assert scripted.next().target == "/after"


@pytest.mark.parametrize(
    ("target", "method", "fields", "status"),
    [
        ("/plain/x", "GET", HANDSHAKE, 501),
        ("/scripted/x", "GET", ("Connection: Upgrade", "Upgrade: tls/1.2"), 501),
        ("/scripted/x", "POST", HANDSHAKE, 501),
        ("/scripted/x", "GET", (*HANDSHAKE, "Content-Length: 2"), 501),
        ("/scripted/x", "GET", (*HANDSHAKE, "Transfer-Encoding: chunked"), 501),
        ("/nowhere", "GET", HANDSHAKE, 404),
    ],
    ids=["a route without it", "another protocol", "POST", "with a body", "with chunks", "no route"],
)
def test_what_is_no_upgrade_here(gateway: GatewayProcess, target: str, method: str, fields: tuple[str, ...], status: int) -> None:
    with RawClient(gateway.port) as client:
        client.send(head(target, *fields, method=method))
        answer = client.answer()
    assert answer.status == status
    assert answer.json() == {"error": {404: "Route not found", 501: "Not Implemented"}[status]}


@pytest.mark.parametrize("route", ["/plain", "/scripted"])
def test_H03_an_offer_of_h2c_is_ignored(gateway: GatewayProcess, scripted: ScriptedService, route: str) -> None:
    with RawClient(gateway.port) as client:
        answer = client.ask(f"{route}/h2c", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    assert answer.status == 200
    seen = scripted.next("/h2c" if route == "/scripted" else "/plain/h2c")
    assert [name for name in ("Upgrade", "Connection", "HTTP2-Settings") if seen.all(name)] == []


def test_an_upgrade_by_http_1_0_is_ignored(gateway: GatewayProcess, scripted: ScriptedService) -> None:
    with RawClient(gateway.port) as client:
        client.send("\r\n".join(["GET /scripted/old HTTP/1.0", f"Host: {HOST}", *HANDSHAKE, "", ""]).encode())
        assert client.answer().status == 200
    assert scripted.next("/old").get("Upgrade") is None
