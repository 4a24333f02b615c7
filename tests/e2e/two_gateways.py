"""Two gateways that share a Redis, each with a master, a state folder and two workers; who changes their configuration, who asks."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.publish import Publisher
from gwproxy.registry import Registry
from gwproxy.store.audit import AuditLog
from gwproxy.store.configuration import ConfigurationStore, digest_of
from gwproxy.store.connection import connect
from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.raw import Answer, RawClient
from tests.e2e.running import COMMAND, clean_environment
from tests.e2e.test_workers import children

_APPLIED = re.compile(r"\[(\d+)\] .*configuration_applied revision=(\d+) ")


class Gateways:
    """Both of them, and people at terminals.

    Every configuration is a number: the one that its routes add to requests as ``X-Change``.
    """

    def __init__(self, folder: Path, server: RedisServer, echo: str, start: Callable[..., GatewayProcess]) -> None:
        self.folder = folder
        self.server = server
        self.echo = echo
        self.client = server.client()
        self.store = ConfigurationStore(connect(server.url, timeout=5))
        self._numbers = itertools.count(1)
        self.each = [start(GWPROXY_REDIS_URL=server.url) for _ in range(2)]
        until(lambda: len(self.beats()) == 4, "four workers")
        self.settle()

    def document(self, number: int) -> bytes:
        transform = {"name": "request_transform", "config": {"add_headers": {"X-Change": str(number)}}}
        routes = [{"path": path, "upstream": self.echo, "plugins": [transform]} for path in ("/asked", "/other", "/more/{id}")]
        return orjson.dumps(routes)  # as people's changes are written

    def next(self) -> int:
        """A configuration that nobody has seen."""
        return next(self._numbers)

    def publisher(self, actor: str, timeout: float = 5.0) -> Publisher:
        """Who changes the configuration as the commands and the admin API do."""
        client = connect(self.server.url, timeout=timeout)
        return Publisher(ConfigurationStore(client), AuditLog(client), Registry.discover(), Environment({}, lambda name: True), actor)

    def start(self, *argv: str | Path, actor: str = "ann", env: dict[str, str] | None = None) -> Command:
        """Start a command that concerns them."""
        return Command(self, *argv, env={"GWPROXY_REDIS_URL": self.server.url, "GWPROXY_ACTOR": actor, **(env or {})})

    def apply(self, number: int, *options: str, actor: str = "ann", env: dict[str, str] | None = None) -> Command:
        """Start ``gwproxy apply`` of a configuration."""
        file = self.folder / f"{number}.json"
        file.write_bytes(self.document(number))
        return self.start("apply", file, *options, actor=actor, env=env)

    def settle(self) -> None:
        """Let all run something new."""
        done = self.apply(self.next(), "--wait", "--json").ended()
        assert (done["status"], done["outcome"]) == (0, "done"), done

    def beats(self) -> list[dict[str, str]]:
        return self.each[0].heartbeats(self.client)

    def running(self) -> set[tuple[str, str]]:
        """What live workers say they run: revisions and digests."""
        return {(beat["revision"], beat["digest"]) for beat in self.beats()}

    def all_run(self, revision: int | str, data: bytes, workers: int = 4) -> None:
        """Wait until every worker says that it runs a revision, and serves it."""
        wanted = {(str(revision), digest_of(data))}
        until(lambda: len(self.beats()) == workers and self.running() == wanted, f"all to run revision {revision}")
        numbers = {change(gateway.get("/asked").json()) for gateway in self.each for _ in range(6)}
        assert numbers == {change_of(data)}

    def applied(self) -> dict[int, list[int]]:
        """The revisions that each worker has run, in the order of its log."""
        found: dict[int, list[int]] = {}
        for gateway in self.each:
            for pid, revision in _APPLIED.findall(gateway.output()):
                found.setdefault(int(pid), []).append(int(revision))
        return found

    @contextlib.contextmanager
    def hanging(self, *pids: int) -> Iterator[None]:
        """Have workers hang until this ends: all of both gateways, or some."""
        hanging = pids or tuple(pid for gateway in self.each for pid in children(gateway))
        for pid in hanging:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in hanging:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def rollout(self, *options: str, of: GatewayProcess | None = None) -> Iterator[tuple[Command, int]]:
        """Be in the middle of ``apply --wait``: three workers run it, one hangs until this ends. The command, and the configuration.

        :param of: the gateway of the worker that hangs; None: the first.
        """
        number = self.next()
        with self.hanging(min(children(of or self.each[0]))):
            command = self.apply(number, "--wait", *options)
            digest = digest_of(self.document(number))
            until(lambda: sum(beat["digest"] == digest for beat in self.beats()) == 3, "three workers to run it")
            assert command.child.poll() is None
            yield command, number


class Command:
    """A command that concerns the gateways, while it runs."""

    def __init__(self, gateways: Gateways, *argv: str | Path, env: dict[str, str]) -> None:
        command = [*COMMAND, *map(str, argv)]
        environ = clean_environment(gateways.folder / "state", env)
        self.child = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def says(self, text: str) -> str:
        """Wait for a line with ``text`` on its standard error; return it."""
        assert self.child.stderr is not None
        return next(line for line in self.child.stderr if text in line)

    def ended(self) -> dict[str, Any]:
        """Wait for its end; return what it told with --json, with its ``status`` and what it wrote as ``errors``."""
        out, errors = self.child.communicate(timeout=60)
        return {**(json.loads(out) if out.startswith("{") else {}), "status": self.child.returncode, "errors": errors}


def change(seen: dict[str, Any]) -> int:
    """The number of the configuration by which a request was served, by what the upstream saw of it."""
    return next(int(value) for name, value in seen["headers"] if name.lower() == "x-change")


def change_of(data: bytes) -> int:
    """The number of a configuration."""
    return int(json.loads(data)[0]["plugins"][0]["config"]["add_headers"]["X-Change"])


class Traffic:
    """Asks gateways without pause, on four connections each that stay open.

    :param seen: what an answer says of who has made it.
    :ivar served: by connection, what each answer said: by default the number of the configuration that it was made by.
    :ivar failures: whatever was not answered by 200.
    """

    def __init__(self, gateways: list[GatewayProcess], seen: Callable[[Answer], Any] = lambda answer: change(answer.json())) -> None:
        ports = [gateway.port for gateway in gateways for _ in range(4)]
        self.served: list[list[Any]] = [[] for _ in ports]
        self.failures: list[str] = []
        self._seen = seen
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=pair) for pair in zip(ports, self.served, strict=True)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def goes_on(self) -> None:
        """Wait until every connection has had further answers."""
        before = [len(served) for served in self.served]
        until(
            lambda: self.failures or all(len(served) > count + 2 for served, count in zip(self.served, before, strict=True)),
            "answers on every connection",
        )
        assert self.failures == []

    def _run(self, port: int, served: list[Any]) -> None:
        try:
            with RawClient(port) as client:
                while not self._stop.wait(0.02):
                    answer = client.ask("/asked")
                    if answer.status == 200 and not answer.cut:
                        served.append(self._seen(answer))
                    else:
                        self.failures.append(f"{answer.status} {answer.body[:200]!r}")
        except (OSError, EOFError) as error:
            self.failures.append(repr(error))
