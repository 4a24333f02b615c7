"""What a worker serves: a snapshot of a configuration and a deployment, built aside and swapped in one assignment."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from typing import Any

from gwproxy.controlplane.beside import Beside
from gwproxy.controlplane.collection import Collector, uncollected
from gwproxy.controlplane.deployed import Deployed, Deployments
from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.events import announce
from gwproxy.controlplane.last_good import LastGood, LastGoodFile
from gwproxy.controlplane.leftovers import Leftovers
from gwproxy.controlplane.make import Made, Maker
from gwproxy.controlplane.standing import Standing
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.upstreams import Upstreams

log = logging.getLogger("gwproxy.serving")

PATIENCE = 0.5  # seconds a change waits for DNS to know the names that are new in it


class Serving:
    """Makes snapshots, swaps them in, and keeps what is good on disk.

    :param last_deployed: keeps deployments as ``last_good`` does configurations; None: they are not kept.
    :param outdated: whether there is something to do that comes before a candidate.
    :param pause: called between any two routes while a snapshot is built, so that requests are served.
    :param tidy: likewise, while what was served before is freed.
    :param changed: called after the standing changed.
    :param in_thread: calls a function where it may wait for a disk.
    :param collector: None leaves the garbage collector alone.

    :ivar beside: what is kept of a candidate.
    :ivar data: the configuration that is served; empty before there is one.
    """

    def __init__(
        self,
        gateway: Gateway,
        upstreams: Upstreams,
        deployments: Deployments,
        environment: Environment,
        last_good: LastGoodFile,
        last_deployed: LastGoodFile | None,
        *,
        outdated: Callable[[], bool],
        pause: Callable[[], None],
        tidy: Callable[[], None],
        changed: Callable[[], None],
        in_thread: Callable[..., Any],
        collector: Collector | None,
    ) -> None:
        self._gateway = gateway
        self._upstreams = upstreams
        self._tidy = tidy
        self._in_thread = in_thread
        self._collector = collector
        self.changed = changed
        self.deployments = deployments
        self.last_good = last_good
        self.last_deployed = last_deployed
        self.maker = Maker(deployments.nothing, upstreams, environment, pause)
        self.beside = Beside(gateway, self.maker, deployments, pause, tidy, changed, collector, outdated)
        self.standing = Standing()
        self.data = b""

    @property
    def begun(self) -> bool:
        """Whether anything is served."""
        return self._gateway.snapshot is not None

    @property
    def deployed(self) -> Deployed:
        """What was pushed and runs, with all plugins that there are."""
        return self.maker.deployed

    def serve(
        self,
        data: bytes,
        name: str,
        revision: int,
        digest: str,
        deployed: Deployed | None = None,
        *,
        lenient: bool,
        elsewhere: Collection[str] = (),
    ) -> None:
        """Build a snapshot and swap.

        :param name: of the configuration, shown in problems.
        :param deployed: None: what runs.
        :param lenient: a plugin that is not there makes its routes unavailable, instead of refusing the whole.
        :param elsewhere: names of plugins for which that is so in any case.
        :raises ConfigurationRefused: the configuration is not good, or not with these plugins. Nothing has changed.
        """
        began, deployed, before = time.monotonic(), deployed or self.deployed, self.deployed
        with uncollected():  # as one: a collection in between would stall requests like any other
            made = self.beside.built(digest, deployed.data) or self.maker.make(
                data, name, revision=revision, digest=digest, lenient=lenient, deployed=deployed, elsewhere=elsewhere
            )
            leftovers = self._swap(made)
        self.beside.keep()
        standing, self.data = self.standing, data
        error = standing.error if digest == standing.digest else ""  # with other plugins only, another configuration is still refused
        if not error:
            standing.refused = ""
        standing.revision, standing.digest, standing.applied_at, standing.build_ms = revision, digest, time.time(), made.ms
        told = (revision, digest[:12], made.deployed.digest[:12] or "none", len(made.snapshot.routes), (time.monotonic() - began) * 1000)
        log.info("configuration_applied revision=%d digest=%s deployment=%s routes=%d ms=%.1f", *told)
        self.report("refused" if error else "ready", error)
        announce(made.deployed.registry, self._gateway.tally, "configuration_applied", revision=revision, digest=digest)
        self._tidy()
        self._save(data, revision, made.deployed if made.deployed.data != before.data else None)
        if leftovers is not None:
            leftovers.free(self._tidy)

    def have(self, deployed: Deployed) -> None:
        """Have other plugins for the first configuration that is served."""
        self.maker.deployed = deployed
        self.beside.keep()

    def report(self, state: str, error: str) -> None:
        """Tell what is to be told of the configuration."""
        if self.standing.state != "draining":
            self.standing.state = state
        self.standing.error = error
        self.changed()

    def kept_deployments(self) -> list[LastGood]:
        """Return the deployments that were good before, the newest first. Waits for the disk."""
        return self.last_deployed.load() if self.last_deployed is not None else []

    def _swap(self, made: Made) -> Leftovers | None:
        """Serve by it, and return what is left of what was served."""
        self._upstreams.prepare(PATIENCE)
        served, before = self._gateway.snapshot, self.maker.parsed
        leftovers = Leftovers(served, before) if served is not None and before is not None else None
        pushed = bool(self.deployed.wheels)
        del served, before
        self._gateway.snapshot = made.snapshot  # the swap
        self.beside.withdraw(made)
        self.maker.keep(made)
        if self._collector is not None:
            self._collector.set_aside(clean=pushed)
        return leftovers

    def _save(self, data: bytes, revision: int, deployed: Deployed | None) -> None:
        """Keep what is served for the next start.

        :param deployed: None: as before.
        """
        try:
            self._in_thread(self.last_good.save, data, revision)
            if deployed is not None and self.last_deployed is not None:
                self._in_thread(self.last_deployed.save, deployed.data, 0)
                self._in_thread(self.deployments.tidy, *(kept.data for kept in self.last_deployed.load()))
        except OSError as error:
            log.error("last_good_not_saved reason=%s", error)
