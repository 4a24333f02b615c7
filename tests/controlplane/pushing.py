"""A worker that wheels are pushed to, in one process: the real parts, but for the store and the network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gwproxy import Headers, Request
from gwproxy.agent import WorkerGateway
from gwproxy.context import Context, Outcome
from gwproxy.controlplane.collection import Collector
from gwproxy.controlplane.deployed import Deployments
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.retirement import Retirement
from gwproxy.controlplane.shelf import Revoked, Shelf
from gwproxy.controlplane.sources import Found
from gwproxy.controlplane.watch import Watcher
from gwproxy.dataplane import chain
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.errors import StoreUnavailable
from gwproxy.registry import Registry
from gwproxy.store.candidates import Candidate
from gwproxy.store.deployments import Change, LiveDeployment, Revocation, StoredWheel
from gwproxy.store.shared import LocalStore
from gwproxy.wheels import minisign, wheel
from gwproxy.wheels.deployment import Deployment
from tests.wheels.made import make_wheel

KEY = minisign.SecretKey(b"pushpush", b"\x07" * 32)
ROUTE = {"path": "/a", "upstream": "http://127.0.0.1:9", "plugins": [{"name": "tenant"}]}
BARE = {"path": "/bare", "upstream": "http://127.0.0.1:9"}


class Store:
    """What the store holds of wheels."""

    def __init__(self) -> None:
        self.wheels: dict[str, StoredWheel] = {}
        self.away = False
        self.asked = 0

    def put(self, data: bytes, key: minisign.SecretKey | None = KEY) -> wheel.Wheel:
        read = wheel.read(data, environment=False)
        signature = minisign.sign(data, key, "by a test") if key is not None else ""
        self.wheels[read.sha256] = StoredWheel(read.sha256, data, signature, read.distribution, read.version, "", "test")
        return read

    def wheel(self, sha256: str) -> StoredWheel | None:
        self.asked += 1
        if self.away:
            raise StoreUnavailable("away")
        return self.wheels.get(sha256)


class Source:
    """A source that says what the test wants."""

    def __init__(self) -> None:
        self.candidate: Candidate | None = None
        self.deployment: LiveDeployment | None = LiveDeployment(b"", 0)
        self.revoked: Mapping[str, Revocation] = {}
        self.found: Found | None = None
        self.away = False

    def poll(self) -> Found | None:
        if self.away:
            raise StoreUnavailable("away")
        said, self.found = self.found, None
        return said

    def outdated(self) -> bool:
        return False

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Bench:
    """One worker.

    :param store: of wheels; another worker's, to be in one fleet with it.
    :param keys: whether pushing is on.
    """

    def __init__(self, folder: Path, *, installed: Registry | None = None, store: Store | None = None, keys: bool = True) -> None:
        self.store = store or Store()
        self.source = Source()
        self.gateway = Gateway(Upstreams())
        self.now = 0.0
        self.retirement = Retirement(self.gateway, clock=lambda: self.now)
        self.revoked = Revoked(folder, "gw:")
        registry = installed or Registry()
        self.collector = Collector(lambda: False)
        shelf = Shelf(folder, [KEY.public], self.revoked, self.store.wheel, lambda function, *args: function(*args))
        tally = self.gateway.tally
        port = lambda: WorkerGateway(LocalStore(), "w", folder)  # noqa: E731
        pushing: dict[str, Any] = (
            {"shelf": shelf, "revoked": self.revoked, "retirement": self.retirement, "port": port, "collector": self.collector}
            if keys
            else {}
        )
        self.deployments = Deployments(registry, tally, **pushing)
        self.watcher = Watcher(
            self.source,
            self.gateway,
            registry,
            self.gateway.upstreams,
            Environment({}, lambda name: True),
            LastGoodFile(folder, "gw:"),
            collector=self.collector,
            deployments=self.deployments,
            last_deployed=LastGoodFile(folder, "gw:", ".plugins"),
        )
        self.standing = self.watcher.standing
        self.live = Deployment()

    def serve(self, *routes: dict[str, Any], step: bool = True, plugins: Sequence[dict[str, Any]] = ()) -> None:
        self.source.found = Found(json.dumps({"routes": routes, "plugins": plugins}).encode(), 1, "gw:routes")
        if step:
            self.watcher.step()

    def push(self, data: bytes, key: minisign.SecretKey | None = KEY, *, step: bool = True) -> Deployment:
        """Deploy a wheel, in place of any other version of it."""
        return self.deploy(self.live.with_(self.store.put(data, key).pinned), step=step)

    def remove(self, distribution: str) -> Deployment:
        return self.deploy(self.live.without(distribution))

    def deploy(self, deployment: Deployment, *, step: bool = True) -> Deployment:
        self.live = deployment
        self.source.deployment = LiveDeployment(deployment.dump(), 1)
        if step:
            self.watcher.step()
        return deployment

    def revoke(self, name: str) -> None:
        self.source.revoked = {**self.source.revoked, name: Revocation("it leaks", "test", "")}
        self.watcher.step()

    def propose(self, deployment: Deployment, mode: str = "stage", share: float = 0.0) -> Candidate:
        """Have a deployment tried by the worker."""
        data = self.watcher._serving.data
        digest = hashlib.sha256(data).hexdigest()
        change = Change("push", "gwproxy-tenant", "")
        told = {"share": share, "deployment": deployment.dump(), "change": change}
        self.source.candidate = Candidate(f"c{id(deployment)}", data, digest, 1, mode, **told)  # type: ignore[arg-type]
        self.watcher.step()
        return self.source.candidate

    def begin(self, path: str = "/a") -> Context:
        """Begin a request."""
        return self.gateway.serve(Request("GET", path, headers=Headers([("Host", "h")]), host="h", remote_addr="10.0.0.4"), "r")

    def finish(self, ctx: Context) -> None:
        assert ctx.response is not None
        chain.finish(ctx, Outcome(ctx.response.status, 0, 0, 0.01, True))
        self.gateway.in_flight.discard(ctx)

    def ask(self, path: str = "/a") -> tuple[int, str | None]:
        """Return the status of an answer, and which version of the tenant plugin it went through."""
        ctx = self.begin(path)
        self.finish(ctx)
        assert ctx.response is not None
        return ctx.response.status, ctx.response.headers.get("X-Tenant-Version")

    def pass_time(self, seconds: float = 0.2) -> None:
        """Let what is retired go."""
        for _ in range(2):
            self.now += seconds
            self.retirement.step()


def tenant(version: str, **changes: Any) -> bytes:
    return make_wheel(version=version, **changes)
