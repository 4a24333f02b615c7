from __future__ import annotations

import contextlib
import time

import pytest

from gwproxy.errors import StoreUnavailable
from gwproxy.ports import Store
from gwproxy.store.connection import connect
from gwproxy.store.log_buffer import LogBuffer
from gwproxy.store.shared import LocalStore, RedisStore, safe_name


@pytest.fixture
def store(client):
    store: Store = RedisStore(client, LogBuffer(client), timeout=5.0)
    return store


def test_a_counter_lives_below_the_prefix(store, client):
    assert store.take("route:users:alice", limit=2, window=60).remaining == 1
    assert client.keys() == [b"gw:rl:route:users:alice"]
    assert store.take("route:users:bob", limit=2, window=60).remaining == 1


def test_a_name_is_claimed_once_and_again_when_it_has_expired(store, client, wait_until):
    assert store.claim("webhook:1", ttl=60)
    assert not store.claim("webhook:1", ttl=60)
    assert 0 < client.pttl("gw:key:webhook:1") <= 60_000
    assert store.claim("short", ttl=0.001)
    wait_until(lambda: store.claim("short", ttl=60))


def test_what_is_put_can_be_got_until_it_expires(store, client, wait_until):
    assert store.get("token") is None
    store.put("token", b"\x00\xff", ttl=60)
    assert store.get("token") == b"\x00\xff"
    assert 0 < client.pttl("gw:key:token") <= 60_000
    store.put("token", b"new", ttl=0.001)
    wait_until(lambda: store.get("token") is None)


def test_a_plugins_mistake_is_its_own(store):
    for _ in range(10):
        with pytest.raises(TypeError, match="a value is bytes, not dict"):
            store.put("k", {"a": 1}, ttl=60)
    assert not store.breaker.is_open


def test_S06_everything_it_writes_has_a_lifetime_but_the_log(store, client):
    for algorithm in ("fixed_window", "sliding_window", "token_bucket"):
        store.take(algorithm, limit=5, window=60, algorithm=algorithm)
    store.claim("a", ttl=5)
    store.put("b", b"", ttl=5)
    store.log("access_log", b"{}")
    store.logs.flush()
    assert [key for key in client.scan_iter() if client.ttl(key) < 0] == [b"gw:access_log"]


def test_names_that_cannot_be_keys_are_hashed():
    assert safe_name("user:alice é") == "user:alice é"
    for name in ("a\nb", "a\x00", "x" * 513, "\udce9"):
        assert safe_name(name).startswith("sha256:")
    assert safe_name("a\nb") != safe_name("a\nc")


def test_the_local_fallback_needs_no_store():
    with contextlib.closing(connect("unix:///nowhere")) as client:
        store = RedisStore(client, LogBuffer(client))
        with pytest.raises(StoreUnavailable):
            store.take("k", limit=1, window=60)
        assert store.take_locally("k", limit=1, window=60).allowed
        assert not store.take_locally("k", limit=1, window=60).allowed


def test_Q03_every_call_fails_quickly_and_readably_without_a_store():
    store = RedisStore.from_url("unix:///nowhere/redis.sock")
    began = time.monotonic()
    for call in (
        lambda: store.take("k", limit=1, window=1),
        lambda: store.claim("k", ttl=1),
        lambda: store.get("k"),
        lambda: store.put("k", b"", ttl=1),
    ):
        with pytest.raises(StoreUnavailable, match=r"/nowhere/redis\.sock"):
            call()
    store.log("access_log", b"{}")
    assert time.monotonic() - began < 1.0
    store.close()
    assert store.dropped == 1


def test_closing_writes_the_log_entries_that_wait(server, client):
    store = RedisStore.from_url(server.url)
    store.log("access_log", b"last words")
    store.close()
    assert client.lrange("gw:access_log", 0, -1) == [b"last words"]


def test_without_redis_counters_are_local_and_the_rest_says_so():
    store: Store = LocalStore()
    assert [store.take("k", limit=1, window=60).allowed for _ in range(2)] == [True, False]
    assert not store.take_locally("k", limit=1, window=60).allowed
    for call in (lambda: store.claim("k", ttl=1), lambda: store.get("k"), lambda: store.put("k", b"", ttl=1)):
        with pytest.raises(StoreUnavailable, match="no store is configured"):
            call()
    store.log("access_log", b"{}")
    assert store.dropped == 1
    store.close()
