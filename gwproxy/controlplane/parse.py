"""A configuration text to a validated :class:`~gwproxy.model.Document`, or to every problem it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gwproxy.controlplane import checks
from gwproxy.controlplane.collection import uncollected
from gwproxy.controlplane.entries import Entries, EntryChecker, PluginSource
from gwproxy.controlplane.environment import Environment, Part, resolve
from gwproxy.controlplane.masking import mask, shown
from gwproxy.controlplane.places import Path
from gwproxy.controlplane.report import Report, did_you_mean
from gwproxy.controlplane.text import nothing, read, to_json
from gwproxy.controlplane.validation import validate
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Consumer, Document, PluginRef, Problem, Route, Upstream
from gwproxy.plugin import PluginConfig

__all__ = ["MAX_ROUTES", "Environment", "Parsed", "PluginSource", "parse", "to_json"]

#: The most routes of a configuration.
MAX_ROUTES = 100_000

#: The route index of global plugin entries in :attr:`Parsed.configs`.
GLOBAL = -1

_SLICE = 50  # routes between pauses: some 2 ms of work
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_NOT_SLUG = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class _Built:
    """A route and its entries' configurations, as the next document reuses them.

    :ivar key: what :func:`~gwproxy.controlplane.checks.check_route` returned.
    """

    route: Route
    entries: Entries
    key: Hashable


@dataclass(frozen=True)
class Parsed:
    """A valid configuration.

    :ivar document: with ids filled in and references resolved: it may hold secrets, :attr:`masked` does not.
    :ivar configs: the validated configuration of each plugin entry, by the route's index (-1: the global entries) and the
        entry's. Absent for disabled entries and for those in :attr:`unavailable`.
    :ivar unavailable: why an entry cannot run here, keyed alike: its plugin is not there (``lenient``), or a variable it
        needs is not set (an environment that is not strict).
    :ivar warnings: what the operator should know of, by line.
    """

    document: Document = field(repr=False)
    configs: Mapping[tuple[int, int], PluginConfig] = field(repr=False)
    unavailable: Mapping[tuple[int, int], str]
    warnings: tuple[Problem, ...]
    _data: bytes = field(repr=False)
    _file: str
    _plugins: PluginSource = field(repr=False)
    _built: Mapping[tuple[bytes, tuple[Path, ...]], _Built] = field(repr=False)

    @property
    def masked(self) -> Any:
        """The document's tree as it was written (either form, references unresolved), with secrets as ``***``.

        Read again each time: workers seldom need it, and would hold a large tree for it.
        """
        return mask(read(self._data, self._file).tree, self._plugins)


def parse(
    data: bytes,
    *,
    file: str,
    plugins: PluginSource,
    environment: Environment,
    lenient: bool = False,
    previous: Parsed | None = None,
    pause: Callable[[], object] = nothing,
) -> Parsed:
    """Read, resolve and validate a configuration.

    10,000 routes with a plugin each take just under a second of CPU time, unchanged ones a third of that.

    :param file: what messages call the document, e.g. ``gateway.yaml`` or ``gw:routes``.
    :param lenient: True (workers): a plugin that is not there makes its entries unavailable. False: it refuses the document.
    :param previous: what was parsed before with the same ``plugins``: routes that did not change, and their plugins'
        configurations, are the same objects in the result.
    :param pause: called every few milliseconds, so that a worker may serve meanwhile.
    :raises ConfigurationRefused: it cannot be read or is not valid; with every problem, by line.
    """
    source = read(data, file, pause)
    report = Report(source)
    tree = _outline(source.tree, report)
    # A reference may be spelled with an escape; only what has neither '$' nor escapes has none for certain.
    environment_used = b"$" in data or b"\\" in data
    reusable = previous._built if previous is not None and previous._plugins is plugins else {}
    parser = _Parser(report, environment if environment_used else None, plugins, reusable, pause, lenient=lenient)
    with uncollected():
        document = parser.document(tree)
    problems = report.problems()
    if problems:
        raise ConfigurationRefused(problems)
    return Parsed(document, parser.configs, parser.unavailable, report.warnings(), data, file, plugins, parser.built)


def _outline(tree: Any, report: Report) -> dict[str, Any]:
    """Return the object form, with a list or an object under each key."""
    made: dict[str, Any] = {"routes": [], "upstreams": {}, "consumers": [], "plugins": []}
    if isinstance(tree, list):
        tree = {"routes": tree}
    if not isinstance(tree, dict):
        report.refuse((), shown(tree), "an array of routes, or an object with 'routes'")
        return made
    if "routes" not in tree:
        report.refuse((), "nothing", "the key 'routes', which is required ('routes: []' for none)")
    for key, value in tree.items():
        if key not in made:
            report.refuse((key,), f"the unknown key {key!r}", f"one of {', '.join(made)}{did_you_mean(key, made)}", key=True)
        elif type(value) is not type(made[key]):
            report.refuse((key,), shown(value), "an object, or no such key" if key == "upstreams" else "a list, or no such key")
        elif key == "routes" and len(value) > MAX_ROUTES:
            report.refuse((key,), f"{len(value)} routes", f"at most {MAX_ROUTES}")
        else:
            made[key] = value
    return made


class _Parser:
    """One pass over one document."""

    def __init__(
        self,
        report: Report,
        environment: Environment | None,
        plugins: PluginSource,
        reusable: Mapping[tuple[bytes, tuple[Path, ...]], _Built],
        pause: Callable[[], object],
        *,
        lenient: bool,
    ) -> None:
        self.report = report
        self.environment = environment
        self.plugins = plugins
        self.reusable = reusable
        self.pause = pause
        self.lenient = lenient
        self.configs: dict[tuple[int, int], PluginConfig] = {}
        self.unavailable: dict[tuple[int, int], str] = {}
        self.built: dict[tuple[bytes, tuple[Path, ...]], _Built] = {}

    def document(self, tree: dict[str, Any]) -> Document:
        upstreams = self.upstreams(tree["upstreams"])
        consumers = self.consumers(tree["consumers"])
        entries = self.global_entries(tree["plugins"])
        names = {entry["name"] for entry in tree["plugins"] if isinstance(entry, dict) and isinstance(entry.get("name"), str)}
        routes = self.routes(tree["routes"], EntryChecker(self.plugins, names, self.report, lenient=self.lenient))
        checks.check_destinations(routes, tree["upstreams"], self.report)
        checks.check_consumers(consumers, self.report)
        checks.check_globals(entries, self.report)
        return Document.model_construct(
            routes=tuple(routes.values()),
            upstreams=upstreams,
            consumers=tuple(consumers.values()),
            plugins=tuple(entries.values()),
        )

    def part(self, value: Any, *path: str | int) -> Part:
        if self.environment is None:
            return Part(path, value)
        part = resolve(value, path, self.environment, self.report)
        self.report.resolved(part.unset, part.secrets)
        return part

    def upstreams(self, tree: dict[str, Any]) -> dict[str, Upstream]:
        made: dict[str, Upstream] = {}
        for name, value in tree.items():
            if not _IDENTIFIER.fullmatch(name):
                expected = "letters, digits, '.', '_', ':' and '-', a letter or digit first"
                self.report.refuse(("upstreams", name), f"the name {shown(name)}", expected, key=True)
            upstream = validate(Upstream, self.part(value, "upstreams", name), self.report)
            if upstream is not None:
                made[name] = upstream
                checks.check_upstream(name, upstream, self.report)
        return made

    def consumers(self, tree: list[Any]) -> dict[int, Consumer]:
        made = {i: validate(Consumer, self.part(value, "consumers", i), self.report) for i, value in enumerate(tree)}
        return {i: consumer for i, consumer in made.items() if consumer is not None}

    def global_entries(self, tree: list[Any]) -> dict[int, PluginRef]:
        part = self.part(tree, "plugins")
        made = {i: validate(PluginRef, part.below(i, value=value), self.report) for i, value in enumerate(part.value)}
        refs = {i: ref for i, ref in made.items() if ref is not None}
        checker = EntryChecker(self.plugins, (), self.report, lenient=self.lenient)
        self.keep(GLOBAL, checker.check(part, list(refs.values()) if len(refs) == len(tree) else None))
        return refs

    def routes(self, tree: list[Any], checker: EntryChecker) -> dict[int, Route]:
        parts = []
        for index, value in enumerate(tree):
            if index % _SLICE == _SLICE - 1:
                self.pause()
            parts.append(self.part(value, "routes", index))
        _fill_ids(parts)
        made: dict[int, Route] = {}
        keys: dict[int, Hashable] = {}
        for index, part in enumerate(parts):
            if index % _SLICE == _SLICE - 1:
                self.pause()
            built = self.route(part, index, checker)
            if built is not None:
                made[index], keys[index] = built.route, built.key
                self.keep(index, built.entries)
        # Of all routes, refused ones too: all problems are told at once.
        ids = {
            i: part.value["id"] for i, part in enumerate(parts) if isinstance(part.value, dict) and isinstance(part.value.get("id"), str)
        }
        checks.check_routes(made, keys, ids, self.report)
        return made

    def route(self, part: Part, index: int, checker: EntryChecker) -> _Built | None:
        key = (orjson.dumps(part.value), tuple(path[2:] for path in part.references))
        if (built := self.reusable.get(key)) is not None:
            self.built[key] = built
            return built
        route = validate(Route, part, self.report)
        listed = part.value.get("plugins") if isinstance(part.value, dict) else None
        entries = checker.check(part.below("plugins", value=listed), route.plugins if route is not None else None)
        if route is None:
            return None
        built = _Built(route, entries, checks.check_route(route, index, self.report))
        # What depends on more than the route and its plugins is looked at anew each time.
        if not part.unset and all(self.plugins.find(ref.name) for ref in route.plugins):
            self.built[key] = built
        return built

    def keep(self, index: int, entries: Entries) -> None:
        self.configs.update({(index, entry): config for entry, config in entries.configs.items()})
        self.unavailable.update({(index, entry): why for entry, why in entries.unavailable.items()})


def _fill_ids(parts: list[Part]) -> None:
    """Give every route without an id one that is made of its path: ``/api/users`` is ``api-users``, then ``api-users-2``."""
    taken = {part.value["id"] for part in parts if isinstance(part.value, dict) and isinstance(part.value.get("id"), str)}
    last: dict[str, int] = {}
    for index, part in enumerate(parts):
        if not isinstance(part.value, dict) or "id" in part.value:
            continue
        slug = _slug(part.value.get("path"))
        made, number = slug, last.get(slug, 1)
        while made in taken:
            number += 1
            made = f"{slug}-{number}"
        taken.add(made)
        last[slug] = number
        parts[index] = Part(part.path, {**part.value, "id": made}, part.references, part.unset, part.secrets)


def _slug(path: object) -> str:
    slug = _NOT_SLUG.sub("-", path).strip("-")[:100].rstrip("-") if isinstance(path, str) else ""
    return slug or ("root" if path in ("/", "=/") else "route")
