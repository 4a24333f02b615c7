"""From a configuration's bytes to a snapshot: parsed and built aside, using again what did not change since the one that is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from gwproxy.controlplane.build import Builder
from gwproxy.controlplane.collection import uncollected
from gwproxy.controlplane.deployed import Deployed
from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.parse import Parsed, parse
from gwproxy.dataplane.snapshot import Snapshot
from gwproxy.dataplane.upstreams import Upstreams


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot and what it was made from: a configuration and a deployment.

    :ivar ms: milliseconds it took.
    """

    snapshot: Snapshot
    parsed: Parsed
    builder: Builder
    deployed: Deployed
    ms: float


class Maker:
    """Makes snapshots for one worker.

    :param deployed: what is there before anything is kept.
    :param pause: called between any two routes, so that requests are served meanwhile.

    :ivar parsed: of the configuration that is kept; None before the first.
    :ivar deployed: what the next one is made with, unless another deployment is given.
    """

    def __init__(self, deployed: Deployed, upstreams: Upstreams, environment: Environment, pause: Callable[[], None]) -> None:
        self._environment = environment
        self._pause = pause
        self._builder = Builder(deployed.registry, upstreams, pause)
        self.parsed: Parsed | None = None
        self.deployed = deployed

    def make(
        self,
        data: bytes,
        name: str,
        *,
        revision: int,
        digest: str,
        lenient: bool,
        pause: Callable[[], None] | None = None,
        deployed: Deployed | None = None,
        elsewhere: Collection[str] = (),
    ) -> Made:
        """Make a snapshot; neither what serves nor what is kept is touched.

        :param name: shown in problems.
        :param lenient: a plugin that is not there makes its routes unavailable, instead of refusing the whole.
        :param pause: None: the maker's; what it raises ends the making.
        :param deployed: None: the one that is kept.
        :param elsewhere: names of plugins for which ``lenient`` holds in any case.
        :raises ConfigurationRefused: with every problem.
        """
        began, deployed = time.monotonic(), deployed or self.deployed
        with uncollected():
            parsed = parse(
                data,
                file=name,
                plugins=deployed.registry,
                environment=self._environment,
                lenient=lenient,
                elsewhere=elsewhere,
                previous=self.parsed,
                pause=pause or self._pause,
            )
            builder = self._builder.fork(pause, deployed.registry)
            snapshot = builder.build(parsed, revision=revision, digest=digest)
        for wheel in deployed.wheels:
            wheel.everywhere |= any(ref.name in wheel.pinned.plugins for ref in parsed.document.plugins)
        return Made(snapshot, parsed, builder, deployed, (time.monotonic() - began) * 1000)

    def unavailable(self) -> set[str]:
        """Return the plugins of the configuration that is kept which cannot run: their routes answer 503 already."""
        parsed = self.parsed
        if parsed is None:
            return set()
        document = parsed.document
        lists = {owner: document.plugins if owner < 0 else document.routes[owner].plugins for owner, _ in parsed.unavailable}
        return {lists[owner][position].name for owner, position in parsed.unavailable}

    def keep(self, made: Made) -> None:
        """Let the next one use again what did not change since this one."""
        self.parsed, self._builder, self.deployed = made.parsed, made.builder.fork(self._pause), made.deployed
