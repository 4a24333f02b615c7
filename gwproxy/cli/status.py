"""``gwproxy status``: what every worker runs, or why not, and how the upstreams' targets are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from gwproxy.cli.output import ago, counted, json_option, print_json, print_line, print_table
from gwproxy.cli.store_option import open_configuration, redis_option
from gwproxy.controlplane.overview import off_text, overview

EPILOG = """\b
Examples:
  gwproxy status
  gwproxy status --redis redis://10.0.0.9/0
  gwproxy status --json | jq '.workers[] | select(.state != "ready")'
"""

_STATES = {"ready": "green", "starting": "yellow", "draining": "yellow", "refused": "red", "unhealthy": "red", "healthy": "green"}
_STATES |= {"open": "red", "half_open": "yellow", "closed": "green"}
_STATES |= {"ejected": "red", "unresolved": "red", "returning": "yellow", "drained": "yellow"}
_TARGET_COLUMNS = ("upstream", "target", "health", "workers", "active", "why")
_LOAD_COLUMNS = ("upstream", "circuit", "in flight", "limit", "waiting", "refused")
_DIGITS = 12  # of a digest: enough for people


@click.command(epilog=EPILOG)
@redis_option
@json_option
def command(redis_url: str | None, as_json: bool) -> int:
    """Show what every worker runs, and the health of upstreams.

    A worker that does not run the live configuration is named with its reason. Workers report every two seconds; one
    that is silent for ten is gone from the list. Upstreams with a breaker, an adaptive limit, or requests that had to wait
    or were refused follow with their circuit, and their limit of all workers together. Then comes what workers have
    counted since they started: what they dropped, refused or cut off. Nothing is shown that did not happen.
    """
    store = open_configuration(redis_url)
    found = overview(store.read(), store.workers())
    if as_json:
        print_json(found)
    else:
        show(found, datetime.now(UTC))
    return 0


def show(found: Mapping[str, Any], now: datetime) -> None:
    """Print what :func:`~gwproxy.controlplane.overview.overview` found."""
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
    for worker in workers:
        if worker["deployment_error"]:
            what = f"{worker['host']}/{worker.get('pid', '?')} does not run the plugins that are deployed"
            print_line((f"{what}: {worker['deployment_error']}", "red"))
    for off in found["plugins_off"]:
        print_line((f"{off_text(off)}; in {len(off['workers'])} of {counted(len(workers), 'worker')}", "red"))
    if found["targets"]:
        click.echo()
        print_table(_TARGET_COLUMNS, [_target_row(target) for target in found["targets"]], _STATES)
    if loads := [_load_row(load) for load in found["upstreams"] if _is_telling(load)]:
        click.echo()
        print_table(_LOAD_COLUMNS, loads, _STATES)
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
    healthy, workers, states = target["healthy"], target["workers"], target["states"]
    alike = next(iter(states)) if len(states) == 1 else None
    parts = ", ".join(f"{state} {count}" for state, count in sorted(states.items()) if state != "healthy")
    health = alike or f"healthy for {healthy} of {workers}" + (f" ({parts})" if set(states) - {"healthy", "unhealthy"} else "")
    upstream = target["upstream"] if target["upstream"] != target["url"] else None
    return upstream, target["url"], health, workers, target["active"], target["why"]


def _is_telling(load: Mapping[str, Any]) -> bool:
    """Whether an upstream has something that moves, or that was not enough; a plain one has neither."""
    return bool(load["circuits"] or load["adaptive"] or load["queued"] or load["refused"])


def _load_row(load: Mapping[str, Any]) -> tuple[object, ...]:
    states = load["circuits"]
    circuit = next(iter(states), None) if len(states) <= 1 else ", ".join(f"{state} {count}" for state, count in sorted(states.items()))
    return load["upstream"], circuit, load["in_flight"], load["limit"], load["queued"], load["refused"]
