"""A configuration against the plugins that the workers have, as their heartbeats say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import orjson

from gwproxy.controlplane.parse import Parsed
from gwproxy.controlplane.places import Path, path_text
from gwproxy.controlplane.text import Source
from gwproxy.model import Document, PluginRef, Problem
from gwproxy.registry import Registry

#: What a heartbeat has instead of the version of a plugin that does not load.
BROKEN = "broken"

_NAMED = 5  # workers that a message names

Worker = Mapping[str, str]


def live(workers: Sequence[Worker]) -> list[Worker]:
    """Return the workers that a change concerns: not those that are about to stop."""
    return [worker for worker in workers if worker.get("state") != "draining"]


def label(worker: Worker) -> str:
    """Return how people tell workers apart: ``host/pid``."""
    return f"{worker.get('host') or '?'}/{worker.get('pid') or '?'}"


class Installed:
    """The plugins of some workers.

    :param workers: heartbeats; one that does not say which plugins it has is not judged by.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._plugins = [(label(worker), held) for worker in workers if (held := _plugins(worker)) is not None]

    def anywhere(self) -> set[str]:
        """Return the plugins that load on some worker: of those, :meth:`problems` says who cannot run them."""
        return {name for _, held in self._plugins for name, version in held.items() if version != BROKEN}

    def problems(self, parsed: Parsed, source: Source) -> Iterator[Problem]:
        """Yield each enabled plugin that some worker cannot run, where it is used first."""
        for name, path in _used(parsed.document).items():
            missing = [worker for worker, held in self._plugins if name not in held]
            broken = [worker for worker, held in self._plugins if held.get(name) == BROKEN]
            if missing:
                yield _problem(
                    source, path, f"plugin {name!r}, which is not installed on {_named(missing)}", "a plugin that every worker has"
                )
            if broken:
                yield _problem(
                    source, path, f"plugin {name!r}, which does not load on {_named(broken)}", "a plugin that every worker loads"
                )

    def warnings(self, parsed: Parsed, source: Source, here: Registry) -> Iterator[Problem]:
        """Yield what cannot be judged here: plugins that only the workers have, or in another version."""
        for name, path in _used(parsed.document).items():
            plugin = here.find(name)
            if plugin is None:
                yield _problem(
                    source, path, f"plugin {name!r}, which is not there where this is checked", "its configuration to suit the workers"
                )
                continue
            others = {held[name] for _, held in self._plugins if name in held} - {plugin.version, BROKEN}
            if others:
                versions = ", ".join(sorted(others))
                yield _problem(
                    source,
                    path,
                    f"plugin {name!r} {plugin.version} here, {versions} on workers",
                    "the same version, to judge its configuration",
                )


def _plugins(worker: Worker) -> dict[str, str] | None:
    try:
        held = orjson.loads(worker.get("plugins", ""))
    except orjson.JSONDecodeError:
        return None
    return {name: str(version) for name, version in held.items()} if isinstance(held, dict) else None


def _used(document: Document) -> dict[str, Path]:
    """Return the plugins with enabled entries, each with where it is named first."""
    found: dict[str, Path] = {}
    lists: list[tuple[Path, tuple[PluginRef, ...]]] = [(("plugins",), document.plugins)]
    lists += [(("routes", index, "plugins"), route.plugins) for index, route in enumerate(document.routes)]
    for path, refs in lists:
        for index, ref in enumerate(refs):
            if ref.enabled:
                found.setdefault(ref.name, (*path, index, "name"))
    return found


def _problem(source: Source, path: Path, found: str, expected: str) -> Problem:
    return Problem(path_text(path), found, expected, *source.place(path), source.file)


def _named(workers: list[str]) -> str:
    more = f" and {len(workers) - _NAMED} more" if len(workers) > _NAMED else ""
    return ", ".join(workers[:_NAMED]) + more
