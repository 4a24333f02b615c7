"""What ``gwproxy replay`` and ``gwproxy explain`` say of requests, beside what a running gateway does with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwproxy.store.configuration import digest_of
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.running import call

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def document(echo: str) -> dict[str, Any]:
    return {
        "plugins": [{"name": "access_log"}],
        "routes": [
            {"id": "users", "path": "/api/users", "upstream": echo},
            {"id": "orders", "path": "/api/orders/{id}", "hosts": ["shop.example"], "upstream": echo, "strip_path": True},
        ],
    }


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, document: dict[str, Any]) -> GatewayProcess:
    publish(redis_server, document)
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready()


def test_the_log_of_a_gateway_replayed_foretells_what_a_candidate_does(
    gateway: GatewayProcess, redis_server: RedisServer, document: dict[str, Any], echo: str, tmp_path: Path
) -> None:
    """Requests are sent, their log is replayed, the candidate goes live, and they are sent again: both agree, one by one."""
    asked = [("/api/users/1", "a"), ("/api/users//1", "a"), ("/api/orders/7", "shop.example"), ("/api/orders/7", "a"), ("/nowhere", "a")]
    routes = [document["routes"][0], {**document["routes"][1], "hosts": ["*.example"]}]
    routes.append({"id": "one", "path": "=/api/users/1", "upstream": echo})
    candidate = {**document, "routes": routes}
    (tmp_path / "candidate.json").write_text(json.dumps(candidate))
    env = {"GWPROXY_REDIS_URL": redis_server.url}

    def taken(count: int) -> list[str | None]:
        for path, host in asked:
            gateway.get(path, headers={"Host": host})
        until(lambda: redis_server.client().llen("gw:access_log") == count, "the entries")
        return sorted(json.loads(entry)["route"] or "" for entry in redis_server.client().lrange("gw:access_log", -len(asked), -1))

    before = taken(len(asked))
    log = call(tmp_path, "logs", "--json", env=env).stdout
    (tmp_path / "access.log").write_text(log)
    done = call(tmp_path, "replay", "access.log", "--config", "candidate.json", "--json", "--exit-code", env=env)
    assert done.returncode == 1, done.stderr
    replayed = json.loads(done.stdout)
    assert {(change["from"], change["to"]): change["elsewhere"] for change in replayed["changes"]} == {("users", "one"): 2}
    assert (replayed["requests"], replayed["elsewhere"], replayed["cannot_tell"]["requests"]) == (len(asked), 2, 0)

    text = publish(redis_server, candidate)
    until(
        lambda: {beat["digest"] for beat in gateway.heartbeats(redis_server.client())} == {digest_of(text.encode())},
        "the candidate on every worker",
    )
    after = taken(2 * len(asked))
    assert [before.count(name) - after.count(name) for name in ("users", "one", "orders")] == [2, -2, 0]
    done = call(tmp_path, "replay", "live", "--config", "candidate.json", "--exit-code", env=env)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "0 of 10 requests go elsewhere")


def test_explain_says_what_the_upstream_gets(gateway: GatewayProcess, redis_server: RedisServer, tmp_path: Path) -> None:
    fields = {"X-User-Id": "root", "X-Forwarded-For": "6.6.6.6", "X-Request-ID": "abc", "Connection": "close, X-Hop", "X-Hop": "1"}
    seen = gateway.get("/api/users/7?a=b", headers={**fields, "User-Agent": "t", "Accept": "*/*", "Accept-Encoding": "identity"}).json()
    sent = {**fields, "User-Agent": "t", "Accept": "*/*", "Accept-Encoding": "identity"}
    options = [part for name, value in sent.items() for part in ("-H", f"{name}: {value}")]
    done = call(
        tmp_path, "explain", "GET", f"{gateway.url}/api/users/7?a=b", *options, "--json", env={"GWPROXY_REDIS_URL": redis_server.url}
    )
    told = {field["name"]: field["value"] for field in json.loads(done.stdout)["sent"][0]["headers"]}
    assert told == dict(seen["headers"])
