"""The heartbeat: what a worker runs, or why not."""

from __future__ import annotations

import json
import os
import threading
import time

import fakeredis
import pytest

from gwproxy import Plugin
from gwproxy.controlplane.fleet import Heartbeat, iso, make_worker_id
from gwproxy.controlplane.watch import Standing
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.model import Target, Upstream
from gwproxy.registry import Registry
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.tally import Tally


class Some(Plugin):
    name = "some"
    version = "2.1"


@pytest.fixture
def client() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def standing() -> Standing:
    return Standing(state="ready", revision=7, digest="abc", refused="def", applied_at=1_790_000_000.5, build_ms=12.34)


@pytest.fixture
def heartbeat(client: fakeredis.FakeRedis, standing: Standing) -> Heartbeat:
    upstreams = Upstreams()
    live = upstreams.named("users", Upstream(targets=(Target(url="http://10.0.0.1:8000"),)))
    live.places.take()
    registry = Registry.of(Some())
    tally = Tally()
    tally.add("headers_dropped", count=2)
    tally.watch("connections", lambda: 5)
    registry.broken["gone"] = "does not import"
    return Heartbeat(
        ConfigurationStore(client),
        "w1",
        lambda: standing,
        registry,
        upstreams,
        lambda: 3,
        tally,
        1_790_000_000.0,
        lambda: {"id": "c1", "state": "building"},
    )


def test_the_entry_says_what_the_contract_lists(heartbeat: Heartbeat) -> None:
    fields = heartbeat.fields()
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
    assert json.loads(fields["upstreams"]) == [{"upstream": "users", "in_flight": 1, "queued": 0, "refused": 0}]
    assert json.loads(fields["targets"]) == [{"upstream": "users", "url": "http://10.0.0.1:8000", "healthy": True, "active": 0}]


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


def test_worker_ids_are_unique() -> None:
    assert make_worker_id() != make_worker_id()
    assert str(os.getpid()) in make_worker_id()


def test_never_is_empty() -> None:
    assert iso(0.0) == ""
