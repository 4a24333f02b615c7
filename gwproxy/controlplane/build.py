"""A parsed configuration and the registry make a snapshot: aside, in slices, reusing what did not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

from gwproxy.controlplane.collection import uncollected
from gwproxy.controlplane.parse import Parsed
from gwproxy.controlplane.text import SELDOM
from gwproxy.dataplane.measures import FINISH
from gwproxy.dataplane.mirror import LiveMirror
from gwproxy.dataplane.router import Router
from gwproxy.dataplane.snapshot import EMPTY_CHAIN, Chain, CompiledRoute, Consumers, Snapshot
from gwproxy.dataplane.split import Traffic
from gwproxy.dataplane.step import Step
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.hookspecs import PHASES
from gwproxy.model import Document, PluginRef, Route
from gwproxy.plugin import Entry, bind_entry, secrets_in
from gwproxy.registry import Registry

#: An entry of a plugin list that takes part: its name and its steps, one for each phase it hooks.
Compiled = tuple[str, tuple[Step, ...]]


class _Inherited(NamedTuple):
    """The global entries, and why any of them cannot take part."""

    entries: list[Compiled]
    missing: list[tuple[str, str]]


class Builder:
    """Builds snapshots for one worker.

    :param pause: called between any two routes, so that requests are served meanwhile.
    """

    def __init__(self, registry: Registry, upstreams: Upstreams, pause: Callable[[], None] = lambda: None) -> None:
        self._registry = registry
        self._upstreams = upstreams
        self._pause = pause
        self._reusable: dict[int, tuple[Route, CompiledRoute]] = {}
        self._globals: tuple[object, ...] = ()
        self._router_before: Router[CompiledRoute] | None = None
        self._secrets: dict[int, frozenset[str]] = {}  # of validated configurations, by their identity; while one document is built

    def fork(self, pause: Callable[[], None] | None = None, registry: Registry | None = None) -> Builder:
        """Return another one that knows what this one knows: what it builds changes nothing here.

        :param pause: None: the same.
        :param registry: None: the same. Routes whose description is the same object as before have the same plugins in both.
        """
        other = Builder(registry or self._registry, self._upstreams, pause or self._pause)
        other._reusable, other._globals, other._router_before = self._reusable, self._globals, self._router_before
        return other

    def build(self, parsed: Parsed, *, revision: int, digest: str) -> Snapshot:
        """Build a snapshot; nothing that serves is touched.

        Routes whose description is the same object as last time (the parser reuses those that did not change) are
        reused with their chains, as long as the global plugins are the same too.
        """
        try:
            with uncollected():
                return self._build(parsed, revision, digest)
        finally:
            self._secrets = {}

    def _build(self, parsed: Parsed, revision: int, digest: str) -> Snapshot:
        document = parsed.document
        global_steps, global_missing = self._entries(document.plugins, parsed, index=-1, route=None)
        find_plugin = self._registry.find
        described = tuple((ref, parsed.configs.get((-1, position)), find_plugin(ref.name)) for position, ref in enumerate(document.plugins))
        reusable = self._reusable if described == self._globals else {}
        self._globals = described
        inherited = _Inherited(global_steps, global_missing)
        routes: list[CompiledRoute] = []
        built: dict[int, tuple[Route, CompiledRoute]] = {}
        secrets = set(self._secrets_of(document.plugins, parsed, -1))
        used: dict[LiveUpstream, None] = {}
        find = partial(self._upstream, document)
        for index, route in enumerate(document.routes):
            kept = reusable.get(id(route))
            if kept is None or kept[0] is not route or not _is_current(kept[1], find):
                self._pause()
                kept = route, self._compile(route, index, parsed, inherited, find)
            elif not index & SELDOM:
                self._pause()
            compiled = kept[1]
            routes.append(compiled)
            built[id(route)] = kept
            if compiled.secrets:
                secrets |= compiled.secrets
            used[compiled.upstream] = None
            if compiled.traffic is not None or compiled.mirror is not None:
                used.update(dict.fromkeys(compiled.upstreams()))
        router = self._router(routes)
        self._reusable = built
        return Snapshot(
            revision=revision,
            digest=digest,
            document=document,
            router=router,
            routes=tuple(routes),
            consumers=Consumers(document.consumers),
            unmatched=_chain(global_steps),
            secrets=tuple(sorted(secrets, key=len, reverse=True)),
            upstreams=tuple(used),
        )

    def _compile(
        self, route: Route, index: int, parsed: Parsed, inherited: _Inherited, find: Callable[[str], LiveUpstream]
    ) -> CompiledRoute:
        """Compile one route: its own entries, after the global ones that it does not replace."""
        own, missing = self._entries(route.plugins, parsed, index=index, route=route.id)
        replaced = {ref.name for ref in route.plugins}
        entries = [entry for entry in inherited.entries if entry[0] not in replaced]
        missing += [(name, reason) for name, reason in inherited.missing if name not in replaced]
        why = "; ".join(f"plugin {name}: {reason}" for name, reason in missing) or None
        secrets = self._secrets_of(route.plugins, parsed, index)
        compiled = CompiledRoute(route, _chain([*entries, *own]), find(route.upstream), why, secrets)
        others = route.split is not None or route.canary is not None or route.mirror is not None
        return self._with_others(compiled, find) if others else compiled

    def _router(self, routes: Sequence[CompiledRoute]) -> Router[CompiledRoute]:
        building = Router.building([(compiled.route, compiled) for compiled in routes], self._router_before)
        for number, router in enumerate(building):
            if router is not None:
                self._router_before = router
                return router
            if not number & SELDOM:
                self._pause()
        raise AssertionError("the router's building ends with the router")

    def _secrets_of(self, refs: Sequence[PluginRef], parsed: Parsed, index: int) -> frozenset[str]:
        """Return the secrets that the configurations of one list hold; equal ones are looked at once."""
        found: frozenset[str] = frozenset()
        for position in range(len(refs)):
            config = parsed.configs.get((index, position))
            if config is None:
                continue
            secrets = self._secrets.get(id(config))
            if secrets is None:
                secrets = self._secrets[id(config)] = frozenset(secrets_in(config))
            found = found | secrets if found else secrets
        return found

    def _upstream(self, document: Document, name: str) -> LiveUpstream:
        described = document.upstreams.get(name)
        return self._upstreams.of_url(name) if described is None else self._upstreams.named(name, described)

    def _with_others(self, compiled: CompiledRoute, find: Callable[[str], LiveUpstream]) -> CompiledRoute:
        """Add what a route does with other upstreams than its own."""
        route, mirror = compiled.route, compiled.route.mirror
        shared = route.split is not None or route.canary is not None
        return compiled.with_others(
            traffic=Traffic(route, compiled.upstream, find) if shared else None,
            mirror=LiveMirror(mirror, find(mirror.upstream), self._upstreams.tally) if mirror is not None else None,
        )

    def _entries(
        self, refs: Sequence[PluginRef], parsed: Parsed, *, index: int, route: str | None
    ) -> tuple[list[Compiled], list[tuple[str, str]]]:
        """Compile the entries of one list; return them and, by name, why any of them cannot take part."""
        compiled: list[Compiled] = []
        missing: list[tuple[str, str]] = []
        seen: dict[str, int] = {}
        for position, ref in enumerate(refs):
            # Disabled ones count: switching one off must not give the others new counters.
            occurrence = seen[ref.name] = seen.get(ref.name, -1) + 1
            if not ref.enabled:
                continue
            if (index, position) in parsed.unavailable:
                missing.append((ref.name, parsed.unavailable[index, position]))
                continue
            registered = self._registry.registered(ref.name)
            assert registered is not None  # noqa: S101 - the parser refuses it, or lists it as unavailable
            config = bind_entry(parsed.configs[index, position], Entry(route=route, index=occurrence))
            breaker = self._upstreams.measures.breaker(registered.plugin, config.entry, ref.breaker)
            priority = ref.priority if ref.priority is not None else registered.plugin.priority
            steps = tuple(
                Step(
                    hook,
                    config,
                    plugin=ref.name,
                    phase=phase,
                    priority=priority,
                    budget=self._upstreams.measures.allow(ref.budget_in(phase)),
                    on_error=ref.on_error_in(phase),
                    shadow=ref.mode == "shadow",
                    measure=self._upstreams.measures.step(registered.plugin, phase),
                    finishing=self._upstreams.measures.step(registered.plugin, FINISH),
                    breaker=breaker,
                )
                for phase, hook in registered.hooks.items()
            )
            compiled.append((ref.name, steps))
        return compiled, missing


def _is_current(compiled: CompiledRoute, find: Callable[[str], LiveUpstream]) -> bool:
    """Whether a route can serve again as it was compiled."""
    if compiled.unavailable is not None or find(compiled.route.upstream) is not compiled.upstream:
        return False
    return (compiled.traffic is None and compiled.mirror is None) or all(find(live.name) is live for live in compiled.upstreams())


def _chain(entries: Sequence[Compiled]) -> Chain:
    """Order the steps of all entries by phase and priority; entries of equal priority keep their order."""
    phases: dict[str, list[Step]] = {}
    for _, steps in entries:
        for step in steps:
            phases.setdefault(step.phase, []).append(step)
    if not phases:
        return EMPTY_CHAIN
    ordered = {phase: tuple(sorted(steps, key=_priority) if len(steps) > 1 else steps) for phase, steps in phases.items()}
    return MappingProxyType({phase: ordered.get(phase, ()) for phase in PHASES})


_priority = attrgetter("priority")
