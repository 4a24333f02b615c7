"""Upstream addresses that only the gateway's own environment knows: what stands in for them on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_WHOLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class StandIns:
    """Addresses for the unset variables that a configuration takes upstream URLs from.

    A route without an upstream is none, so without these nothing could be said about where requests go. They are in the
    ``.invalid`` domain (RFC 6761), and shown as the references they stand for.

    :ivar variables: ``environ`` with them.
    """

    def __init__(self, tree: Any, environ: Mapping[str, str]) -> None:
        names = dict.fromkeys(name for url in _urls(tree) for name in _WHOLE.findall(url) if url == f"${{{name}}}")
        unset = [name for name in names if name not in environ]
        self._urls = {name: f"http://unset-{number}.invalid" for number, name in enumerate(unset)}
        self.variables = {**environ, **self._urls}

    def written(self, text: str) -> str:
        """Return ``text`` with the references instead of what stands in for them."""
        for name, url in self._urls.items():
            text = text.replace(url, f"${{{name}}}").replace(url.partition("//")[2], f"(the host of ${{{name}}})")
        return text


def _urls(tree: Any) -> Iterator[str]:
    """Yield the upstream addresses of a document that need not be valid."""
    if isinstance(tree, list):
        tree = {"routes": tree}
    if not isinstance(tree, dict):
        return
    upstreams = tree.get("upstreams")
    described = upstreams.values() if isinstance(upstreams, dict) else ()
    targets = [target for upstream in described if isinstance(upstream, dict) for target in _items(upstream.get("targets"))]
    routes = [route for route in _items(tree.get("routes")) if isinstance(route, dict)]
    others = [route.get(name) for route in routes for name in ("canary", "mirror")]
    holders: list[tuple[list[Any], str]] = [(routes, "upstream"), (others, "upstream"), (targets, "url")]
    for holder, key in holders:
        for item in holder:
            if isinstance(item, dict) and isinstance(item.get(key), str):
                yield item[key]


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
