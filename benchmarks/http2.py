"""Whether streams of one HTTP/2 connection wait for each other: ``python benchmarks/http2.py``.

A client opens one connection, asks for something that takes half a second, and at the same time, on ten further streams, for something that
takes none. In gunicorn's own workers, and through HAProxy, which speaks HTTP/2 to clients and HTTP/1.1 to gwproxy.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import trustme
from harness import machine
from harness.bench import HERE, TREE
from harness.process import Child, Failed, free_port, until

QUICK = 10  # streams beside the slow one
MARKS = ("<!-- http2 -->", "<!-- end of http2 -->")
_HAPROXY = """
global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend clients
    bind 127.0.0.1:{port} ssl crt {certificate} alpn h2,http/1.1
    default_backend gateway
backend gateway
    option forwardfor
    server gateway 127.0.0.1:{gateway}
"""


@dataclass(frozen=True, slots=True)
class Streams:
    """Milliseconds from the request until the end of the answer: of the slow stream, and of the quick ones, in order."""

    slow: float
    quick: list[float]

    @property
    def waiting(self) -> bool:
        """Whether quick streams waited for the slow one."""
        return statistics.median(self.quick) > self.slow / 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="connections to each (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all numbers go")
    parser.add_argument("--keep", action="store_true", help="write the table to results/http2.json and README.md")
    asked = parser.parse_args()
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian keeps servers
    try:
        with ground() as (folder, certificate):
            found = {name: measured(folder, certificate, name, asked.rounds) for name in SERVERS}
    except Failed as failed:
        print(f"Error: {failed}", file=sys.stderr)
        return 1
    text = report(found)
    print(text)
    numbers = json.dumps({"machine": machine.described(), "runs": {name: [asdict(run) for run in runs] for name, runs in found.items()}})
    if asked.json:
        asked.json.write_text(numbers + "\n")
    if asked.keep:
        (HERE / "results" / "http2.json").write_text(numbers + "\n")
        readme = HERE / "README.md"
        before, _, rest = readme.read_text().partition(MARKS[0])
        readme.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    return 0


@contextmanager
def ground() -> Iterator[tuple[Path, Path]]:
    """Give a folder, and a certificate for ``localhost`` in it."""
    folder = Path(tempfile.mkdtemp(prefix="gwproxy-bench-"))
    try:
        certificate = folder / "localhost.pem"
        trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        yield folder, certificate
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def gunicorn(worker: str) -> Sequence[str]:
    options = {"gevent": ["-k", "gevent"], "gthread": ["-k", "gthread", "--threads", "16"]}[worker]
    return [sys.executable, "-m", "gunicorn", *options, "-w", "1", "--log-level", "warning", "--no-control-socket"]


def start(stack: ExitStack, folder: Path, command: Sequence[str], port: int, **env: str) -> None:
    env = {"PYTHONPATH": os.pathsep.join([str(HERE / "gateways"), str(TREE)]), "GWPROXY_STATE_DIR": str(folder / "state"), **env}
    log = folder / f"{port}.log"
    stack.enter_context(Child([*command], log, os.sched_getaffinity(0), env, folder)).listening(port)


def own(worker: str, stack: ExitStack, folder: Path, certificate: Path, port: int) -> None:
    """Start the service with gunicorn's own HTTP/2 in front."""
    tls = ["--certfile", str(certificate), "--keyfile", str(certificate), "--http-protocols", "h2,h1"]
    start(stack, folder, [*gunicorn(worker), *tls, "-b", f"127.0.0.1:{port}", "waiting:application"], port)


def behind_haproxy(stack: ExitStack, folder: Path, certificate: Path, port: int) -> None:
    """Start the service, gwproxy before it, and HAProxy before that."""
    service, gateway = free_port(), free_port()
    start(stack, folder, [*gunicorn("gevent"), "-b", f"127.0.0.1:{service}", "waiting:application"], service)
    routes = folder / "gateway.json"
    routes.write_text(json.dumps([{"path": "/", "upstream": f"http://127.0.0.1:{service}"}]))
    argv = ["-m", "gunicorn", "-c", str(TREE / "gunicorn.conf.py"), "-w", "1", "-b", f"127.0.0.1:{gateway}", "gwproxy.wsgi:application"]
    settings = {"GWPROXY_CONFIG": str(routes), "GWPROXY_TRUSTED_PROXIES": "127.0.0.1/32", "GWPROXY_LOG_LEVEL": "warning"}
    start(stack, folder, [sys.executable, *argv], gateway, GWPROXY_REDIS_URL="", **settings)
    config = folder / "haproxy.cfg"
    config.write_text(_HAPROXY.format(port=port, certificate=certificate, gateway=gateway))
    start(stack, folder, ["haproxy", "-db", "-f", str(config)], port)


SERVERS = {
    "gunicorn, gevent worker": lambda *ground: own("gevent", *ground),
    "gunicorn, gthread worker": lambda *ground: own("gthread", *ground),
    "HAProxy before gwproxy": behind_haproxy,
}


def measured(folder: Path, certificate: Path, name: str, rounds: int) -> list[Streams]:
    with ExitStack() as stack:
        port = free_port()
        SERVERS[name](stack, folder, certificate, port)
        until(lambda: streams(port, 0).slow > 0, f"{name} to serve")
        return [streams(port, QUICK) for _ in range(rounds)]


def streams(port: int, quick: int) -> Streams:
    """Ask for ``/slow`` and so many quick ones on one connection.

    :raises Failed: the server does not speak HTTP/2, or an answer is not 200.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", port), 10)
    with context.wrap_socket(plain, server_hostname="localhost") as sock:
        if sock.selected_alpn_protocol() != "h2":
            raise Failed("no HTTP/2")
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        connection.initiate_connection()
        asked = {}
        for path in ["/slow", *["/quick"] * quick]:
            stream = connection.get_next_available_stream_id()
            fields = [(":method", "GET"), (":scheme", "https"), (":authority", f"localhost:{port}"), (":path", path)]
            connection.send_headers(stream, fields, end_stream=True)
            asked[stream] = time.monotonic()
        sock.sendall(connection.data_to_send())
        took = dict(_ended(connection, sock, asked))
    slow, *others = (took[stream] for stream in asked)
    return Streams(slow, others)


def _ended(connection: h2.connection.H2Connection, sock: ssl.SSLSocket, asked: dict[int, float]) -> Iterator[tuple[int, float]]:
    """Yield each stream as it ends, with the milliseconds since it was asked for."""
    left = set(asked)
    while left:
        data = sock.recv(1 << 16)
        if not data:
            raise Failed("the connection was closed")
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived) and (":status", "200") not in event.headers:
                raise Failed(f"an answer was {event.headers}")
            if isinstance(event, h2.events.StreamEnded):
                left.discard(event.stream_id)
                yield event.stream_id, (time.monotonic() - asked[event.stream_id]) * 1000
        sock.sendall(connection.data_to_send())


def report(found: dict[str, list[Streams]]) -> str:
    """Return the table in Markdown."""
    lines = [
        f"{QUICK} quick streams and one that takes 500 ms, sent together; medians of {len(next(iter(found.values())))} connections.",
        "",
        "| | the slow stream | first quick one | last quick one | quick ones wait |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, runs in found.items():
        slow, first, last = (statistics.median(each) for each in zip(*((r.slow, min(r.quick), max(r.quick)) for r in runs), strict=True))
        waiting = "yes" if sum(run.waiting for run in runs) * 2 > len(runs) else "no"
        lines.append(f"| {name} | {slow:.0f} ms | {first:.0f} ms | {last:.0f} ms | {waiting} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
