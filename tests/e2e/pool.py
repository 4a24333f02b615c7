"""Three services, each a process that can be killed, stopped and slowed, and clients that never pause meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import signal
import socket
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.conftest import HERE, Process, until
from tests.ports import free_port


class Pool:
    """Services that keep their ports."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        self.folder = folder
        self.ports = {f"service-{number}": free_port() for number in range(size)}
        self.processes: dict[str, Process] = {}
        for name in self.ports:
            self.start(name)

    @property
    def targets(self) -> list[dict[str, object]]:
        return [{"url": f"http://127.0.0.1:{port}"} for port in self.ports.values()]

    def start(self, name: str) -> None:
        command = [sys.executable, str(HERE / "pool_service.py"), str(self.ports[name]), name]
        self.processes[name] = Process(command, self.folder / f"{name}.log")
        until(lambda: socket.create_connection(("127.0.0.1", self.ports[name]), 5).close() is None, name)

    def kill(self, name: str) -> None:
        self.processes[name].signal(signal.SIGKILL)
        self.processes[name].child.wait()

    def strike(self, name: str, how: str) -> None:
        """Have ``name`` killed, stopped (it is silent, as if the network were gone) or slowed."""
        if how == "killed":
            self.kill(name)
        else:
            self.processes[name].signal({"partitioned": signal.SIGSTOP, "slowed": signal.SIGUSR1}[how])

    def heal(self, name: str, how: str) -> None:
        if how == "killed":
            self.start(name)
        else:
            self.processes[name].signal({"partitioned": signal.SIGCONT, "slowed": signal.SIGUSR1}[how])

    def posted(self) -> Counter[str]:
        """Return how often the services saw each target that was posted to, together."""
        lines = [line for process in self.processes.values() for line in process.output().splitlines()]
        return Counter(line.partition(" ")[2] for line in lines if line.startswith("service-"))

    def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.signal(signal.SIGKILL)
            process.child.wait()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it began and ended, its status (0: it was cut), who answered, what ``Retry-After`` said."""

    began: float
    ended: float
    status: int
    who: str
    retry_after: str | None


class Traffic:
    """Clients that ask for ``path`` as long as the ``with`` block lasts, each on a connection that it keeps."""

    def __init__(self, port: int, path: str, method: str = "GET", clients: int = 6) -> None:
        self.asked: list[Asked] = []
        self._over = threading.Event()
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._ask, args=(port, path, method)) for _ in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment: float) -> list[Asked]:
        """Return the requests that began after ``moment``."""
        return [one for one in self.asked if one.began >= moment]

    def goes_on(self, count: int = 200) -> list[Asked]:
        """Wait for so many further requests; return them."""
        now = time.monotonic()
        until(lambda: len(self.since(now)) >= count, f"{count} requests")
        return self.since(now)

    def _ask(self, port: int, path: str, method: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        body = b"once" if method == "POST" else None
        while not self._over.wait(0.005):
            began = time.monotonic()
            try:
                connection.request(method, f"{path}?{next(self._numbers)}", body)
                answer = connection.getresponse()
                text, status, after = answer.read().decode(), answer.status, answer.getheader("Retry-After")
            except (OSError, http.client.HTTPException) as error:
                text, status, after = repr(error), 0, None
                connection.close()
            self.asked.append(Asked(began, time.monotonic(), status, text, after))
        connection.close()
