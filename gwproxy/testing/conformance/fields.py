"""What is asked of a configuration model: words, bounds, closed doors, hidden secrets, and the way there and back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import SecretBytes, SecretStr, ValidationError

from gwproxy.controlplane.catalogue import description, schema
from gwproxy.plugin import Plugin, PluginConfig, secrets_in
from gwproxy.testing.conformance.finding import Report

_SECRET = re.compile(r"(?:^|_)(?:secrets?|passwords?|passwd|passphrase|tokens?|api_?keys?|private_keys?|credentials?)(?:$|_value$)")
_LOW, _HIGH = ("minimum", "exclusiveMinimum", "ge", "gt"), ("maximum", "exclusiveMaximum", "le", "lt")
_TEXT_BOUNDS = ("maxLength", "pattern", "enum", "const", "format")


def look_at_model(plugin: Plugin, report: Report) -> None:
    """Look at what can be seen without a configuration."""
    if not description(plugin):
        report.add("described", plugin.name, "neither its module nor its class has a docstring")
    described = schema(plugin.config_model)
    models = [("", described), *((f"{name}.", model) for name, model in described.get("$defs", {}).items() if "properties" in model)]
    for prefix, model in models:
        if model.get("additionalProperties") is not False:
            report.add("closed", prefix.rstrip(".") or plugin.config_model.__name__, "it takes keys that it does not know")
        for key, field in model.get("properties", {}).items():
            _look_at_field(f"{prefix}{key}", key, field, report)


def _look_at_field(where: str, key: str, field: dict[str, Any], report: Report) -> None:
    if not field.get("description"):
        report.add("described", where, "it has no description")
    for kind in _kinds(field):
        text = kind.get("type") == "string"
        if kind.get("type") in ("integer", "number") and "enum" not in kind:
            missing = [word for word, names in (("lower", _LOW), ("upper", _HIGH)) if not any(name in kind for name in names)]
            if missing:
                report.add("bounded", where, f"a number without {' and '.join(missing)} bound")
        elif text and not any(name in kind for name in _TEXT_BOUNDS):
            report.add("bounded", where, "a text of any length")
        if text and _SECRET.search(key) and kind.get("format") != "password":
            report.add("secret", where, "by its name a secret, by its type a plain text")


def _kinds(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a field may hold, and what stands in its lists and objects."""
    for choice in field.get("anyOf", ()) or field.get("oneOf", ()) or [field]:
        if choice is not field:
            yield from _kinds(choice)
            continue
        yield field
        if isinstance(field.get("items"), dict):
            yield from _kinds(field["items"])
        values = [field.get("additionalProperties"), *field.get("patternProperties", {}).values(), *field.get("prefixItems", ())]
        for value in values:
            if isinstance(value, dict):
                yield from _kinds(value)


def look_at_sample(plugin: Plugin, given: dict[str, Any], report: Report) -> bool:
    """Look at one configuration; False if the plugin cannot be tried with it."""
    try:
        config = plugin.config_model.model_validate(given)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            report.add("sample", ".".join(map(str, problem["loc"])) or "config", problem["msg"])
        return False
    shown = f"{config!r} {config}"
    if any(secret in shown for secret in secrets_in(config)):
        report.add("secret", type(config).__name__, "its repr shows a secret that it holds")
    try:
        again = type(config).model_validate(json.loads(json.dumps(_dump(config), default=_plain)))
    except (ValidationError, TypeError, ValueError) as error:
        report.add("round_trip", type(config).__name__, f"what it writes out is refused: {' '.join(str(error).split())[:300]}")
    else:
        for name, value in _dump(config).items():
            if _dump(again).get(name) != value:
                report.add("round_trip", name, "it reads back as something else")
    return True


def _dump(config: PluginConfig) -> dict[str, Any]:
    return config.model_dump()


def _plain(value: object) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, SecretBytes):
        return value.get_secret_value().decode()
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
