"""Where things stand in a document: paths such as ``routes[3].plugins[0].config``, lines and columns."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

#: Keys and indexes from the top of the document.
Path = tuple[str | int, ...]

#: Line and column, both from 1; columns count characters.
Place = tuple[int, int]

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def path_text(path: Sequence[str | int]) -> str:
    """Return ``routes[3].headers["x.y"]`` for ``("routes", 3, "headers", "x.y")``."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        elif _PLAIN_KEY.fullmatch(key):
            text += f".{key}" if text else key
        else:
            quoted = key.replace("\\", "\\\\").replace('"', '\\"')
            text += f'["{quoted}"]'
    return text


def same_key(written: str, name: str) -> bool:
    """Whether ``written`` is ``name`` in snake_case or camelCase."""
    return written == name or written.replace("_", "").lower() == name.replace("_", "").lower()


class Lines:
    """Turns offsets into a text into lines and columns; a lookup costs one bisection."""

    __slots__ = ("_starts",)

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(self, offset: int) -> Place:
        """Return where the character at ``offset`` stands."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1


class Node:
    """Where a value of the document, its keys and what is below it stand.

    :ivar at: of the value.
    :ivar keys: of each key, for an object.
    :ivar below: what is in it, for an object or a list.
    """

    __slots__ = ("at", "below", "keys")

    def __init__(self, at: Place) -> None:
        self.at = at
        self.keys: dict[str, Place] = {}
        self.below: dict[str | int, Node] = {}

    def open(self) -> None:
        """Make ``keys`` and ``below`` known; here they are."""

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Return where ``path`` stands; for what is not there, where its nearest surroundings stand.

        :param key: the place of the last key, not of its value.
        """
        node = self
        for index, step in enumerate(path):
            node.open()
            below = node.below.get(step)
            if below is None:
                return node.keys.get(str(step), node.at) if key and index == len(path) - 1 else node.at
            if key and index == len(path) - 1:
                return node.keys.get(str(step), below.at)
            node = below
        return node.at
