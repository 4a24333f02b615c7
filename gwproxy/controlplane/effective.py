"""What the configuration of a plugin entry comes to, defaults filled in, in a form that may be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from gwproxy.controlplane.masking import MASK, Finder, mask, scrub
from gwproxy.controlplane.places import same_key
from gwproxy.plugin import PluginConfig

_REFERENCED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)")


def effective(name: str, config: PluginConfig, written: Any, plugins: Finder) -> Any:
    """Return a validated configuration as JSON's types: secrets are ``***``, references stand as they were written.

    What came from the environment counts as secret wherever a validator has put it.

    :param name: of the plugin.
    :param written: the entry's ``config`` as it stands in the document, masked.
    """
    masked = mask({"plugins": [{"name": name, "config": plain(config)}]}, plugins)["plugins"][0]["config"]
    secrets = {os.environ.get(name, "") for name in _references(written)}
    return _scrubbed(_as_written(masked, written), secrets)


def plain(value: Any) -> Any:
    """Return ``value`` with only what JSON has: models are objects, secrets ``***``, anything else its ``str``."""
    if isinstance(value, BaseModel):
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, (SecretStr, SecretBytes)):
        return MASK
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def _references(written: Any) -> set[str]:
    if isinstance(written, str):
        return set(_REFERENCED.findall(written))
    items = written.values() if isinstance(written, dict) else written if isinstance(written, list) else ()
    return {name for item in items for name in _references(item)}


def _as_written(value: Any, written: Any) -> Any:
    """Return ``value`` with every reference in its place."""
    if isinstance(written, str) and "${" in written:
        return written
    if isinstance(value, dict) and isinstance(written, dict):
        return {key: _as_written(item, _same(written, key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(written, list) and len(value) == len(written):
        return [_as_written(item, before) for item, before in zip(value, written, strict=True)]
    return value


def _same(written: dict[str, Any], key: str) -> Any:
    return written[key] if key in written else next((item for name, item in written.items() if same_key(name, key)), None)


def _scrubbed(value: Any, secrets: set[str]) -> Any:
    if isinstance(value, dict):
        return {scrub(key, secrets): _scrubbed(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item, secrets) for item in value]
    return scrub(value, secrets) if isinstance(value, str) and "${" not in value else value
