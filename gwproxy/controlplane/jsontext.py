"""JSON to a tree, quickly; and, only when something is wrong with it, where everything stands."""

from __future__ import annotations

import json
import math
import re
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


def load(text: str) -> Any:
    """Return the tree of a JSON text.

    Costs 30 ns a byte: the C decoder, with a hook that sees duplicate keys (orjson is as quick here, and does not).

    :raises ValueError: it is no JSON, or holds a duplicate key, a number that is not finite or above 64 bits, or half
        a surrogate pair; :func:`scan` says which, and where.
    :raises RecursionError: it is nested some thousand levels deep.
    """
    tree = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_int=whole, parse_float=finite)
    if _SURROGATE.search(text):
        json.dumps(tree, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return tree


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
