"""The Redis source: a fingerprint a look, the document only when it changed, hints, reconnects."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from gwproxy.controlplane.sources import Candidate, RedisSource
from gwproxy.errors import StoreUnavailable
from gwproxy.store.configuration import ConfigurationStore
from tests.conftest import Server


@pytest.fixture
def source(client: redis.Redis) -> Iterator[RedisSource]:
    source = RedisSource(ConfigurationStore(client), "gw:")
    yield source
    source.close()


def test_a_missing_key_is_said_once(source: RedisSource) -> None:
    assert source.poll() == Candidate(None, 0, "gw:routes")
    assert source.poll() is None


def test_a_bare_set_is_found_at_the_next_look_and_only_once(source: RedisSource, client: redis.Redis) -> None:
    source.poll()
    client.set("gw:routes", b"[]")
    assert source.poll() == Candidate(b"[]", 0, "gw:routes")
    assert source.poll() is None
    client.set("gw:routes", b"")
    assert source.poll() == Candidate(None, 0, "gw:routes")
    client.set("gw:routes", b"[]")
    assert source.poll() == Candidate(b"[]", 0, "gw:routes")


def test_Q03_a_store_that_is_away_raises_and_nothing_is_forgotten(source: RedisSource, server: Server, client: redis.Redis) -> None:
    source.poll()
    server.kill()
    with pytest.raises(StoreUnavailable):
        source.poll()
    server.start()
    client.set("gw:routes", b"[1]")
    assert source.poll() == Candidate(b"[1]", 0, "gw:routes")


def test_waiting_ends_by_itself_and_at_once_when_closed(source: RedisSource) -> None:
    source.wait()
    source.close()
    assert source._hint.is_set()
    source.wait()


def test_Q07_connecting_and_every_message_is_a_hint(source: RedisSource, client: redis.Redis) -> None:
    listener = threading.Thread(target=source.listen, daemon=True)
    listener.start()
    assert source._hint.wait(10), "connecting is a hint: something may have been published before"
    source._hint.clear()
    deadline = time.monotonic() + 10
    while not source._hint.is_set() and time.monotonic() < deadline:
        client.publish("gw:reload", "x")
        source._hint.wait(0.05)
    assert source._hint.is_set()
    source.close()
    listener.join(10)
    assert not listener.is_alive()
