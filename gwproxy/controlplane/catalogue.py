"""What there is to say of installed plugins: for ``gwproxy plugins`` and the admin API."""

from __future__ import annotations

import sys
from typing import Any

from gwproxy.plugin import Plugin, PluginConfig
from gwproxy.registry import Registered, Registry


def listed(registry: Registry) -> list[dict[str, Any]]:
    """Return every installed plugin by name, in short; those that cannot be used with the reason."""
    loaded = {registered.plugin.name: _summary(registered) for registered in registry}
    refused = {name: _refused(name, reason) for name, reason in registry.broken.items()}
    return [row for _, row in sorted({**loaded, **refused}.items())]


def described(registered: Registered) -> dict[str, Any]:
    """Return all there is to say of a plugin; ``config`` is the JSON Schema of its configuration."""
    plugin = registered.plugin
    return {**_summary(registered), "description": description(plugin), "config": schema(plugin.config_model)}


def description(plugin: Plugin) -> str:
    """Return what a plugin says about itself: its module's docstring, else its class's own; empty if there is neither."""
    module = sys.modules.get(type(plugin).__module__)
    text = (module.__doc__ if module is not None else None) or type(plugin).__doc__ or ""
    return text.strip()


def schema(model: type[PluginConfig]) -> dict[str, Any]:
    """Return the JSON Schema of a plugin's configuration; a field of a type that JSON has no form for may be anything."""
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
    from pydantic_core import CoreSchema

    class Generator(GenerateJsonSchema):
        """Leaves open what cannot be described."""

        ignored_warning_kinds = {"non-serializable-default", "skipped-choice"}  # noqa: RUF012 - pydantic declares it

        def handle_invalid_for_json_schema(self, schema: CoreSchema, error_info: str) -> JsonSchemaValue:
            return {}

    return model.model_json_schema(schema_generator=Generator)


def _summary(registered: Registered) -> dict[str, Any]:
    plugin = registered.plugin
    known = {"name": plugin.name, "version": plugin.version, "priority": plugin.priority}
    return {**known, "phases": list(registered.hooks), "package": registered.package, "state": "loaded", "reason": None}


def _refused(name: str, reason: str) -> dict[str, Any]:
    return {"name": name, "version": None, "priority": None, "phases": [], "package": None, "state": "refused", "reason": reason}
