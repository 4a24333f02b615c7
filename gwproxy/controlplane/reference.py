"""Reference tables, made from the models: what a page says about a key is what is checked.

A page holds a table between ``<!-- table: package.module:Model -->`` and ``<!-- end -->``, and what is refused as not
supported between ``<!-- unsupported -->`` and ``<!-- end -->``. To write them anew::

    python -m gwproxy.controlplane.reference docs/*.md
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from gwproxy.controlplane.checks import UNSUPPORTED
from gwproxy.model import Shorthand, parse_size

_TABLE = re.compile(r"(<!-- table: ([\w.]+):(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_UNSUPPORTED = re.compile(r"(<!-- unsupported -->\n).*?(<!-- end -->)", re.DOTALL)
_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_NAMES: dict[Any, str] = {
    str: "string",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Any: "anything",
    SecretStr: "secret string",
    SecretBytes: "secret string",
}


def field_table(model: type[BaseModel]) -> str:
    """Return a Markdown table of a model's fields: key, type with bounds, default, description."""
    lines = ["| key | type | default | description |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        cells = (f"`{field.alias or name}`", type_text(field), default_text(field), " ".join((field.description or "").split()))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def with_tables(page: str) -> str:
    """Return a page with everything between markers made anew.

    :raises ImportError: a marker names a module that does not exist.
    :raises AttributeError: a marker names a model that its module has not.
    """

    def table(match: re.Match[str]) -> str:
        return match[1] + field_table(getattr(importlib.import_module(match[2]), match[3])) + match[4]

    rows = [f"* `{name}` of [{model.__name__}](#{model.__name__.lower()}): expected {text}\n" for model, name, _, text in UNSUPPORTED]
    page = _UNSUPPORTED.sub(lambda match: match[1] + "".join(rows) + match[2], page)
    return _TABLE.sub(table, page)


def type_text(field: FieldInfo) -> str:
    """Return what a field takes, in words."""
    return _described(field.annotation, field.metadata)


def default_text(field: FieldInfo) -> str:
    """Return a field's default as it would be written in a configuration."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "the defaults below"
    if _is_size(field.metadata) and value:
        for unit, bytes_ in _UNITS:
            if value % bytes_ == 0:
                return f"`{value // bytes_}{unit}`"
    return f"`{json.dumps(_plain(value))}`" if value != "" else "none"


def _plain(value: Any) -> Any:
    if isinstance(value, (SecretStr, SecretBytes)):
        return "***"
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):  # in an order: theirs is another in every process
        return sorted((_plain(item) for item in value), key=str)
    return value


def _is_size(metadata: Iterable[Any]) -> bool:
    return any(isinstance(item, BeforeValidator) and item.func is parse_size for item in metadata)


def _described(hint: Any, metadata: Iterable[Any] = ()) -> str:
    """Return a type in words; what it is bounded by in parentheses."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _described(arguments[0], [part for item in arguments[1:] for part in _flat(item)])
    if origin in (Union, UnionType):
        return " or ".join(_described(choice, metadata) for choice in arguments if choice is not type(None))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        text = f"[{hint.__name__}](#{hint.__name__.lower()})"
        return "".join([f"{item.text}, or " for item in metadata if isinstance(item, Shorthand)] + [text])
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"object: name to {_described(arguments[1])}" + _bounds(metadata, "items")
    if origin is not None:
        return f"list of {_described(arguments[0])}" + _bounds(metadata, "items")
    if _is_size(metadata):
        return "size"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint))) + _bounds(metadata)


def _flat(item: Any) -> list[Any]:
    return list(item.metadata) if isinstance(item, FieldInfo) else [item]


def _bounds(metadata: Iterable[Any], unit: str = "characters") -> str:
    low = high = ""
    for item in metadata:
        if isinstance(item, annotated_types.Gt):
            low = f"above {_plain(item.gt)}"
        elif isinstance(item, (annotated_types.Ge, annotated_types.MinLen)):
            low = str(_plain(item.ge if isinstance(item, annotated_types.Ge) else item.min_length))
        elif isinstance(item, (annotated_types.Le, annotated_types.MaxLen)):
            high = str(_plain(item.le if isinstance(item, annotated_types.Le) else item.max_length))
    counted = f" {unit}" if any(isinstance(item, (annotated_types.MinLen, annotated_types.MaxLen)) for item in metadata) else ""
    if low and high:
        return f" ({low}, at most {high})" if low.startswith("above") else f" ({low} to {high}{counted})"
    if not low and not high:
        return ""
    return f" (at most {high}{counted})" if high else f" ({low})" if low.startswith("above") else f" (at least {low}{counted})"


def main(paths: Iterable[str]) -> None:
    """Write the tables of these pages anew."""
    for path in map(Path, paths):
        path.write_text(with_tables(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
