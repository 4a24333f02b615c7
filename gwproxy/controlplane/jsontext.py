"""JSON to a tree, quickly; and, only when something is wrong with it, where everything stands."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

from gwproxy.controlplane.places import Lines, Node, path_text
from gwproxy.model import Problem

#: How deep objects and lists may be nested.
MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORD = re.compile(r"-?[A-Za-z_][A-Za-z0-9_]*")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*')
_DECODER = json.JSONDecoder()
_CONSTANTS = {"true", "false", "null"}
_NOT_FINITE = {"NaN", "Infinity", "-Infinity"}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class NotJson(Exception):
    """The text is no JSON; ``problems`` says where, beside what else was seen up to there."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems[0].found)
        self.problems = problems


#: Reads the value that begins at an offset; returns it and where it ends.
Reader = Callable[[str, int], tuple[Any, int]]


def value(text: str, at: int) -> tuple[Any, int]:
    """Return the value that begins at an offset, and where it ends: a :data:`Reader`.

    Costs 30 ns a byte: the C decoder, with a hook that sees duplicate keys (orjson is as quick here, and does not).

    :raises ValueError: as :func:`load`.
    :raises RecursionError: as :func:`load`.
    """
    made, end = _CHECKED.raw_decode(text, at)
    if text.find("\\u", at, end) >= 0 and _SURROGATE.search(text, at, end):
        json.dumps(made, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return made, end


def load(text: str, pause: Callable[[], object] = lambda: None, route: Reader = value) -> Any:
    """Return the tree of a JSON text, read in pieces: a route, an upstream, a consumer at a time.

    :param pause: called between two pieces.
    :param route: reads the items of the list of routes.
    :raises ValueError: it is no JSON, is nested deeper than :data:`MAX_DEPTH`, or holds a duplicate key, a number that is not
        finite or above 64 bits, or half a surrogate pair; :func:`scan` says which, and where.
    :raises RecursionError: it is nested some thousand levels deep.
    """
    at = _space(text, 0)
    tree: Any
    if text[at : at + 1] == "[":
        tree, at = _items(text, at, pause, _shallow(route, MAX_DEPTH - 1))
    elif text[at : at + 1] == "{":
        tree, at = _members(text, at, pause, lambda key: _pieces(pause, route if key == "routes" else value))
    else:
        tree, at = value(text, at)
    if _space(text, at) != len(text):
        raise ValueError("more than one value")
    return tree


def _pieces(pause: Callable[[], object], item: Reader) -> Reader:
    """Return the reader of what stands under a key at the top: lists (of what ``item`` reads) and objects, in pieces."""
    item = _shallow(item, MAX_DEPTH - 2)

    def read(text: str, at: int) -> tuple[Any, int]:
        if text[at : at + 1] == "[":
            return _items(text, at, pause, item)
        if text[at : at + 1] == "{":
            return _members(text, at, pause, lambda key: item)
        return value(text, at)

    return read


def _shallow(item: Reader, levels: int) -> Reader:
    """Return a reader that refuses what is nested deeper than so many levels."""

    def read(text: str, at: int) -> tuple[Any, int]:
        made, end = item(text, at)
        # PERF: what opens so few brackets needs no closer look, which costs as much as reading it.
        if text.count("{", at, end) + text.count("[", at, end) > levels and _too_deep(made, levels):
            raise ValueError("too deep")
        return made, end

    return read


def _items(text: str, at: int, pause: Callable[[], object], item: Reader) -> tuple[list[Any], int]:
    made: list[Any] = []
    at = _space(text, at + 1)
    if text[at : at + 1] == "]":
        return made, at + 1
    while True:
        one, at = item(text, at)
        made.append(one)
        pause()
        at, more = _more(text, at, "]")
        if not more:
            return made, at


def _members(text: str, at: int, pause: Callable[[], object], member: Callable[[str], Reader]) -> tuple[dict[str, Any], int]:
    made: dict[str, Any] = {}
    at = _space(text, at + 1)
    if text[at : at + 1] == "}":
        return made, at + 1
    while True:
        if text[at : at + 1] != '"':
            raise ValueError("no key")
        key, at = value(text, at)
        at = _space(text, at)
        if key in made or text[at : at + 1] != ":":
            raise ValueError("a key is given twice, or has no value")
        made[key], at = member(key)(text, _space(text, at + 1))
        pause()
        at, more = _more(text, at, "}")
        if not more:
            return made, at


def _more(text: str, at: int, closing: str) -> tuple[int, bool]:
    """Return where it goes on, and whether with a next one."""
    at = _space(text, at)
    mark = text[at : at + 1]
    if mark == closing:
        return at + 1, False
    if mark != ",":
        raise ValueError("neither ',' nor the end")
    return _space(text, at + 1), True


def _too_deep(tree: Any, levels: int) -> bool:
    level = [tree] if isinstance(tree, (dict, list)) else []
    for _ in range(levels):
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def whole(text: str) -> int:
    """Return the number a run of digits spells.

    :raises ValueError: it has more than 64 bits.
    """
    if len(text) > 20 or not -(1 << 63) <= (number := int(text)) < 1 << 64:
        raise ValueError("more than 64 bits")
    return number


def finite(text: str) -> float:
    """Return the number a decimal spells.

    :raises ValueError: it is none, or too large.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is given twice")
    return made


_CHECKED = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse, parse_int=whole, parse_float=finite)


def locate(text: str) -> Node:
    """Return where everything stands in a text that :func:`load` accepts.

    Objects and lists are opened when they are asked for: what is beside the way is skipped by the C decoder.
    """
    return _Lazy(text, Lines(text), _space(text, 0))


class _Lazy(Node):
    """A node that reads its part of the text when it is opened."""

    __slots__ = ("_lines", "_start", "_text")

    def __init__(self, text: str, lines: Lines, start: int) -> None:
        super().__init__(lines.place(start))
        self._text: str | None = text
        self._lines = lines
        self._start = start

    def open(self) -> None:
        text, self._text = self._text, None
        if text is None or text[self._start] not in "{[":
            return
        at = _space(text, self._start + 1)
        while text[at] not in "}]":
            step: str | int = len(self.below)
            if text[self._start] == "{":
                place = self._lines.place(at)
                step, at = _DECODER.raw_decode(text, at)
                self.keys[str(step)] = place
                at = _space(text, _space(text, at) + 1)
            self.below[step] = _Lazy(text, self._lines, at)
            at = _space(text, _DECODER.raw_decode(text, at)[1])
            if text[at] == ",":
                at = _space(text, at + 1)


def _space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def scan(text: str) -> list[Problem]:
    """Return everything that is wrong with a text that :func:`load` does not accept, up to where its grammar breaks.

    Some ten times slower than :func:`load`.

    :raises NotJson: the grammar is broken.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.problems


class _Scanner:
    """A recursive descent over the text; the depth is bounded, so the recursion is."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = Lines(text)
        self.problems: list[Problem] = []
        self.path: list[str | int] = []

    def document(self) -> None:
        at = _space(self.text, self.value(_space(self.text, 0)))
        if at < len(self.text):
            self.broken(at, "the end of the document")

    def note(self, at: int, found: str, expected: str) -> None:
        line, column = self.lines.place(at)
        self.problems.append(Problem(path_text(self.path), found, expected, line, column))

    def broken(self, at: int, expected: str, found: str | None = None) -> NoReturn:
        if found is None:
            found = repr(self.text[at]) if at < len(self.text) else "the end of the text"
        self.note(at, found, expected)
        raise NotJson(self.problems)

    def value(self, at: int) -> int:
        char = self.text[at : at + 1]
        if char == '"':
            return self.string(at)[1]
        if char not in ("{", "["):
            return self.scalar(at)
        if len(self.path) >= MAX_DEPTH:
            self.broken(at, f"at most {MAX_DEPTH} levels", "a document that is nested too deep")
        return self.members(at) if char == "{" else self.items(at)

    def members(self, at: int) -> int:
        at = _space(self.text, at + 1)
        if self.text[at : at + 1] == "}":
            return at + 1
        keys: set[str] = set()
        while True:
            if self.text[at : at + 1] != '"':
                self.broken(at, "a key in double quotes")
            key, colon = self.string(at)
            self.path.append(key)
            if key in keys:
                self.note(at, f"the key {key!r}, which is given twice", "each key once")
            keys.add(key)
            at = _space(self.text, colon)
            if self.text[at : at + 1] != ":":
                self.broken(at, "':' after the key")
            at = _space(self.text, self.value(_space(self.text, at + 1)))
            self.path.pop()
            if self.text[at : at + 1] == "}":
                return at + 1
            at = self.comma(at, "'}'")

    def items(self, at: int) -> int:
        at = _space(self.text, at + 1)
        if self.text[at : at + 1] == "]":
            return at + 1
        self.path.append(0)
        while True:
            at = _space(self.text, self.value(at))
            if self.text[at : at + 1] == "]":
                self.path.pop()
                return at + 1
            at = self.comma(at, "']'")
            self.path[-1] = int(self.path[-1]) + 1

    def comma(self, at: int, closing: str) -> int:
        if self.text[at : at + 1] != ",":
            self.broken(at, f"',' or {closing}")
        return _space(self.text, at + 1)

    def string(self, at: int) -> tuple[str, int]:
        match = _STRING.match(self.text, at)
        end = match.end() if match else at
        stop = self.text[end : end + 1]
        if stop == "\\":
            self.broken(end, r"one of \" \\ \/ \b \f \n \r \t \uXXXX", f"the escape {self.text[end : end + 2]!r}")
        if stop != '"':
            self.broken(at, r"a closing quote on the same line, and control characters as \n, \t or \uXXXX", "a string that is not closed")
        value = self.text[at + 1 : end]
        if "\\" in value:
            value = json.loads(self.text[at : end + 1])
            if any("\ud800" <= char <= "\udfff" for char in value):
                self.note(at, "half a surrogate pair", "a string of Unicode characters")
                value = value.encode("utf-8", "replace").decode()
        return value, end + 1

    def scalar(self, at: int) -> int:
        word = _WORD.match(self.text, at)
        if word and word[0] in _CONSTANTS:
            return word.end()
        if word and word[0] in _NOT_FINITE:
            self.note(at, word[0], "a finite number")
            return word.end()
        number = _NUMBER.match(self.text, at)
        if number is None:
            self.broken(at, "a value", repr(word[0][:80]) if word else None)
        try:
            finite(number[0]) if number[1] or number[2] else whole(number[0])
        except ValueError:
            self.note(at, "a number that is too large", "a number of at most 64 bits")
        return number.end()
