"""A real Redis for tests, on a unix socket, to be killed, frozen and restarted."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from gwproxy.store.connection import connect

# How long an example takes is the machine's affair: a collection of garbage beside other processes was a failure now and then.
hypothesis.settings.register_profile("gwproxy", deadline=None)
hypothesis.settings.load_profile("gwproxy")

#: Files that take longest, with their folders. Begun last, one of them would keep one process busy when the others have nothing left to do.
LONG = (
    "e2e/test_leaks.py",
    "e2e/test_compiled.py",
    "e2e/test_soak.py",
    "wire/test_requests.py",
    "e2e/test_guarantees.py",
    "e2e/test_changing_configuration.py",
    "e2e/test_rollouts.py",
    "e2e/test_write_a_plugin.py",
    "e2e/test_faults.py",
    "e2e/test_run.py",
    "e2e/test_benchmarks.py",
    "wire/test_fuzz.py",
    "e2e/test_redis_faults.py",
    "e2e/test_autobahn.py",
    "controlplane/test_reloads.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the files, begin with :data:`LONG`, then what starts processes; short files fill the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=_turn)  # stable: the tests of a file stay together, in their order


def _turn(item: pytest.Item) -> tuple[int, bool]:
    file = f"{item.path.parent.name}/{item.path.name}"
    return LONG.index(file) if file in LONG else len(LONG), item.get_closest_marker("e2e") is None


class Server:
    """One redis-server; what it holds survives ``kill`` and ``start`` only if it was told to save."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs: two of one socket would both answer, each its own clients."""
        if self.process is not None and self.process.poll() is None:
            until(self.answers)
            return
        defaults = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self.folder), "--loglevel", "warning"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["redis-server", *defaults, *self.options], stdout=log, stderr=log)
        until(self.answers)

    def answers(self) -> bool:
        """Whether it answers, and no other that was at its socket before."""
        client = connect(self.url, timeout=1.0)
        with contextlib.suppress(redis.RedisError), contextlib.closing(client):
            return self.process is not None and int(client.info("server")["process_id"]) == self.process.pid
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the process without closing its sockets: it neither answers nor refuses."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Wait until ``condition`` is true; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Server]:
    assert shutil.which("redis-server"), "these tests need redis-server"
    with tempfile.TemporaryDirectory(prefix="gws-") as folder:
        server = Server(Path(folder))
        server.start()
        yield server
        server.kill()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A running, empty server; a test may kill or freeze it, the next one gets it running."""
    if shared_server.process is None or shared_server.process.poll() is not None or not shared_server.answers():
        shared_server.kill()
        shared_server.start()
    with contextlib.closing(connect(shared_server.url, timeout=5.0)) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
    return shared_server


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """A client without the bounds of the request path: a busy machine must not fail a test."""
    client = connect(server.url, timeout=5.0)
    yield client
    client.close()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return until
