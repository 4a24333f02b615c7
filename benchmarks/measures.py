"""What measuring every hook costs: a step with its histograms and without, side by side, and a request's own counts.

``python benchmarks/measures.py`` prints a Markdown table. Ratios hold, absolute numbers are this machine's.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from gwproxy import Context, PluginConfig, Request
from gwproxy.dataplane import chain
from gwproxy.dataplane.answered import Answered
from gwproxy.dataplane.entry_breaker import EntryBreaker
from gwproxy.dataplane.measures import StepMeasure
from gwproxy.dataplane.step import Step
from gwproxy.dataplane.waits import Timed
from gwproxy.model import PluginBreaker
from gwproxy.plugin import Entry
from gwproxy.process import compiled
from gwproxy.tally import Tally

ROUNDS = 15
TIMES = 20_000
BOUND = 1000  # nanoseconds a step may cost


class Unmeasured(StepMeasure):
    """Counts nothing: what is left of a step is what it does."""

    def took(self, spent: float, waited: float) -> None:
        """Count nothing."""


def steps(kind: type[StepMeasure]) -> chain.Steps:
    breaker = EntryBreaker(("noop", "1", Entry()), PluginBreaker(), Tally())
    return (
        Step(
            lambda ctx, config: None,
            PluginConfig(),
            plugin="noop",
            phase="post_auth",
            measure=kind(("noop", "1", "post_auth")),
            breaker=breaker,
        ),
    )


def timed(function: Callable[[], object]) -> float:
    """Return the nanoseconds of processor time that one call takes."""
    began = time.process_time()
    for _ in range(TIMES):
        function()
    return (time.process_time() - began) / TIMES * 1e9


def main() -> None:
    """Measure in turns, so that what drifts hits all, and print the medians."""
    ctx = Context(Request("GET", "/"))
    ctx._timed = Timed(lambda: None)  # as in a worker
    measured, unmeasured, answered = steps(StepMeasure), steps(Unmeasured), Answered()
    took: dict[str, list[float]] = {"with": [], "without": [], "request": []}
    for _ in range(ROUNDS):
        took["without"].append(timed(lambda: chain.run(unmeasured, ctx)))
        took["with"].append(timed(lambda: chain.run(measured, ctx)))
        took["request"].append(timed(lambda: answered.count("route", 200, 0.003, 0.002, 0.001, 10, 1000)))
    differences = [ours - bare for ours, bare in zip(took["with"], took["without"], strict=True)]
    ratio = statistics.median(ours / bare for ours, bare in zip(took["with"], took["without"], strict=True))
    load = os.getloadavg()[0]
    print(f"{'Compiled' if compiled() else 'Python'}, load {load:.1f}.\n")
    print("| | ns | ratio |\n| --- | --- | --- |")
    print(f"| a step that does nothing, unmeasured | {statistics.median(took['without']):.0f} | 1 |")
    print(f"| the same, measured | {statistics.median(took['with']):.0f} | {ratio:.2f} |")
    print(f"| its histograms and counts (bound: {BOUND}) | {statistics.median(differences):.0f} | |")
    print(f"| a request's counts, once | {statistics.median(took['request']):.0f} | |")


if __name__ == "__main__":
    main()
