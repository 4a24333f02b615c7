"""One route, upstream or consumer of a document: found by its name, replaced, removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gwproxy.admin.answers import Refused
from gwproxy.controlplane.difference import Kind, items
from gwproxy.controlplane.masking import Finder, mask
from gwproxy.controlplane.naming import route_ids
from gwproxy.model import Problem


@dataclass(frozen=True, slots=True)
class PartKind:
    """A kind of thing that a configuration holds several of.

    :ivar key: under which they stand in the document, and in the API's paths.
    :ivar one: what messages call one.
    """

    key: str
    one: Kind

    def masked_all(self, tree: Any, plugins: Finder) -> dict[str, Any]:
        """Return all of this kind by name, with secrets masked."""
        return dict(items(mask(tree, plugins))[self.one])


KINDS: Mapping[str, PartKind] = {
    "routes": PartKind("routes", "route"),
    "upstreams": PartKind("upstreams", "upstream"),
    "consumers": PartKind("consumers", "consumer"),
}


class Part:
    """One thing of a document.

    :param tree: the document, either form; it is changed.

    :ivar tree: the document as it is now: of the object form where the array form has no place for something.
    """

    def __init__(self, tree: Any, kind: PartKind, name: str) -> None:
        self._kind = kind
        self._name = name
        self.tree = {"routes": tree} if isinstance(tree, list) and kind.key != "routes" else tree

    def value(self) -> Any:
        """Return what stands there.

        :raises Refused: 404: there is none of that name.
        """
        if self._kind.key == "upstreams":
            held = self._all()
            if self._name in held:
                return held[self._name]
        elif (index := self._index()) is not None:
            return self._all()[index]
        raise Refused(404, f"there is no {self._kind.one} {self._name!r}")

    def put(self, value: Any) -> None:
        """Put ``value`` in its place, or at the end if there is none of that name.

        :raises Refused: 422: it says that it has another name.
        """
        held = self._all()
        if self._kind.key == "upstreams":
            held[self._name] = value
            return
        written = value.get("id", self._name)
        if written != self._name:
            problem = Problem("id", repr(written)[:80], f"{self._name!r}, as in the path, or no id: a {self._kind.one} keeps its own")
            raise Refused(422, "the body is not what is expected here", problems=[problem])
        value, index = {"id": self._name, **value}, self._index()
        if index is None:
            held.append(value)
        else:
            held[index] = value

    def remove(self) -> None:
        """Take it away.

        :raises Refused: 404: there is none of that name.
        """
        self.value()
        if self._kind.key == "upstreams":
            del self._all()[self._name]
        else:
            del self._all()[self._index()]

    def _all(self) -> Any:
        if isinstance(self.tree, list):
            return self.tree
        return self.tree.setdefault(self._kind.key, {} if self._kind.key == "upstreams" else [])

    def _index(self) -> int | None:
        held = self._all()
        names: list[Any] = [each.get("id") if isinstance(each, dict) else None for each in held]
        if self._kind.key == "routes":
            names = list(route_ids(held))
        return names.index(self._name) if self._name in names else None


def merged(value: Any, patch: Any) -> Any:
    """Return ``value`` with a JSON Merge Patch applied (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    made = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            made.pop(key, None)
        else:
            made[key] = merged(made.get(key), change)
    return made
