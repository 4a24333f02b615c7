"""Replies that come late, to greenlets that are gone, or from a Redis that loads: nobody gets another's (rows Q, L)."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from redis.exceptions import BusyLoadingError

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient
from tests.e2e.redis_bench import EXACT, Bench, bench_fixture, limit, waited
from tests.e2e.scripted import ScriptedService
from tests.e2e.witness import install

pytestmark = pytest.mark.e2e

CLIENTS = 8


bench = bench_fixture()


def asked(bench: Bench, path: str, count: int) -> Counter[int]:
    """Ask ``count`` times on each of eight connections at once; return the statuses. 418 would be another's reply."""

    def ask(_: int) -> Counter[int]:
        with RawClient(bench.gateway.port) as client:
            return Counter(client.ask(path).status for _ in range(count))

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(ask, range(CLIENTS)), Counter())


def healthy(bench: Bench) -> None:
    """Wait until everybody is served, both workers exactly."""
    until(lambda: asked(bench, "/nonce", 3) == {200: 3 * CLIENTS}, "everybody to be served")
    until(bench.exact, "an exact limit")


def test_Q05_replies_that_come_too_late_answer_nobody(bench: Bench) -> None:
    healthy(bench)
    seen: Counter[int] = Counter()
    for delay in (0.03, 0.15, 0.0, 0.12, 0.0):  # on both sides of what a request waits, and back
        bench.relay.delay = delay
        seen += asked(bench, "/nonce", 6)
    bench.relay.delay = 0.0
    healthy(bench)
    seen += asked(bench, "/nonce", 20)
    assert seen.keys() == {200, 503}
    assert seen[200] >= 20 * CLIENTS


def test_Q06_a_request_cut_off_in_the_middle_of_a_command_leaves_its_reply_to_nobody(bench: Bench) -> None:
    healthy(bench)
    bench.relay.delay = 0.01  # so that whoever is cut off is waiting for a reply
    try:
        with ThreadPoolExecutor(1) as pool:
            killed = pool.submit(asked, bench, "/killed", 4)
            others = sum((asked(bench, "/nonce", 5) for _ in range(4)), Counter())
            assert killed.result().keys() == {500}
    finally:
        bench.relay.delay = 0.0
    assert others.keys() <= {200, 503}
    assert others[200] > 10
    assert bench.gateway.output().count("plugin_over_budget plugin=stranger_nonce") == 4 * CLIENTS
    healthy(bench)


def test_Q11_a_redis_that_is_loading_is_away(bench: Bench) -> None:
    client, server = bench.server.client(), bench.server
    client.mset({f"pad:{number}": os.urandom(2000) for number in range(2000)})  # it answers every so many bytes
    client.save()
    assert server.process is not None
    server.process.signal(signal.SIGKILL)
    server.process.child.wait()
    # It takes its time for each key, until it is told not to, and answers meanwhile.
    options = ("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024")
    starting = threading.Thread(target=server.start, args=options)
    starting.start()

    def loading() -> bool:
        try:
            return not server.client().exists("pad:1")
        except BusyLoadingError:
            return True

    with bench.clients() as clients:
        until(loading, "Redis to load")
        answers = [(client.ask("/plain").status, client.ask("/deny")) for client in clients for _ in range(5)]
        assert loading()
        client.config_set("key-load-delay", 0)
        assert {(plain, deny.status) for plain, deny in answers} == {(200, 503)}
        assert max(waited(deny) for _, deny in answers) < 300
    starting.join(20)
    assert bench.recovered("loaded") < 5


SKEW = """
import time
real = time.time
time.time = lambda: real() + {seconds}
"""


def test_L08_workers_whose_clocks_disagree_share_one_exact_limit(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, tmp_path: Path
) -> None:
    """Ten seconds apart, with a window of six: by their own clocks each would see the other's window as over, or not begun."""
    routes = [
        {"path": f"/{algorithm}", "upstream": service.url, "plugins": [limit(limit=EXACT, window_seconds=6, algorithm=algorithm)]}
        for algorithm in ("fixed_window", "sliding_window")
    ]
    publish(redis_server, {"plugins": [{"name": "stranger_witness"}], "routes": routes}, prefix="skew:")
    gateways = []
    for name, seconds in (("ahead", 5), ("behind", -5)):
        site = tmp_path / name
        site.mkdir()
        install(site)
        (site / "sitecustomize.py").write_text(SKEW.format(seconds=seconds))
        env = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_PREFIX": "skew:", "PYTHONPATH": str(site)}
        gateways.append(start_gateway(workers=1, **env))
    for gateway in gateways:
        gateway.ready()
    for route in routes:
        answers = [gateway.get(str(route["path"])) for _ in range(EXACT) for gateway in gateways]
        assert Counter(answer.status_code for answer in answers) == {200: EXACT, 429: EXACT}
        assert all(0 < int(answer.headers["X-RateLimit-Reset"]) <= 7 for answer in answers)
    started = [datetime.fromisoformat(beat["started"]) for beat in gateways[0].heartbeats(redis_server.client(), "skew:")]
    assert abs(started[0] - started[1]) > timedelta(seconds=6)  # their clocks do disagree
