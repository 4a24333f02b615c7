"""One configuration against another: what was added, removed and changed, field by field, without showing a secret."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal

import orjson
from pydantic import BaseModel

from gwproxy.controlplane.masking import Finder, hide, hints_at, mask_value
from gwproxy.controlplane.naming import route_ids
from gwproxy.controlplane.shape import Hints, field_at, inside, is_secret, meant
from gwproxy.model import Consumer, PluginRef, Route, Upstream

Kind = Literal["upstream", "route", "consumer", "plugin"]
Action = Literal["added", "removed", "changed"]

KINDS: Final[Mapping[Kind, type[BaseModel]]] = {"upstream": Upstream, "route": Route, "consumer": Consumer, "plugin": PluginRef}

_NAMED = 3  # fields of a change that a summary names


class _NotSet(Enum):
    NOT_SET = "not set"


#: Stands for the value of a field that is not written.
NOT_SET: Final = _NotSet.NOT_SET


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that differs.

    :ivar path: inside its route or upstream, such as ``timeout.read`` or ``plugins.rate_limit.config.limit``; ``position`` is
        the place in the list, from 1, of what was moved.
    :ivar before: as it was written, masked; :data:`NOT_SET` if it was not.
    :ivar after: the same, now.
    :ivar secret: what differs is masked: both may look the same.
    :ivar raw: ``after`` in the clear, to be compared with, never shown.
    """

    path: str
    before: Any
    after: Any
    secret: bool = False
    raw: Any = field(default=None, repr=False, compare=False)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types; what is not set is left out."""
        values = {name: value for name, value in (("before", self.before), ("after", self.after)) if value is not NOT_SET}
        return {"path": self.path, **values, "secret": self.secret}


@dataclass(frozen=True, slots=True)
class Change:
    """A route, an upstream, a consumer or a global plugin entry that differs.

    :ivar name: its id or name; the second entry of a plugin is ``cors#2``.
    :ivar fields: what differs; empty for what was added or removed.
    :ivar before: the whole of it, masked; :data:`NOT_SET` if it was added.
    :ivar after: the same, now; :data:`NOT_SET` if it was removed.
    """

    kind: Kind
    name: str
    action: Action
    fields: tuple[FieldChange, ...]
    before: Any
    after: Any

    def __str__(self) -> str:
        if not self.fields:
            return f"{self.kind} {self.name} {self.action}"
        named = [changed.path for changed in self.fields[:_NAMED]]
        more = f" and {len(self.fields) - _NAMED} more" if len(self.fields) > _NAMED else ""
        return f"{self.kind} {self.name} {self.action} ({', '.join(named)}{more})"

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        made: dict[str, Any] = {"kind": self.kind, "name": self.name, "action": self.action}
        if self.action == "changed":
            return {**made, "fields": [changed.as_data() for changed in self.fields]}
        return {**made, "after" if self.action == "added" else "before": self.after if self.action == "added" else self.before}


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two configurations; false if nothing does, however differently it may be written."""

    changes: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)

    def summary(self, most: int = 5) -> str:
        """Return it in a line, such as ``route users changed (timeout.read), route beta added``.

        :param most: how many changes are named.
        """
        if not self.changes:
            return "nothing but how it is written"
        more = f" and {len(self.changes) - most} more" if len(self.changes) > most else ""
        return ", ".join(map(str, self.changes[:most])) + more

    def as_data(self) -> list[dict[str, Any]]:
        """Return it as JSON's types: an array of changes, each with ``kind``, ``name``, ``action`` and what differs."""
        return [change.as_data() for change in self.changes]


def difference(before: Any, after: Any, plugins: Finder) -> Difference:
    """Compare two documents' trees, as they were written; secrets are compared, and masked in the result.

    Routes are the same by their id, upstreams by name, consumers by id, plugin entries by name (the second of a name to the second). Both
    forms of a key are one, as are ``timeout: 30`` and what it is short for. What is not written differs from its default.

    :param before: None for no configuration.
    """
    old, new = items(before), items(after)
    comparison = _Comparison(plugins)
    changes: list[Change] = []
    for kind in KINDS:
        moved = {} if kind == "upstream" else _moved(list(old[kind]), list(new[kind]))
        for name, value in new[kind].items():
            if name not in old[kind]:
                changes.append(Change(kind, name, "added", (), NOT_SET, comparison.masked(kind, value)))
                continue
            was = old[kind][name]
            fields = comparison.fields(kind, was, value)
            if position := moved.get(name):
                fields = [*fields, FieldChange("position", *position)]
            if fields:
                changes.append(Change(kind, name, "changed", tuple(fields), comparison.masked(kind, was), comparison.masked(kind, value)))
        for name, was in old[kind].items():
            if name not in new[kind]:
                changes.append(Change(kind, name, "removed", (), comparison.masked(kind, was), NOT_SET))
    return Difference(tuple(changes))


def items(tree: Any) -> dict[Kind, dict[str, Any]]:
    """Return what a document's tree holds, by kind and name; what makes no sense is passed over: it may be no valid document."""
    tree = {"routes": tree} if isinstance(tree, list) else tree if isinstance(tree, dict) else {}
    routes = _list(tree.get("routes"))
    upstreams = tree.get("upstreams")
    return {
        "upstream": upstreams if isinstance(upstreams, dict) else {},
        "route": _distinct(zip(route_ids(routes), routes, strict=True)),
        "consumer": _distinct((_name(consumer, "id"), consumer) for consumer in _list(tree.get("consumers"))),
        "plugin": _distinct((_name(entry, "name"), entry) for entry in _list(tree.get("plugins"))),
    }


def flat(value: Any, plugins: Finder, kind: Kind) -> dict[str, FieldChange]:
    """Return every field of a route (or upstream, ...), by its path, as if each had just been set."""
    return {found.path: found for found in _Comparison(plugins, expand=True).fields(kind, {}, value)}


class _Comparison:
    """Compares what two documents hold, with what the models say.

    :param expand: whether an object that is new is told by its fields, not as a whole.
    """

    def __init__(self, plugins: Finder, *, expand: bool = False) -> None:
        self._plugins = plugins
        self._expand = expand

    def masked(self, kind: Kind, value: Any) -> Any:
        return mask_value(value, (KINDS[kind],), self._plugins)

    def fields(self, kind: Kind, before: Any, after: Any) -> list[FieldChange]:
        if _same(before, after):
            return []
        return list(self._values("", before, after, (KINDS[kind],)))

    def _values(self, path: str, before: Any, after: Any, hints: Hints) -> Iterator[FieldChange]:
        """Yield what differs at and below ``path``, which is no secret's."""
        if _same(before, after):
            return
        if self._expand and before is NOT_SET and isinstance(after, dict) and after:
            before = {}
        if isinstance(before, dict) and isinstance(after, dict):
            yield from self._objects(path, before, after, hints)
        elif (entries := PluginRef in inside(hints, 0)) and (before is NOT_SET or after is NOT_SET or _lists(before, after)):
            yield from self._entries(path, _list(before), _list(after))
        elif not entries and _lists(before, after) and len(before) == len(after) and _objects(before) and _objects(after):
            for index, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from self._values(f"{path}[{index}]", one, other, inside(hints, index))
        else:
            one, other = (value if value is NOT_SET else mask_value(value, hints, self._plugins) for value in (before, after))
            yield FieldChange(path, one, other, secret=_same(one, other), raw=after)

    def _objects(self, path: str, before: dict[str, Any], after: dict[str, Any], hints: Hints) -> Iterator[FieldChange]:
        old, new = _by_field(before, hints), _by_field(after, hints)
        for key in [*new, *(key for key in old if key not in new)]:
            below = hints_at(key, hints, after if "name" in after else before, self._plugins)
            one, other = old.get(key, NOT_SET), new.get(key, NOT_SET)
            at = f"{path}.{key}" if path else key
            if is_secret(key, below):
                if not _same(one, other):
                    shown = [value if value is NOT_SET else hide(value) for value in (one, other)]
                    yield FieldChange(at, shown[0], shown[1], secret=True, raw=other)
                continue
            if (found := field_at(key, hints)) is not None:
                one, other = self._meant(found[1], one, other)
            yield from self._values(at, one, other, below)

    def _meant(self, field: Any, one: Any, other: Any) -> tuple[Any, Any]:
        """Return both as the field takes them, if that tells more: they are the same then, or objects."""
        read = [value if value is NOT_SET else meant(field, value) for value in (one, other)]
        objects = all(isinstance(value, dict) or (self._expand and value is NOT_SET) for value in read)
        alike = _same(*read) or (objects and (self._expand or isinstance(one, dict) or isinstance(other, dict)))
        return (read[0], read[1]) if alike else (one, other)

    def _entries(self, path: str, before: list[Any], after: list[Any]) -> Iterator[FieldChange]:
        old = _distinct((_name(entry, "name"), entry) for entry in before)
        new = _distinct((_name(entry, "name"), entry) for entry in after)
        for name in [*new, *(name for name in old if name not in new)]:
            yield from self._values(f"{path}.{name}", old.get(name, NOT_SET), new.get(name, NOT_SET), (PluginRef,))
        for name, position in _moved(list(old), list(new)).items():
            yield FieldChange(f"{path}.{name}.position", *position)


def _by_field(written: dict[str, Any], hints: Hints) -> dict[str, Any]:
    """Return an object with its keys as the models have them."""
    return {found[0] if (found := field_at(key, hints)) else key: value for key, value in written.items()}


def _moved(before: list[str], after: list[str]) -> dict[str, tuple[int, int]]:
    """Return what changed its place among what is in both: as few as explain the new order, with both positions, from 1."""
    old = {name: index for index, name in enumerate(before)}
    kept = [name for name in after if name in old]
    # The longest run of names whose order is as before (patience sorting); all others were moved.
    tails: list[int] = []
    lengths = []
    for name in kept:
        length = bisect_left(tails, old[name])
        tails[length : length + 1] = [old[name]]
        lengths.append(length)
    stay, wanted = set(), len(tails) - 1
    limit = len(old)
    for name, length in zip(reversed(kept), reversed(lengths), strict=True):
        if length == wanted and old[name] < limit:
            stay.add(name)
            wanted, limit = wanted - 1, old[name]
    new = {name: index for index, name in enumerate(after)}
    return {name: (old[name] + 1, new[name] + 1) for name in kept if name not in stay}


def _distinct(pairs: Any) -> dict[str, Any]:
    """Return named values; the second of a name is ``name#2``."""
    made: dict[str, Any] = {}
    seen: dict[str, int] = {}
    for name, value in pairs:
        seen[name] = seen.get(name, 0) + 1
        made[name if seen[name] == 1 else f"{name}#{seen[name]}"] = value
    return made


def _name(value: Any, key: str) -> str:
    written = value.get(key) if isinstance(value, dict) else None
    return written if isinstance(written, str) else "?"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (dict, list)) and isinstance(other, (dict, list)):
        return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(other, option=orjson.OPT_SORT_KEYS)
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)  # True is 1, elsewhere


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _lists(one: Any, other: Any) -> bool:
    return isinstance(one, list) and isinstance(other, list)


def _objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)
