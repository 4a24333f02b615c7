"""References to the environment: ``${NAME}``, ``${NAME:-default}``, and ``$${`` for a literal ``${``.

They stand in string values, never in keys. A value that is one whole reference takes the type of its field: its text is
offered as a string first, then as the number, boolean or null it spells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gwproxy.controlplane.places import Path
from gwproxy.controlplane.report import Report

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_REFERENCE = re.compile(rf"\$\$\{{|\$\{{(?P<name>{_NAME})(?::-(?P<default>[^}}]*))?\}}|\$\{{")
_WHOLE = re.compile(rf"\$\{{{_NAME}(?::-[^}}]*)?\}}")


@dataclass(frozen=True)
class Environment:
    """What references resolve to.

    :ivar variables: by name; only those that are referenced are looked at.
    :ivar allowed: whether a name may be referenced (``GWPROXY_ENV_ALLOW``).
    :ivar strict: True: an unset name without a default refuses the document. False: it is a warning, and its field is not
        checked.
    """

    variables: Mapping[str, str] = field(repr=False)
    allowed: Callable[[str], bool]
    strict: bool = True


@dataclass(slots=True)  # PERF: frozen would double what 40,000 of them cost (25 ms)
class Part:
    """A piece of a document with its references resolved. Not to be changed.

    :ivar path: where it stands in the document.
    :ivar value: the resolved tree; a value that could not be resolved stands as it was written.
    :ivar references: every value that holds a reference, by its path in the document, as it was written.
    :ivar unset: those of them that could not be resolved, with the reason.
    :ivar secrets: texts from the environment, which no message may show.
    """

    path: Path
    value: Any = field(repr=False)
    references: Mapping[Path, str] = field(default_factory=dict)
    unset: Mapping[Path, str] = field(default_factory=dict)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def below(self, *keys: str | int, value: Any) -> Part:
        """Return the piece at ``keys`` below this one, whose tree is ``value``."""
        path = (*self.path, *keys)
        if not self.references:
            return Part(path, value)
        inside = {at: written for at, written in self.references.items() if at[: len(path)] == path}
        return Part(path, value, inside, {at: why for at, why in self.unset.items() if at in inside}, self.secrets)

    def whole(self, path: Path) -> bool:
        """Whether the value at ``path`` (of the document) is one reference that was resolved."""
        written = self.references.get(path)
        return written is not None and path not in self.unset and _WHOLE.fullmatch(written) is not None


def resolve(tree: Any, path: Path, environment: Environment, report: Report) -> Part:
    """Resolve every reference in ``tree``, which stands at ``path``; the tree itself is left as it is."""
    resolver = _Resolver(environment, report)
    value = resolver.value(tree, path)
    return Part(path, value, resolver.references, resolver.unset, frozenset(resolver.secrets))


class _Resolver:
    def __init__(self, environment: Environment, report: Report) -> None:
        self.environment = environment
        self.report = report
        self.references: dict[Path, str] = {}
        self.unset: dict[Path, str] = {}
        self.secrets: set[str] = set()

    def value(self, tree: Any, path: Path) -> Any:
        if isinstance(tree, dict):
            return {key: self.value(item, (*path, key)) for key, item in tree.items()}
        if isinstance(tree, list):
            return [self.value(item, (*path, index)) for index, item in enumerate(tree)]
        if isinstance(tree, str) and "${" in tree:
            return self.text(tree, path)
        return tree

    def text(self, written: str, path: Path) -> str:
        made = _REFERENCE.sub(lambda match: self.one(match, path, written), written)
        return written if path in self.unset else made

    def one(self, match: re.Match[str], path: Path, written: str) -> str:
        if match[0] == "$${":
            return "${"
        self.references[path] = written
        name, default = match["name"], match["default"]
        if name is None:
            self.unset[path] = "a reference is malformed"
            self.report.refuse(path, "'${' that begins no reference", "${NAME} or ${NAME:-default}; write $${ for a literal ${")
        elif not self.environment.allowed(name):
            self.unset[path] = f"the environment variable {name} may not be referenced"
            self.report.refuse(path, f"${{{name}}}", "a name that GWPROXY_ENV_ALLOW allows to be referenced")
        elif value := self.environment.variables.get(name) or default or "":
            self.secrets.add(value)
            return value
        elif default is None and name not in self.environment.variables:
            self.unset[path] = f"the environment variable {name} is not set"
            note = self.report.refuse if self.environment.strict else self.report.warn
            note(path, f"${{{name}}}, which is not set here", f"the environment variable {name} to be set, or ${{{name}:-default}}")
        return ""


def replaced(tree: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """Return ``tree`` with ``change`` applied to the value at ``path``; what is not on the way is shared."""
    if not path:
        return change(tree)
    copy = tree.copy()
    copy[path[0]] = replaced(tree[path[0]], path[1:], change)
    return copy


def without(tree: Any, path: Path) -> Any:
    """Return ``tree`` without the value at ``path``, which has one key at least."""

    def drop(parent: Any) -> Any:
        copy = parent.copy()
        del copy[path[-1]]
        return copy

    return replaced(tree, path[:-1], drop)
