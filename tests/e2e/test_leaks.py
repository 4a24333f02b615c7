"""A real worker after many requests, many changes and a flood: nothing of them is left."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.soak_samples import Sample, Sampler, children
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.crosstalk import NonceServiceProcess, document, tokens

pytestmark = pytest.mark.e2e

WARM, REQUESTS = 20_000, 100_000
CONNECTIONS, BATCH = 8, 50
USERS = 50
ROUTES = ("absent", "bare", "absent", "limited", "absent", "bare", "absent", "user", "absent", "bare", "absent", "both", "absent", "bare")
ROUTES += ("absent", "retried")
RELOADS = 100
REFUSED = 3_000
MIB = 1 << 20


class Bench:
    """One worker before the nonce service, and what its probe says."""

    def __init__(self, folder: Path, server: RedisServer, strangers: str, start: Callable[..., GatewayProcess]) -> None:
        self.server = server
        self.service = NonceServiceProcess(folder)
        self.document = document(self.service)
        publish(server, self.document)
        env = {"GW_PROBE_FOLDER": str(folder), "GW_PROBE_SECONDS": "0.5", "PYTHONPATH": strangers}
        self.gateway = start(workers=1, GWPROXY_REDIS_URL=server.url, **env).ready()
        (self.pid,) = children(self.gateway.process.child.pid)
        self._tokens = list(tokens(USERS).values())  # made once: a worker remembers those that it has verified
        self._sampler = Sampler(self.gateway.port, {self.service.port}, folder)

    def at_rest(self) -> Sample:
        """What is left when no client is connected, as a probe saw it that began after that."""
        until(lambda: self._look().clients == 0, "no client")
        since = time.time()
        until(lambda: self._sampler.probed_at(self.pid) > since + 1, "a fresh probe")
        return self._look()

    def _look(self) -> Sample:
        (sample,) = self._sampler.look(time.monotonic(), [self.pid])
        return sample

    def ask(self, numbers: range) -> None:
        """Send these requests, pipelined on several connections, and read their answers."""
        shares = [requests(numbers[start::CONNECTIONS], self._tokens) for start in range(CONNECTIONS)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(self._ask, shares))

    def _ask(self, asked: Iterator[bytes]) -> None:
        with socket.create_connection(("127.0.0.1", self.gateway.port), 30) as sock:
            while batch := list(itertools.islice(asked, BATCH)):
                sock.sendall(b"".join(batch))
                heads, tail = 0, b""
                while heads < len(batch):
                    data = sock.recv(1 << 20)
                    assert data, "the gateway ended the connection"
                    heads += (tail + data).count(b"\r\n\r\n")  # no body here holds one
                    tail = data[-3:]

    def change(self, document: dict[str, Any]) -> None:
        publish(self.server, document)
        self.server.client().publish("gw:reload", "changed")

    def serves(self, path: str, status: int, **headers: str) -> None:
        """Wait until it does."""
        until(lambda: self.gateway.get(path, headers=headers).status_code == status, f"{path} to be {status}")

    def heartbeat(self) -> dict[str, str]:
        (beat,) = self.gateway.heartbeats(self.server.client())
        return beat


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, strangers: str, start_gateway: Callable[..., GatewayProcess]
) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("leaks"), redis_server, strangers, start_gateway)
    yield bench
    bench.service.stop()


def requests(numbers: range, tokens: Sequence[str]) -> Iterator[bytes]:
    """Requests of which no two are alike in anything that could be kept: path, host, names and values of headers, caller."""
    for number in numbers:
        route = ROUTES[number // CONNECTIONS % len(ROUTES)]
        nonce = f"{number:016d}"
        lines = [f"GET /{route}/{nonce}?size={number % 64} HTTP/1.1", f"Host: h{number}.example", f"X-Nonce: {nonce}"]
        lines += [f"X-Client: c{number}", f"X-N{number}: {number}", f"Cookie: c{number}={number}", f"User-Agent: a/{number}"]
        if route in ("user", "both"):
            lines.append(f"Authorization: Bearer {tokens[number // 64 % len(tokens)]}")
        yield "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.timeout(600)
def test_S01_S02_S03_a_hundred_thousand_requests_leave_nothing(bench: Bench) -> None:
    bench.ask(range(WARM))
    before = bench.at_rest()
    bench.ask(range(WARM, WARM + REQUESTS))
    after = bench.at_rest()
    names = ("rss", "objects", "blocks", "greenlets", "files")
    grown: dict[str, Any] = {name: getattr(after, name) - getattr(before, name) for name in names}
    print(f"{REQUESTS} requests: {grown}")
    # A leak of one object a request would be 100,000 of them (6,250 if only one route does it), one of 100 bytes 10 MiB.
    assert grown["objects"] < REQUESTS // 200
    assert grown["blocks"] < REQUESTS // 12  # some 5,000 are seen, and less than twice as many of 200,000 requests
    assert grown["rss"] < 2 * MIB
    assert grown["greenlets"] <= 1
    assert grown["files"] <= 0
    assert after.unattached == 0


def test_S07_S11_a_hundred_reloads_of_a_worker_leave_one_snapshot(bench: Bench) -> None:
    before = bench.at_rest()
    for number in range(RELOADS):
        limit = {"name": "rate_limit", "config": {"limit": 1_000_000 + number}}
        changing = {"targets": [{"url": f"{bench.service.url}/{number}"}]}
        route = {"path": f"/changing/{number}", "upstream": "changing", "plugins": [limit]}
        bench.change({"routes": [*bench.document["routes"], route], "upstreams": {**bench.document["upstreams"], "changing": changing}})
        bench.serves(f"/changing/{number}/{number:016d}?size=7", 200, **{"X-Nonce": f"{number:016d}"})
    bench.change(bench.document)
    bench.serves(f"/changing/{RELOADS - 1}/x", 404)
    after = bench.at_rest()
    assert int(bench.heartbeat()["revision"]) > RELOADS
    assert (after.snapshots, after.configs, after.upstreams) == (1, before.configs, before.upstreams)
    assert (after.greenlets, after.files, after.unattached) == (before.greenlets, before.files, 0)
    assert after.upstream <= before.upstream + 1  # those of upstreams let go of are closed with them


def test_S09_a_flood_of_malformed_requests_is_a_trickle_in_the_log(bench: Bench) -> None:
    log = bench.gateway.process.log
    counted = _refused(bench)
    size, began = log.stat().st_size, time.monotonic()
    for number in range(REFUSED):
        with socket.create_connection(("127.0.0.1", bench.gateway.port), 30) as sock:
            sock.sendall(f"G#T /{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            assert sock.recv(12) == b"HTTP/1.1 400"
    seconds = time.monotonic() - began
    until(lambda: _refused(bench) == counted + REFUSED, "all of them counted")
    written = log.read_bytes()[size:]
    assert 1 <= written.count(b"request_refused") <= 5 * (seconds + 2)
    assert len(written) < 1024 * (seconds + 2)


def _refused(bench: Bench) -> int:
    return sum(count for name, count in json.loads(bench.heartbeat()["counters"]).items() if name.startswith("heads_refused"))
