"""The state of a gateway as its workers' heartbeats tell it: for ``gwproxy status`` and the admin API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gwproxy.store.configuration import Live, digest_of

Worker = Mapping[str, str]

#: What was pushed and runs, and why what is deployed does not.
_DEPLOYED = ("deployment", "deployment_error")


def overview(live: Live, workers: Sequence[Worker]) -> dict[str, Any]:
    """Return the state of a gateway.

    :returns: ``live``, ``workers``, ``behind`` (ids), ``broken_plugins``, ``plugins_off``, ``upstreams`` and ``targets``.
    """
    digest = digest_of(live.data) if live.data else None
    return {
        "live": {"revision": live.revision, "digest": digest},
        "workers": [_worker(worker) for worker in workers],
        "behind": [worker["id"] for worker in workers if digest is not None and worker.get("digest") != digest],
        "broken_plugins": _broken(workers),
        "plugins_off": _off(workers),
        "upstreams": _upstreams(workers),
        "targets": _targets(workers),
    }


def _worker(fields: Worker) -> dict[str, Any]:
    numbers = {name: int(fields[name]) for name in ("pid", "revision", "log_dropped") if fields.get(name, "").isdecimal()}
    texts = {name: fields.get(name, "") for name in ("id", "host", "state", "digest", "error", "started", "applied_at", *_DEPLOYED)}
    return {**texts, **numbers, **{name: held(fields, name, {}) for name in ("plugins", "counters", "gauges")}}


def held(fields: Worker, name: str, default: Any) -> Any:
    """Return a field that holds JSON; what is no such thing counts as empty: anybody may write to the store."""
    try:
        value = orjson.loads(fields.get(name, ""))
    except orjson.JSONDecodeError:
        return default
    return value if isinstance(value, type(default)) else default


def _broken(workers: Sequence[Worker]) -> dict[str, list[str]]:
    """Return the plugins that do not load, each with the hosts where."""
    found: dict[str, set[str]] = {}
    for worker in workers:
        for name, version in held(worker, "plugins", {}).items():
            if version == "broken":
                found.setdefault(name, set()).add(worker.get("host", ""))
    return {name: sorted(hosts) for name, hosts in sorted(found.items())}


def _off(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Return the plugin entries that are switched off, each with the ids of the workers where."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for worker in workers:
        rows = held(worker, "plugin_measures", {}).get("off")
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, dict):
                continue
            made = {name: str(row.get(name) or "") for name in ("plugin", "version", "route", "phase", "why")}
            at = (made["plugin"], made["version"], made["route"], str(row.get("entry")))
            found.setdefault(at, {**made, "workers": []})["workers"].append(worker["id"])
    return [found[at] for at in sorted(found)]


def off_text(off: Mapping[str, Any]) -> str:
    """Say that an entry is switched off, in words."""
    whose = f"on route {off['route']}" if off["route"] else "on all routes"
    why = "ran out of its budget" if off["why"] == "over_budget" else "failed"
    return f"plugin {off['plugin']} {off['version']} is switched off {whose}, as it {why} in {off['phase']} again and again"


def _upstreams(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Return every upstream with its requests in flight and waiting, and those refused for want of a place, of all workers.

    ``limit`` is how many may be in flight, of all workers; ``circuits`` counts the workers by the state of theirs, ``{}`` without a
    breaker.
    """
    found: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for upstream in held(worker, "upstreams", []):
            if not isinstance(upstream, dict):
                continue
            name = str(upstream.get("upstream", ""))
            begun = {"upstream": name, "in_flight": 0, "queued": 0, "refused": 0, "limit": 0, "adaptive": False, "circuits": {}}
            row = found.setdefault(name, begun)
            for count in ("in_flight", "queued", "refused", "limit"):
                row[count] += upstream[count] if isinstance(upstream.get(count), int) else 0
            row["adaptive"] = row["adaptive"] or upstream.get("adaptive") is True
            if isinstance(circuit := upstream.get("circuit"), str):
                row["circuits"][circuit] = row["circuits"].get(circuit, 0) + 1
    return [found[name] for name in sorted(found)]


def _targets(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Return every target, with how many workers send to it, and their requests in flight.

    ``states`` counts the workers by how they see it; ``why`` is what one for which it is not up says.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for worker in workers:
        for target in held(worker, "targets", []):
            if not isinstance(target, dict):
                continue
            key = (str(target.get("upstream", "")), str(target.get("url", "")))
            name = target.get("name")
            begun = {
                "upstream": key[0],
                "url": key[1],
                "name": name if isinstance(name, str) else None,
                "workers": 0,
                "healthy": 0,
                "active": 0,
            }
            row = found.setdefault(key, {**begun, "states": {}, "why": ""})
            row["workers"] += 1
            row["healthy"] += target.get("healthy") is True
            state = str(target.get("state") or ("healthy" if target.get("healthy") is True else "unhealthy"))
            row["states"][state] = row["states"].get(state, 0) + 1
            if target.get("healthy") is not True:
                row["why"] = str(target.get("why") or row["why"])
            row["active"] += target["active"] if isinstance(target.get("active"), int) else 0
    return [found[key] for key in sorted(found)]
