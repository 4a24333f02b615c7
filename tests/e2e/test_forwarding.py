"""What the gateway must not remember from one client to the next. What it forwards, byte for byte, is in tests/wire."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish
from tests.e2e.raw import RawClient
from tests.e2e.scripted import ScriptedService, passed

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, path: dict[str, str]
) -> GatewayProcess:
    publish(redis_server, [{"path": "/", "upstream": service.url}])
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, **path).ready()


def test_R02_nobody_gets_the_cookies_of_another(gateway: GatewayProcess, service: ScriptedService) -> None:
    service.on("/login", lambda seen: f"HTTP/1.1 200 OK\r\nSet-Cookie: user={seen.get('X-Name')}\r\nContent-Length: 0\r\n\r\n".encode())
    with RawClient(gateway.port) as alice, RawClient(gateway.port) as bob:
        for _ in range(5):  # both workers, and their pooled connections
            assert alice.ask("/login", "X-Name: alice").all("Set-Cookie") == ["user=alice"]
            assert passed(service, bob, "/whoami").all("Cookie") == []
            assert bob.ask("/login", "X-Name: bob").all("Set-Cookie") == ["user=bob"]
            assert passed(service, alice, "/whoami", "Cookie: user=alice").all("Cookie") == ["user=alice"]
