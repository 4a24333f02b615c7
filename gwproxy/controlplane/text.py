"""Bytes to a tree, with places: the one reader of configuration texts, YAML or JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import orjson

from gwproxy.controlplane import jsontext, yamltext
from gwproxy.controlplane.places import Node, Path, Place
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Problem

#: The most bytes of a configuration.
MAX_BYTES = 10 * 1024 * 1024

_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_WHAT_TO_WRITE = "an array of routes, or an object with 'routes' ('[]' for none)"


#: Where a step takes a microsecond or two, there is a pause after one of 16, that is if ``not number & SELDOM``: looking at the
#: clock costs a tenth of that.
SELDOM = 0x0F


def nothing() -> None:
    """Do nothing: the ``pause`` of callers that need not share their time."""


class Source:
    """A text that was read.

    :ivar tree: dicts with string keys, lists, strings, ints of at most 64 bits, finite floats, booleans and None; at most
        :data:`~gwproxy.controlplane.jsontext.MAX_DEPTH` levels.
    :ivar file: what messages call it.
    :ivar json: whether it was read as JSON, not as YAML.
    """

    def __init__(self, text: str, file: str, tree: Any, node: Node | None = None) -> None:
        self.tree = tree
        self.json = node is None
        self.file = file
        self._text = text
        self._node = node

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Return where ``path`` stands, counted from the object form: ``routes`` is the top of an array.

        The first call costs as much as reading a JSON text.

        :param key: the place of the last key, not of its value.
        """
        if self._node is None:
            self._node = jsontext.locate(self._text)
        if isinstance(self.tree, list) and path[:1] == ("routes",):
            path = path[1:]
        return self._node.place(path, key=key)


def read(data: bytes, file: str, pause: Callable[[], object] = nothing, route: jsontext.Reader = jsontext.value) -> Source:
    """Read a configuration text.

    A text that begins with ``[`` or ``{`` and is JSON is read as such, in 30 ns a byte; anything else is YAML, in some
    microseconds a byte. A file named ``*.json`` is never taken for YAML.

    :param pause: called now and then meanwhile.
    :param route: reads the items of the list of routes, if the text is JSON.
    :raises ConfigurationRefused: it cannot be read; every problem that was seen is in it.
    """
    text = _decode(data, file)
    start = text.lstrip(" \t\r\n")[:1]
    if start in ("[", "{") or (start and _named(file, "json")):
        source = _read_json(text, file, pause, route)
        if source is not None:
            return source
    try:
        tree, node = yamltext.load(text, pause)
    except yamltext.NotYaml as refused:
        raise _refused(refused.problems, file) from None
    if node is None:
        raise _refused([Problem("", "an empty document", _WHAT_TO_WRITE)], file)
    return Source(text, file, tree, node)


def to_json(data: bytes, file: str) -> bytes:
    """Return the JSON that is published for a YAML or JSON text: same meaning, keys in order, references unresolved.

    :raises ConfigurationRefused: it cannot be read. Whether it is a valid configuration is not looked at.
    """
    return orjson.dumps(read(data, file).tree)


def _read_json(text: str, file: str, pause: Callable[[], object], route: jsontext.Reader) -> Source | None:
    """Return the source, or None if this is no JSON but may be YAML."""
    try:
        return Source(text, file, jsontext.load(text, pause, route))
    except (ValueError, RecursionError):
        pass
    try:
        problems = jsontext.scan(text)
    except jsontext.NotJson as refused:
        problems = refused.problems
        if not _named(file, "json") and _is_yaml(text):
            return None
    raise _refused(problems, file)


def _is_yaml(text: str) -> bool:
    try:
        yamltext.load(text, nothing)
    except yamltext.NotYaml as refused:
        # What has a path was read as YAML up to there: its own problems are the ones to be told.
        return bool(refused.problems[0].path)
    return True


def _named(file: str, kind: Literal["json"]) -> bool:
    return file.lower().endswith(f".{kind}")


def _decode(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        raise _refused([Problem("", f"{len(data)} bytes", f"at most {MAX_BYTES} bytes")], file)
    if data[:2] in _UTF16 or (len(data) > 1 and 0 in data[:2]):
        raise _refused([Problem("", "UTF-16 or another encoding with zero bytes", "text in UTF-8", 1, 1)], file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        bad = data[: error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)]
        line = bad.count(b"\n") + 1
        column = len(bad[bad.rfind(b"\n") + 1 :].decode("utf-8-sig", "replace")) + 1
        problem = Problem("", f"the byte 0x{error.object[error.start]:02x}, which is no UTF-8", "text in UTF-8", line, column)
        raise _refused([problem], file) from None


def _refused(problems: list[Problem], file: str) -> ConfigurationRefused:
    return ConfigurationRefused([replace(problem, file=file) for problem in problems])
