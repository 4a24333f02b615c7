"""Secrets back in their places: a document that was shown with masks is taken for what it was shown of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from gwproxy.controlplane.masking import MASK, Finder, hide, hints_at, mask_value
from gwproxy.controlplane.naming import route_ids
from gwproxy.controlplane.places import Path, same_key
from gwproxy.controlplane.shape import Hints, inside, is_secret
from gwproxy.model import Document, PluginRef


def restore(tree: Any, live: Any, plugins: Finder) -> tuple[Any, list[Path]]:
    """Return ``tree`` with what it holds masked as ``live`` has it at the same place, and where that has nothing to keep.

    The same place is the same field of the route of the same id, the upstream of the same name, the consumer of the same
    id, the same plugin entry (the second of a name is the second). In other lists an item is the one that looks the same when
    masked, else the one of the same index in a list of the same length. What could be one of several is none.

    :param tree: a document as it was written; it is left as it is.
    :param live: another, with its secrets; None: there is none.
    """
    if not _has_mask(tree):
        return tree, []
    restorer = _Restorer(plugins)
    as_list = isinstance(tree, list)
    outline = {"routes": tree} if as_list else tree
    made = restorer.value(outline, {"routes": live} if isinstance(live, list) else live, (Document,), (), secret=False)
    return (made["routes"] if as_list else made), restorer.missing


class _Restorer:
    """One pass over one document.

    :ivar missing: where a mask stands for nothing that is known.
    """

    def __init__(self, plugins: Finder) -> None:
        self._plugins = plugins
        self.missing: list[Path] = []

    def value(self, value: Any, live: Any, hints: Hints, path: Path, *, secret: bool) -> Any:
        """Return ``value``, which stands at ``path``; ``live`` is what stands at the same place there, None if nothing does."""
        if isinstance(value, dict):
            return {key: self._member(key, value, live, hints, path, secret=secret) for key in value}
        if isinstance(value, list):
            below = inside(hints, 0)
            secret = secret or is_secret("", below)
            partners = self._partners(value, live if isinstance(live, list) else [], below, path, secret=secret)
            pairs = zip(value, partners, strict=True)
            return [self.value(item, partner, below, (*path, index), secret=secret) for index, (item, partner) in enumerate(pairs)]
        if not isinstance(value, str) or not _is_masked(value, secret=secret):
            return value
        if isinstance(live, str) and self._masked(live, hints, secret=secret) == value:
            return live
        self.missing.append(path)
        return value

    def _member(self, key: str, siblings: dict[str, Any], live: Any, hints: Hints, path: Path, *, secret: bool) -> Any:
        value = siblings[key]
        if not _has_mask(value):
            return value
        below = hints_at(key, hints, siblings, self._plugins)
        known = live if isinstance(live, dict) else {}
        partner = known[key] if key in known else next((item for name, item in known.items() if same_key(name, key)), None)
        return self.value(value, partner, below, (*path, key), secret=secret or is_secret(key, below))

    def _partners(self, written: list[Any], live: list[Any], below: Hints, path: Path, *, secret: bool) -> list[Any]:
        """Return, for each item, the one of ``live`` that it stands for; None if there is none, or several might be."""
        if path == ("routes",):
            return _by_name(written, live, route_ids)
        if path == ("consumers",):
            return _by_name(written, live, lambda items: _numbered(items, "id"))
        if PluginRef in below:
            return _by_name(written, live, lambda items: _numbered(items, "name"))
        return self._look_alikes(written, live, below, secret=secret)

    def _look_alikes(self, written: list[Any], live: list[Any], below: Hints, *, secret: bool) -> list[Any]:
        texts = [orjson.dumps(item) for item in written]
        masked = [orjson.dumps(self._masked(item, below, secret=secret)) for item in live]
        partners: list[Any] = []
        for index, text in enumerate(texts):
            alike = [item for item, shown in zip(live, masked, strict=True) if shown == text]
            rank = texts[:index].count(text)
            if alike:
                partners.append(alike[rank] if rank < len(alike) <= texts.count(text) else None)
            else:
                edited = len(live) == len(written) and masked[index] not in texts
                partners.append(live[index] if edited else None)
        return partners

    def _masked(self, value: Any, hints: Hints, *, secret: bool) -> Any:
        return hide(value) if secret else mask_value(value, hints, self._plugins)


def _by_name(written: list[Any], live: list[Any], names: Callable[[list[Any]], list[Any]]) -> list[Any]:
    known = dict(zip(names(live), live, strict=True))
    return [known.get(name) for name in names(written)]


def _numbered(items: list[Any], key: str) -> list[tuple[str, int]]:
    """Return what each item has under ``key``, and the count of that before it."""
    seen: Counter[str] = Counter()
    made = []
    for item in items:
        name = str(item.get(key)) if isinstance(item, dict) else ""
        made.append((name, seen[name]))
        seen[name] += 1
    return made


def _is_masked(text: str, *, secret: bool) -> bool:
    if secret:
        return text == MASK or (text.startswith("${") and text.endswith(f":-{MASK}}}"))
    return f"://{MASK}@" in text


def _has_mask(value: Any) -> bool:
    return MASK.encode() in orjson.dumps(value)
