"""How often somebody may call: rate_limit, exact over two gateways of two workers each (rows L01 to L11, S06)."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest
import requests

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.signers import token
from tests.e2e.witness import install
from tests.ports import free_port

pytestmark = pytest.mark.e2e

ALGORITHMS = ("fixed_window", "sliding_window", "token_bucket")
SECRET = "a-secret-of-more-than-32-bytes-for-tests"
PAGE = "https://app.example.com"
DAY = 86_400
EXACT = 100
JWT = {"name": "jwt_auth", "config": {"secret": SECRET}}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two gateways on one store; the second believes what 127.0.0.1 says about its clients."""

    closed: GatewayProcess
    trusting: GatewayProcess
    redis: RedisServer

    def __iter__(self) -> Iterator[GatewayProcess]:
        return iter((self.closed, self.trusting))


def limit(**config: Any) -> dict[str, Any]:
    return {"name": "rate_limit", "config": {"window_seconds": DAY, **config}}


def routes() -> list[dict[str, Any]]:
    cors = {"name": "cors", "config": {"origins": [PAGE]}}
    keys = ("auto", "user", "consumer", "address", "route", "header:X-Tenant")
    return [
        {"path": "/default", "plugins": [{"name": "rate_limit"}]},
        {"path": "/warm", "plugins": [limit(limit=1_000_000, on_store_error="deny")]},
        *({"path": f"/exact/{name}", "plugins": [limit(limit=EXACT, algorithm=name, on_store_error="deny")]} for name in ALGORITHMS),
        {"path": "/flushed", "plugins": [limit(limit=EXACT, on_store_error="deny")]},
        *({"path": f"/by/{name}", "plugins": [limit(limit=3, algorithm=name)]} for name in ALGORITHMS),
        *({"path": f"/short/{name}", "plugins": [short(name)]} for name in ALGORITHMS),
        *({"path": f"/key/{key.partition(':')[0]}", "plugins": [JWT, limit(limit=2, key=key)]} for key in keys),
        {"path": "/open/auto", "plugins": [limit(limit=2)]},
        {"path": "/open/header", "plugins": [limit(limit=2, key="header:X-Tenant")]},
        {"path": "/rotated", "plugins": [limit(limit=2)]},
        {"path": "/addresses", "plugins": [limit(limit=2, key="address")]},
        {"path": "/spelled", "plugins": [limit(limit=4, key="route")]},
        {"path": "/methods", "plugins": [cors, limit(limit=3, key="route")]},
        {"path": "/two", "plugins": [limit(limit=10), limit(limit=3)]},
        {"path": "/own/a", "plugins": [limit(limit=2)]},
        {"path": "/own/b", "plugins": [limit(limit=2)]},
        {"path": "/shared/a"},
        {"path": "/shared/b"},
        {"path": "/free", "plugins": [{"name": "rate_limit", "enabled": False}]},
        {"path": "/down", "upstream": f"http://127.0.0.1:{free_port()}", "plugins": [limit(limit=1)]},
        {"path": "/away/default", "plugins": [limit(limit=1)]},
        *({"path": f"/away/{answer}", "plugins": [limit(limit=1, on_store_error=answer)]} for answer in ("local", "allow", "deny")),
        {"path": "/shadow", "plugins": [{**limit(limit=1), "mode": "shadow"}]},
    ]


def short(algorithm: str) -> dict[str, Any]:
    return {"name": "rate_limit", "config": {"limit": 2, "windowSeconds": 0.6, "algorithm": algorithm}}


@pytest.fixture(scope="module")
def pair(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str, tmp_path_factory: pytest.TempPathFactory
) -> Pair:
    document = {
        "plugins": [{"name": "stranger_witness"}, limit(limit=5, key="header:X-Case")],
        "consumers": [{"id": "acme", "match": {"user_id": "alice"}}],
        "routes": [{"id": route["path"].strip("/").replace("/", "-"), "upstream": echo, **route} for route in routes()],
    }
    publish(redis_server, document)
    settings = {"GWPROXY_REDIS_URL": redis_server.url, "PYTHONPATH": install(tmp_path_factory.mktemp("site"))}
    closed = start_gateway(**settings)
    trusting = start_gateway(**settings, GWPROXY_TRUSTED_PROXIES="127.0.0.1/32")
    return Pair(closed.ready(), trusting.ready(), redis_server)


@pytest.fixture(scope="module")
def warm(pair: Pair) -> Pair:
    """The same, when each of the four workers has talked to the store."""
    for gateway in pair:
        workers: set[str] = set()

        def seen(gateway: GatewayProcess = gateway, workers: set[str] = workers) -> bool:
            answer = gateway.get("/warm")
            if answer.status_code == 200:
                workers.add(answer.headers["X-Worker"])
            return len(workers) == gateway.workers

        until(seen, "every worker to have counted")
    return pair


def bearer(user: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token('HS256', SECRET.encode(), {'sub': user, 'exp': time.time() + 300})}"}


def shown(answer: requests.Response) -> tuple[int, int, int]:
    """Return limit, remaining and reset, as told."""
    limit, remaining, reset = (int(answer.headers[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset"))
    return limit, remaining, reset


def statuses(gateway: GatewayProcess, path: str, count: int, **headers: str) -> list[int]:
    return [gateway.get(path, headers=headers).status_code for _ in range(count)]


def flood(pair: Pair, path: str) -> list[requests.Response]:
    """Ask with eight threads, both gateways in turn, a new connection each time, until each was refused five times."""

    def ask(first: int) -> list[requests.Response]:
        answers, refused = [], 0
        for gateway in itertools.islice(itertools.cycle([*pair, *pair][first : first + 2]), 500):
            answers.append(gateway.get(path))
            refused += answers[-1].status_code == 429
            if refused == 5:
                break
        return answers

    with ThreadPoolExecutor(8) as pool:
        return [answer for answers in pool.map(ask, [0, 1] * 4) for answer in answers]


def check_exact(answers: list[requests.Response]) -> None:
    """Check that the limit passed and no more. Where the store was too slow (503), it may have counted nevertheless."""
    counted = Counter(answer.status_code for answer in answers)
    assert counted.keys() <= {200, 429, 503}
    assert EXACT - counted[503] <= counted[200] <= EXACT
    assert counted[429] == 40
    remaining = [shown(answer)[1] for answer in answers if answer.status_code == 200]
    assert len(set(remaining)) == counted[200]
    assert set(remaining) <= set(range(EXACT))
    assert {shown(answer)[:2] for answer in answers if answer.status_code == 429} == {(EXACT, 0)}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_L05_exactly_the_limit_passes_over_all_workers_of_all_gateways(warm: Pair, algorithm: str) -> None:
    answers = flood(warm, f"/exact/{algorithm}")
    check_exact(answers)
    assert len({answer.headers["X-Worker"] for answer in answers}) == 4


def test_L10_forgotten_scripts_are_no_matter(warm: Pair) -> None:
    client = warm.redis.client()
    over = threading.Event()

    def flush() -> int:
        return next(count for count in itertools.count(1) if not client.script_flush() or over.wait(0.01))

    with ThreadPoolExecutor(1) as pool:
        flushed = pool.submit(flush)
        answers = flood(warm, "/flushed")
        over.set()
        assert flushed.result() > 1
    check_exact(answers)


# ---- what clients are told


def test_the_defaults_are_a_hundred_a_minute(pair: Pair) -> None:
    assert shown(pair.closed.get("/default")) == (100, 99, 60)
    assert pair.closed.get("/default").headers["X-RateLimit-Remaining"] == "98"


@pytest.mark.parametrize(("algorithm", "retry"), [("fixed_window", DAY), ("sliding_window", DAY * 61 / 60), ("token_bucket", DAY / 3)])
def test_a_refusal_says_when_to_come_back(pair: Pair, algorithm: str, retry: float) -> None:
    path = f"/by/{algorithm}"
    for remaining in (2, 1, 0):
        answer = pair.closed.get(f"{path}?header=X-RateLimit-Limit:1&header=X-RateLimit-Remaining:0")
        assert (answer.status_code, shown(answer)[:2]) == (200, (3, remaining))
        assert 0 < shown(answer)[2] <= DAY * 61 / 60
        assert "Retry-After" not in answer.headers
    refused = [pair.closed.get(path), pair.trusting.get(path)]
    for answer in refused:
        assert (answer.status_code, answer.json(), shown(answer)[:2]) == (429, {"error": "Rate limit exceeded"}, (3, 0))
        assert retry * 0.95 < int(answer.headers["Retry-After"]) <= retry


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_was_refused_was_not_counted_and_places_come_back(pair: Pair, algorithm: str) -> None:
    path = f"/short/{algorithm}"
    until(lambda: 429 in statuses(pair.closed, path, 6), "a refusal")  # on a slow machine places come back meanwhile
    began = time.monotonic()
    until(lambda: pair.closed.get(path).status_code == 200, "a place", within=5)
    assert time.monotonic() - began < 3  # however often it was asked: a refusal does not put it off


def test_every_answer_says_where_the_caller_stands_whoever_made_it(pair: Pair) -> None:
    assert [(a.status_code, shown(a)[:2]) for a in (pair.closed.get("/down"), pair.closed.get("/down"))] == [(502, (1, 0)), (429, (1, 0))]


def test_L04_L11_a_refusal_can_be_read_by_the_page_and_preflights_are_not_counted(pair: Pair) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "GET"}
    for _ in range(5):
        answer = pair.closed.request("OPTIONS", "/methods", headers=asked)
        assert (answer.status_code, "X-RateLimit-Limit" in answer.headers) == (204, False)
    for method, remaining in (("HEAD", 2), ("OPTIONS", 1), ("POST", 0)):
        assert shown(pair.closed.request(method, "/methods"))[1] == remaining
    refused = pair.closed.get("/methods", headers={"Origin": PAGE})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"], refused.headers["Vary"]) == (429, PAGE, "Origin")
    assert pair.closed.request("OPTIONS", "/methods", headers=asked).status_code == 204


def test_of_two_entries_the_tightest_is_shown_and_both_count(pair: Pair) -> None:
    assert [shown(pair.closed.get("/two"))[:2] for _ in range(3)] == [(3, 2), (3, 1), (3, 0)]
    refused = pair.closed.get("/two")
    assert (refused.status_code, shown(refused)[:2]) == (429, (3, 0))
    client = pair.redis.client()
    counts = {key: client.hget(key, "n") for key in client.scan_iter("gw:rl:two/*")}
    assert counts == {"gw:rl:two/0/address:127.0.0.1": "4", "gw:rl:two/1/address:127.0.0.1": "3"}


# ---- what is counted together


def test_a_global_entry_counts_once_for_all_routes_and_others_by_themselves(pair: Pair) -> None:
    case = {"X-Case": "global"}
    remaining = [shown(pair.closed.get(path, headers=case))[:2] for path in ("/shared/a", "/shared/b", "/shared/a")]
    remaining += [shown(pair.trusting.get("/shared/b", headers=case))[:2] for _ in range(2)]
    assert remaining == [(5, 4), (5, 3), (5, 2), (5, 1), (5, 0)]
    assert [statuses(gateway, path, 1, **case) for gateway in pair for path in ("/shared/a", "/shared/b")] == [[429]] * 4
    assert [statuses(pair.closed, path, 3, **case) for path in ("/own/a", "/own/b")] == [[200, 200, 429]] * 2
    assert statuses(pair.closed, "/free", 8, **case) == [200] * 8
    assert pair.closed.get("/nowhere", headers=case).status_code == 404


def test_each_key_tells_callers_apart_as_it_says(pair: Pair) -> None:
    def passes(path: str, user: str, **headers: str) -> int:
        """Return how often ``user`` may still pass."""
        return sum(status == 200 for status in statuses(pair.closed, path, 3, **bearer(user), **headers))

    assert [passes("/key/auto", user) for user in ("alice", "bob", "alice")] == [2, 2, 0]
    assert [passes("/key/user", user) for user in ("alice", "bob", "ümlaut", "x" * 500)] == [2, 2, 2, 2]
    assert [passes("/key/consumer", user) for user in ("alice", "bob", "carol")] == [2, 2, 0]  # who is no consumer, by address
    assert [passes("/key/address", user) for user in ("alice", "bob")] == [2, 0]
    assert [passes("/key/route", user) for user in ("alice", "bob")] == [2, 0]
    assert [passes("/key/header", user, **{"X-Tenant": value}) for user, value in (("alice", "one"), ("bob", "one"), ("bob", "two"))] == [
        2,
        0,
        2,
    ]
    assert statuses(pair.trusting, "/key/route", 1, **bearer("dave")) == [429]
    keys = "".join(pair.redis.client().scan_iter("gw:rl:key-*"))
    assert "consumer:acme" in keys
    assert not [value for value in ("one", "two", "ümlaut", "x" * 65) if f":{value}" in keys]


def test_who_is_not_known_counts_by_address(pair: Pair) -> None:
    assert statuses(pair.closed, "/open/auto", 3, Authorization="Bearer of-another-kind") == [200, 200, 429]
    assert statuses(pair.closed, "/open/header", 3) == [200, 200, 429]
    assert statuses(pair.closed, "/open/header", 3, **{"X-Tenant": "sesame"}) == [200, 200, 429]


def test_L01_another_address_in_a_header_is_no_other_client(pair: Pair) -> None:
    headers = [
        {
            "X-Forwarded-For": f"203.0.113.{n}",
            "X-Real-IP": f"203.0.113.{n}",
            "Forwarded": f"for=203.0.113.{n}",
            "True-Client-IP": f"10.0.0.{n}",
        }
        for n in range(6)
    ]
    assert [pair.closed.get("/rotated", headers=each).status_code for each in headers] == [200, 200, 429, 429, 429, 429]
    behind = [f"203.0.113.{n}, 198.51.100.7" for n in range(4)]  # the proxy's own word is the last one
    assert [pair.trusting.get("/rotated", headers={"X-Forwarded-For": chain}).status_code for chain in behind] == [200, 200, 429, 429]


def test_L02_ipv6_counts_by_its_64_and_mapped_addresses_are_ipv4(pair: Pair) -> None:
    def ask(address: str) -> int:
        return pair.trusting.get("/addresses", headers={"X-Forwarded-For": address}).status_code

    assert [ask(f"2001:db8:1:2::{n:x}") for n in range(4)] == [200, 200, 429, 429]
    assert [ask("2001:db8:1:2:ffff::"), ask("2001:db8:1:3::")] == [429, 200]
    assert [ask(address) for address in ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201", "192.0.2.2")] == [200, 200, 429, 200]


def test_L03_however_the_path_is_written_it_is_one_route(pair: Pair) -> None:
    assert [pair.closed.get(path).status_code for path in ("/spelled", "/%73pelled?", "//spelled/", "/spelled/x?y", "/spelled")] == [
        200
    ] * 4 + [429]


def test_in_shadow_it_refuses_nobody_and_says_nothing(pair: Pair) -> None:
    answers = [pair.closed.get("/shadow") for _ in range(4)]
    assert {(answer.status_code, "X-RateLimit-Limit" in answer.headers) for answer in answers} == {(200, False)}


# ---- the store


def test_L07_S06_every_counter_ends(pair: Pair) -> None:
    for algorithm in ALGORITHMS:
        statuses(pair.closed, f"/by/{algorithm}", 4)
        statuses(pair.closed, f"/short/{algorithm}", 3)
    client = pair.redis.client()
    lifetimes = {key: client.pttl(key) for key in client.scan_iter("gw:rl:*", count=1000)}
    lifetimes = {key: lifetime for key, lifetime in lifetimes.items() if lifetime != -2}  # ended meanwhile
    assert len(lifetimes) > 3
    assert all(0 <= lifetime <= DAY * 1000 * 61 / 60 for lifetime in lifetimes.values())


@contextlib.contextmanager
def frozen(server: RedisServer) -> Iterator[None]:
    assert server.process is not None
    server.process.signal(SIGSTOP)
    try:
        yield
    finally:
        server.process.signal(SIGCONT)


def test_without_the_store_each_entry_does_as_it_says_and_all_recovers(warm: Pair) -> None:
    gateway = warm.closed
    with frozen(warm.redis):
        for path in ("/away/default", "/away/local"):
            answers = [gateway.get(path) for _ in range(12)]
            assert {shown(answer)[:2] for answer in answers} == {(1, 0)}
            passed = [answer.headers["X-Worker"] for answer in answers if answer.status_code == 200]
            assert {answer.status_code for answer in answers} == {200, 429}
            assert len(passed) == len(set(passed)) <= gateway.workers  # once for each worker
        answers = [gateway.get("/away/allow") for _ in range(6)]
        assert {(answer.status_code, "X-RateLimit-Limit" in answer.headers) for answer in answers} == {(200, False)}
        answers = [gateway.get("/away/deny") for _ in range(6)]
        told = {(answer.status_code, answer.text, answer.headers["Retry-After"]) for answer in answers}
        assert told == {(503, '{"error":"Service Unavailable"}', "1")}
    workers: set[str] = set()

    def recovered() -> bool:
        answer = gateway.get("/warm")
        workers.add(answer.headers["X-Worker"]) if answer.status_code == 200 else workers.clear()
        return len(workers) == gateway.workers

    until(recovered, "every worker to reach the store again")
    assert Counter(answer.status_code for answer in [gateway.get("/away/allow") for _ in range(5)])[429] >= 4
