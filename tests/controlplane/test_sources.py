"""The Redis source: a fingerprint a look, the document only when it changed, hints, reconnects."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from gwproxy.controlplane.sources import Found, RedisSource
from gwproxy.errors import StoreUnavailable
from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore, Live
from tests.conftest import Server


@pytest.fixture
def source(client: redis.Redis) -> Iterator[RedisSource]:
    source = RedisSource(ConfigurationStore(client), CandidateStore(client), "gw:")
    yield source
    source.close()


def test_a_missing_key_is_said_once(source: RedisSource) -> None:
    assert source.poll() == Found(None, 0, "gw:routes")
    assert source.poll() is None


def test_a_bare_set_is_found_at_the_next_look_and_only_once(source: RedisSource, client: redis.Redis) -> None:
    source.poll()
    client.set("gw:routes", b"[]")
    assert source.poll() == Found(b"[]", 0, "gw:routes")
    assert source.poll() is None
    client.set("gw:routes", b"")
    assert source.poll() == Found(None, 0, "gw:routes")
    client.set("gw:routes", b"[]")
    assert source.poll() == Found(b"[]", 0, "gw:routes")


def test_what_was_changed_while_it_was_read_and_changed_back_is_read_again(client: redis.Redis) -> None:
    class Changing(ConfigurationStore):
        def read(self) -> Live:
            client.set("gw:routes", b"[2]")
            try:
                return super().read()
            finally:
                client.set("gw:routes", b"[1]")

    client.set("gw:routes", b"[1]")
    source = RedisSource(Changing(client), CandidateStore(client), "gw:")
    assert source.poll() == Found(b"[2]", 0, "gw:routes")
    source._store = ConfigurationStore(client)
    assert source.poll() == Found(b"[1]", 0, "gw:routes")
    assert source.poll() is None


def test_Q03_a_store_that_is_away_raises_and_nothing_is_forgotten(source: RedisSource, server: Server, client: redis.Redis) -> None:
    source.poll()
    server.kill()
    with pytest.raises(StoreUnavailable):
        source.poll()
    server.start()
    client.set("gw:routes", b"[1]")
    assert source.poll() == Found(b"[1]", 0, "gw:routes")


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


def test_the_candidate_is_seen_at_the_same_look(source: RedisSource, client: redis.Redis) -> None:
    live, candidates = ConfigurationStore(client), CandidateStore(client)
    live.publish(b"[]", actor="me")
    source.poll()
    assert source.candidate is None
    made = candidates.start(b"[1]", mode="canary", base=1, actor="me", share=5.0)
    assert source.poll() is None  # the live one is as it was
    assert source.candidate == made
    candidates.change(made.id, share=50.0, rules="")
    source.poll()
    assert source.candidate == replace(made, share=50.0)
    assert candidates.publish(made.id, "promoted", "", by="me").revision == 2
    assert source.poll() == Found(b"[1]", 2, "gw:routes")
    assert source.candidate is None


def test_a_candidate_of_what_is_live_no_more_is_none(source: RedisSource, client: redis.Redis) -> None:
    ConfigurationStore(client).publish(b"[]", actor="me")
    CandidateStore(client).start(b"[1]", mode="canary", base=1, actor="me")
    client.set("gw:routes", "[2]")
    assert source.poll() == Found(b"[2]", 1, "gw:routes")
    assert source.candidate is None


def test_an_unchanged_candidate_is_not_transferred(source: RedisSource, client: redis.Redis) -> None:
    ConfigurationStore(client).publish(b"[]", actor="me")
    made = CandidateStore(client).start(b"x" * 1_000_000, mode="canary", base=1, actor="me")
    source.poll()
    before = client.info("stats")["total_net_output_bytes"]
    CandidateStore(client).change(made.id, share=7.0, rules="")
    for _ in range(10):
        source.poll()
    assert source.candidate == replace(made, share=7.0)
    assert client.info("stats")["total_net_output_bytes"] - before < 20_000


@pytest.mark.parametrize("what", ["the live one", "the candidate", "nothing", "the store"])
def test_what_is_newer_is_noticed_while_a_candidate_is_built(
    source: RedisSource, client: redis.Redis, server: Server, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    live, candidates = ConfigurationStore(client), CandidateStore(client)
    live.publish(b"[]", actor="me")
    made = candidates.start(b"[1]", mode="canary", base=1, actor="me")
    source.poll()
    assert not source.outdated()
    if what == "the live one":
        client.set("gw:routes", b"[2]")
    elif what == "the candidate":
        candidates.finish(made.id, "aborted", "", by="me")
    elif what == "the store":
        server.kill()
    monkeypatch.setattr("gwproxy.controlplane.sources.POLL", 60.0)
    assert not source.outdated()  # it was asked a moment ago
    monkeypatch.setattr("gwproxy.controlplane.sources.POLL", 0.0)
    assert source.outdated() == (what in ("the live one", "the candidate"))


def test_a_candidate_that_nobody_can_read_keeps_nobody_from_what_is_live(source: RedisSource, client: redis.Redis) -> None:
    ConfigurationStore(client).publish(b"[]", actor="me")
    CandidateStore(client).start(b"[1]", mode="canary", base=1, actor="me")
    client.hset("gw:candidate", "share", "many")
    assert source.poll() == Found(b"[]", 1, "gw:routes")
    assert source.candidate is None
    client.set("gw:routes", b"[2]")
    assert source.poll() == Found(b"[2]", 1, "gw:routes")
