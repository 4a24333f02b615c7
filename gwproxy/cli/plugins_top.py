"""``gwproxy plugins top``: what plugins do and cost, on all workers together, as it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from gwproxy.cli.output import counted, json_option, print_json, print_line, print_table
from gwproxy.cli.store_option import open_configuration, redis_option
from gwproxy.controlplane.measured import Key, StepSum, memory, steps
from gwproxy.controlplane.overview import Worker, off_text, overview

EPILOG = """\b
Examples:
  gwproxy plugins top                       what the last seconds came to, until interrupted
  gwproxy plugins top --once                since the workers have started
  gwproxy plugins top --once --json | jq '.steps[] | select(.errors != {})'
"""

_COLUMNS = (
    "plugin",
    "version",
    "phase",
    "hooks",
    "spent",
    "p50",
    "p99",
    "waited p99",
    "went on",
    "other decisions",
    "errors",
    "over budget",
)


@click.command(epilog=EPILOG)
@click.option("--once", is_flag=True, help="Print what was measured since the workers have started, and end.")
@click.option("--interval", type=click.FloatRange(1, 3600), default=2.0, show_default=True, help="Seconds between two tables.")
@redis_option
@json_option
def command(once: bool, interval: float, redis_url: str | None, as_json: bool) -> int:
    """Show what each phase of each plugin takes of the workers, which decisions it makes, and how it fails.

    'spent' is the time in which its hooks ran and nothing else did, as a share of one processor, or with --once in seconds; 'waited'
    is the time in which they waited and others were served. The plugin that takes the most comes first.
    """
    store = open_configuration(redis_url)
    before: dict[Key, StepSum] | None = None
    since = 0.0
    while True:
        workers = store.workers()
        now, found = time.monotonic(), steps(workers)
        seconds = now - since if before is not None else None
        shown = found if before is None else {key: step.minus(before[key]) if key in before else step for key, step in found.items()}
        told = tell(shown, workers, overview(store.read(), workers)["plugins_off"], seconds)
        if as_json:
            print_json(told, line=not once)
        else:
            show(told, clear=not once)
        if once:
            return 0
        before, since = found, now
        time.sleep(interval)


def tell(found: Mapping[Key, StepSum], workers: Sequence[Worker], off: list[dict[str, Any]], seconds: float | None) -> dict[str, Any]:
    """Return what is shown, as JSON's types.

    :param seconds: for which it was measured; None: since the workers have started.
    """
    ordered = sorted(found.items(), key=lambda item: item[1].spent.seconds, reverse=True)
    rows = [{"plugin": key[0], "version": key[1], "phase": key[2], **step.shown()} for key, step in ordered]
    held = [{"plugin": plugin, "version": version, **sizes} for (plugin, version), sizes in sorted(memory(workers).items())]
    return {
        "workers": len(workers),
        "seconds": round(seconds, 3) if seconds is not None else None,
        "steps": rows,
        "off": off,
        "memory": held,
    }


def show(told: Mapping[str, Any], *, clear: bool) -> None:
    """Print the tables.

    :param clear: the terminal, if it is one.
    """
    if clear:
        click.clear()
    seconds = told["seconds"]
    since = "since they started" if seconds is None else f"in the last {seconds:.1f} s"
    print_line((counted(told["workers"], "worker"), "bold"), f", {since}")
    click.echo()
    rows = [_row(step, seconds) for step in told["steps"] if step["hooks"] or step["decisions"]]
    if not rows:
        print_line("no plugin has run")
    else:
        print_table(_COLUMNS, rows)
    for step in told["steps"]:
        if step["blocked"]:
            times = counted(step["blocked"], "time")
            print_line((f"{step['plugin']} {step['version']} held a worker {times}, last at {step['blocked_at']}", "red"))
    for off in told["off"]:
        print_line((f"{off_text(off)}; in {counted(len(off['workers']), 'worker')}", "red"))
    if told["memory"]:
        click.echo()
        columns = ("plugin", "version", "memory held", "grown by", "in one of")
        print_table(columns, [(m["plugin"], m["version"], _size(m["bytes"]), _size(m["grown"]), m["workers"]) for m in told["memory"]])


def _row(step: Mapping[str, Any], seconds: float | None) -> tuple[object, ...]:
    spent, waited = step["spent"], step["waited"]
    took = f"{spent['seconds']:.3f} s" if seconds is None else f"{spent['seconds'] / seconds:.1%}"
    hooks = step["hooks"] if seconds is None else f"{step['hooks'] / seconds:.1f}/s"
    texts = [_counts(step[name]) for name in ("decisions", "errors", "over_budget")]
    times = (_time(spent["p50"]), _time(spent["p99"]), _time(waited["p99"]))
    return step["plugin"], step["version"], step["phase"], hooks, took, *times, step["went_on"], *texts


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(_pairs(counts))


def _pairs(counts: Mapping[str, int]) -> Iterator[str]:
    for kind, count in counts.items():
        yield f"{kind} {count}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _size(size: int) -> str:
    sign, size = ("-" if size < 0 else ""), abs(size)
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{sign}{size / factor:.1f} {unit}"
    return f"{sign}{size} B"
