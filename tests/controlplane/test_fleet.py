"""The heartbeat: what a worker runs, or why not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time

import fakeredis
import pytest

from gwproxy import Plugin
from gwproxy.controlplane.deployed import Deployed
from gwproxy.controlplane.fleet import Heartbeat, iso, shown
from gwproxy.controlplane.standing import Standing
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.model import Target, Upstream
from gwproxy.process import Identity, mark_of
from gwproxy.registry import Registry
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.tally import Tally

UNRESOLVED = Target(url="http://users.internal", resolve="a")


class Some(Plugin):
    name = "some"
    version = "2.1"


@pytest.fixture
def server() -> fakeredis.FakeServer:
    return fakeredis.FakeServer()


@pytest.fixture
def client(server: fakeredis.FakeServer) -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis(server=server, decode_responses=True)


@pytest.fixture
def store(server: fakeredis.FakeServer) -> ConfigurationStore:
    return ConfigurationStore(fakeredis.FakeRedis(server=server))


@pytest.fixture
def standing() -> Standing:
    return Standing(state="ready", revision=7, digest="abc", refused="def", applied_at=1_790_000_000.5, build_ms=12.34)


@pytest.fixture
def heartbeat(store: ConfigurationStore, standing: Standing) -> Heartbeat:
    upstreams = Upstreams()
    live = upstreams.named("users", Upstream(targets=(Target(url="http://10.0.0.1:8000"),)))
    live.places.take()
    registry = Registry.of(Some())
    tally = Tally()
    tally.add("headers_dropped", count=2)
    tally.watch("connections", lambda: 5)
    registry.broken["gone"] = "does not import"
    return Heartbeat(
        store,
        Identity("w1", ("w0",)),
        lambda: standing,
        lambda: Deployed(registry),
        upstreams,
        lambda: 3,
        tally,
        1_790_000_000.0,
        lambda: {"id": "c1", "state": "building"},
    )


def test_the_entry_says_what_the_contract_lists(heartbeat: Heartbeat) -> None:
    fields = heartbeat.fields()
    assert fields["process"] == mark_of(os.getpid()) != ""
    assert (fields["pid"], fields["revision"], fields["digest"], fields["state"]) == (str(os.getpid()), "7", "abc", "ready")
    assert fields["started"] == "2026-09-21T14:13:20.000Z"
    assert fields["applied_at"] == "2026-09-21T14:13:20.500Z"
    assert fields["refused"] == "def"
    assert fields["build_ms"] == "12.3"
    assert json.loads(fields["candidate"]) == {"id": "c1", "state": "building"}
    assert fields["log_dropped"] == "3"
    assert fields["counters"] == '{"headers_dropped":2}'
    assert fields["gauges"] == '{"connections":5}'
    assert json.loads(fields["plugins"]) == {"some": "2.1", "gone": "broken"}
    assert json.loads(fields["upstreams"]) == [
        {"upstream": "users", "in_flight": 1, "queued": 0, "refused": 0, "limit": 1000, "connections": 0, "adaptive": False}
    ]
    (target,) = json.loads(fields["targets"])
    assert target == {
        "upstream": "users",
        "url": "http://10.0.0.1:8000",
        "name": None,
        "healthy": True,
        "state": "healthy",
        "weight": 1,
        "share": 1.0,
        "active": 0,
        "why": "",
        "since": "",
    }


def test_targets_say_what_is_with_them() -> None:
    urls = [f"http://10.0.0.{number}:8000" for number in range(4)]
    described = Upstream(targets=(*(Target(url=url) for url in urls[:3]), Target(url=urls[3], weight=0), UNRESOLVED))
    live = Upstreams().named("users", described)
    live.targets[0].judged(False, "status 500")
    live.targets[1].ejected(time.monotonic(), 30, 300, 10, "5 failures in a row")
    live.targets[2].joins(time.monotonic(), 30)
    rows = list(shown(live))
    assert [(row["state"], row["healthy"], row["why"]) for row in rows] == [
        ("unhealthy", False, "status 500"),
        ("ejected", False, "5 failures in a row"),
        ("returning", True, ""),
        ("drained", True, ""),
        ("unresolved", False, ""),
    ]
    assert [row["weight"] for row in rows] == [1, 1, 1, 0, 0]
    assert rows[2]["share"] == 0.1
    assert rows[4]["name"] == UNRESOLVED.url
    assert [bool(row["since"]) for row in rows] == [True, True, False, False, False]


def test_it_expires_is_renewed_at_once_when_asked_and_taken_away_at_the_end(
    heartbeat: Heartbeat, client: fakeredis.FakeRedis, standing: Standing
) -> None:
    thread = threading.Thread(target=heartbeat.run, daemon=True)
    thread.start()

    def state() -> str | None:
        return client.hget("gw:worker:w1", "state")  # type: ignore[return-value]

    def await_state(wanted: str) -> None:
        deadline = time.monotonic() + 10
        while state() != wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state() == wanted

    await_state("ready")
    assert 0 < client.ttl("gw:worker:w1") <= 10  # type: ignore[operator]
    standing.state = "draining"
    heartbeat.beat_now()
    await_state("draining")
    heartbeat.close()
    thread.join(10)
    assert client.exists("gw:worker:w1") == 0
    assert client.exists("gw:departed:w1") == 1


def test_with_its_first_entry_it_takes_away_those_of_the_dead(
    heartbeat: Heartbeat, store: ConfigurationStore, client: fakeredis.FakeRedis
) -> None:
    host, mine = socket.gethostname(), mark_of(os.getpid())
    dead = subprocess.Popen(["sleep", "60"])
    mark = mark_of(dead.pid)
    dead.kill()
    dead.wait()
    others = {
        "killed": {"host": host, "process": mark},
        "elsewhere": {"host": "another", "process": mark},  # a container may have a name for itself
        "unknown": {"host": host, "process": ""},
        "alive": {"host": host, "process": mine},
    }
    for worker, fields in others.items():
        store.heartbeat(worker, fields)
    thread = threading.Thread(target=heartbeat.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not client.exists("gw:departed:w0") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {worker["id"] for worker in store.workers()} == {"elsewhere", "unknown", "alive", "w1"}
    assert store.departed(["w0", *others]) == {"w0", "killed"}  # of w0 its master knew
    heartbeat.close()
    thread.join(10)


def test_never_is_empty() -> None:
    assert iso(0.0) == ""
