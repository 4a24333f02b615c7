"""Services that say their names, each a process on an address of its own and the same port: as DNS has them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import requests

from tests.e2e.conftest import HERE, GatewayProcess, Process, free_port, until

ADDRESSES = {"a": "127.0.0.2", "b": "127.0.0.3", "c": "127.0.0.4"}


class Services:
    """The services ``a``, ``b`` and ``c``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._running: dict[str, Process] = {}
        for name in ADDRESSES:
            self.launch(name)
        for name in ADDRESSES:
            self.await_answer(name)

    def url(self, name: str) -> str:
        return f"http://{ADDRESSES[name]}:{self.port}"

    def launch(self, name: str) -> None:
        command = [sys.executable, str(HERE / "named_service.py"), ADDRESSES[name], str(self.port), name]
        self._running[name] = Process(command, self._folder / f"{name}.log")

    def await_answer(self, name: str) -> None:
        until(lambda: self.seen(name), f"service {name}")

    def kill(self, name: str) -> None:
        self._running[name].child.kill()
        self._running[name].child.wait()

    def seen(self, name: str) -> dict[str, int]:
        return requests.get(f"{self.url(name)}/seen", timeout=5).json()  # type: ignore[no-any-return]

    def control(self, name: str, **values: float) -> None:
        requests.put(f"{self.url(name)}/control", json=values, timeout=5).raise_for_status()

    def reset(self) -> None:
        for name in ADDRESSES:
            self.control(name, status=200, health=200, wait=0.0)

    def stop(self) -> None:
        for process in self._running.values():
            process.child.kill()
            process.child.wait()


def names(gateway: GatewayProcess, path: str, count: int, **headers: str) -> Counter[str]:
    """Send so many requests, one after another; return who has answered how often, or the statuses of what nobody has."""
    found: Counter[str] = Counter()
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(count):
            answer = session.get(gateway.url + path, headers=headers, timeout=20)
            found[answer.json().get("name", str(answer.status_code))] += 1
    return found
