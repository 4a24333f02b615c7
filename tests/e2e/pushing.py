"""Two gateways of two workers that load what a key has signed, people who push to them, and clients that ask all the while."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gwproxy.controlplane.candidates import Candidates
from gwproxy.controlplane.deploying import Deployer, DeploymentRollout, Planned
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore, Published
from gwproxy.store.connection import connect
from gwproxy.store.deployments import DeploymentStore
from gwproxy.wheels.minisign import SecretKey, sign
from gwproxy.wheels.wheel import read
from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.raw import Answer, RawClient
from tests.e2e.running import COMMAND, clean_environment
from tests.wheels.made import make_wheel

SOURCE = '''
"""Says in each response which version it is."""
import time

from gwproxy import Context, Plugin, PluginConfig, hookimpl
{preamble}

class TagConfig(PluginConfig):
    {config}


class Tag(Plugin):
    name = "tag"
    version = "{version}"
    config_model = TagConfig
    calls = 0

    @hookimpl
    def {hook}(self, ctx: Context, config: TagConfig) -> None:
        ctx.response_headers["X-Version"] = self.version
        self.calls += 1
        {body}
'''


def tag(
    version: str, *, preamble: str = "", body: str = "", config: str = "note: str = ''", hook: str = "pre_proxy", **options: Any
) -> bytes:
    """A wheel of the plugin ``tag``.

    :param preamble: lines at the top of its module.
    :param body: a line at the end of its hook.
    :param hook: the phase that it takes part in.
    :param config: a line in its configuration model.
    """
    source = SOURCE.format(version=version, preamble=preamble, body=body or "pass", config=config, hook=hook)
    files = {"tag.py": source, **options.pop("files", {})}
    return make_wheel(files, **{"distribution": "tag", "version": version, "plugins": {"tag": "tag:Tag"}, **options})


def seen(answer: Answer) -> str:
    """The version by which a request was served."""
    return answer.get("X-Version") or "none"


class Pushing:
    """Both gateways, with the key that they know.

    :ivar routes: what is live: each has the plugin ``tag``.
    """

    def __init__(self, folder: Path, server: RedisServer, upstream: str, start: Callable[..., GatewayProcess]) -> None:
        self.folder, self.server, self.key = folder, server, SecretKey.generate()
        (folder / "tag.key").write_text(self.key.dump(None))
        self.env = {"GWPROXY_REDIS_URL": server.url, "GWPROXY_PLUGIN_KEYS": str(self.key.public)}
        self.client = server.client()
        self.people = self.deployer("ann")
        self.live = self.people.configurations
        self._start = start
        self._folders = [folder / "one", folder / "two"]
        for each in self._folders:
            each.mkdir()
        self.routes = json.dumps(
            [{"path": path, "upstream": upstream, "plugins": [{"name": "tag", "budget": 0.5}]} for path in ("/asked", "/other")]
        )
        self.each = [self.start(number) for number in range(2)]
        until(lambda: len(self.beats()) == 4, "four workers")

    def start(self, number: int) -> GatewayProcess:
        """Start one of the gateways, with its state folder."""
        env = {**self.env, "GWPROXY_TRUSTED_PROXIES": "127.0.0.0/8"}
        return self._start(self._folders[number], **env)

    def deployer(self, actor: str, timeout: float = 5.0) -> Deployer:
        """Who changes what is deployed as the commands do."""
        client = connect(self.server.url, timeout=timeout)
        live, audit = ConfigurationStore(client), AuditLog(client)
        return Deployer(DeploymentStore(client), Candidates(CandidateStore(client), live, audit, actor), live, audit, actor)

    def plan(self, wheel: bytes, signature: str | None = None, people: Deployer | None = None) -> Planned:
        """Put a wheel into the store, and plan to deploy it; nothing of it runs here."""
        people = people or self.people
        found = read(wheel, environment=False)
        signed = signature if signature is not None else sign(wheel, self.key, found.package)
        people.store.put_wheel(wheel, signed, distribution=found.distribution, version=found.version, actor=people.actor)
        return people.push(found.pinned)

    def make(self, planned: Planned, timeout: float = 30.0) -> Published:
        """Make a change, and wait until all workers run it."""
        known = self.live.workers()
        published = self.people.stage(planned, timeout=timeout)
        standing = DeploymentRollout(self.live, published, self.people.store, known=known).follow()
        assert standing.outcome == "done", standing.reason()
        return published

    def push(self, version: str, **source: Any) -> Published:
        return self.make(self.plan(tag(version, **source)))

    def back_to(self, version: str) -> None:
        """Have a version that is good deployed on all, whatever was before."""
        planned = self.plan(tag(version))
        if not planned.unchanged:
            self.make(planned)
        self.all_run(version)

    def file(self, wheel: bytes, signature: str | None = None) -> Path:
        """A wheel in a folder, with its signature beside it; one that is empty is not there."""
        path = self.folder / "dist" / f"tag-{len(list(self.folder.glob('dist/*.whl')))}-py3-none-any.whl"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wheel)
        signed = sign(wheel, self.key, "test") if signature is None else signature
        if signed:
            path.with_name(f"{path.name}.minisig").write_text(signed)
        return path

    def command(self, *argv: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``gwproxy plugins`` to its end."""
        environ = clean_environment(self.folder / "state", {**self.env, "GWPROXY_ACTOR": "ann", **env})
        argv = tuple(map(str, argv))
        return subprocess.run([*COMMAND, "plugins", *argv], env=environ, capture_output=True, text=True, timeout=60, check=False)

    def beats(self) -> list[dict[str, str]]:
        return [beat for beat in self.each[0].heartbeats(self.client) if beat["state"] != "draining"]

    def running(self) -> set[str]:
        """The digests of what live workers say they run."""
        return {beat["deployment"] for beat in self.beats()}

    def pids(self) -> list[int]:
        return sorted(pid for gateway in self.each for pid in gateway.worker_pids())

    def served(self) -> set[str]:
        """The versions by which requests are served now."""
        found = set()
        for gateway in self.each:
            for _ in range(6):
                with RawClient(gateway.port) as client:
                    found.add(seen(client.ask("/asked")))
        return found

    def all_run(self, version: str, workers: int = 4) -> None:
        """Wait until every worker says that it runs what is deployed, and serves it."""
        digest = self.people.live()[1].digest
        until(lambda: len(self.beats()) == workers and self.running() == {digest}, f"all to run {version}")
        until(lambda: {beat["candidate"] for beat in self.beats()} == {"{}"}, "all to have nothing beside it")
        assert self.served() == {version}

    @contextlib.contextmanager
    def hanging(self, pid: int) -> Iterator[None]:
        """Have a worker hang until this ends, so that what waits for it is in the middle."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Have Redis neither answer nor refuse until this ends."""
        assert self.server.process is not None
        self.server.process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.server.process.signal(signal.SIGCONT)


class InThread:
    """Something that is done meanwhile; :meth:`ended` gives what came of it."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.result: object = None
        self._thread = threading.Thread(target=self._run, args=(function, *args))
        self._thread.start()

    def _run(self, function: Callable[..., object], *args: object) -> None:
        try:
            self.result = function(*args)
        except Exception as error:
            self.result = error

    def goes_on(self) -> bool:
        return self._thread.is_alive()

    def ended(self) -> Any:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.result
