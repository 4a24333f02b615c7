"""Entries of the gateway's logs, found by the request they are of."""

from __future__ import annotations

import json
from typing import Any

from tests.e2e.conftest import RedisServer, until


def entries(server: RedisServer, ident: str, key: str = "gw:access_log") -> list[dict[str, Any]]:
    """Return the entries of the request ``ident`` among the newest."""
    newest = server.client().lrange(key, -500, -1)
    return [entry for entry in map(json.loads, newest) if entry["request_id"] == ident]


def entry_of(server: RedisServer, ident: str, key: str = "gw:access_log") -> dict[str, Any]:
    """Return the one entry of a request, waiting for it."""
    until(lambda: entries(server, ident, key), f"the entry in {key}")
    (found,) = entries(server, ident, key)
    return found


def lines_of(text: str, ident: str) -> list[dict[str, Any]]:
    """Return the entries of a request that stand in a text, one a line."""
    return [json.loads(line) for line in text.splitlines() if f'"request_id":"{ident}"' in line]
