"""No cross-talk: does every client get its own bytes, whatever the others do? ``python -m tests.e2e.crosstalk --seconds 600``.

Starts a Redis, an upstream service (nonce_service.py) and the gateway with real gunicorn workers, and lets 200 clients
(nonce_clients.py) at it: keep-alive and pipelined, with bodies from nothing to 4 MiB, sized and chunked, slow readers, clients
that leave in the middle or reset, a Redis that stalls, an upstream that resets, cuts off and vanishes, retries, plugins that
read whole bodies, users who take turns on a connection, and rate limits whose every count is known. Prints what was done as
JSON, and one line for each wrong byte; exits 1 if there was one.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt

from tests.e2e.conftest import GatewayProcess, Process, RedisServer, publish, until
from tests.e2e.nonce_clients import LIMIT, Client, Mix, Report
from tests.e2e.strangers import install
from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
SECRET = "a secret of the cross-talk run, long enough"
STALL_MS = 130  # a request waits 100
ROUTES = ("bare", "limited", "user", "both", "retried", "read")


class NonceServiceProcess(Process):
    """nonce_service.py in a process."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        super().__init__([sys.executable, "-m", "tests.e2e.nonce_service", str(self.port)], folder / "service.log", cwd=ROOT)
        self.url = f"http://127.0.0.1:{self.port}"
        until(lambda: "ready" in self.output(), "the nonce service")

    def violations(self) -> list[str]:
        return [f"upstream: {line}" for line in self.output().splitlines() if line != "ready"]


def document(service: NonceServiceProcess) -> dict[str, Any]:
    """The routes of :data:`ROUTES`, one for each thing that could mix clients up."""
    login = {"name": "jwt_auth", "config": {"secret": SECRET}}

    def limit(key: str) -> dict[str, Any]:
        return {"name": "rate_limit", "config": {"limit": LIMIT, "window_seconds": 86_400, "key": key, "on_store_error": "deny"}}

    plugins: dict[str, list[Any]] = {
        "bare": [],
        "limited": [limit("header:X-Client")],
        "user": [login],
        "both": [login, limit("user")],
        "retried": [],
        "read": [{"name": "stranger_reader", "config": {"request": True, "response": True}}],
    }
    retries = {"attempts": 3, "on": ["connect", "reset"], "methods": ["GET"]}
    targets = [{"url": service.url}, {"url": service.url.replace("127.0.0.1", "localhost")}]
    return {
        "upstreams": {"twice": {"targets": targets, "retries": retries}},
        "routes": [
            {"path": f"/{name}", "upstream": "twice" if name == "retried" else service.url, "plugins": listed, "max_buffer": "2MiB"}
            for name, listed in plugins.items()
        ],
    }


def tokens(clients: int) -> dict[str, str]:
    """Two users a client, by name; and the bad token of "", which belongs to nobody."""
    expires = int(time.time()) + 7 * 86_400
    names = [f"{number:04d}-{letter}" for number in range(clients) for letter in "ab"]
    good = {name: jwt.encode({"sub": name, "exp": expires}, SECRET, algorithm="HS256") for name in names}
    return {**good, "": jwt.encode({"sub": names[0], "exp": expires}, SECRET[::-1], algorithm="HS256")}


@contextlib.contextmanager
def started(folder: Path, workers: int) -> Iterator[tuple[GatewayProcess, NonceServiceProcess, RedisServer]]:
    """The gateway before its service, until the end of the context."""
    server, service = RedisServer(folder), NonceServiceProcess(folder)
    publish(server, document(service))
    gateway = GatewayProcess(folder, {"GWPROXY_REDIS_URL": server.url, "PYTHONPATH": install(folder)}, workers=workers)
    try:
        yield gateway.ready(), service, server
        gateway.process.stop()
    finally:
        if gateway.process.child.poll() is None:
            gateway.process.child.kill()
        service.stop()
        server.stop()


async def play(port: int, seconds: float, clients: int, seed: int, mix: Mix, server: RedisServer) -> Report:
    """Let the clients at the gateway."""
    report, known = Report(), tokens(clients)
    ends = time.monotonic() + seconds
    playing = [Client(number, port, known, report, mix, seed, ROUTES) for number in range(clients)]
    stalling = asyncio.ensure_future(stall(server, report))
    await asyncio.gather(*(client.run(ends) for client in playing))
    stalling.cancel()
    return report


async def stall(server: RedisServer, report: Report) -> None:
    """Let Redis answer a little later than any request waits for it, now and then: its replies come when others ask."""
    with server.client() as client:
        while True:
            await asyncio.sleep(2)
            client.execute_command("CLIENT", "PAUSE", STALL_MS, "ALL")
            report.done["stalls of Redis"] += 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options = parser.parse_args(argv)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="gwproxy-crosstalk-") as name:
        with started(Path(name), options.workers) as (gateway, service, server):
            report = asyncio.run(play(gateway.port, options.seconds, options.clients, options.seed, Mix(), server))
            report.violations += service.violations()
        print(json.dumps({"seed": options.seed, "done": dict(sorted(report.done.items())), "odd": dict(report.odd)}, indent=1))
        for line in report.violations:
            print("VIOLATION", line, file=sys.stderr)
        if report.violations:
            print(gateway.output()[-3000:], file=sys.stderr)
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
