"""Secrets out of sight: in messages, dumps, ``explain`` and admin answers."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Protocol

from gwproxy.controlplane.shape import Hints, inside, is_secret
from gwproxy.model import Document
from gwproxy.plugin import Plugin

MASK = "***"

_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_REFERENCE = re.compile(r"(\$\{[A-Za-z_][A-Za-z0-9_]*)(?::-[^}]*)?\}")
_SHOWN = 80


class Finder(Protocol):
    """Where plugins are found by name."""

    def find(self, name: str) -> Plugin | None:
        """Return the plugin of that name; None if there is none that loaded."""


def mask(tree: Any, plugins: Finder) -> Any:
    """Return a copy of a document's tree, as written, with secrets as ``***``.

    Masked are fields that a plugin's model declares as secret, strings under names that look like one, and credentials in
    URLs. A reference ``${NAME}`` is shown as it was written, its default is not.
    """
    if isinstance(tree, list):
        tree = {"routes": tree}
        return _Masker(plugins).value(tree, (Document,))["routes"]
    return _Masker(plugins).value(tree, (Document,))


def mask_value(value: Any, hints: Hints, plugins: Finder) -> Any:
    """Return a copy of a part of a document's tree, of which ``hints`` tell what it is, with secrets as ``***``."""
    return _Masker(plugins).value(value, hints)


def hints_at(key: str, hints: Hints, siblings: dict[str, Any], plugins: Finder) -> Hints:
    """Return what is known of the value at ``key`` of an object with ``hints``; ``siblings`` is that object.

    The configuration of a plugin entry is what the model of the plugin says.
    """
    if key == "config" and isinstance(name := siblings.get("name"), str):
        plugin = plugins.find(name)
        return (plugin.config_model,) if plugin else ()
    return inside(hints, key)


def shown(value: Any, *, secret: bool = False) -> str:
    """Return how a message speaks of ``value``, in at most 80 characters and a mask."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if secret:
        return MASK
    text = repr(_without_userinfo(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def scrub(text: str, secrets: Collection[str]) -> str:
    """Return ``text`` without any of ``secrets``; those of one or two characters are left, they are everywhere."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) > 2:
            text = text.replace(secret, MASK)
    return _without_userinfo(text)


def masked_reference(written: str) -> str:
    """Return ``written`` with only its references' names to be seen."""
    if not _REFERENCE.fullmatch(written):
        return MASK
    return _REFERENCE.sub(lambda match: f"{match[1]}:-{MASK}}}" if ":-" in match[0] else match[0], written)


def _without_userinfo(text: str) -> str:
    return _USERINFO.sub(f"{MASK}@", text) if "@" in text else text


class _Masker:
    def __init__(self, plugins: Finder) -> None:
        self.plugins = plugins

    def value(self, value: Any, hints: Hints) -> Any:
        if isinstance(value, dict):
            return {key: self.member(key, item, hints, value) for key, item in value.items()}
        if isinstance(value, list):
            below = inside(hints, 0)
            return [hide(item) if is_secret("", below) else self.value(item, below) for item in value]
        return _without_userinfo(value) if isinstance(value, str) else value

    def member(self, key: str, value: Any, hints: Hints, siblings: dict[str, Any]) -> Any:
        below = hints_at(key, hints, siblings, self.plugins)
        return hide(value) if is_secret(key, below) else self.value(value, below)


def hide(value: Any) -> Any:
    """Return ``value`` with every string in it masked, references aside."""
    if isinstance(value, dict):
        return {key: hide(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hide(item) for item in value]
    return masked_reference(value) if isinstance(value, str) else value
