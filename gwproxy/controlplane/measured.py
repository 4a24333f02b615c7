"""What workers have measured, as their heartbeats tell it: read with care, as anybody may write to the store, and summed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gwproxy.controlplane.overview import Worker, held
from gwproxy.dataplane.histogram import Histogram

Row = Mapping[str, Any]
Key = tuple[str, str, str]

_COUNTS = ("decisions", "errors", "over_budget")


def rows(worker: Worker, kind: str) -> Iterator[Row]:
    """Yield the rows of a kind that a worker tells of its plugins: ``steps``, ``off`` or ``held``."""
    found = held(worker, "plugin_measures", {}).get(kind)
    for row in found if isinstance(found, list) else ():
        if isinstance(row, dict) and isinstance(row.get("plugin"), str):
            yield row


def answered(worker: Worker) -> Iterator[Row]:
    """Yield the rows that a worker tells of routes."""
    for row in held(worker, "answered", []):
        if isinstance(row, dict) and isinstance(row.get("route"), str):
            yield row


def key_of(row: Row) -> Key:
    """Return plugin, version and phase of a row."""
    return str(row["plugin"]), str(row.get("version", "")), str(row.get("phase", ""))


def counts(row: Row, name: str) -> dict[str, int]:
    """Return the counts that a row has under a name."""
    found = row.get(name)
    items = found.items() if isinstance(found, dict) else ()
    return {str(kind): count for kind, count in items if isinstance(count, int) and not isinstance(count, bool) and count > 0}


class StepSum:
    """What the workers that were asked have measured of one phase of one version of a plugin, together."""

    def __init__(self) -> None:
        self.spent = Histogram()
        self.waited = Histogram()
        self.counts: dict[str, dict[str, int]] = {name: {} for name in _COUNTS}
        self.blocked = 0
        self.blocked_at = ""

    def add(self, row: Row) -> None:
        """Add what one of them tells."""
        self.spent.merge(row.get("spent"))
        self.waited.merge(row.get("waited"))
        for name in _COUNTS:
            for kind, count in counts(row, name).items():
                self.counts[name][kind] = self.counts[name].get(kind, 0) + count
        if isinstance(blocked := row.get("blocked"), int) and blocked > 0:
            self.blocked += blocked
            self.blocked_at = str(row.get("blocked_at", ""))

    def minus(self, before: StepSum) -> StepSum:
        """Return what has come since; 0 instead of less, where a worker has left."""
        made = StepSum()
        made.spent, made.waited = self.spent.minus(before.spent), self.waited.minus(before.waited)
        for name in _COUNTS:
            since = {kind: count - before.counts[name].get(kind, 0) for kind, count in self.counts[name].items()}
            made.counts[name] = {kind: count for kind, count in since.items() if count > 0}
        made.blocked, made.blocked_at = max(0, self.blocked - before.blocked), self.blocked_at
        return made

    @property
    def went_on(self) -> int:
        """How many of them let their request go on, as far as the phase was concerned."""
        other = sum(count for kind, count in self.counts["decisions"].items() if kind not in ("skipped", "would_change"))
        return max(0, self.spent.count - other - sum(self.counts["errors"].values()))

    def shown(self) -> dict[str, Any]:
        """Return it as JSON's types; times in seconds."""
        return {
            "hooks": self.spent.count,
            "went_on": self.went_on,
            **{name: dict(sorted(held.items())) for name, held in self.counts.items()},
            "spent": _times(self.spent),
            "waited": _times(self.waited),
            "blocked": self.blocked,
            "blocked_at": self.blocked_at,
        }


def _times(histogram: Histogram) -> dict[str, Any]:
    quantiles = {f"p{share:g}": histogram.quantile(share / 100) for share in (50, 99)}
    return {"count": histogram.count, "seconds": round(histogram.seconds, 6), **quantiles}


def steps(workers: Sequence[Worker]) -> dict[Key, StepSum]:
    """Return what all workers have measured of plugins, together."""
    found: dict[Key, StepSum] = {}
    for worker in workers:
        for row in rows(worker, "steps"):
            found.setdefault(key_of(row), StepSum()).add(row)
    return found


def memory(workers: Sequence[Worker]) -> dict[tuple[str, str], dict[str, int]]:
    """Return what each version of a plugin holds where it holds most: ``bytes``, ``grown``, of one worker, and how many ``workers``."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for worker in workers:
        for row in rows(worker, "held"):
            size, grown = row.get("bytes"), row.get("grown")
            if isinstance(size, int) and isinstance(grown, int):
                most = found.setdefault((row["plugin"], str(row.get("version", ""))), {"bytes": 0, "grown": grown, "workers": 0})
                most["workers"] += 1
                if size > most["bytes"]:
                    most["bytes"], most["grown"] = size, grown
    return found
