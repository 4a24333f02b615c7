"""Hours of mixed traffic with faults, watched: ``python -m benchmarks.soak --minutes 120``.

Starts Redis, services and the gateway with two workers. Clients that check every byte (tests/e2e/nonce_clients.py) ask for
small and large answers, upload, stream, and leave in the middle now and then; others speak WebSocket, or no HTTP at all; the
configuration changes, the upstream resets, Redis restarts. Memory, descriptors, greenlets and connections are sampled; at the
end there is a table over time and a verdict for each row S01 to S11. Exits 1 if one is violated.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from benchmarks.soak_samples import Sample, Sampler, StoreSample, as_dicts, children, look_at_store
from benchmarks.soak_verdicts import MIB, Run, Verdict, judge
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.crosstalk import ROUTES, NonceServiceProcess, document, tokens
from tests.e2e.nonce_clients import Client, Mix, Report
from tests.e2e.strangers import install
from tests.e2e.tunnels import WebSocketService, tunnelled

WORKERS = 2
MALFORMED = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"G#T / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /%0d%0a HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


class Soak:
    """One run: what is started, what is played, what is seen.

    :param every: seconds between two samples.
    """

    def __init__(self, folder: Path, seconds: float, clients: int, seed: int, every: float) -> None:
        self.seconds, self._clients, self._every = seconds, clients, every
        self._random = random.Random(seed)
        self._seed = seed
        self.report = Report()
        self._redis, self._service, self._sockets = RedisServer(folder), NonceServiceProcess(folder), WebSocketService(folder)
        self._document = document(self._service)
        self._document["routes"].append(tunnelled("/websocket", self._sockets.url))
        publish(self._redis, self._document)
        probes = folder / "probes"
        probes.mkdir()
        env = {"GW_PROBE_FOLDER": str(probes), "GW_PROBE_SECONDS": str(every)}
        env |= {"GWPROXY_REDIS_URL": self._redis.url, "PYTHONPATH": install(folder)}
        self._gateway = GatewayProcess(folder, env, workers=WORKERS).ready()
        self._sampler = Sampler(self._gateway.port, {self._service.port, self._sockets.port}, probes)
        self._ends = self._began = time.monotonic()
        self.samples: list[Sample] = []
        self.store: list[StoreSample] = []

    def run(self) -> Run:
        """Play and watch until the end.

        :raises AssertionError: a worker died.
        """
        pids = children(self._gateway.process.child.pid)
        baseline = self._at_rest(pids)
        self._began = time.monotonic()
        self._ends = self._began + self.seconds
        asyncio.run(self._play())
        self.report.violations += self._service.violations()
        final = self._at_rest(pids)
        assert children(self._gateway.process.child.pid) == pids, f"a worker died: {self._gateway.output()[-3000:]}"
        done = self.report.done
        done["requests"] = sum(count for name, count in done.items() if name.isdecimal())
        done["aborts"] = sum(count for name, count in done.items() if name.startswith("aborts while"))
        latencies = [(at - self._began, took) for at, took in self.report.latencies]
        return Run(self.seconds, baseline, final, self.samples, self.store, dict(done), self.report.violations, latencies)

    def stop(self) -> None:
        """Stop all that was started."""
        for process in (self._gateway.process, self._service, self._sockets):
            process.stop()
        self._redis.stop()

    def _at_rest(self, pids: list[int]) -> dict[int, Sample]:
        """Wait a minute until no client is connected and no change under way, and for the probes to look; return what they saw."""
        found: dict[int, Sample] = {}

        def still() -> bool:
            found.update({sample.pid: sample for sample in self._sampler.look(self._elapsed(), pids)})
            return all(sample.clients == 0 and sample.snapshots == 1 for sample in found.values())

        with contextlib.suppress(AssertionError):  # what does not come to rest is judged as it is
            until(still, "workers at rest", within=60 + 2 * self._every)
        seen = time.time()
        until(lambda: all(self._sampler.probed_at(pid) > seen + 1 for pid in pids), "fresh probes", within=30 + 3 * self._every)
        found.update({sample.pid: sample for sample in self._sampler.look(self._elapsed(), pids)})
        return found

    # ---- what is played

    async def _play(self) -> None:
        known, mix = tokens(self._clients), Mix(faults=0.02, aborts=0.01, slow=0.02, pipelines=0.05, pause=0.1, limits=False)
        clients = [Client(n, self._gateway.port, known, self.report, mix, self._seed, ROUTES) for n in range(self._clients)]
        repeated: list[tuple[Callable[[], Coroutine[Any, Any, None]], float]] = [
            (self._talk, 0.5),
            (self._babble, 0.1),
            (self._change, 2.0),
            (self._restart_redis, max(20.0, min(120.0, self.seconds / 8))),
            (self._sample, self._every),
        ]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run(self._ends))
            for play, every in repeated:
                group.create_task(self._repeat(play, every))

    async def _repeat(self, play: Callable[[], Coroutine[Any, Any, None]], every: float) -> None:
        while (left := self._ends - time.monotonic()) > 0:
            await asyncio.sleep(min(left, every))
            await play()

    async def _talk(self) -> None:
        """Speak WebSocket for a while; one in five leaves without a word."""
        with contextlib.suppress(WebSocketException, OSError, TimeoutError):
            client = await connect(f"ws://127.0.0.1:{self._gateway.port}/websocket", proxy=None, open_timeout=10)
            for number in range(self._random.randint(1, 10)):
                message = f"{number} " * self._random.randint(1, 2000)
                await client.send(message)
                if await asyncio.wait_for(client.recv(), 10) != message:
                    self.report.violations.append("a message came back changed")
            self.report.done["websockets"] += 1
            if self._random.random() < 0.2:
                client.transport.abort()
            else:
                await client.close()

    async def _babble(self) -> None:
        """Send what is no HTTP; the answer, if any, is a refusal."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._gateway.port)
        with contextlib.suppress(ConnectionError):
            writer.write(self._random.choice(MALFORMED))
            answer = await asyncio.wait_for(reader.read(12), 30)
            if not answer.startswith(b"HTTP/1.1 4"):
                self.report.violations.append(f"what is no request was answered {answer!r}")
        self.report.done["malformed"] += 1
        writer.close()

    async def _change(self) -> None:
        """Publish a configuration with a route, a plugin and an upstream that were never there before."""
        number = self.report.done["configurations"] = self.report.done["configurations"] + 1
        limit = {"name": "rate_limit", "config": {"limit": number}}
        more = {"path": f"/changing/{number}", "upstream": "changing", "plugins": [limit]}
        target = {"url": self._service.url + f"/{number}"}
        changed = {
            "routes": [*self._document["routes"], more],
            "upstreams": {**self._document["upstreams"], "changing": {"targets": [target]}},
        }
        with contextlib.suppress(redis.RedisError):
            publish(self._redis, changed if self._ends - time.monotonic() > 3 else self._document)

    async def _restart_redis(self) -> None:
        """Stop Redis, start an empty one a second later."""
        if self._ends - time.monotonic() < 10:
            return
        self.report.done["restarts of Redis"] += 1
        await asyncio.to_thread(self._redis.stop)
        await asyncio.sleep(1)
        await asyncio.to_thread(self._redis.start)

    # ---- what is seen

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def _sample(self) -> None:
        await asyncio.to_thread(self._look)

    def _look(self) -> None:
        at = self._elapsed()
        self.samples += self._sampler.look(at, children(self._gateway.process.child.pid))
        with contextlib.suppress(redis.RedisError), self._redis.client() as client:
            self.store.append(look_at_store(at, client, self._gateway.process.log))


def show(run: Run, verdicts: list[Verdict]) -> None:
    """Print a table over time, at most 30 rows a worker, and the verdicts."""
    names = ("s", "pid", "RSS MiB", "fds", "clients", "upstream", "CLOSE_WAIT s", "greenlets", "objects")
    print(" ".join(f"{name:>{len(name) + 3}}" for name in names))
    step = max(1, len(run.samples) // (30 * WORKERS))
    for index, one in enumerate(run.samples):
        if index // WORKERS % step == 0:
            row = (f"{one.at:.0f}", one.pid, f"{one.rss / MIB:.1f}", one.descriptors, one.clients, one.upstream, f"{one.close_wait:.0f}")
            cells = zip(names, (*row, one.greenlets or "-", one.objects or "-"), strict=True)
            print(" ".join(f"{cell:>{len(name) + 3}}" for name, cell in cells))
    print()
    for verdict in verdicts:
        print(f"{verdict.row} {verdict.result:<10} {verdict.what}: {verdict.reason}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--every", type=float, help="seconds between two samples (default: 60 samples a run, 5 s at least)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write samples and verdicts there")
    options = parser.parse_args(argv)
    seconds = options.minutes * 60
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="gwproxy-soak-") as name:
        soak = Soak(Path(name), seconds, options.clients, options.seed, options.every or max(5.0, seconds / 60))
        try:
            run = soak.run()
        finally:
            soak.stop()
    verdicts = judge(run)
    show(run, verdicts)
    for line in run.violations:
        print("VIOLATION", line, file=sys.stderr)
    if options.json:
        found = {"seed": options.seed, "done": run.done, "verdicts": [asdict(verdict) for verdict in verdicts]}
        found |= {"samples": as_dicts(run.samples), "store": as_dicts(run.store)}
        options.json.write_text(json.dumps(found, indent=1))
    return 1 if any(verdict.result == "VIOLATED" for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
