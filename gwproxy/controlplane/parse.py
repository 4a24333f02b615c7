"""A configuration text to a validated :class:`~gwproxy.model.Document`, or to every problem it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from gwproxy.controlplane import checks, jsontext
from gwproxy.controlplane.built import Built, RouteReader, Same
from gwproxy.controlplane.collection import uncollected
from gwproxy.controlplane.entries import Entries, EntryChecker, PluginSource, judges_routes
from gwproxy.controlplane.environment import Environment, Part, resolve
from gwproxy.controlplane.masking import MASK, mask, shown
from gwproxy.controlplane.naming import Numbering, slug_of, written_id
from gwproxy.controlplane.report import Report, did_you_mean
from gwproxy.controlplane.restoring import restore
from gwproxy.controlplane.text import SELDOM, nothing, read, to_json
from gwproxy.controlplane.validation import validate
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Consumer, Document, PluginRef, Problem, Route, Upstream
from gwproxy.plugin import PluginConfig, is_shareable

__all__ = ["MAX_ROUTES", "Environment", "Parsed", "PluginSource", "parse", "to_json"]

#: The most routes of a configuration.
MAX_ROUTES = 100_000

#: The route index of global plugin entries in :attr:`Parsed.configs`.
GLOBAL = -1

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


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
    _built: Mapping[Same, Built] = field(repr=False)

    @property
    def masked(self) -> Any:
        """The document's tree as it was written (either form, references unresolved), with secrets as ``***``.

        Read again each time: workers seldom need it, and would hold a large tree for it.
        """
        return mask(self.tree, self._plugins)

    @property
    def tree(self) -> Any:
        """The same with secrets as they were written, for what masks the part that it shows."""
        return read(self._data, self._file).tree


def parse(
    data: bytes,
    *,
    file: str,
    plugins: PluginSource,
    environment: Environment,
    lenient: bool = False,
    elsewhere: Collection[str] = (),
    tree: Any = None,
    previous: Parsed | None = None,
    pause: Callable[[], object] = nothing,
) -> Parsed:
    """Read, resolve and validate a configuration.

    10,000 routes with a plugin each take less than half a second of CPU time, unchanged ones a tenth of that.

    :param file: what messages call the document, e.g. ``gateway.yaml`` or ``gw:routes``.
    :param lenient: True (workers): a plugin that is not there makes its entries unavailable. False: it refuses the document.
    :param elsewhere: names of plugins that make their entries unavailable if they are not there, even so.
    :param tree: what is validated instead of what stands in ``data``: the same with its secrets filled in. None: what stands there.
    :param previous: what was parsed before: routes that did not change, and whose plugins are the same in ``plugins``, are the
        same objects in the result, and so are the configurations of their plugins.
    :param pause: called between any two routes, so that a worker may serve meanwhile.
    :raises ConfigurationRefused: it cannot be read or is not valid; with every problem, by line.
    """
    reusable = _reusable(previous, plugins, pause) if previous is not None else {}
    reader = RouteReader(reusable)
    source = read(data, file, pause, reader)
    report = Report(source)
    # A reference may be spelled with an escape; only what has neither '$' nor escapes has none for certain.
    environment_used = b"$" in data or b"\\" in data or tree is not None
    texts = reader.texts if source.json and tree is None else []
    checker = partial(EntryChecker, plugins, report=report, lenient=lenient, elsewhere=elsewhere)
    parser = _Parser(report, environment if environment_used else None, plugins, reusable, texts, pause, checker)
    outline = _outline(source.tree if tree is None else tree, report)
    if tree is None and MASK.encode() in data:
        _refuse_masks(read(data, file).tree, plugins, report)
    with uncollected():
        document = parser.document(outline)
    problems = report.problems()
    if problems:
        raise ConfigurationRefused(problems)
    return Parsed(document, parser.configs, parser.unavailable, report.warnings(), data, file, plugins, parser.built)


def _reusable(previous: Parsed, plugins: PluginSource, pause: Callable[[], object]) -> Mapping[Same, Built]:
    """Return the routes of which every plugin is the very one that it was."""
    before = previous._plugins
    if before is plugins:
        return previous._built
    others = {name for name in {*before.names, *plugins.names} if before.find(name) is not plugins.find(name)}
    kept: dict[Same, Built] = {}
    for number, (same, built) in enumerate(previous._built.items()):
        if not any(ref.name in others for ref in built.route.plugins):
            kept[same] = built
        if not number & SELDOM:
            pause()
    return kept


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


def _refuse_masks(tree: Any, plugins: PluginSource, report: Report) -> None:
    """Refuse a secret that is how secrets are shown: everybody would know it."""
    for path in restore(tree, None, plugins)[1]:
        report.refuse(
            path,
            MASK,
            "the secret itself, or ${NAME}; 'gwproxy apply' keeps the live one for a mask, 'gwproxy export --show-secrets' prints it",
        )


class _Parser:
    """One pass over one document."""

    def __init__(
        self,
        report: Report,
        environment: Environment | None,
        plugins: PluginSource,
        reusable: Mapping[Same, Built],
        texts: list[str | None],
        pause: Callable[[], object],
        checker: Callable[[Collection[str]], EntryChecker],
    ) -> None:
        self.report = report
        self.environment = environment
        self.plugins = plugins
        self.reusable = reusable
        self.texts = texts
        self.pause = pause
        self.checker = checker
        self.configs: dict[tuple[int, int], PluginConfig] = {}
        self.unavailable: dict[tuple[int, int], str] = {}
        self.built: dict[Same, Built] = {}
        self.slugs: dict[int, str] = {}
        self.lists: dict[bytes, tuple[tuple[PluginRef, ...], Entries]] = {}  # of plugins, by their JSON

    def document(self, tree: dict[str, Any]) -> Document:
        upstreams = self.upstreams(tree["upstreams"])
        consumers = self.consumers(tree["consumers"])
        entries = self.global_entries(tree["plugins"])
        names = {entry["name"] for entry in tree["plugins"] if isinstance(entry, dict) and isinstance(entry.get("name"), str)}
        routes = self.routes(tree["routes"], self.checker(names))
        self.check_globals_on(routes, entries)
        checks.check_destinations(routes, tree["upstreams"], self.report, self.pause)
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
        checker = self.checker(())
        self.keep(GLOBAL, checker.check(part, list(refs.values()) if len(refs) == len(tree) else None))
        return refs

    def check_globals_on(self, routes: dict[int, Route], refs: dict[int, PluginRef]) -> None:
        """Let global entries judge each route that has none of the same name; of those that do not fit, the first is told."""
        checker = self.checker(())
        for index, ref in refs.items():
            config = self.configs.get((GLOBAL, index))
            if config is None or not judges_routes(config):
                continue
            for route in routes.values():
                self.pause()
                replaced = any(own.name == ref.name for own in route.plugins)
                if not replaced and not checker.check_on(route, refs, Entries({index: config}), "plugins", about=f"route {route.id}"):
                    break

    def routes(self, tree: list[Any], checker: EntryChecker) -> dict[int, Route]:
        parts: list[Part | Built] = []
        for index, value in enumerate(tree):
            if not index & SELDOM or not isinstance(value, Built):
                self.pause()
            parts.append(value if isinstance(value, Built) else self.part(value, "routes", index))
        ids = self.fill_ids(parts)
        made: dict[int, Route] = {}
        keys: dict[int, Hashable] = {}
        for index, part in enumerate(parts):
            if not index & SELDOM or isinstance(part, Part):
                self.pause()
            built = self.route(part, index, checker) if isinstance(part, Part) else self.again(part, index)
            if built is not None:
                made[index], keys[index] = built.route, built.key
                self.keep(index, built.entries)
        # Of all routes, refused ones too: all problems are told at once.
        checks.check_routes(made, keys, ids, self.report, self.pause)
        return made

    def fill_ids(self, parts: list[Part | Built]) -> dict[int, str]:
        """Give every route without an id one that is made of its path: ``/api/users`` is ``api-users``, then ``api-users-2``.

        :returns: the ids of all routes, by index.
        """
        ids: dict[int, str] = {}
        for index, part in enumerate(parts):
            if not index & SELDOM:
                self.pause()
            if (written := _written_id(part)) is not None:
                ids[index] = written
        numbering = Numbering(ids.values())
        for index, part in enumerate(parts):
            if not index & SELDOM:
                self.pause()
            slug = part.slug if isinstance(part, Built) else slug_of(part.value)
            if slug is None:
                continue
            ids[index] = made = numbering.name(slug)
            if isinstance(part, Part):
                parts[index] = Part(part.path, {**part.value, "id": made}, part.references, part.unset, part.secrets)
            elif part.route.id != made:  # written as before, but others were before it in the list
                parts[index] = Part(("routes", index), {**jsontext.load(str(self.texts[index])), "id": made})
            self.slugs[index] = slug
        return ids

    def again(self, built: Built, index: int) -> Built:
        self.built[str(self.texts[index])] = built
        return built

    def route(self, part: Part, index: int, checker: EntryChecker) -> Built | None:
        text = self.texts[index] if self.texts else None
        same: Same = text if text is not None else (orjson.dumps(part.value), tuple(path[2:] for path in part.references))
        if text is None and (known := self.reusable.get(same)) is not None:
            self.built[same] = known
            return known
        made = self.validated(part, checker)
        if made is None:
            return None
        route, entries = made
        checker.check_on(route, dict(enumerate(route.plugins)), entries, "routes", index, "plugins")
        built = Built(route, entries, checks.check_route(route, index, self.report), self.slugs.get(index))
        # What depends on more than the route and its plugins is looked at anew each time.
        if not part.unset and all(self.plugins.find(ref.name) for ref in route.plugins):
            self.built[same] = built
        return built

    def validated(self, part: Part, checker: EntryChecker) -> tuple[Route, Entries] | None:
        """Validate a route and its plugins' configurations. Routes with equal lists of plugins share what comes of them."""
        listed = part.value.get("plugins") if isinstance(part.value, dict) else None
        written = orjson.dumps(listed) if listed and not part.references else b""
        if (known := self.lists.get(written)) is not None:
            refs, entries = known
            bare = validate(Route, Part(part.path, {key: value for key, value in part.value.items() if key != "plugins"}), self.report)
            return (_with_plugins(bare, refs), entries) if bare is not None else None
        route = validate(Route, part, self.report)
        entries = checker.check(part.below("plugins", value=listed), route.plugins if route is not None else None)
        if route is None:
            return None
        if written and len(entries.configs) == len(route.plugins) and all(map(is_shareable, entries.configs.values())):
            self.lists[written] = route.plugins, entries
        return route, entries

    def keep(self, index: int, entries: Entries) -> None:
        for entry, config in entries.configs.items():
            self.configs[index, entry] = config
        for entry, why in entries.unavailable.items():
            self.unavailable[index, entry] = why


def _with_plugins(route: Route, plugins: tuple[PluginRef, ...]) -> Route:
    """Give a route that was just made without them its plugins; frozen is what others know."""
    route.__dict__["plugins"] = plugins  # PERF: a copy takes as long as validating them again
    route.__pydantic_fields_set__.add("plugins")
    return route


def _written_id(part: Part | Built) -> str | None:
    if isinstance(part, Built):
        return part.route.id if part.slug is None else None
    return written_id(part.value)
