"""A difference between two configurations, for people."""

from __future__ import annotations

from typing import Any

import orjson

from gwproxy.cli.output import print_line
from gwproxy.controlplane.difference import NOT_SET, Change, Difference, FieldChange

_COLOURS = {"added": "green", "removed": "red", "changed": "yellow"}
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_LONGEST = 200  # characters of a value; --json has all of it


def show_difference(found: Difference) -> None:
    """Print each change on a line, and under it each field that differs: before -> after."""
    for change in found.changes:
        print_line((f"{_SIGNS[change.action]} {change.kind} {change.name} {change.action}", _COLOURS[change.action]), _outline(change))
        for field in change.fields:
            print_line(f"    {field.path}: {_changed(field)}")


def value_text(value: Any) -> str:
    """Return how a value is shown: a text as it is, anything else as JSON."""
    if value is NOT_SET:
        return "(not set)"
    text = value if isinstance(value, str) and value else orjson.dumps(value).decode()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _changed(field: FieldChange) -> str:
    note = "  (changed)" if field.secret and NOT_SET not in (field.before, field.after) else ""
    return f"{value_text(field.before)} -> {value_text(field.after)}{note}"


def _outline(change: Change) -> str:
    """Return what tells most about a route or upstream that came or went."""
    held = {"added": change.after, "removed": change.before}.get(change.action)
    if not isinstance(held, dict):
        return ""
    if change.kind == "route":
        return f"  {value_text(held.get('path', NOT_SET))} -> {value_text(held.get('upstream', NOT_SET))}"
    if change.kind == "upstream" and isinstance(targets := held.get("targets"), list):
        return "  " + ", ".join(value_text(target.get("url", NOT_SET)) for target in targets if isinstance(target, dict))
    return f"  {value_text(held['config'])}" if "config" in held else ""
