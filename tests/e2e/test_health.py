"""Active checks on real workers: a target that is not well gets nothing, and everybody can see it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until

pytestmark = pytest.mark.e2e


def document(*targets: str, path: str) -> dict[str, object]:
    health = {"path": path, "interval": 0.2, "unhealthy_after": 1, "healthy_after": 1}
    upstream = {"targets": [{"url": url} for url in targets], "health": health}
    return {"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": upstream}}


def shown(gateway: GatewayProcess, server: RedisServer, prefix: str = "gw:") -> list[bool]:
    """Whether each target is healthy, by each worker's heartbeat."""
    beats = gateway.heartbeats(server.client(), prefix)
    return [target["healthy"] for beat in beats for target in json.loads(beat["targets"])]


def test_no_healthy_target_is_503_and_back_when_one_is(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str
) -> None:
    publish(redis_server, document(echo, path="/?status=503"))
    gateway = start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready()
    until(lambda: shown(gateway, redis_server) == [False, False], "both workers to take the target out")
    answer = gateway.get("/")
    assert (answer.status_code, answer.json()) == (503, {"error": "Service Unavailable"})
    assert answer.headers["Retry-After"] == "1"
    publish(redis_server, document(echo, path="/?status=204"))
    until(lambda: all(gateway.get("/").status_code == 200 for _ in range(10)), "the target to be used again")
    until(lambda: shown(gateway, redis_server) == [True, True], "the heartbeats to say so")


def test_only_the_healthy_target_gets_requests(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str) -> None:
    publish(redis_server, document(f"{echo}/good", "http://127.0.0.1:9", path="/healthz"), prefix="two:")
    gateway = start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="two:").ready()
    until(lambda: sorted(shown(gateway, redis_server, "two:")) == [False, False, True, True], "both workers to take the dead target out")
    answers = [gateway.get("/x") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["target"] for answer in answers} == {"/good/x"}
