"""rate_limit: who shares a counter, what every response says, and what happens while the store is away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import pytest
import redis
from pydantic import ValidationError

from gwproxy import Consumer, Context, Decision, Entry, Headers, Request, StoreUnavailable
from gwproxy.errors import Aborted
from gwproxy.plugin import bind_entry
from gwproxy.plugins.rate_limit import RateLimit, RateLimitConfig
from gwproxy.plugins.rate_limit_rule import network
from gwproxy.store.connection import connect
from gwproxy.store.local_counters import LocalCounters
from gwproxy.store.log_buffer import LogBuffer
from gwproxy.store.shared import RedisStore


class MemoryStore:
    """The real counters in memory, which can be away; it remembers what was asked of it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.away = False
        self.names: list[str] = []
        self.shared = LocalCounters(clock=lambda: self.now)
        self.local = LocalCounters(clock=lambda: self.now)

    def take(self, name: str, **rule: Any) -> Decision:
        if self.away:
            raise StoreUnavailable("away")
        self.names.append(name)
        return self.shared.take(name, **rule)

    def take_locally(self, name: str, **rule: Any) -> Decision:
        return self.local.take(name, **rule)


class Worker:
    """A gateway of which only the store matters."""

    def __init__(self, store: Any) -> None:
        self.store = store


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def plugin(store: MemoryStore) -> RateLimit:
    made = RateLimit()
    made.worker_started(Worker(store))
    return made


def rule(entry: Entry = Entry("users"), /, **fields: Any) -> RateLimitConfig:  # noqa: B008 - frozen
    return bind_entry(RateLimitConfig.model_validate_json(orjson.dumps(fields)), entry)


def request(address: str = "203.0.113.7", path: str = "/", headers: dict[str, str] | None = None, method: str = "GET") -> Context:
    return Context(Request(method, path, headers=Headers((headers or {}).items()), remote_addr=address))


def limits(ctx: Context) -> list[str | None]:
    return [ctx.response_headers.get(f"X-RateLimit-{name}") for name in ("Limit", "Remaining", "Reset")]


def refused(plugin: RateLimit, ctx: Context, config: RateLimitConfig) -> Aborted | None:
    try:
        plugin.post_auth(ctx, config)
    except Aborted as aborted:
        return aborted
    return None


def test_defaults_are_those_of_the_contract():
    config = RateLimitConfig()
    assert (config.limit, config.window_seconds, config.algorithm, config.key, config.on_store_error) == (
        100,
        60.0,
        "fixed_window",
        "auto",
        "local",
    )
    assert (RateLimit.name, RateLimit.priority) == ("rate_limit", 300)


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": 0},
        {"limit": 1.5},
        {"limit": True},
        {"window_seconds": 0},
        {"window_seconds": 3_000_000},
        {"window_seconds": 5, "windowSeconds": 5},
        {"algorithm": "leaky"},
        {"key": "header:"},
        {"key": "header:a b"},
        {"key": "cookie:x"},
        {"on_store_error": "ignore"},
    ],
)
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(ValidationError):
        rule(**fields)


def test_sketch_spelling_is_accepted():
    assert rule(windowSeconds=5).window_seconds == 5.0


def test_every_response_says_what_is_left(plugin, store):
    config = rule(limit=2, window_seconds=10)
    shown = []
    for _ in range(2):
        ctx = request()
        assert refused(plugin, ctx, config) is None
        shown.append(limits(ctx))
        store.now += 2.5
    assert shown == [["2", "1", "10"], ["2", "0", "8"]]  # 7.5 seconds, rounded up


def test_L11_beyond_the_limit_is_429_with_retry_after(plugin, store):
    config = rule(limit=1, window_seconds=10)
    plugin.post_auth(request(), config)
    store.now += 0.4
    ctx = request()
    aborted = refused(plugin, ctx, config)
    assert (aborted.status, aborted.body, aborted.headers) == (429, {"error": "Rate limit exceeded"}, (("Retry-After", "10"),))
    assert limits(ctx) == ["1", "0", "10"]


def test_retry_after_is_at_least_one_second(plugin, store):
    config = rule(limit=1000, window_seconds=1, algorithm="token_bucket")
    last = None
    for _ in range(1001):
        last = refused(plugin, request(), config)
    assert last.headers == (("Retry-After", "1"),)


def test_refused_requests_are_not_counted(plugin, store):
    config = rule(limit=1, window_seconds=10, algorithm="sliding_window")
    plugin.post_auth(request(), config)
    store.now += 6
    assert [refused(plugin, request(), config).status for _ in range(5)] == [429] * 5
    store.now += 5
    assert refused(plugin, request(), config) is None


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window", "token_bucket"])
def test_each_algorithm_lets_the_limit_through_and_recovers(plugin, store, algorithm):
    config = rule(limit=3, window_seconds=6, algorithm=algorithm)
    assert [refused(plugin, request(), config) is None for _ in range(4)] == [True, True, True, False]
    store.now += 7
    assert refused(plugin, request(), config) is None


def test_L06_a_sliding_window_holds_across_the_edge(plugin, store):
    config = rule(limit=4, window_seconds=10, algorithm="sliding_window")
    store.now += 9
    admitted = [store.now for _ in range(9) if refused(plugin, request(), config) is None]
    store.now += 2  # a fixed window could have begun anew here
    admitted += [store.now for _ in range(9) if refused(plugin, request(), config) is None]
    assert len(admitted) == 4


def test_L03_the_path_as_written_makes_no_difference(plugin, store):
    for path in ("/x", "/%78", "/x/", "/y"):
        plugin.post_auth(request(path=path), rule())
    assert set(store.names) == {"users/0/address:203.0.113.7"}


def test_L04_the_method_makes_no_difference(plugin, store):
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        plugin.post_auth(request(method=method), rule())
    assert len(set(store.names)) == 1


def test_L01_forwarding_headers_do_not_change_who_calls(plugin, store):
    for spoofed in ("1.1.1.1", "2.2.2.2"):
        plugin.post_auth(request(headers={"X-Forwarded-For": spoofed, "X-Real-IP": spoofed, "Forwarded": f"for={spoofed}"}), rule())
    assert set(store.names) == {"users/0/address:203.0.113.7"}


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::FFFF:102:304", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", "unknown"),
    ],
)
def test_L02_addresses_of_one_subscriber_are_one(address, counted):
    assert network(address) == counted


def test_L02_a_hundred_addresses_of_one_network_share_a_counter(plugin, store):
    for last in range(100):
        plugin.post_auth(request(f"2001:db8::{last:x}"), rule())
    assert set(store.names) == {"users/0/address:2001:db8::/64"}


def test_L09_addresses_are_remembered_up_to_a_bound():
    for number in range(10_000):
        network(f"10.1.{number >> 8}.{number & 255}")
    assert network.cache_info().currsize <= 8192


def test_a_peer_that_is_no_address_is_hashed():
    assert network("unix:/run/gateway socket").startswith("#")


def test_each_kind_of_key(plugin, store):
    ctx = request(headers={"X-Tenant": "acme"})
    ctx.state["user_id"] = "alice@example.com"
    ctx.consumer = Consumer(id="gold-1", match={"user_id": "alice@example.com"})
    for key in ("auto", "user", "consumer", "address", "route"):
        plugin.post_auth(ctx, rule(key=key))
    assert store.names == [
        "users/0/user:alice@example.com",
        "users/0/user:alice@example.com",
        "users/0/consumer:gold-1",
        "users/0/address:203.0.113.7",
        "users/0/all",
    ]


def test_a_header_key_is_hashed_because_it_may_be_a_secret(plugin, store):
    for value in ("k-1", "k-2", "k-1"):
        plugin.post_auth(request(headers={"x-api-key": value}), rule(key="header:X-Api-Key"))
    first, second, third = store.names
    assert first == third != second
    assert all(name.startswith("users/0/header:#") and "k-1" not in name for name in store.names)


@pytest.mark.parametrize("key", ["auto", "user", "consumer", "header:X-Tenant"])
def test_without_what_the_key_names_the_address_counts(plugin, store, key):
    plugin.post_auth(request(headers={"X-Tenant": ""}), rule(key=key))
    assert store.names == ["users/0/address:203.0.113.7"]


@pytest.mark.parametrize("user", ["u" * 5000, "a/b", "*/0/all", "é", "\ud800", "a b\r\n", "#" + "0" * 32])
def test_odd_identities_make_short_printable_names(plugin, store, user):
    ctx = request()
    ctx.state["user_id"] = user
    plugin.post_auth(ctx, rule(Entry("r" * 128, 12)))
    (name,) = store.names
    assert name.isascii()
    assert name.isprintable()
    assert len(name) < 512
    assert name.startswith("r" * 128 + "/12/user:#")
    assert name.count("/") == 2


def test_a_user_named_like_an_address_does_not_share_its_counter(plugin, store):
    known = request("198.51.100.1")
    known.state["user_id"] = "203.0.113.7"
    plugin.post_auth(known, rule())
    plugin.post_auth(request("203.0.113.7"), rule())
    assert len(set(store.names)) == 2


def test_counted_per_route_and_entry_and_globally_once(plugin, store):
    for entry in (Entry("users"), Entry("users", 1), Entry("orders"), Entry(None), Entry(None, 1)):
        plugin.post_auth(request(), rule(entry, key="route"))
    assert store.names == ["users/0/all", "users/1/all", "orders/0/all", "*/0/all", "*/1/all"]


def test_names_are_the_same_after_a_reload(plugin, store):
    plugin.post_auth(request(), rule(limit=5))
    plugin.post_auth(request(), rule(limit=9))
    assert len(set(store.names)) == 1


def tightest(plugin: RateLimit, *rules: RateLimitConfig) -> list[str | None]:
    ctx = request()
    for config in rules:
        refused(plugin, ctx, config)
    return limits(ctx)


def test_the_tightest_of_several_entries_is_shown_whatever_their_order(plugin, store):
    wide, narrow = rule(Entry(None), limit=100), rule(Entry("users"), limit=5)
    assert tightest(plugin, wide, narrow) == ["5", "4", "60"]
    assert tightest(plugin, narrow, wide) == ["5", "3", "60"]


def test_of_equally_tight_entries_the_one_that_lasts_longer_is_shown(plugin, store):
    short, long = rule(Entry("users"), limit=5, window_seconds=10), rule(Entry("users", 1), limit=5, window_seconds=3600)
    assert tightest(plugin, short, long) == ["5", "4", "3600"]
    assert tightest(plugin, long, short) == ["5", "3", "3600"]


def test_of_equally_tight_entries_the_one_that_refused_is_shown(plugin, store):
    full = rule(Entry("users", 1), limit=1, window_seconds=10)
    plugin.post_auth(request(), full)
    assert tightest(plugin, rule(Entry("users"), limit=1, window_seconds=3600), full) == ["1", "0", "10"]


def test_other_plugins_find_the_decision(plugin, store):
    ctx = request()
    plugin.post_auth(ctx, rule(limit=5))
    assert ctx.state["rate_limit"] == Decision(True, 5, 4, 60.0, 0.0)
    assert ctx.state["rate_limit_remaining"] == 4


def test_store_away_local_counts_in_this_worker(plugin, store):
    store.away = True
    config = rule(limit=2)
    answers = [refused(plugin, request(), config) for _ in range(3)]
    assert [a and a.status for a in answers] == [None, None, 429]


def test_store_away_allow_lets_everything_pass_and_says_nothing(plugin, store):
    store.away = True
    ctx = request()
    assert [refused(plugin, ctx, rule(limit=1, on_store_error="allow")) for _ in range(3)] == [None] * 3
    assert limits(ctx) == [None, None, None]


def test_store_away_deny_answers_503(plugin, store):
    store.away = True
    aborted = refused(plugin, request(), rule(on_store_error="deny"))
    assert (aborted.status, aborted.body, aborted.headers) == (503, {"error": "Service Unavailable"}, (("Retry-After", "1"),))


def test_the_store_counts_again_when_it_is_back(plugin, store):
    config = rule(limit=1)
    store.away = True
    plugin.post_auth(request(), config)
    store.away = False
    assert refused(plugin, request(), config) is None
    assert refused(plugin, request(), config).status == 429


def workers(url: str, count: int) -> tuple[list[RateLimit], list[RedisStore]]:
    # Patient: what is tested is who is counted, not how quickly a busy machine answers.
    stores = [RedisStore(connect(url, timeout=10), LogBuffer(connect(url), "gw:"), timeout=10) for _ in range(count)]
    plugins = [RateLimit() for _ in range(count)]
    for plugin, store in zip(plugins, stores, strict=True):
        plugin.worker_started(Worker(store))
    return plugins, stores


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window", "token_bucket"])
def test_L05_L07_the_limit_is_exact_across_workers_and_every_key_ends(server, algorithm):
    plugins, stores = workers(server.url, 3)
    config = rule(limit=25, window_seconds=1000, algorithm=algorithm)
    try:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda n: refused(plugins[n % 3], request(), config), range(60)))
        assert sum(answer is None for answer in answers) == 25
        assert {answer.status for answer in answers if answer} == {429}
        with redis.Redis.from_url(server.url) as client:
            assert client.keys("gw:rl:*") == [b"gw:rl:users/0/address:203.0.113.7"]
            assert 0 < client.ttl("gw:rl:users/0/address:203.0.113.7") <= 1020
    finally:
        for store in stores:
            store.close()


def test_L10_a_flushed_script_is_loaded_again(server):
    (plugin,), (store,) = workers(server.url, 1)
    config = rule(limit=2)
    try:
        plugin.post_auth(request(), config)
        with redis.Redis.from_url(server.url) as client:
            client.script_flush()
        assert refused(plugin, request(), config) is None
        assert refused(plugin, request(), config).status == 429
    finally:
        store.close()


def test_Q03_when_redis_goes_the_limit_is_kept_locally(server):
    (plugin,), (store,) = workers(server.url, 1)
    config = rule(limit=2)
    try:
        plugin.post_auth(request(), config)
        with redis.Redis.from_url(server.url) as client:
            client.shutdown(nosave=True)
        answers = [refused(plugin, request(), config) for _ in range(3)]
        assert [a and a.status for a in answers] == [None, None, 429]
    finally:
        store.close()
