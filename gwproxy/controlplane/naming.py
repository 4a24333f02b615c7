"""The ids of routes that were written without one: made of their paths, the same wherever they are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_NOT_SLUG = re.compile(r"[^A-Za-z0-9]+")


class Numbering:
    """Gives out names: ``api-users``, then ``api-users-2``.

    :param taken: names that are not given out.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)
        self._last: dict[str, int] = {}

    def name(self, slug: str) -> str:
        """Return the next name that is made of ``slug``."""
        made, number = slug, self._last.get(slug, 1)
        while made in self._taken:
            number += 1
            made = f"{slug}-{number}"
        self._taken.add(made)
        self._last[slug] = number
        return made


def route_ids(routes: list[Any]) -> list[str]:
    """Return the id of each route of a list, as written or as the gateway makes it; of what is no route, one made up."""
    numbering = Numbering(written for route in routes if (written := written_id(route)) is not None)
    return [written_id(route) or numbering.name(slug_of(route) or "route") for route in routes]


def written_id(route: Any) -> str | None:
    """Return the id of a route as it was written; None if it has none, or one that is no text."""
    written = route.get("id") if isinstance(route, dict) else None
    return written if isinstance(written, str) else None


def slug_of(route: Any) -> str | None:
    """Return what the id of a route is made of, ``api-users`` for ``/api/users``; None if it has one, or is no route at all."""
    if not isinstance(route, dict) or "id" in route:
        return None
    path = route.get("path")
    slug = _NOT_SLUG.sub("-", path).strip("-")[:100].rstrip("-") if isinstance(path, str) else ""
    return slug or ("root" if path in ("/", "=/") else "route")
