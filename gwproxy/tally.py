"""What a worker counts while it runs: what was dropped, refused or cut off, so that nothing of it is lost silently."""

from __future__ import annotations

from collections.abc import Callable


class Tally:
    """Counters of one worker by name, since it started, which only grow; and gauges, which are measured when they are asked for.

    Adding costs one dict operation, never blocks and never fails. A label comes from a bounded set (a plugin, a sink, a
    status), never from a client's bytes: every pair of name and label is kept for good.
    """

    __slots__ = ("_counts", "_gauges")

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._gauges: dict[str, Callable[[], int]] = {}

    def add(self, name: str, label: str = "", count: int = 1) -> None:
        """Count ``count`` more of ``name``, of the kind ``label``; empty: there are no kinds."""
        key = (name, label)
        self._counts[key] = self._counts.get(key, 0) + count

    def get(self, name: str, label: str = "") -> int:
        """Return what was counted; 0 if nothing was."""
        return self._counts.get((name, label), 0)

    def shown(self) -> dict[str, int]:
        """Return every counter, sorted: ``headers_dropped``, or with its label ``heads_refused:431``."""
        return {f"{name}:{label}" if label else name: count for (name, label), count in sorted(self._counts.items())}

    def watch(self, name: str, measure: Callable[[], int]) -> None:
        """Show as the gauge ``name`` what ``measure`` returns; it is called every two seconds, and must neither wait nor raise."""
        self._gauges[name] = measure

    def measured(self) -> dict[str, int]:
        """Return every gauge as it is now, sorted."""
        return {name: measure() for name, measure in sorted(self._gauges.items())}
