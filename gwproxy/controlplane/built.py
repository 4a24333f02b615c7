"""The routes of a document as the next one reuses them: what is written as before is neither read nor validated again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from gwproxy.controlplane import jsontext
from gwproxy.controlplane.entries import Entries
from gwproxy.controlplane.places import Path
from gwproxy.model import Route


@dataclass(frozen=True, slots=True)
class Built:
    """A route and its entries' configurations, as the next document reuses them.

    :ivar key: what :func:`~gwproxy.controlplane.checks.check_route` returned.
    :ivar slug: what its id was made of; None if one was written.
    """

    route: Route
    entries: Entries
    key: Hashable
    slug: str | None


#: What tells that a route did not change: its JSON as it was written; with references, or from YAML, its resolved JSON and
#: where they stand.
Same = str | tuple[bytes, tuple[Path, ...]]


class RouteReader:
    """Reads the list of routes of a JSON text: one that is written as before is not read again.

    :param known: the routes of the document before, in order.

    :ivar texts: each route as it is written; None if what it means depends on more than that.
    """

    def __init__(self, known: Mapping[Same, Built]) -> None:
        self._known = known
        self._order = list(known)
        self._positions: dict[Same, int] = {}
        self._next = 0
        self.texts: list[str | None] = []

    def __call__(self, text: str, at: int) -> tuple[Any, int]:
        """Return the route at ``at``, as a tree or as it was built before, and where it ends."""
        expected = self._order[self._next] if self._next < len(self._order) else None
        if isinstance(expected, str) and text.startswith(expected, at):
            self._next += 1  # a JSON object ends where it ends: what begins with one is that one
            self.texts.append(expected)
            return self._known[expected], at + len(expected)
        tree, end = jsontext.value(text, at)
        written = text[at:end]
        plain = "$" not in written and "\\" not in written  # a reference may be spelled with an escape
        self.texts.append(written if plain else None)
        built = self._known.get(written)
        self._next = self._next + 1 if built is None else self._position(written) + 1
        return (tree if built is None else built), end

    def _position(self, written: str) -> int:
        if not self._positions:
            self._positions = {text: position for position, text in enumerate(self._order)}
        return self._positions[written]
