"""docs/upstreams.md explains every option of an upstream, with the default and unit that the models have."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import annotated_types
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gwproxy.controlplane.reference import _is_size, default_text
from gwproxy.model import PluginRef, Route, Upstream

PAGE = (Path(__file__).parent.parent / "docs" / "upstreams.md").read_text("utf-8")
TABLE = re.compile(r"<!-- options: (\w+) -->\n\| option \| default \| unit \| \|\n\| --- \| --- \| --- \| --- \|\n((?:\|.*\n)+)")
ROWS = {name: re.findall(r"^\| `(\w+)` \| (.*?) \| ?(.*?) ?\| (.+) \|$", rows, re.MULTILINE) for name, rows in TABLE.findall(PAGE)}


def within(hint: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a type is made of."""
    if inspect.isclass(hint) and issubclass(hint, BaseModel):
        yield hint
    for part in get_args(hint):
        yield from within(part)


def options() -> list[type[BaseModel]]:
    """The models an upstream is described by, and those that a route has of its own for what it asks of one."""
    found: list[type[BaseModel]] = [Upstream]
    waiting = [field for model in (Route, Upstream) for field in model.model_fields.values()]
    while waiting:
        for model in within(waiting.pop().annotation):
            if model is not PluginRef and model not in found:
                found.append(model)
                waiting += model.model_fields.values()
    return found


def bounds(field: FieldInfo) -> list[Any]:
    """What bounds a field, also if it may be none."""
    return [*field.metadata, *(item for part in get_args(field.annotation) for item in getattr(part, "__metadata__", ()))]


def is_duration(field: FieldInfo) -> bool:
    flat = [item for part in bounds(field) for item in (part.metadata if isinstance(part, FieldInfo) else [part])]
    typed = any(isinstance(item, annotated_types.Le) and item.le == 86_400 for item in flat)
    return typed or (field.description or "").startswith("Seconds")  # of cookies: whole ones, and more than a day


def test_the_page_has_no_other_tables() -> None:
    assert sorted(ROWS) == sorted(model.__name__ for model in options())


@pytest.mark.parametrize("model", options(), ids=lambda model: model.__name__)
def test_every_option_has_its_row_default_and_unit(model: type[BaseModel]) -> None:
    rows = ROWS[model.__name__]
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    assert [key for key, *_ in rows] == list(fields)
    assert {key: default for key, default, *_ in rows} == {key: default_text(field) for key, field in fields.items()}
    for key, _, unit, text in rows:
        field = fields[key]
        number = any(kind in (int, float) for kind in (field.annotation, *get_args(field.annotation)))
        assert (unit == "s") == is_duration(field), key
        assert unit or not (number or _is_size(bounds(field))), f"{key} is a number of what?"
        assert text.endswith("."), key
