"""Header fields: ordered, repeated, case kept; found without regard to case."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2: token
_BAD_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")  # RFC 9110 section 5.5; latin-1 carries obs-text


class Headers:
    """The header fields of one message, in order, with repetitions and as they were spelled.

    Names are compared without case. Values are ``str`` holding latin-1 characters, one a byte, so that any byte
    survives. Reading one field costs one dict lookup; writing one that is there already costs a pass over all.

    >>> headers = Headers([("X-A", "1"), ("x-a", "2")])
    >>> headers["X-a"], headers.getlist("X-A")
    ('1', ['1', '2'])
    """

    __slots__ = ("_first", "_items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        """Take ``items`` as they are: they come from a parser that has validated them."""
        self._items: list[tuple[str, str, str]] = [(name.lower(), name, value) for name, value in items]
        self._first: dict[str, str] = {}
        for key, _, value in self._items:
            self._first.setdefault(key, value)

    @classmethod
    def adopt(cls, items: list[tuple[str, str, str]]) -> Headers:
        """Make headers of ``(lower-case name, name, value)``; the list is theirs from here on."""
        new = cls.__new__(cls)
        new._items = items
        new._first = first = {}
        for key, _, value in items:
            if key not in first:
                first[key] = value
        return new

    def __getitem__(self, name: str) -> str:
        """Return the first value of ``name``.

        :raises KeyError: if there is none.
        """
        return self._first[name.lower()]

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of ``name``, or ``default``."""
        return self._first.get(name.lower(), default)

    def getlist(self, name: str) -> list[str]:
        """Return all values of ``name`` in order; empty if there is none."""
        key = name.lower()
        if key not in self._first:
            return []
        return [value for k, _, value in self._items if k == key]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._first

    def __setitem__(self, name: str, value: str) -> None:
        """Set ``name`` to one value, replacing all it had.

        :raises ValueError: if name or value cannot stand in a header (CR, LF, NUL, not latin-1, no token).
        """
        key = name.lower()
        check_field(name, value)
        if key in self._first:
            self._items = [item for item in self._items if item[0] != key]
        self._items.append((key, name, value))
        self._first[key] = value

    def add(self, name: str, value: str) -> None:
        """Append a field, beside those of the same name.

        :raises ValueError: as for assignment.
        """
        check_field(name, value)
        key = name.lower()
        self._items.append((key, name, value))
        self._first.setdefault(key, value)

    def setdefault(self, name: str, value: str) -> str:
        """Set ``name`` unless it is there; return what it then is."""
        if name not in self:
            self[name] = value
        return self[name]

    def remove(self, name: str) -> None:
        """Remove every field of that name; it need not be there."""
        if name in self:
            del self[name]

    def __delitem__(self, name: str) -> None:
        """Remove every field of that name.

        :raises KeyError: if there is none.
        """
        key = name.lower()
        del self._first[key]
        self._items = [item for item in self._items if item[0] != key]

    def update(self, other: Headers) -> None:
        """Replace the fields that ``other`` names by those of ``other``, repetitions included."""
        if not other._items or other is self:
            return
        taken = other._first
        if any(key in self._first for key in taken):
            self._items = [item for item in self._items if item[0] not in taken]
        self._items.extend(other._items)
        self._first.update(taken)

    def items(self) -> list[tuple[str, str]]:
        """Return ``(name, value)`` for every field, in order, as spelled."""
        return [(name, value) for _, name, value in self._items]

    def lower_items(self) -> list[tuple[str, str, str]]:
        """Return ``(lower-case name, name, value)`` for every field, in order. Not to be changed."""
        return self._items

    def copy(self) -> Headers:
        """Return a copy that shares nothing mutable with this one."""
        new = Headers()
        new._items = list(self._items)
        new._first = dict(self._first)
        return new

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, each once, in order, as first spelled."""
        names: dict[str, str] = {}
        for key, name, _ in self._items:
            names.setdefault(key, name)
        return iter(names.values())

    def __len__(self) -> int:
        """Count the fields, repetitions included."""
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({[name for _, name, _ in self._items]})"  # no values: they may be secrets


def check_field(name: str, value: str) -> None:
    """Refuse what cannot stand in a header.

    :raises ValueError: naming the field, never the value.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    if _BAD_VALUE.search(value):
        raise ValueError(f"a control or non-latin-1 character in the value of header {name}")
