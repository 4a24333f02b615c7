"""What a client gets when an upstream or a part of the gateway fails: 502, 503, 504. After the head: tests/wire."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.errors import PLUGINS, ask, check
from tests.e2e.raw import RawClient
from tests.e2e.scripted import ScriptedService, Seen
from tests.ports import free_port

pytestmark = pytest.mark.e2e


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
    strangers: str,
    path: dict[str, str],
) -> GatewayProcess:
    url, nowhere = service.url, f"http://127.0.0.1:{free_port()}"
    document = {
        "plugins": PLUGINS,
        "upstreams": {"fragile": {"targets": [{"url": nowhere}], "breaker": {"failures": 4, "window": 60, "open_for": 30}}},
        "routes": [
            {"path": "/ok", "upstream": url},
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
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, PYTHONPATH=strangers, **path).ready()


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[RawClient]:
    with RawClient(gateway.port) as client:
        yield client


# ---- the upstream's fault


@pytest.mark.parametrize("target", ["/refused", "/unresolvable"])
def test_U01_502_if_there_is_no_upstream(client: RawClient, target: str) -> None:
    check(ask(client, target), 502)


def _reset(seen: Seen) -> None:
    seen.reset()


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
    until(lambda: ask(client, target).status == 200, "the store to be used")  # by this worker, which may have been without it
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
