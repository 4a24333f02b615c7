"""What could get around a rate limit: the edge of a window, a worker that dies, clocks that differ (rows L06 to L09)."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.awkward import install
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient

pytestmark = pytest.mark.e2e

LIMIT = 5


def limited(path: str, echo: str, **config: Any) -> dict[str, Any]:
    return {
        "id": path.strip("/").replace("/", "-"),
        "path": path,
        "upstream": echo,
        "plugins": [{"name": "rate_limit", "config": {"limit": LIMIT, **config}}],
    }


@pytest.fixture(scope="module")
def gateways(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[GatewayProcess, GatewayProcess]:
    """Two gateways on one store, whose clocks differ by ten seconds."""
    algorithms = ("fixed_window", "sliding_window", "token_bucket")
    routes = [
        *(limited(f"/edge/{name}", echo, window_seconds=1, algorithm=name) for name in algorithms),
        *(limited(f"/skewed/{name}", echo, window_seconds=600, algorithm=name, on_store_error="deny") for name in algorithms),
        *(limited(f"/dying/{name}", echo, window_seconds=600, algorithm=name, key="header:X-Tenant") for name in algorithms),
    ]
    publish(redis_server, {"plugins": [{"name": "skewed"}], "routes": routes})
    settings = {"GWPROXY_REDIS_URL": redis_server.url, "PYTHONPATH": install(tmp_path_factory.mktemp("site"))}
    early, late = start_gateway(SKEW="-5", **settings), start_gateway(SKEW="5", **settings)
    return early.ready(), late.ready()


def passes(gateway: GatewayProcess, path: str, windows: int) -> list[tuple[float, float]]:
    """Ask without pause for so many windows of a second; return when each request that passed was sent, and answered."""
    found: list[tuple[float, float]] = []
    end = time.monotonic() + windows
    with RawClient(gateway.port) as client:
        while time.monotonic() < end:
            sent = time.monotonic()
            status = client.ask(path).status
            assert status in (200, 429)
            if status == 200:
                found.append((sent, time.monotonic()))
    return found


@pytest.mark.parametrize(("algorithm", "most"), [("sliding_window", LIMIT), ("fixed_window", 2 * LIMIT), ("token_bucket", 2 * LIMIT)])
def test_L06_no_window_holds_more_than_is_documented(gateways: tuple[GatewayProcess, ...], algorithm: str, most: int) -> None:
    found = passes(gateways[0], f"/edge/{algorithm}", windows=3)
    assert len(found) > most
    # It was counted at some moment between the two times, so that the true distance of two passes is at most this.
    assert min(later[1] - first[0] for first, later in zip(found, found[most:], strict=False)) > 0.99


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window", "token_bucket"])
def test_L08_clocks_that_differ_by_ten_seconds_count_as_one(gateways: tuple[GatewayProcess, ...], algorithm: str) -> None:
    answers = [gateways[number % 2].get(f"/skewed/{algorithm}") for number in range(2 * LIMIT)]
    clocks = [float(answer.headers["X-Clock"]) for answer in answers]
    assert clocks[1] - clocks[0] > 5  # they do differ
    statuses = [answer.status_code for answer in answers if answer.status_code != 503]  # 503: the store had no time, and may have counted
    assert statuses == sorted(statuses)
    assert LIMIT - statuses.count(503) <= statuses.count(200) <= LIMIT
    resets = [int(answer.headers["X-RateLimit-Reset"]) for answer in answers if answer.status_code == 429]
    assert max(resets) - min(resets) <= 2


@pytest.mark.parametrize("algorithm", ["fixed_window", "sliding_window", "token_bucket"])
def test_L07_L09_a_worker_that_dies_leaves_no_counter_without_an_end(
    gateways: tuple[GatewayProcess, ...], redis_server: RedisServer, algorithm: str
) -> None:
    gateway, over = gateways[0], threading.Event()
    master = gateway.process.child.pid
    children = Path(f"/proc/{master}/task/{master}/children")

    def ask(thread: int) -> None:
        """Ask for one tenant after another, each of which has a counter of its own."""
        for number in itertools.takewhile(lambda _: not over.is_set(), itertools.count()):
            with contextlib.suppress(requests.RequestException):  # its worker died
                gateway.get(f"/dying/{algorithm}", headers={"X-Tenant": f"{thread}-{number}"})

    def keys() -> int:
        return sum(1 for _ in redis_server.client().scan_iter(f"gw:rl:dying-{algorithm}*", count=1000))

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, thread) for thread in range(4)]
        try:
            for _ in range(3):
                before = keys()
                until(lambda before=before: keys() > before + 20, "counters to be made")
                os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
        finally:
            over.set()
        for each in asked:
            each.result()
    client = redis_server.client()
    lifetimes = [client.pttl(key) for key in client.scan_iter("gw:rl:*", count=1000)]
    assert len(lifetimes) > 60
    assert -1 not in lifetimes
