"""Balancing on real workers with real services: shares, keys that stay, a slow target, a drained one, one that starts slowly."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.named import Services, names

pytestmark = pytest.mark.e2e

ALGORITHMS: dict[str, dict[str, object]] = {
    "turns": {"algorithm": "round_robin"},
    "least": {"algorithm": "least_connections"},
    "two": {"algorithm": "two_choices"},
    "any": {"algorithm": "random"},
    "key": {"algorithm": "consistent_hash", "hash_on": "header:X-Key"},
    "bound": {"algorithm": "consistent_hash", "hash_on": "header:X-Key", "hash_balance": 1.25},
}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    running = Services(tmp_path_factory.mktemp("services"))
    yield running
    running.stop()


class Bench:
    """A gateway of two workers, whose upstreams have three services."""

    def __init__(self, gateway: GatewayProcess, server: RedisServer, services: Services) -> None:
        self.gateway, self.server, self.services = gateway, server, services

    def configure(self, **weights: int) -> None:
        """Give services other weights than 1; return when both workers have them."""
        targets = [{"url": self.services.url(name), "weight": weights.get(name, 1)} for name in "abc"]
        upstreams = {name: {"targets": targets, **keys} for name, keys in ALGORITHMS.items()}
        publish(self.server, {"routes": [{"path": f"/{name}", "upstream": name} for name in ALGORITHMS], "upstreams": upstreams})
        wanted = [weights.get(name, 1) for name in "abc"]
        until(lambda: self.weights() == [wanted, wanted], "both workers to have the weights")

    def told(self) -> list[list[dict[str, object]]]:
        """The targets of ``turns`` as each worker shows them."""
        beats = self.gateway.heartbeats(self.server.client())
        return [[row for row in json.loads(beat["targets"]) if row["upstream"] == "turns"] for beat in beats]

    def weights(self) -> list[list[object]]:
        return [[row["weight"] for row in rows] for rows in self.told()]


@pytest.fixture(scope="module")
def bench(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, services: Services) -> Bench:
    publish(redis_server, {"routes": []})
    made = Bench(start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready(), redis_server, services)
    made.configure()
    return made


def test_shares_are_those_of_the_weights(bench: Bench) -> None:
    bench.configure(a=3)
    turns = names(bench.gateway, "/turns", 100)
    assert all(abs(turns[name] - fair) <= 2 for name, fair in {"a": 60, "b": 20, "c": 20}.items()), turns
    for algorithm in ("least", "two", "any"):
        got = names(bench.gateway, f"/{algorithm}", 150)
        assert 60 < got["a"] < 120, (algorithm, got)  # 90, and five standard deviations of chance


def test_a_key_stays_whatever_worker_and_connection_and_a_drained_target_moves_its_own_only(bench: Bench) -> None:
    bench.configure()

    def places() -> dict[str, str]:
        keys = [f"key-{number}" for number in range(40)]
        return {key: bench.gateway.get("/key", headers={"X-Key": key}).json()["name"] for key in keys}

    before = places()
    assert before == places()
    assert set(before.values()) == {"a", "b", "c"}
    bench.configure(c=0)
    after = places()
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == "c"}
    assert set(after.values()) == {"a", "b"}


def together(bench: Bench, path: str, count: int, at_once: int, **headers: str) -> Counter[str]:
    def one(_: int) -> str:
        answer = bench.gateway.get(path, headers=headers)
        return str(answer.json().get("name", answer.status_code))

    with ThreadPoolExecutor(at_once) as pool:
        return Counter(pool.map(one, range(count)))


def test_a_slow_target_gets_less_from_those_who_look_at_what_is_in_flight(bench: Bench) -> None:
    bench.configure()
    bench.services.control("a", wait=0.5)
    try:
        turns, least, two = (together(bench, f"/{name}", 90, 10)["a"] for name in ("turns", "least", "two"))
    finally:
        bench.services.reset()
    assert 26 <= turns <= 34, turns
    assert least < 20, least
    assert two < 24, two


def test_a_hot_key_spills_over_where_loads_are_bounded(bench: Bench) -> None:
    bench.configure()
    free, bound = (together(bench, f"/{name}?wait=0.4", 12, 12, **{"X-Key": "hot"}) for name in ("key", "bound"))
    assert len(free) == 1
    assert len(bound) >= 2
    assert max(bound.values()) <= 7, "of n requests in one worker, ceil(1.25 * n / 3)"


def test_a_drained_target_finishes_what_it_has_and_gets_nothing_new(bench: Bench) -> None:
    bench.configure(b=0, c=0)
    answers: list[requests.Response] = []
    thread = threading.Thread(target=lambda: answers.append(bench.gateway.get("/turns?wait=3")))
    thread.start()
    until(lambda: sum(rows[0]["active"] for rows in bench.told()) == 1, "the request to be in flight at a")  # type: ignore[misc]
    bench.configure(a=0)
    until(lambda: [rows[0]["state"] for rows in bench.told()] == ["drained", "drained"], "both workers to say so")
    assert names(bench.gateway, "/turns", 20).keys() == {"b", "c"}
    thread.join()
    assert answers[0].json()["name"] == "a"
    until(lambda: all(row["active"] == 0 for rows in bench.told() for row in rows), "nothing to be in flight at a")
