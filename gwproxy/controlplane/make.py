"""From a configuration's bytes to a snapshot: parsed and built aside, using again what did not change since the one that is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gwproxy.controlplane.build import Builder
from gwproxy.controlplane.collection import uncollected
from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.parse import Parsed, parse
from gwproxy.dataplane.snapshot import Snapshot
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.registry import Registry


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot and what it was made from.

    :ivar ms: milliseconds it took.
    """

    snapshot: Snapshot
    parsed: Parsed
    builder: Builder
    ms: float


class Maker:
    """Makes snapshots for one worker.

    :param pause: called between any two routes, so that requests are served meanwhile.

    :ivar parsed: of the configuration that is kept; None before the first.
    """

    def __init__(self, registry: Registry, upstreams: Upstreams, environment: Environment, pause: Callable[[], None]) -> None:
        self._registry = registry
        self._environment = environment
        self._pause = pause
        self._builder = Builder(registry, upstreams, pause)
        self.parsed: Parsed | None = None

    def make(self, data: bytes, name: str, *, revision: int, digest: str, lenient: bool, pause: Callable[[], None] | None = None) -> Made:
        """Make a snapshot; neither what serves nor what is kept is touched.

        :param name: shown in problems.
        :param lenient: a plugin that is not there makes its routes unavailable, instead of refusing the whole.
        :param pause: None: the maker's; what it raises ends the making.
        :raises ConfigurationRefused: with every problem.
        """
        began = time.monotonic()
        with uncollected():
            parsed = parse(
                data,
                file=name,
                plugins=self._registry,
                environment=self._environment,
                lenient=lenient,
                previous=self.parsed,
                pause=pause or self._pause,
            )
            builder = self._builder.fork(pause)
            snapshot = builder.build(parsed, revision=revision, digest=digest)
        return Made(snapshot, parsed, builder, (time.monotonic() - began) * 1000)

    def keep(self, made: Made) -> None:
        """Let the next one use again what did not change since this one."""
        self.parsed, self._builder = made.parsed, made.builder.fork(self._pause)
