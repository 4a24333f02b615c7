"""YAML to a tree of JSON's types, with the place of everything.

The core schema of YAML 1.2: ``on``, ``yes`` and ``2024-01-01`` are strings, keys are always strings. What JSON has not
(tags, anchors, aliases, merge keys, several documents) is refused, so that nothing grows while it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from gwproxy.controlplane.jsontext import MAX_DEPTH, finite, whole
from gwproxy.controlplane.places import Node, Place, path_text
from gwproxy.model import Problem

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# YAML 1.2.2, section 10.3.2
_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {"true", "True", "TRUE"}
_FALSE = {"false", "False", "FALSE"}
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\ufeff")


class NotYaml(Exception):
    """The text is no YAML, or more than JSON's types; ``problems`` says where."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems[0].found)
        self.problems = problems


def plain(text: str) -> Any:
    """Return what an unquoted scalar stands for: null, a boolean, a number, or the string it is.

    :raises ValueError: a number that is not finite, or has more than 64 bits.
    """
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return whole(text)
    if _BASED.fullmatch(text):
        return whole(str(int(text, 0))) if len(text) < 32 else whole(text)
    if _FLOAT.fullmatch(text):
        return finite(text)
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("not finite")
    return text


def load(text: str, pause: Callable[[], object]) -> tuple[Any, Node | None]:
    """Return the tree of a YAML text and where everything stands; ``(None, None)`` if it holds nothing.

    :param pause: called now and then, so that a worker may serve meanwhile.
    :raises NotYaml: with every problem up to where the grammar breaks.
    """
    if bad := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        raise NotYaml([Problem("", f"the control character U+{ord(bad[0]):04X}", "printable text", line, column)])
    builder = _Builder(text, pause)
    try:
        tree, node = builder.document()
    except yaml.YAMLError as error:
        builder.problems.append(_broken(error, text))
    except _TooDeep as error:
        builder.problems.append(error.args[0])
    if builder.problems:
        raise NotYaml(builder.problems)
    return tree, node


class _TooDeep(Exception):
    pass


def _broken(error: yaml.YAMLError, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = str(getattr(error, "problem", None) or "it cannot be read").removeprefix("found ")
    context = getattr(error, "context", None)
    found = f"{reason} ({context})" if context else reason
    last = text.count("\n")
    if mark is not None and mark.line > last:  # the parser ends every text with a line break
        return Problem("", found, "YAML or JSON", last + 1, len(text) - text.rfind("\n"))
    return Problem("", found, "YAML or JSON", mark.line + 1 if mark else 0, mark.column + 1 if mark else 0)


def _place(event: Any) -> Place:
    return event.start_mark.line + 1, event.start_mark.column + 1


class _Builder:
    """Builds from the parser's events: they come one by one, so that an alias is seen before anything is copied."""

    def __init__(self, text: str, pause: Callable[[], object]) -> None:
        self.events = self._read(text, pause)
        self.problems: list[Problem] = []
        self.path: list[str | int] = []

    @staticmethod
    def _read(text: str, pause: Callable[[], object]) -> Iterator[Any]:
        for count, event in enumerate(yaml.parse(text, Loader=_LOADER)):
            if count % 1000 == 999:
                pause()
            yield event

    def note(self, event: Any, found: str, expected: str) -> None:
        self.problems.append(Problem(path_text(self.path), found, expected, *_place(event)))

    def document(self) -> tuple[Any, Node | None]:
        next(self.events)  # the start of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None, None
        first = next(self.events)
        result = self.value(first)
        next(self.events)  # the end of the document
        after = next(self.events)
        if not isinstance(after, yaml.StreamEndEvent):
            self.note(after, "a second document", "one document")
            for _ in self.events:
                pass
        nothing = isinstance(first, yaml.ScalarEvent) and not first.value and first.implicit[0]
        return (None, None) if nothing else result

    def value(self, event: Any) -> tuple[Any, Node]:
        node = Node(_place(event))
        if isinstance(event, yaml.AliasEvent):
            self.note(event, f"the alias *{event.anchor}", "the value itself; anchors and aliases are not supported")
            return None, node
        if event.anchor is not None:
            self.note(event, f"the anchor &{event.anchor}", "a value without an anchor; anchors and aliases are not supported")
        if event.tag is not None:
            self.note(event, f"the tag {event.tag!r}", "a value without a tag; quotes make a string")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event), node
        if len(self.path) >= MAX_DEPTH:
            raise _TooDeep(Problem(path_text(self.path), "a document that is nested too deep", f"at most {MAX_DEPTH} levels", *node.at))
        return (self.members(node) if isinstance(event, yaml.MappingStartEvent) else self.items(node)), node

    def scalar(self, event: Any) -> Any:
        if not event.implicit[0]:  # quoted, or a block
            return event.value
        try:
            return plain(event.value)
        except ValueError:
            self.note(event, event.value[:80], "a finite number of at most 64 bits, or quotes around a string")
            return None

    def items(self, node: Node) -> list[Any]:
        made: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            self.path.append(len(made))
            value, node.below[len(made)] = self.value(event)
            made.append(value)
            self.path.pop()
        return made

    def members(self, node: Node) -> dict[str, Any]:
        made: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event)
            self.path.append(key)
            if key in made:
                self.note(event, f"the key {key!r}, which is given twice", "each key once")
            node.keys[key] = _place(event)
            made[key], node.below[key] = self.value(next(self.events))
            self.path.pop()
        return made

    def key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            self.value(event)
            self.note(event, "a key that is no scalar", "a string as key")
            return ""
        if event.anchor is not None or event.tag is not None:
            self.value(event)
        if event.value == "<<" and event.implicit[0]:
            self.note(event, "the merge key <<", "the keys themselves; merge keys are not supported")
        return str(event.value)
