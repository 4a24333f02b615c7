"""The deployments of a worker: their wheels loaded beside what serves, made into a registry, and let go of together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from gwproxy.controlplane.collection import Collector
from gwproxy.controlplane.events import announce
from gwproxy.controlplane.retirement import Pushed, Retirement
from gwproxy.controlplane.shelf import Revoked, Shelf
from gwproxy.errors import PluginRefused, WheelRefused
from gwproxy.ports import Gateway as Port
from gwproxy.registry import Registry
from gwproxy.store.deployments import Revocation, deployment_digest
from gwproxy.tally import Tally
from gwproxy.wheels.deployment import Deployment, Pinned
from gwproxy.wheels.loading import load

log = logging.getLogger("gwproxy.deployed")

OFF = "GWPROXY_PLUGIN_KEYS is not set on this gateway, so that nothing that was pushed is loaded"


@dataclass(frozen=True, slots=True, eq=False)
class Deployed:
    """A deployment that is loaded: what a snapshot is made with.

    :ivar data: as it is in the store; empty: nothing was pushed.
    :ivar registry: the plugins that are installed, and over them those of its wheels.
    """

    registry: Registry
    data: bytes = b""
    wheels: tuple[Pushed, ...] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """SHA-256 of :attr:`data`, in hex; empty if it names no wheel."""
        return deployment_digest(self.data)

    def shown(self) -> dict[str, dict[str, str]]:
        """Return by name where each pushed plugin comes from, for the heartbeat."""
        return {
            name: {"distribution": wheel.pinned.distribution, "version": wheel.pinned.version, "sha256": wheel.pinned.sha256}
            for wheel in self.wheels
            for name in wheel.pinned.plugins
        }


class Deployments:
    """Loads deployments. A wheel that two of them name is loaded once; one that none names any more is retired.

    :param shelf: None: pushing is off, and every deployment but the empty one is refused.
    :param port: makes what a plugin sees of its worker, one a wheel.
    :param collector: None leaves the garbage collector alone.

    :ivar nothing: the deployment without a wheel.
    """

    def __init__(
        self,
        installed: Registry,
        tally: Tally,
        *,
        shelf: Shelf | None = None,
        revoked: Revoked | None = None,
        retirement: Retirement | None = None,
        port: Callable[[], Port] | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.nothing = Deployed(installed)
        self._tally = tally
        self._shelf = shelf
        self._retirement = retirement
        self._revoked = revoked
        self._port = port
        self._apart: Callable[[], AbstractContextManager[None]] = collector.apart if collector is not None else nullcontext
        self._loaded: dict[str, Pushed] = {}

    @property
    def on(self) -> bool:
        """Whether this gateway loads what is pushed."""
        return self._shelf is not None

    def load(self, data: bytes) -> Deployed:
        """Load a deployment; nothing that serves is touched. What it needed of new wheels is retired if it is refused.

        :raises WheelRefused: it, or one of its wheels, is not fit.
        :raises StoreUnavailable: a wheel is not here yet, and the store does not answer.
        """
        deployment = Deployment.load(data)
        if not deployment.wheels:
            return Deployed(self.nothing.registry, data)
        if self._shelf is None:
            raise WheelRefused(OFF)
        shelf, before = self._shelf, list(self._loaded.values())
        try:
            wheels = tuple([self._wheel(pinned, shelf) for pinned in deployment.wheels])
        except BaseException:
            self._keep(before)
            raise
        return Deployed(self.nothing.registry.over(wheel.registry for wheel in wheels), data, wheels)

    def keep(self, *needed: Deployed | None) -> None:
        """Retire every wheel that is in none of these."""
        self._keep([wheel for deployed in needed if deployed is not None for wheel in deployed.wheels])

    def revoked_in(self, data: bytes) -> dict[Pinned, str]:
        """Return the wheels of a deployment that are known to be revoked, each with what to say of it.

        :raises WheelRefused: it is no deployment.
        """
        return {pinned: why for pinned in Deployment.load(data).wheels if (why := self._why_revoked(pinned)) is not None}

    def without(self, data: bytes, gone: Iterable[Pinned]) -> bytes:
        """Return a deployment that does without some of its wheels; empty if none is left."""
        deployment = Deployment.load(data)
        for pinned in gone:
            deployment = deployment.without(pinned.distribution)
        return deployment.dump() if deployment.wheels else b""

    def learn(self, found: Mapping[str, Revocation]) -> None:
        """Hear what is revoked. Waits for the disk.

        :param found: what the store says.
        """
        if self._revoked is not None:
            self._revoked.learn(found)

    def tidy(self, *named: bytes) -> None:
        """Remove wheels from the disk that none of these deployments names, nor any that is loaded. Waits for the disk."""
        if self._shelf is not None:
            kept = {pinned.sha256 for data in named for pinned in Deployment.load(data).wheels}
            self._shelf.tidy(kept | self._loaded.keys())

    def stop(self, limit: float) -> None:
        """Let every pushed plugin say goodbye: the worker stops.

        :param limit: seconds each may take.
        """
        for wheel in [*self._loaded.values(), *(self._retirement.waiting if self._retirement is not None else ())]:
            announce(wheel.registry, self._tally, "worker_stopping", limit)
            wheel.close()

    def _keep(self, needed: Iterable[Pushed]) -> None:
        kept = {wheel.pinned.sha256 for wheel in needed}
        for sha256 in [sha256 for sha256 in self._loaded if sha256 not in kept]:
            wheel = self._loaded.pop(sha256)
            assert self._retirement is not None  # noqa: S101 - where a wheel was loaded, there is one
            self._retirement.add(wheel)

    def _why_revoked(self, pinned: Pinned) -> str | None:
        reasons = self._revoked.reasons if self._revoked is not None else {}
        loaded = self._loaded.get(pinned.sha256)
        if pinned.sha256 in reasons:
            return f"{pinned}: it is revoked: {reasons[pinned.sha256]}"
        if loaded is not None and loaded.key in reasons:
            return f"{pinned}: it is signed with the key {loaded.key}, which is revoked: {reasons[loaded.key]}"
        return None

    def _wheel(self, pinned: Pinned, shelf: Shelf) -> Pushed:
        """Return a wheel that is loaded, one that is about to be retired too, or load it and start its plugins."""
        if (why := self._why_revoked(pinned)) is not None:
            raise WheelRefused(why)
        found = self._loaded.get(pinned.sha256)
        if found is None and self._retirement is not None:
            found = self._retirement.rescue(pinned.sha256)
        if found is None:
            found = self._load(pinned, shelf)
        self._loaded[pinned.sha256] = found
        return found

    def _load(self, pinned: Pinned, shelf: Shelf) -> Pushed:
        verified = shelf.take(pinned)
        with self._apart():
            loaded = load(verified.wheel, verified.compiled)
        registry = Registry()
        try:
            for name, plugin in loaded.plugins.items():
                registry.add(plugin, package=f"{pinned} (pushed)", name=name)
        except PluginRefused as refused:
            loaded.unload()
            raise WheelRefused(f"{pinned}: {refused}") from None
        made = Pushed(pinned, loaded, registry, verified.key, self._port() if self._port is not None else None)
        announce(registry, self._tally, "worker_started", gateway=made.port)
        log.info("plugins_loaded wheel=%s sha256=%s plugins=%s key=%s", pinned, pinned.sha256[:12], ",".join(pinned.plugins), made.key)
        return made
