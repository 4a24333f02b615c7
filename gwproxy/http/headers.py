"""Header fields: ordered, repeated, case kept; found without regard to case."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from mypy_extensions import mypyc_attr

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2: token
_BAD_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")  # RFC 9110 section 5.5; latin-1 carries obs-text

_key_and_value: Final = itemgetter(0, 2)

#: One field: its name in lower case, its name, its value, and its line as it is sent. Valid by being made: see :func:`field`.
Field = tuple[str, str, str, bytes]


@mypyc_attr(acyclic=True)
class Shared:
    """End-to-end fields that messages have in common, and what was made of them once: who sends on such a message copies that.

    :ivar items: never changed.
    :ivar lines: all of them, as they are sent.
    :ivar length: what the last Content-Length says; empty: there is none.
    :ivar lengths: how many there are.
    :ivar dated: whether there is a Date.
    :ivar identified: whether there is an X-Request-ID.
    :ivar left: names, and the lines but those of these names; None: nobody has wanted that.
    """

    __slots__ = ("dated", "identified", "items", "left", "length", "lengths", "lines")

    def __init__(self, items: list[Field]) -> None:
        self.items = items
        self.lines = b"".join([one[3] for one in items])
        self.length, self.lengths = "", 0
        self.dated = self.identified = False
        self.left: tuple[frozenset[str], bytes] | None = None
        for key, _, value, _ in items:
            if key == "content-length":
                self.length, self.lengths = value, self.lengths + 1
            elif key == "date":
                self.dated = True
            elif key == "x-request-id":
                self.identified = True


@mypyc_attr(allow_interpreted_subclasses=True)
class Headers:
    """The header fields of one message, in order, with repetitions and as they were spelled.

    Names are compared without case. Values are ``str`` holding latin-1 characters, one a byte, so that any byte
    survives. Reading one field costs one dict lookup (the first time a pass over all), reading all its values a pass; writing
    one that is there already costs a pass over all. Every field in it can stand in a message: what cannot is refused when it is put in.

    >>> headers = Headers([("X-A", "1"), ("x-a", "2")])
    >>> headers["X-a"], headers.getlist("X-A")
    ('1', ['1', '2'])
    """

    __slots__ = ("_first", "_items", "_shared")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        """Take ``items``.

        :raises ValueError: as :func:`carried`.
        """
        self._items: list[Field] = [carried(name, value) for name, value in items] if items else []
        self._first: dict[str, str] | None = None  # made when first asked for: most messages pass unread
        self._shared: Shared | None = None

    @staticmethod
    def sharing(shared: Shared) -> Headers:
        """Make headers that begin as others did."""
        new = Headers()
        new._items = shared.items.copy()
        new._shared = shared
        return new

    @staticmethod
    def adopt(fields: list[Field]) -> Headers:
        """Make headers of ``fields``; the list is theirs from here on."""
        new = Headers()
        new._items = fields
        return new

    def _index(self) -> dict[str, str]:
        first = self._first = dict(map(_key_and_value, reversed(self._items)))  # the first of a name is set last
        return first

    def __getitem__(self, name: str) -> str:
        """Return the first value of ``name``.

        :raises KeyError: if there is none.
        """
        first = self._first
        return (self._index() if first is None else first)[name.lower()]

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of ``name``, or ``default``."""
        first = self._first
        return (self._index() if first is None else first).get(name.lower(), default)

    def first(self, key: str) -> str | None:
        """Return the first value of the field whose name is ``key`` in lower case; None: there is none.

        Costs a pass over the fields, unless one was read by name before: for who wants a single one of most messages.
        """
        first = self._first
        if first is not None:
            return first.get(key)
        for item in self._items:
            if item[0] == key:
                return item[2]
        return None

    def getlist(self, name: str) -> list[str]:
        """Return all values of ``name`` in order; empty if there is none."""
        key, first = name.lower(), self._first
        if first is not None and key not in first:
            return []
        items: list[tuple[Any, ...]] = self._items
        return [item[2] for item in items if item[0] == key]

    def __contains__(self, name: object) -> bool:
        first = self._first
        return isinstance(name, str) and name.lower() in (self._index() if first is None else first)

    def __setitem__(self, name: str, value: str) -> None:
        """Set ``name`` to one value, replacing all it had.

        :raises ValueError: if name or value cannot stand in a header (CR, LF, NUL, not latin-1, no token).
        """
        made = field(name, value)
        key = made[0]
        first = self._first
        if first is None:
            first = self._index()
        if key in first:
            self._items = [item for item in self._items if item[0] != key]
        self._items.append(made)
        first[key] = value

    def add(self, name: str, value: str) -> None:
        """Append a field, beside those of the same name.

        :raises ValueError: as for assignment.
        """
        self.append(field(name, value))

    def append(self, made: Field) -> None:
        """Append a field that was made before."""
        self._items.append(made)
        if self._first is not None:
            self._first.setdefault(made[0], made[2])

    def setdefault(self, name: str, value: str) -> str:
        """Set ``name`` unless it is there; return what it then is."""
        if name not in self:
            self[name] = value
        return self[name]

    def remove(self, name: str) -> None:
        """Remove every field of that name; it need not be there."""
        key = name.lower()
        if self.first(key) is not None:
            if self._first is not None:
                del self._first[key]
            self._items = [item for item in self._items if item[0] != key]

    def __delitem__(self, name: str) -> None:
        """Remove every field of that name.

        :raises KeyError: if there is none.
        """
        key = name.lower()
        first = self._first
        del (self._index() if first is None else first)[key]
        self._items = [item for item in self._items if item[0] != key]

    def update(self, other: Headers) -> None:
        """Replace the fields that ``other`` names by those of ``other``, repetitions included."""
        items: list[Any] = other._items
        if not items or other is self:
            return
        if not self._items:  # what is to replace headers of a response, before anything is
            self._items, self._first = list(items), None
            return
        taken = {item[0] for item in items}
        first = self._first
        if first is None:  # PERF: a pass over all costs a third of an index, of this or of the other
            own: list[Any] = self._items
            self._items = [item for item in own if item[0] not in taken]
        else:
            if not taken.isdisjoint(first):
                own = self._items
                self._items = [item for item in own if item[0] not in taken]
            first.update(map(_key_and_value, reversed(items)))  # the first of a name is set last
        self._items.extend(items)

    def items(self) -> list[tuple[str, str]]:
        """Return ``(name, value)`` for every field, in order, as spelled."""
        return [(item[1], item[2]) for item in self._items]

    def lower_items(self) -> list[tuple[str, str, str]]:
        """Return ``(lower-case name, name, value)`` for every field, in order."""
        return [item[:3] for item in self._items]

    def fields(self) -> list[Field]:
        """Return every field, in order. Not to be changed."""
        return self._items

    def index(self) -> dict[str, str]:
        """Return the first value of each field, by its name in lower case. Not to be changed."""
        first = self._first
        return self._index() if first is None else first

    def among(self, keys: frozenset[str]) -> list[Field]:
        """Return the fields whose name, in lower case, is one of ``keys``, in order. Costs a pass, and needs no index."""
        items: list[Any] = self._items
        return [item for item in items if item[0] in keys]

    def shared(self) -> Shared | None:
        """Return what the headers still begin with that others begin with, too; None: nothing."""
        shared = self._shared
        if shared is None:
            return None
        own: list[Any] = self._items
        items: list[Any] = shared.items
        count = len(items)
        if len(own) < count:
            return None
        for number in range(count):
            if own[number] is not items[number]:
                return None
        return shared

    def lines(self) -> list[bytes]:
        """Return the line of every field, in order, as it is sent."""
        items: list[Any] = self._items
        return [item[3] for item in items]

    def copy(self) -> Headers:
        """Return a copy that shares nothing mutable with this one."""
        return Headers.adopt(list(self._items))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, each once, in order, as first spelled."""
        names: dict[str, str] = {}
        for key, name, _, _ in self._items:
            names.setdefault(key, name)
        return iter(names.values())

    def __len__(self) -> int:
        """Count the fields, repetitions included."""
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({[item[1] for item in self._items]})"  # no values: they may be secrets


@lru_cache(maxsize=2048)
def key_of(name: str) -> str:
    """Return ``name`` in lower case, as fields are compared.

    :raises ValueError: that is no name of a field.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    return name.lower()


def field(name: str, value: str) -> Field:
    """Make a field.

    :raises ValueError: it cannot stand in a message (CR, LF, NUL, not latin-1, no token); names the field, never the value.
    """
    key = key_of(name)
    if _BAD_VALUE.search(value):
        raise ValueError(f"a control or non-latin-1 character in the value of header {name}")
    return (key, name, value, f"{name}: {value}\r\n".encode("latin-1"))


def carried(name: str, value: str) -> Field:
    """Make a field of what somebody else has sent: other control characters than CR, LF and NUL are theirs to answer for.

    RFC 9110 section 5.5: invalid, but kept by many; what the gateway and its plugins write themselves goes by :func:`field`.

    :raises ValueError: it cannot stand in a message: a line end or NUL, not latin-1, no token.
    """
    key = key_of(name)
    if "\r" in value or "\n" in value or "\0" in value:
        raise ValueError(f"a line end or NUL in the value of header {name}")
    return (key, name, value, f"{name}: {value}\r\n".encode("latin-1"))


def check_field(name: str, value: str) -> None:
    """Refuse what cannot stand in a header.

    :raises ValueError: naming the field, never the value.
    """
    field(name, value)
