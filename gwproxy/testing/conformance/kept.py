"""What a plugin keeps: its attributes, and those of its modules, in a form that tells whether a request has changed them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from gwproxy.plugin import Plugin

DEPTH = 4  # objects within objects that are looked into
_ATOMS = (str, bytes, int, float, bool, complex, type(None))


def kept(plugin: Plugin, package: str) -> dict[str, object]:
    """Return by name what is kept now; two of these differ where something was written between them."""
    found = {f"{type(plugin).__name__}.{name}": _print(value, package, DEPTH) for name, value in _attributes(plugin)}
    for module in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        for name, value in list(vars(sys.modules[module]).items()):
            if not name.startswith("__") and not isinstance(value, (FunctionType, ModuleType)):
                found[f"{module}.{name}"] = _print(value, package, DEPTH)
    return found


def changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """Return the names under which something else is kept now."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def _attributes(value: object) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(value, "__dict__", {}).items())
    for kind in type(value).__mro__:
        slots = getattr(kind, "__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                yield name, getattr(value, name)


def _print(value: Any, package: str, depth: int) -> object:
    if isinstance(value, _ATOMS):
        return type(value).__name__, value
    if depth == 0:
        return id(value)
    if isinstance(value, Mapping):
        return id(value), [(id(key), _print(item, package, depth - 1)) for key, item in list(value.items())]
    if isinstance(value, (list, tuple, set, frozenset, deque, bytearray)):
        return id(value), [_print(item, package, depth - 1) for item in list(value)]
    if isinstance(value, type):  # of the plugin's own: counters hide in class attributes, too
        own = value.__module__ == package or value.__module__.startswith(f"{package}.")
        plain = [(name, item) for name, item in list(vars(value).items()) if isinstance(item, (*_ATOMS, list, dict, set, deque))]
        return id(value), [(name, _print(item, package, depth - 1)) for name, item in plain if not name.startswith("__")] if own else []
    module = type(value).__module__
    if module == package or module.startswith(f"{package}."):
        return id(value), [(name, _print(item, package, depth - 1)) for name, item in _attributes(value)]
    return id(value)
