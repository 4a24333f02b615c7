"""Real gunicorn masters with our worker, and clients that speak raw bytes."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.ports import free_port

HERE = Path(__file__).parent
CONF = HERE.parent.parent / "gunicorn.conf.py"


def wait_until(condition, seconds=10.0):
    """Return what ``condition()`` answers once it is true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return answer


@dataclass
class Reply:
    status: int
    line: str
    headers: list[tuple[str, str]]
    body: bytes
    complete: bool = True

    def __getitem__(self, name):
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) == 1, (name, self.headers)
        return values[0]

    def has(self, name):
        return any(key.lower() == name.lower() for key, _ in self.headers)


class Client:
    """One connection; what it receives is kept until it is read."""

    def __init__(self, port, *, context=None, receive_buffer=None):
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(10)
        self.sock.connect(("127.0.0.1", port))
        if context is not None:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        self.data = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)
        return self

    def more(self):
        """Receive once; False at the end of the connection, orderly or not."""
        try:
            data = self.sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            data = b""
        self.data += data
        return bool(data)

    def until(self, mark):
        while mark not in self.data:
            assert self.more(), self.data
        found, _, self.data = self.data.partition(mark)
        return found + mark

    def closed(self):
        """Wait for the end of the connection; return whether nothing came before it."""
        while self.more():
            pass
        return self.data == b""

    def head(self):
        line, *fields = self.until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
        headers = [tuple(part.split(": ", 1)) for part in fields]
        return Reply(int(line.split()[1]), line, headers, b"")

    def reply(self, method="GET"):
        """Read one response."""
        reply = self.head()
        if method == "HEAD" or reply.status in (204, 304) or reply.status < 200:
            return reply
        if reply.has("Transfer-Encoding"):
            reply.complete = self._read_chunks(reply)
        elif reply.has("Content-Length"):
            length = int(reply["Content-Length"])
            while len(self.data) < length and self.more():
                pass
            reply.body, self.data = self.data[:length], self.data[length:]
            reply.complete = len(reply.body) == length
        else:
            while self.more():
                pass
            reply.body, self.data = self.data, b""
        return reply

    def _read_chunks(self, reply):
        while True:
            while b"\r\n" not in self.data:
                if not self.more():
                    return False
            size, _, self.data = self.data.partition(b"\r\n")
            length = int(size, 16)
            while len(self.data) < length + 2:
                if not self.more():
                    return False
            reply.body += self.data[:length]
            self.data = self.data[length + 2 :]
            if length == 0:
                return True

    def get(self, target, *lines, method="GET"):
        head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *lines])
        self.send(head.encode("latin-1") + b"\r\n\r\n")
        return self.reply(method)


@dataclass
class Gunicorn:
    """A master and its workers, with the shipped configuration."""

    folder: Path
    flags: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    app: str = "probe_app:application"

    def __post_init__(self):
        self.port = free_port()
        self._log_mark = 0
        self.log_file = self.folder / "stderr.log"
        self.gate = self.folder / "gate"
        self.events_file = self.folder / "events"
        env = {
            **os.environ,
            "GWPROXY_STATE_DIR": str(self.folder),
            "PROBE_GATE": str(self.gate),
            "PROBE_EVENTS": str(self.events_file),
            **self.env,
        }
        command = [sys.executable, "-m", "gunicorn", "-c", str(CONF), "--bind", f"127.0.0.1:{self.port}"]
        command += ["--pythonpath", str(HERE), "--workers", "1", *self.flags, self.app]
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stderr=log, stdout=log, cwd=self.folder)

    def wait(self):
        """Wait until a worker has started; connections wait in the backlog until it serves."""
        wait_until(lambda: "Booting worker" in self.log())
        return self

    def client(self, **options):
        return Client(self.port, **options)

    def log(self):
        """Return what was logged since the last :meth:`reset`."""
        return self.log_file.read_text()[self._log_mark :]

    def reset(self):
        """Forget what was counted and logged, and shut the gate."""
        self.gate.unlink(missing_ok=True)
        self._log_mark = len(self.log_file.read_text())
        with self.client() as client:
            client.get("/reset")

    def events(self):
        return self.events_file.read_text().split("\n")[:-1] if self.events_file.exists() else []

    def worker_pid(self):
        with self.client() as client:
            return int(client.get("/pid").body)

    def stats(self):
        with self.client() as client:
            return json.loads(client.get("/stats").body)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def stop(self):
        if self.process.poll() is None:
            self.gate.touch()
            self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory):
    """Start gunicorns: ``gunicorn("--keep-alive", "1", GWPROXY_BODY_TIMEOUT="1")``; they stop with the module."""
    running = []

    def start(*flags, app="probe_app:application", wait=True, **env):
        running.append(Gunicorn(tmp_path_factory.mktemp("gunicorn"), list(flags), env, app))
        return running[-1].wait() if wait else running[-1]

    yield start
    for one in running:
        one.process.terminate()
        one.gate.touch()
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def gateway(gunicorn):
    """One gunicorn with one worker and the shipped settings."""
    return gunicorn()


@pytest.fixture
def counted(gateway):
    """The same, with nothing counted or logged yet."""
    gateway.reset()
    return gateway


@pytest.fixture
def client(gateway):
    """A connection to :func:`gateway`."""
    with gateway.client() as client:
        yield client


@pytest.fixture(name="wait_until")
def wait_until_fixture():
    return wait_until
