"""A gateway of two workers behind a relay to its Redis, and what tells how it fares while Redis does not."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import Answer, RawClient
from tests.e2e.relay import Relay
from tests.e2e.scripted import ScriptedService
from tests.e2e.signers import github
from tests.e2e.store_clock import install

SECRET = "a-secret-of-more-than-32-bytes-for-tests"
EXACT = 20  # requests that /exact lets through, for each X-Case
DAY = 86_400
CONTROL = "/.well-known/gwproxy/live"  # answered without any route
EVENTS = (
    "source_away",
    "store_breaker_opened",
    "subscription_lost",
    "log_store_away",
    "source_back",
    "store_breaker_closed",
    "subscription_back",
)

_cases = itertools.count(1)


def limit(**config: Any) -> dict[str, Any]:
    return {"name": "rate_limit", "config": {"limit": 1_000_000, "window_seconds": DAY, **config}}


def document(upstream: str, *more: str) -> dict[str, Any]:
    """Return the configuration: ``more`` are paths of further routes."""
    clock = [{"name": "stranger_before"}, {"name": "stranger_after"}]
    webhook = {"name": "webhook_signature", "config": {"scheme": "github", "secrets": [SECRET]}}
    plugins: dict[str, list[dict[str, Any]]] = {
        "/plain": [],
        "/bare": clock,
        **{f"/{policy}": [*clock, limit(on_store_error=policy)] for policy in ("local", "allow", "deny")},
        "/four": [*clock, *[limit(on_store_error="allow")] * 4],
        "/webhook": [*clock, webhook],
        "/exact": [*clock, limit(limit=EXACT, key="header:X-Case", on_store_error="deny")],
        "/nonce": [{"name": "stranger_nonce", "config": {"times": 3}}],
        "/killed": [{"name": "stranger_nonce", "config": {"times": 400}, "budget": 0.05}],
        **{path: [] for path in more},
    }
    return {
        "plugins": [{"name": "access_log"}],
        "routes": [{"path": path, "upstream": upstream, "plugins": entries} for path, entries in plugins.items()],
    }


class Bench:
    """Everything a fault needs, shared by the tests of a module."""

    def __init__(self, gateway: GatewayProcess, server: RedisServer, relay: Relay, upstream: str) -> None:
        self.gateway = gateway
        self.server = server
        self.relay = relay
        self.upstream = upstream

    def publish(self, *more: str) -> str:
        """SET the routes, with further ones; return their digest."""
        return hashlib.sha256(publish(self.server, document(self.upstream, *more)).encode()).hexdigest()

    def beats(self) -> list[dict[str, str]]:
        return self.gateway.heartbeats(self.server.client())

    def settled(self, digest: str, within: float = 20.0) -> None:
        """Wait until every worker says that it runs ``digest``."""
        until(lambda: [b["digest"] for b in self.beats()] == [digest] * self.gateway.workers, f"every worker to run {digest[:8]}", within)

    def pids(self) -> list[int]:
        return [int(beat["pid"]) for beat in self.beats()]

    def subscribers(self) -> int:
        """How many subscriptions Redis has, as far as it knows."""
        return int(self.server.client().pubsub_numsub("gw:reload")[0][1])  # type: ignore[index]

    def logged(self) -> dict[str, int]:
        """How often each of :data:`EVENTS` was logged, by all workers together."""
        lines = [line.split() for line in self.gateway.output().splitlines()]
        return {event: sum(event in words for words in lines) for event in EVENTS}

    def exact(self) -> bool:
        """Whether the limit is exact over both workers, now: asks on new connections, 30 times at a limit of 20."""
        case = {"X-Case": f"case-{next(_cases)}"}
        answers = [self.gateway.get("/exact", headers=case) for _ in range(EXACT + 10)]
        assert sum(answer.status_code == 200 for answer in answers) <= EXACT
        workers = {answer.headers["X-Worker"] for answer in answers}
        return [answer.status_code for answer in answers] == [200] * EXACT + [429] * 10 and len(workers) == self.gateway.workers

    def recovered(self, mark: str) -> float:
        """Check that limits, webhooks, logs, subscriptions and heartbeats are back; return how many seconds a change then took."""
        until(self.exact, "an exact limit over both workers")
        assert self.deliver().status_code == 200
        self.gateway.get("/plain", headers={"X-Request-ID": mark})
        until(lambda: mark in str(self.server.client().lrange("gw:access_log", -3000, -1)), "the log entry")
        until(lambda: self.subscribers() == self.gateway.workers, "every worker to listen")
        until(lambda: [beat["state"] for beat in self.beats()] == ["ready"] * self.gateway.workers, "every heartbeat")
        began = time.monotonic()
        self.settled(self.publish(f"/after/{mark}"))
        return time.monotonic() - began

    def fill_pools(self) -> None:
        """Make every worker keep several connections for requests: one that waits for replies asks on another."""
        self.relay.delay = 0.02

        def ask(_: int) -> None:
            with RawClient(self.gateway.port) as client:
                for _ in range(3):
                    client.ask("/allow")

        with ThreadPoolExecutor(12 * self.gateway.workers) as pool:
            list(pool.map(ask, range(12 * self.gateway.workers)))
        self.relay.delay = 0.0
        until(self.exact, "an exact limit")

    def deliver(self) -> requests.Response:
        """Send a webhook nobody has sent before."""
        body = json.dumps({"delivery": next(_cases)}).encode()
        return self.gateway.request("POST", "/webhook", data=body, headers=github(SECRET, body))

    @contextlib.contextmanager
    def clients(self) -> Iterator[list[RawClient]]:
        """One connection to each worker."""
        found: dict[str, RawClient] = {}
        spare: list[RawClient] = []
        while len(found) < self.gateway.workers:
            client = RawClient(self.gateway.port)
            worker = client.ask("/bare").get("X-Worker") or ""
            spare.append(client) if worker in found else found.setdefault(worker, client)
            assert len(spare) < 200, "one worker gets no connection"
        try:
            yield list(found.values())
        finally:
            for client in (*found.values(), *spare):
                client.sock.close()


def make_bench(
    start_gateway: Callable[..., GatewayProcess], server: RedisServer, upstream: str, folder: Path, *, workers: int = 2
) -> Bench:
    """Start a gateway whose way to Redis is a relay."""
    relay = Relay(folder / "relay.sock", server.path)
    site = folder / "site"
    site.mkdir()
    text = publish(server, document(upstream))
    gateway = start_gateway(GWPROXY_REDIS_URL=relay.url, PYTHONPATH=install(site), workers=workers).ready()
    bench = Bench(gateway, server, relay, upstream)
    bench.settled(hashlib.sha256(text.encode()).hexdigest())
    until(lambda: bench.subscribers() == gateway.workers, "every worker to listen")
    return bench


def bench_fixture(*, workers: int = 2) -> Callable[..., Iterator[Bench]]:
    """Return a fixture of a module: what :func:`make_bench` starts, for all its tests."""

    @pytest.fixture(scope="module")
    def bench(
        start_gateway: Callable[..., GatewayProcess],
        redis_server: RedisServer,
        service: ScriptedService,
        tmp_path_factory: pytest.TempPathFactory,
    ) -> Iterator[Bench]:
        bench = make_bench(start_gateway, redis_server, service.url, tmp_path_factory.mktemp("bench"), workers=workers)
        yield bench
        bench.relay.close()

    return bench


def waited(answer: Answer) -> float:
    """Return how many milliseconds plugins took for a request, by the worker's own clock."""
    return float(answer.get("X-Waited") or "nan")


def p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20)[-1]


class Stream:
    """Asks /plain and :data:`CONTROL` in turn without pause, a pair of connections to each worker, and keeps how long each took.

    :ivar failures: whatever was not answered by 200.
    """

    def __init__(self, bench: Bench) -> None:
        self.plain: list[float] = []
        self.control: list[float] = []
        self.failures: list[str] = []
        self._bench = bench
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def more(self, count: int = 100) -> None:
        """Wait for so many further answers of /plain."""
        enough = len(self.plain) + count
        until(lambda: len(self.plain) >= enough or self.failures, f"{count} answers")

    def taken(self) -> tuple[list[float], list[float]]:
        """Return the times of /plain and of the control since this was last called."""
        plain, self.plain = self.plain, []
        control, self.control = self.control, []
        return plain, control

    def _run(self) -> None:
        with self._bench.clients() as clients:
            for client in itertools.cycle(clients):
                if self._stop.wait(0.002):
                    return
                for path, times in (("/plain", self.plain), (CONTROL, self.control)):
                    began = time.monotonic()
                    try:
                        status = client.ask(path).status
                    except (OSError, EOFError) as error:
                        self.failures.append(repr(error))
                        return
                    times.append(time.monotonic() - began)
                    if status != 200:
                        self.failures.append(f"{path} {status}")
