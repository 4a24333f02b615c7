"""Health on real workers: one that asks for its host, targets that are ejected and come back, what outlives workers and changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gwproxy.dataplane.health import key_of
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.model import Upstream
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.named import Services, names
from tests.e2e.running import Running, call
from tests.ports import free_port

pytestmark = pytest.mark.e2e

INTERVAL = 0.2
HEALTH = {"path": "/healthz", "interval": INTERVAL, "timeout": 0.5, "healthy_after": 2, "unhealthy_after": 2}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    running = Services(tmp_path_factory.mktemp("services"))
    yield running
    running.stop()


class Bench:
    """A gateway of two workers and a document of upstreams, each at a path of its name."""

    def __init__(self, gateway: GatewayProcess, server: RedisServer, services: Services) -> None:
        self.gateway, self.server, self.services = gateway, server, services

    def configure(self, **upstreams: dict[str, object]) -> None:
        """Serve these; return when both workers do."""
        self.services.reset()
        targets = [{"url": self.services.url(name)} for name in "abc"]
        described = {name: {"targets": targets, **keys} for name, keys in upstreams.items()}
        publish(self.server, {"routes": [{"path": f"/{name}", "upstream": name} for name in described], "upstreams": described})
        until(lambda: all({row["upstream"] for row in rows} == set(upstreams) for rows in self.told()), "both workers to have it")

    def told(self) -> list[list[dict[str, object]]]:
        """The targets as each worker shows them that lives."""
        beats = self.gateway.heartbeats(self.server.client())
        return [json.loads(beat["targets"]) for beat in beats if Path(f"/proc/{beat['pid']}").exists()]

    def states(self, name: str) -> list[object]:
        """How each worker sees a service."""
        return [row["state"] for rows in self.told() for row in rows if row["url"] == self.services.url(name)]

    def pids(self) -> set[int]:
        return {int(beat["pid"]) for beat in self.gateway.heartbeats(self.server.client())}

    def asker(self) -> int:
        """The worker that asks for the host, by the log."""
        return int(re.findall(r"host_prober pid=(\d+)", self.gateway.output())[-1])

    def replaced(self, pid: int, number: int) -> None:
        """End a worker; return when its successor serves."""
        former = self.pids()
        os.kill(pid, number)
        until(lambda: len(self.pids() - former) == 1, "the successor")


@pytest.fixture(scope="module")
def bench(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, services: Services) -> Bench:
    publish(redis_server, {"routes": []})
    return Bench(start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready(), redis_server, services)


def checks(bench: Bench, seconds: float) -> float:
    """How many checks a service gets in an interval, of those that are meant to be one."""
    before, began = bench.services.seen("a")["checks"], time.monotonic()
    until(lambda: time.monotonic() - began > seconds, "some time to pass")
    return (bench.services.seen("a")["checks"] - before) * INTERVAL / (time.monotonic() - began)


def test_one_worker_asks_for_its_host_another_takes_over_and_all_know(bench: Bench) -> None:
    bench.configure(users={"health": HEALTH})
    assert 0.4 < checks(bench, 2) < 1.4, "one worker's, not two"
    first = bench.asker()
    bench.services.control("c", health=500)
    until(lambda: bench.states("c") == ["unhealthy"] * 2, "both workers to know")
    bench.replaced(first, signal.SIGKILL)
    until(lambda: bench.asker() != first, "another to ask")
    assert names(bench.gateway, "/users", 40).keys() == {"a", "b"}, "the successor knows, too"
    assert 0.4 < checks(bench, 2) < 1.4
    bench.services.control("c", health=200)
    until(lambda: bench.states("c") == ["healthy"] * 2, "both workers to know that it is back")


def test_a_worker_asks_for_itself_while_the_one_that_should_is_stopped(bench: Bench) -> None:
    bench.configure(users={"health": HEALTH})
    asker = bench.asker()
    os.kill(asker, signal.SIGSTOP)
    try:
        bench.services.control("b", health=500)
        until(lambda: "unhealthy" in bench.states("b"), "the other worker to find out")
    finally:
        os.kill(asker, signal.SIGCONT)
    until(lambda: bench.states("b") == ["unhealthy"] * 2, "both to know")


def test_a_dead_target_gets_nothing_after_a_change_and_comes_back_slowly(bench: Bench) -> None:
    bench.configure(users={"health": HEALTH, "slow_start": 6})
    bench.services.kill("a")
    until(lambda: bench.states("a") == ["unhealthy"] * 2, "both workers to take it out")
    for change in ({"slow_start": 6, "algorithm": "random"}, {"slow_start": 9}, {"slow_start": 6, "when_all_down": "try_anyway"}):
        publish_changed(bench, change)
        assert names(bench.gateway, "/users", 20).keys() == {"b", "c"}
        assert bench.states("a") == ["unhealthy"] * 2
    bench.services.launch("a")
    until(lambda: bench.states("a") == ["returning"] * 2, "it to come back")
    early = names(bench.gateway, "/users", 60)["a"]
    assert early < 15, "of 60, a third would be 20"
    until(lambda: bench.states("a") == ["healthy"] * 2, "it to have all of its share")
    assert 16 <= names(bench.gateway, "/users", 60)["a"] <= 24


def test_what_comes_back_slowly_does_so_by_whatever_is_balanced(bench: Bench) -> None:
    kinds = ("least_connections", "two_choices")
    bench.configure(**{kind: {"health": HEALTH, "slow_start": 8, "algorithm": kind} for kind in kinds})
    bench.services.kill("a")
    until(lambda: bench.states("a") == ["unhealthy"] * 4, "both workers to take it out of both")
    bench.services.launch("a")
    until(lambda: bench.states("a") == ["returning"] * 4, "it to come back")
    early = {kind: names(bench.gateway, f"/{kind}", 40)["a"] for kind in kinds}
    assert max(early.values()) < 10, f"{early} of 40, a third would be 13"
    until(lambda: bench.states("a") == ["healthy"] * 4, "it to have all of its share")
    late = {kind: names(bench.gateway, f"/{kind}", 60)["a"] for kind in kinds}
    assert min(late.values()) >= 10, f"{late} of 60, a third is 20"


def test_targets_and_circuits_are_shown_by_status_metrics_and_admin(bench: Bench, tmp_path: Path) -> None:
    bench.configure(users={"health": HEALTH}, shut={"breaker": {"failures": 1, "open_for": 300}})
    bench.services.control("c", health=500)
    for name in "abc":
        bench.services.control(name, status=503)
    until(lambda: bench.states("c").count("unhealthy") == 2, "both workers to take it out of one")

    def circuits() -> list[dict[str, object]]:
        bench.gateway.get("/shut")
        told = call(tmp_path, "status", "--json", "--redis", bench.server.url)
        assert told.returncode == 0, told.stderr
        found.update(json.loads(told.stdout))
        return [row["circuits"] for row in found["upstreams"] if row["upstream"] == "shut"]

    found: dict[str, Any] = {}
    until(lambda: circuits() == [{"open": 2}], "the circuit of both workers to be open")
    assert all(row["limit"] > 0 for row in found["upstreams"])
    told = {row["url"]: (row["healthy"], row["workers"]) for row in found["targets"] if row["upstream"] == "users"}
    dead = bench.services.url("c")
    assert told == {bench.services.url("a"): (2, 2), bench.services.url("b"): (2, 2), dead: (0, 2)}

    bind = f"127.0.0.1:{free_port()}"
    token = {"Authorization": "Bearer the-first-token-of-all"}
    admin = Running(tmp_path, "admin", "--redis", bench.server.url, "--bind", bind, env={"GWPROXY_ADMIN_TOKEN": "the-first-token-of-all"})
    try:
        admin.said("admin:")
        metrics = requests.get(f"http://{bind}/metrics", headers=token, timeout=20).text
        up = re.findall(rf'gwproxy_target_up{{state="unhealthy",target="{dead}",upstream="users",worker="\S+"}} 0.0', metrics)
        assert len(up) == 2
        assert len(re.findall(r'gwproxy_upstream_circuit_open{upstream="shut",worker="\S+"} 1.0', metrics)) == 2
        health = requests.get(f"http://{bind}/v1/health", headers=token, timeout=20).json()
        assert f"{dead} of users is healthy for 0 of 2 workers" in health["reasons"]
    finally:
        admin.kill()


def publish_changed(bench: Bench, keys: dict[str, object]) -> None:
    """Change ``users`` while a service is dead; return when both workers run it."""
    targets = [{"url": bench.services.url(name)} for name in "abc"]
    document = {"routes": [{"path": "/users", "upstream": "users"}], "upstreams": {"users": {"targets": targets, "health": HEALTH, **keys}}}
    text = publish(bench.server, document)
    digest = hashlib.sha256(text.encode()).hexdigest()
    until(lambda: {beat["digest"] for beat in bench.gateway.heartbeats(bench.server.client())} == {digest}, "both workers to run it")


def test_all_down_fails_or_tries_anyway(bench: Bench) -> None:
    once = {"health": {**HEALTH, "unhealthy_after": 1}}
    bench.configure(fails=once, tries={**once, "when_all_down": "try_anyway"})
    for name in "abc":
        bench.services.control(name, health=500)
    until(lambda: all(bench.states(name) == ["unhealthy"] * 4 for name in "abc"), "all to be out")
    answer = bench.gateway.get("/fails")
    assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (503, {"error": "Service Unavailable"}, "1")
    assert names(bench.gateway, "/tries", 30).keys() == {"a", "b", "c"}


def test_a_target_whose_requests_fail_is_ejected_and_comes_back_a_part_at_a_time(bench: Bench) -> None:
    bench.configure(users={"ejection": {"consecutive_errors": 3, "base_time": 4, "statuses": [503]}, "slow_start": 6})
    bench.services.control("b", status=503)
    until(lambda: names(bench.gateway, "/users", 9) and bench.states("b") == ["ejected"] * 2, "both workers to take it out")
    before = bench.services.seen("b")["requests"]
    names(bench.gateway, "/users", 30)
    assert bench.services.seen("b")["requests"] == before
    bench.services.control("b", status=200)
    until(lambda: "returning" in bench.states("b"), "it to come back")
    assert names(bench.gateway, "/users", 60)["b"] < 18
    until(lambda: bench.states("b") == ["healthy"] * 2, "it to have all of its share")
    assert 16 <= names(bench.gateway, "/users", 60)["b"] <= 24


def test_a_service_that_died_is_ejected_by_failed_connections_and_clients_see_none_of_it(bench: Bench) -> None:
    bench.configure(orders={"ejection": {"consecutive_errors": 2, "base_time": 60}})
    bench.services.kill("c")
    try:
        answered: Counter[str] = Counter()
        until(lambda: answered.update(names(bench.gateway, "/orders", 6)) or bench.states("c") == ["ejected"] * 2, "both to take it out")
        assert answered.keys() == {"a", "b"}, "each failed connect went to the next target"
        shown = command("status", bench.server.url)
        (row,) = [target for target in shown["targets"] if target["url"] == bench.services.url("c")]
        assert row["states"] == {"ejected": 2}
        assert row["why"].startswith("2 failures in a row, the last one: connecting to ")
        assert {worker["gauges"]["targets_ejected"] for worker in shown["workers"]} == {1}
        assert {worker["counters"]["targets_ejected:orders"] >= 1 for worker in shown["workers"]} == {True}
    finally:
        bench.services.launch("c")
        bench.services.await_answer("c")


def command(name: str, redis_url: str) -> dict[str, list[dict[str, object]]]:
    argv = [sys.executable, "-m", "gwproxy", name, "--redis", redis_url, "--json"]
    return json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout)  # type: ignore[no-any-return]


def test_a_host_that_starts_takes_over_what_others_call_unwell(bench: Bench, start_gateway: Callable[..., GatewayProcess]) -> None:
    """By itself it could not tell for an hour."""
    described = {"targets": [{"url": bench.services.url("a")}, {"url": "http://127.0.0.1:9"}], "health": {**HEALTH, "interval": 3600}}
    document = {"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": described}}
    live = Upstreams().named("users", Upstream.model_validate_json(json.dumps(described)))
    said = {key_of(live, target): up for target, up in zip(live.targets, (False, False), strict=True)}
    client = bench.server.client()
    publish(bench.server, document, prefix="new:")
    client.hset("new:health", "elsewhere", json.dumps({"at": time.time(), "targets": said}))
    gateway = start_gateway(workers=1, GWPROXY_REDIS_URL=bench.server.url, GWPROXY_PREFIX="new:").ready()

    def states() -> list[str]:
        return [row["state"] for beat in gateway.heartbeats(client, "new:") for row in json.loads(beat["targets"])]

    until(lambda: states() == ["healthy", "unhealthy"], "the dead one to be out, and the one it has reached itself to be in")
    assert "target=http://127.0.0.1:9 healthy=False why=hearsay" in gateway.output()
    until(lambda: client.hlen("new:health") == 2, "it to tell the others what it knows")
