"""Where a configuration comes from: a file without a store, a file that seeds a store, prefixes that share one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until

pytestmark = pytest.mark.e2e


def document(*paths: str, upstream: str) -> str:
    return json.dumps([{"path": path, "upstream": upstream} for path in paths])


def served(gateway: GatewayProcess, path: str) -> bool:
    """Whether every worker serves a path: each of many new connections, spread over them, is answered 200."""
    return all(gateway.get(path).status_code == 200 for _ in range(15))


def test_a_file_is_the_source_without_a_store(start_gateway: Callable[..., GatewayProcess], echo: str, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"routes:\n  - path: /one\n    upstream: {echo}\n    plugins: [{{name: rate_limit}}, {{name: access_log}}]\n")
    gateway = start_gateway(GWPROXY_CONFIG=str(file)).ready()
    answer = gateway.get("/one")
    assert answer.status_code == 200
    assert "X-RateLimit-Remaining" in answer.headers
    file.write_text(document("/one", "/two", upstream=echo))
    until(lambda: served(gateway, "/two"), "the edited file to be served")
    file.write_text("routes: [")
    until(lambda: "configuration_refused" in gateway.output(), "the broken file to be refused")
    assert served(gateway, "/two")


def test_a_file_seeds_an_absent_key_once(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str, tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"- path: /seeded\n  upstream: {echo}\n")
    client = redis_server.client()
    gateway = start_gateway(workers=3, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_CONFIG=str(file), GWPROXY_PREFIX="seed:").ready()
    until(lambda: served(gateway, "/seeded"), "the seed to be served")
    history = [fields for _, fields in client.xrange("seed:history")]  # type: ignore[union-attr]
    assert [entry["actor"] for entry in history] == ["seed"]
    audit = [fields for _, fields in client.xrange("seed:audit")]  # type: ignore[union-attr]
    assert [(entry["actor"], entry["outcome"], entry["revision"]) for entry in audit] == [("seed", "done", "1")]
    assert json.loads(client.get("seed:routes"))[0]["path"] == "/seeded"  # type: ignore[arg-type]
    client.set("seed:routes", document("/other", upstream=echo))
    until(lambda: served(gateway, "/other"), "the store's configuration")
    again = start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_CONFIG=str(file), GWPROXY_PREFIX="seed:").ready()
    assert again.get("/seeded").status_code == 404
    assert again.get("/other").status_code == 200


def test_prefixes_share_a_store_and_nothing_else(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str
) -> None:
    publish(redis_server, json.loads(document("/a", upstream=echo)), prefix="a:")
    publish(redis_server, json.loads(document("/b", upstream=echo)), prefix="{b}:")
    first = start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="a:").ready()
    second = start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="{b}:").ready()
    assert (first.get("/a").status_code, first.get("/b").status_code) == (200, 404)
    assert (second.get("/a").status_code, second.get("/b").status_code) == (404, 200)
    until(lambda: len(first.heartbeats(redis_server.client(), "a:")) == 2, "heartbeats below the prefix")


def test_references_to_the_environment_are_resolved_by_each_worker(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str
) -> None:
    routes = [{"path": "/env", "upstream": "${GW_ECHO}", "timeout": "${GW_TIMEOUT:-5}", "priority": "${GW_PRIORITY}"}]
    publish(redis_server, routes, prefix="env:")
    gateway = start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="env:", GW_ECHO=echo, GW_PRIORITY="3").ready()
    assert gateway.get("/env").status_code == 200
    publish(redis_server, [{"path": "/env", "upstream": "${HOME}"}], prefix="env:")
    beats = until(
        lambda: [b for b in gateway.heartbeats(redis_server.client(), "env:") if b["state"] == "refused"],
        "a refusal of what may not be referenced",
    )
    assert "GWPROXY_ENV_ALLOW" in beats[0]["error"]  # type: ignore[index]
    assert gateway.get("/env").status_code == 200
    publish(redis_server, [{"path": "/env", "upstream": "${GW_UNSET}"}], prefix="env:")
    until(lambda: any("GW_UNSET" in b["error"] for b in gateway.heartbeats(redis_server.client(), "env:")), "a refusal of what is unset")
