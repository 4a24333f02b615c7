"""The main job, end to end: workers, a Redis, a service; a change that is live on every worker."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str) -> GatewayProcess:
    publish(redis_server, [{"path": "/echo", "upstream": echo}])
    return start_gateway(workers=3, GWPROXY_REDIS_URL=redis_server.url).ready()


def everywhere(gateway: GatewayProcess, server: RedisServer, text: str) -> bool:
    """Whether every worker says that it runs this configuration."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    beats = gateway.heartbeats(server.client())
    return len(beats) == gateway.workers and all(beat["digest"] == digest and beat["state"] == "ready" for beat in beats)


def test_a_request_goes_through_and_comes_back(gateway: GatewayProcess) -> None:
    answer = gateway.request("POST", "/echo/a%2Fb?x=1&y=%20", data=b"body", headers={"X-Custom": "v"})
    seen = answer.json()
    assert answer.status_code == 200
    assert (seen["method"], seen["target"], seen["body"]) == ("POST", "/echo/a%2Fb?x=1&y=%20", "body")
    assert ["X-Custom", "v"] in seen["headers"]
    assert dict(seen["headers"])["X-Forwarded-For"] == "127.0.0.1"


def test_G29_a_bare_set_is_live_on_every_worker(gateway: GatewayProcess, redis_server: RedisServer, echo: str) -> None:
    text = publish(
        redis_server,
        [
            {"path": "/echo", "upstream": echo},
            {"path": "/new", "upstream": echo, "plugins": [{"name": "cors", "config": {"origins": ["https://app.example.com"]}}]},
        ],
    )
    until(lambda: everywhere(gateway, redis_server, text), "all workers to run the new configuration")
    answer = gateway.get("/new", headers={"Origin": "https://app.example.com"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"


def test_a_bare_set_is_in_the_history_once(gateway: GatewayProcess, redis_server: RedisServer, echo: str) -> None:
    client = redis_server.client()
    before = int(client.get("gw:revision") or 0)  # type: ignore[arg-type]
    text = publish(redis_server, [{"path": "/once", "upstream": echo}])
    until(lambda: everywhere(gateway, redis_server, text), "all workers to run the new configuration")
    entries = [fields for _, fields in client.xrange("gw:history")]  # type: ignore[union-attr]
    mine = [entry for entry in entries if entry["configuration"] == text]
    assert [entry["actor"] for entry in mine] == ["external"]
    assert int(mine[0]["revision"]) == int(client.get("gw:revision")) == before + 1  # type: ignore[arg-type]


def test_a_refused_configuration_changes_nothing_and_every_worker_says_why(
    gateway: GatewayProcess, redis_server: RedisServer, echo: str
) -> None:
    good = publish(redis_server, [{"path": "/good", "upstream": echo}])
    until(lambda: everywhere(gateway, redis_server, good), "all workers to run the good configuration")
    publish(redis_server, [{"path": "/good", "upstream": echo, "metods": ["GET"]}])
    until(
        lambda: all(beat["state"] == "refused" and "metods" in beat["error"] for beat in gateway.heartbeats(redis_server.client())),
        "all workers to refuse",
    )
    assert gateway.get("/good").status_code == 200
    publish(redis_server, json.loads(good))
    until(lambda: everywhere(gateway, redis_server, good), "all workers to be content again")


def test_a_killed_worker_is_replaced_and_runs_the_live_configuration(gateway: GatewayProcess, redis_server: RedisServer, echo: str) -> None:
    text = publish(redis_server, [{"path": "/killed", "upstream": echo}])
    until(lambda: everywhere(gateway, redis_server, text), "all workers")
    client = redis_server.client()
    heartbeat = next(client.scan_iter("gw:worker:*"))
    os.kill(int(client.hget(heartbeat, "pid")), signal.SIGKILL)  # type: ignore[arg-type]
    assert 0 < client.ttl(heartbeat) <= 10  # type: ignore[operator]
    client.delete(heartbeat)  # what time would do, and tests of rollouts wait for
    until(lambda: everywhere(gateway, redis_server, text), "a replacement")
    assert gateway.get("/killed").status_code == 200


def test_health_paths(gateway: GatewayProcess) -> None:
    assert gateway.get("/.well-known/gwproxy/live").json() == {"status": "live"}
    assert gateway.get("/.well-known/gwproxy/ready").json() == {"status": "ready"}
    assert gateway.get("/healthz").status_code == 404
    assert gateway.get("/.well-known/gwproxy/other").json() == {"error": "Route not found"}
