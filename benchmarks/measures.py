"""What measuring every hook costs: a step as it is, and as it is in another checkout, one that does not measure, side by side.

``python benchmarks/measures.py [TREE]`` prints a Markdown table. Ratios hold, absolute numbers are this machine's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 7
TIMES = 20_000
BOUND = 1000  # nanoseconds a step may cost more

#: Measures a step of whatever checkout it finds first: what it prints is nanoseconds of processor time.
STEP = f"""
import sys, time
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path.insert(0, sys.argv[1])
from gwproxy import Context, PluginConfig, Request
from gwproxy.dataplane import chain
ctx, settings = Context(Request("GET", "/")), {{}}
try:
    from gwproxy.dataplane.entry_breaker import EntryBreaker
    from gwproxy.dataplane.step import Step
    from gwproxy.dataplane.waits import Timed
    from gwproxy.model import PluginBreaker
    from gwproxy.plugin import Entry
    from gwproxy.tally import Tally
    settings["breaker"] = EntryBreaker(("noop", "1", Entry()), PluginBreaker(), Tally())
    ctx._timed = Timed(lambda: None)  # as in a worker
except ImportError:
    from gwproxy.dataplane.chain import Step
steps = (Step(lambda ctx, config: None, PluginConfig(), plugin="noop", phase="post_auth", **settings),)
took = []
for _ in range(5):
    began = time.process_time()
    for _ in range({TIMES}):
        chain.run(steps, ctx)
    took.append((time.process_time() - began) / {TIMES} * 1e9)
print(min(took))
"""


def step(tree: Path) -> float:
    """Return the nanoseconds that a step takes which does nothing, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", STEP, str(tree)], capture_output=True, text=True, check=True, cwd="/")
    return float(done.stdout)


def timed(function: Callable[[], object]) -> float:
    """Return the nanoseconds of processor time that one call takes."""
    began = time.process_time()
    for _ in range(TIMES):
        function()
    return (time.process_time() - began) / TIMES * 1e9


def main() -> None:
    """Measure in turns, so that what drifts hits both, and print the medians."""
    from gwproxy.dataplane.answered import Answered

    here, answered = Path(__file__).parent.parent, Answered()
    other = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    rounds = [(step(other) if other else 0.0, step(here)) for _ in range(ROUNDS)]
    request = statistics.median(timed(lambda: answered.count("route", 200, 0.003, 0.002, 0.001, 10, 1000)) for _ in range(ROUNDS))
    print(f"Load {os.getloadavg()[0]:.1f}.\n\n| | ns | ratio |\n| --- | --- | --- |")
    if other:
        ratio = statistics.median(ours / theirs for theirs, ours in rounds)
        print(f"| a step that does nothing, in {other.name} | {statistics.median(theirs for theirs, _ in rounds):.0f} | 1 |")
        print(f"| the same here | {statistics.median(ours for _, ours in rounds):.0f} | {ratio:.2f} |")
        print(f"| more (bound: {BOUND}) | {statistics.median(ours - theirs for theirs, ours in rounds):.0f} | |")
    else:
        print(f"| a step that does nothing | {rounds[0][1]:.0f} | |")
    print(f"| a request's own counts, once a request | {request:.0f} | |")


if __name__ == "__main__":
    main()
