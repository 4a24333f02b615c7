"""The chain of a route laid out for people: what runs in each phase, and where each setting of it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from gwproxy.controlplane.effective import effective
from gwproxy.controlplane.masking import mask
from gwproxy.controlplane.parse import GLOBAL, Parsed
from gwproxy.dataplane.snapshot import CompiledRoute, Snapshot
from gwproxy.dataplane.step import Step
from gwproxy.hookspecs import PHASES
from gwproxy.model import PluginRef
from gwproxy.plugin import PluginConfig
from gwproxy.registry import Registry

#: Where an entry is written: among the global plugins or on the route.
Owner = Literal["global", "route"]
#: Where a setting comes from: its entry, or what holds without one.
DEFAULT = "default"

_SETTINGS = ("priority", "mode", "on_error", "budget")


@dataclass(frozen=True, slots=True)
class Placed:
    """A plugin entry at its place in one phase.

    :ivar owner: where it is written.
    :ivar priority: what it comes to: the entry's, else the plugin's own.
    :ivar on_error: what it comes to in this phase.
    :ivar config: validated; None if it is not known here.
    :ivar place: the index of the route that it is written on (-1: a global entry), and its own in that list.
    :ivar unknown: why it is not known here; empty if it is.
    """

    ref: PluginRef
    owner: Owner
    phase: str
    priority: int
    on_error: str
    config: PluginConfig | None = field(repr=False)
    place: tuple[int, int]
    unknown: str = ""

    @property
    def sources(self) -> dict[str, Any]:
        """Where each setting comes from: ``default`` (built in), ``global`` or ``route``; nested as ``config`` is."""
        given = set(self.ref.model_fields_set)
        if getattr(self.ref.budget_ms, self.phase, None) is not None:
            given.add("budget")
        made: dict[str, Any] = {
            name: self.owner if name in given and getattr(self.ref, name) is not None else DEFAULT for name in _SETTINGS
        }
        made["config"] = _sources(self.config, self.owner) if self.config is not None else dict.fromkeys(self.ref.config, self.owner)
        return made


class Chains:
    """The chains of one configuration.

    :param snapshot: built of ``parsed``.
    :param tree: :attr:`Parsed.tree` of it.
    """

    def __init__(self, parsed: Parsed, registry: Registry, snapshot: Snapshot, tree: Any) -> None:
        self._tree: Mapping[str, Any] = {"routes": tree} if isinstance(tree, list) else tree
        self._parsed = parsed
        self._registry = registry
        self._snapshot = snapshot
        self._unavailable: dict[int, list[tuple[int, str]]] = {}  # by owner: which, and the reason
        for (owner, position), reason in sorted(parsed.unavailable.items()):
            self._unavailable.setdefault(owner, []).append((position, reason))
        self._indexes = {route.id: index for index, route in enumerate(parsed.document.routes)}

    def of(self, compiled: CompiledRoute | None) -> dict[str, list[Placed]]:
        """Lay out the chain of a route, phase by phase in order; None: what runs where no route matches."""
        steps = compiled.chain if compiled is not None else {"response": self._snapshot.unmatched["response"]}
        made = {phase: [self._placed(step) for step in steps.get(phase, ())] for phase in PHASES}
        for owner, position, reason in self._open(compiled):
            ref = self._list(owner)[position]
            registered = self._registry.registered(ref.name)
            if registered is None:
                continue  # nothing is known of it; the route answers 503
            priority = ref.priority if ref.priority is not None else registered.plugin.priority
            for phase in registered.hooks:
                if phase in steps:
                    place = (owner, position)
                    made[phase].append(Placed(ref, _owner(owner), phase, priority, ref.on_error_in(phase), None, place, reason))
        return {phase: sorted(entries, key=lambda placed: placed.priority) for phase, entries in made.items()}

    def lacks_plugin(self, compiled: CompiledRoute) -> bool:
        """Whether a plugin of the route, or of all routes, is not installed here."""
        opened = (self._list(owner)[position] for owner, position, _ in self._open(compiled))
        return any(self._registry.registered(ref.name) is None for ref in opened)

    def shown(self, placed: Placed) -> Any:
        """Return the effective configuration of an entry as JSON's types, secrets masked; None if it is not known here."""
        if placed.config is None:
            return None
        return effective(placed.ref.name, placed.config, self.written(placed), self._registry)

    def written(self, placed: Placed) -> Mapping[str, Any]:
        """Return the ``config`` of an entry as it was written, masked."""
        # PERF: of what is looked at only; masking all of 10,000 routes takes seconds
        owner, position = placed.place
        holder = self._tree if owner == GLOBAL else self._tree["routes"][owner]
        masked: dict[str, Any] = mask({"plugins": [holder["plugins"][position]]}, self._registry)
        written: Mapping[str, Any] = masked["plugins"][0].get("config", {})
        return written

    def as_data(self, placed: Placed) -> dict[str, Any]:
        """Return all there is to say of an entry, as JSON's types."""
        made = {
            "plugin": placed.ref.name,
            "priority": placed.priority,
            "mode": placed.ref.mode,
            "on_error": placed.on_error,
            "budget": placed.ref.budget_in(placed.phase),
            "config": self.shown(placed),
        }
        if placed.config is None:
            made["unknown"] = placed.unknown
        return {**made, "source": placed.owner, "sources": placed.sources}

    def _placed(self, step: Step) -> Placed:
        entry = step.config.entry
        owner = GLOBAL if entry.route is None else self._indexes[entry.route]
        refs = self._list(owner)
        position = [position for position, ref in enumerate(refs) if ref.name == step.plugin][entry.index]
        return Placed(refs[position], _owner(owner), step.phase, step.priority, step.on_error, step.config, (owner, position))

    def _list(self, owner: int) -> Sequence[PluginRef]:
        """Return the plugin entries of a route, by its index (-1: the global ones)."""
        document = self._parsed.document
        return document.plugins if owner == GLOBAL else document.routes[owner].plugins

    def _open(self, compiled: CompiledRoute | None) -> Iterator[tuple[int, int, str]]:
        """Yield the entries of a route, global ones too, that cannot run here: whose, which, and the reason."""
        replaced = {ref.name for ref in compiled.route.plugins} if compiled is not None else ()
        for position, reason in self._unavailable.get(GLOBAL, ()):
            if self._parsed.document.plugins[position].name not in replaced:
                yield GLOBAL, position, reason
        if compiled is not None:
            index = self._indexes[compiled.route.id]
            yield from ((index, position, reason) for position, reason in self._unavailable.get(index, ()))


def _owner(index: int) -> Owner:
    return "global" if index == GLOBAL else "route"


def _sources(value: BaseModel, owner: Owner) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in type(value).model_fields:
        held = getattr(value, name)
        if name not in value.model_fields_set:
            made[name] = DEFAULT
        else:
            made[name] = _sources(held, owner) if isinstance(held, BaseModel) else owner
    return made
