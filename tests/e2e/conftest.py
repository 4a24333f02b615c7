"""The real thing: gunicorn workers, a Redis, services, each a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
import requests

from tests.e2e.scripted import ScriptedService
from tests.e2e.strangers import install
from tests.ports import free_port

HERE = Path(__file__).parent

#: What requests go through: the parser and the transport that the tests as a whole run with, and those of other people.
PATHS: dict[str, dict[str, str]] = {
    "default": {},
    "python-requests": {"GWPROXY_HTTP_PARSER": "python", "GWPROXY_TRANSPORT": "requests"},
}
#: The variables that choose between them, and what a worker with the other one says when it starts.
SLOWER = {"GWPROXY_HTTP_PARSER": "slower_parser http_parser=python", "GWPROXY_TRANSPORT": "slower_transport transport=requests"}


def until(condition: Callable[[], object], what: str, within: float = 20.0) -> object:
    """Wait for a condition; its last falsy answer or error is shown if it never comes."""
    deadline = time.monotonic() + within
    answer: object = None
    while time.monotonic() < deadline:
        try:
            answer = condition()
            if answer:
                return answer
        except (OSError, requests.RequestException, redis.RedisError) as error:
            answer = error
        time.sleep(0.02)
    raise AssertionError(f"waited {within} s in vain for {what}; last: {answer!r}")


class Process:
    """A child with its output in a file, ended with the test."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self.child = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(env or {})}, cwd=cwd)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def stop(self, within: float = 40.0) -> int:
        if self.child.poll() is None:
            self.child.terminate()
        return self.ended(within)

    def ended(self, within: float = 40.0) -> int:
        """Wait for its end, which somebody has asked for; return its status."""
        try:
            return self.child.wait(within)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(f"did not stop within {within} s: {self.output()[-2000:]}") from None


class RedisServer:
    """Debian's redis-server on a unix socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder / "redis.sock")
        self.url = f"unix://{self.path}"
        self.process: Process | None = None
        self.start()

    def start(self, *options: str) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", self.path, "--save", "", "--dir", str(self.folder)]
        self.process = Process([*command, *options], self.folder / "redis.log")
        until(lambda: self.client().ping(), "redis-server")

    def stop(self) -> None:
        assert self.process is not None
        self.process.stop()

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.path, socket_timeout=5, decode_responses=True)


class GatewayProcess:
    """gwproxy under gunicorn, as in production."""

    def __init__(self, folder: Path, env: dict[str, str], *, workers: int = 2, conf: Path | None = None, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {"GWPROXY_STATE_DIR": str(folder / "state"), **env}
        conf = conf or HERE.parent.parent / "gunicorn.conf.py"
        bind, count = f"127.0.0.1:{self.port}", str(workers)
        command = [sys.executable, "-m", "gunicorn", "-c", str(conf), "-b", bind, "-w", count, "gwproxy.wsgi:application"]
        self.process = Process(command, folder / f"gateway-{self.port}.log", env=self.env, cwd=folder)
        self.workers = workers

    def ready(self) -> GatewayProcess:
        until(lambda: self.process.child.poll() is not None or self.get("/.well-known/gwproxy/ready").status_code == 200, "a ready worker")
        assert self.process.child.poll() is None, self.process.output()
        until(lambda: len(self.worker_pids()) == self.workers, "all workers")  # the first is ready before the last is forked
        chosen = {name for name in SLOWER if {**os.environ, **self.env}.get(name) in ("python", "requests")}
        assert {name for name, said in SLOWER.items() if said in self.output()} == chosen  # else a run with the others proves nothing
        return self

    def worker_pids(self) -> list[int]:
        master = self.process.child.pid
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def get(self, path: str, **kwargs: object) -> requests.Response:
        return self.request("GET", path, **kwargs)

    def request(self, method: str, path: str, **kwargs: object) -> requests.Response:
        kwargs.setdefault("timeout", 20)
        kwargs.setdefault("allow_redirects", False)
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, **kwargs)  # type: ignore[arg-type]

    def heartbeats(self, client: redis.Redis, prefix: str = "gw:") -> list[dict[str, str]]:
        beats = [client.hgetall(key) for key in client.scan_iter(f"{prefix}worker:*")]
        return [beat for beat in beats if beat]  # type: ignore[misc]  # one may have left between the two commands

    def output(self) -> str:
        return self.process.output()

    def hup(self) -> None:
        self.process.signal(signal.SIGHUP)


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that answers with what it saw (echo_service.py)."""
    folder = tmp_path_factory.mktemp("echo")
    port = free_port()
    process = Process([sys.executable, str(HERE / "echo_service.py"), str(port)], folder / "echo.log")
    url = f"http://127.0.0.1:{port}"
    until(lambda: requests.get(url, timeout=5).status_code == 200, "the echo service")
    yield url
    process.stop()


@pytest.fixture(scope="module")
def service() -> Iterator[ScriptedService]:
    """A service under the test's control."""
    service = ScriptedService()
    yield service
    service.close()


@pytest.fixture(scope="module", params=PATHS)
def path(request: pytest.FixtureRequest) -> dict[str, str]:
    """Each of :data:`PATHS`, as variables for a gateway; the tests of a file that asks for it run with both."""
    return PATHS[request.param]


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ``PYTHONPATH`` with the plugins of strangers.py in it."""
    return install(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., GatewayProcess]]:
    """Start gateways that are stopped with the module."""
    started: list[GatewayProcess] = []

    def start(
        folder: Path | None = None, *, workers: int = 2, conf: Path | None = None, port: int | None = None, **env: str
    ) -> GatewayProcess:
        gateway = GatewayProcess(folder or tmp_path_factory.mktemp("gateway"), env, workers=workers, conf=conf, port=port)
        started.append(gateway)
        return gateway

    yield start
    running = [gateway.process for gateway in started if gateway.process.child.poll() is None]
    for process in running:  # all at once: each takes a third of a second, most of it waiting
        process.child.terminate()
    for process in running:
        process.ended()


def publish(server: RedisServer, document: object, prefix: str = "gw:") -> str:
    """SET the routes as any client would; return the text."""
    text = json.dumps(document)
    server.client().set(f"{prefix}routes", text)
    return text
