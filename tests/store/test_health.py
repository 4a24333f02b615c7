"""What hosts tell each other of targets, in a real Redis."""

from __future__ import annotations

import orjson
import pytest
import redis

from gwproxy.errors import StoreUnavailable
from gwproxy.store.connection import connect
from gwproxy.store.health import FRESH, TTL, SharedHealth

NOW = 1_790_000_000.0


@pytest.fixture
def hosts(client):
    return [SharedHealth(client, "gw:", name, lambda: NOW) for name in ("one", "two", "three")]


def test_a_target_is_unwell_if_none_of_those_that_know_it_says_otherwise(hosts) -> None:
    one, two, three = hosts
    assert three.others() == {}
    one.tell({"a": False, "b": False, "c": True})
    two.tell({"a": False, "b": True})
    assert three.others() == {"a": False, "b": True, "c": True}
    assert one.others() == {"a": False, "b": True}, "what others say, not what it has said itself"


def test_S06_the_key_has_a_lifetime(hosts, client) -> None:
    hosts[0].tell({"a": True})
    assert 0 < client.ttl("gw:health") <= TTL


@pytest.mark.parametrize("age", [FRESH + 1, -FRESH - 1])
def test_a_host_that_is_silent_is_not_believed_and_removed(hosts, client, age: float) -> None:
    SharedHealth(client, "gw:", "gone", lambda: NOW - age).tell({"a": False})
    assert hosts[0].others() == {}
    assert client.hlen("gw:health") == 0


@pytest.mark.parametrize("text", ["", "7", "{}", '{"at": "x", "targets": {}}', '{"at": 1, "targets": 7}'])
def test_what_somebody_else_wrote_does_no_harm(hosts, client, text: str) -> None:
    client.hset("gw:health", "stranger", text)
    hosts[1].tell({"a": False})
    assert hosts[0].others() == {"a": False}


def test_only_true_is_well(hosts, client) -> None:
    client.hset("gw:health", "odd", orjson.dumps({"at": NOW, "targets": {"a": "no"}}))
    assert hosts[0].others() == {"a": False}


def test_a_store_that_is_away_says_so(tmp_path) -> None:
    away: redis.Redis = connect(f"unix://{tmp_path}/nothing", timeout=0.2)
    shared = SharedHealth(away, "gw:", "one")
    with pytest.raises(StoreUnavailable):
        shared.tell({"a": True})
    with pytest.raises(StoreUnavailable):
        shared.others()
