"""``gwproxy status``: what every worker runs, or why not, and how the upstreams' targets are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import orjson

from gwproxy.cli.output import ago, counted, json_option, print_json, print_line, print_table
from gwproxy.cli.store_option import open_configuration, redis_option
from gwproxy.store.configuration import Live, digest_of

EPILOG = """\b
Examples:
  gwproxy status
  gwproxy status --redis redis://10.0.0.9/0
  gwproxy status --json | jq '.workers[] | select(.state != "ready")'
"""

Worker = Mapping[str, str]
_STATES = {"ready": "green", "starting": "yellow", "draining": "yellow", "refused": "red", "unhealthy": "red", "healthy": "green"}
_DIGITS = 12  # of a digest: enough for people


@click.command(epilog=EPILOG)
@redis_option
@json_option
def command(redis_url: str | None, as_json: bool) -> int:
    """Show what every worker runs, and the health of upstreams.

    A worker that does not run the live configuration is named with its reason. Workers report every two seconds; one
    that is silent for ten is gone from the list. Then comes what workers have counted since they started: what they
    dropped, refused or cut off. Nothing is shown that did not happen.
    """
    store = open_configuration(redis_url)
    found = gather(store.read(), store.workers())
    if as_json:
        print_json(found)
    else:
        show(found, datetime.now(UTC))
    return 0


def gather(live: Live, workers: Sequence[Worker]) -> dict[str, Any]:
    """Return the state of a gateway: ``live``, ``workers``, ``behind`` (ids), ``broken_plugins``, ``upstreams`` and ``targets``."""
    digest = digest_of(live.data) if live.data else None
    return {
        "live": {"revision": live.revision, "digest": digest},
        "workers": [_worker(worker) for worker in workers],
        "behind": [worker["id"] for worker in workers if digest is not None and worker.get("digest") != digest],
        "broken_plugins": _broken(workers),
        "upstreams": _upstreams(workers),
        "targets": _targets(workers),
    }


def _worker(fields: Worker) -> dict[str, Any]:
    numbers = {name: int(fields[name]) for name in ("pid", "revision", "log_dropped") if fields.get(name, "").isdecimal()}
    texts = {name: fields.get(name, "") for name in ("id", "host", "state", "digest", "error", "started", "applied_at")}
    return {**texts, **numbers, **{name: _held(fields, name, {}) for name in ("plugins", "counters", "gauges")}}


def _held(fields: Worker, name: str, default: Any) -> Any:
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
        for name, version in _held(worker, "plugins", {}).items():
            if version == "broken":
                found.setdefault(name, set()).add(worker.get("host", ""))
    return {name: sorted(hosts) for name, hosts in sorted(found.items())}


def _upstreams(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Return every upstream with its requests in flight and waiting, and those refused for want of a place, of all workers."""
    found: dict[str, dict[str, Any]] = {}
    for worker in workers:
        for upstream in _held(worker, "upstreams", []):
            if not isinstance(upstream, dict):
                continue
            name = str(upstream.get("upstream", ""))
            row = found.setdefault(name, {"upstream": name, "in_flight": 0, "queued": 0, "refused": 0})
            for count in ("in_flight", "queued", "refused"):
                row[count] += upstream[count] if isinstance(upstream.get(count), int) else 0
    return [found[name] for name in sorted(found)]


def _targets(workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Return every target, with how many workers send to it, and their requests in flight."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for worker in workers:
        for target in _held(worker, "targets", []):
            if not isinstance(target, dict):
                continue
            key = (str(target.get("upstream", "")), str(target.get("url", "")))
            row = found.setdefault(key, {"upstream": key[0], "url": key[1], "workers": 0, "healthy": 0, "active": 0})
            row["workers"] += 1
            row["healthy"] += target.get("healthy") is True
            row["active"] += target["active"] if isinstance(target.get("active"), int) else 0
    return [found[key] for key in sorted(found)]


def show(found: Mapping[str, Any], now: datetime) -> None:
    """Print what :func:`gather` found."""
    live, workers = found["live"], found["workers"]
    if live["digest"] is None:
        print_line(("live: ", "bold"), "no configuration")
    else:
        print_line(("live: ", "bold"), f"revision {live['revision']}, digest {live['digest'][:_DIGITS]}")
    click.echo()
    if not workers:
        print_line("no worker is running")
        return
    print_table(("host", "pid", "state", "revision", "digest", "age", "error"), [_row(worker, now) for worker in workers], _STATES)
    click.echo()
    if found["behind"]:
        behind = [f"{worker['host']}/{worker.get('pid', '?')}" for worker in workers if worker["id"] in found["behind"]]
        print_line((f"{len(behind)} of {counted(len(workers), 'worker')} not on the live configuration: {', '.join(behind)}", "red"))
    elif live["digest"] is not None:
        print_line(f"all {counted(len(workers), 'worker')} on the live configuration")
    for name, hosts in found["broken_plugins"].items():
        print_line((f"plugin {name} does not load on {', '.join(hosts)}; 'gwproxy plugins list' there says why", "red"))
    if found["targets"]:
        click.echo()
        print_table(("upstream", "target", "health", "workers", "active"), [_target_row(target) for target in found["targets"]], _STATES)
    if rows := list(_counter_rows(workers)):
        click.echo()
        print_table(("counter", "kind", "total", "most in one worker"), rows)


def _row(worker: Mapping[str, Any], now: datetime) -> tuple[object, ...]:
    age, digest = ago(worker["started"], now), worker["digest"][:_DIGITS]
    return worker["host"], worker.get("pid"), worker["state"], worker.get("revision"), digest, age, worker["error"]


def _counter_rows(workers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    """Yield what any worker has counted: the sum, and the worker that has the most of it if there are several."""
    names = sorted({name for worker in workers for name in worker["counters"]})
    for name in names:
        counts = [(count, worker) for worker in workers if isinstance(count := worker["counters"].get(name), int) and count > 0]
        if not counts:
            continue
        most, worker = max(counts, key=lambda found: found[0])
        counter, _, kind = name.partition(":")
        yield counter, kind, sum(count for count, _ in counts), f"{most} in {worker['host']}/{worker.get('pid', '?')}"


def _target_row(target: Mapping[str, Any]) -> tuple[object, ...]:
    healthy, workers = target["healthy"], target["workers"]
    health = "healthy" if healthy == workers else "unhealthy" if healthy == 0 else f"healthy for {healthy} of {workers}"
    upstream = target["upstream"] if target["upstream"] != target["url"] else None
    return upstream, target["url"], health, workers, target["active"]
