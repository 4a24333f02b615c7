"""Compare gwproxy with other gateways: ``python benchmarks/run.py``; README.md beside this tells how to read what it prints."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from harness import machine, report, tools
from harness.bench import HERE, TREE, Bench
from harness.jobs import JOBS
from harness.process import Failed
from harness.profile import profile
from harness.report import Result

RESULTS = HERE / "results"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=JOBS, metavar="JOB", help=f"one job, may be repeated: {', '.join(JOBS)}")
    parser.add_argument("--rounds", type=positive, default=5, help="runs of each gateway, in turns (5)")
    parser.add_argument("--seconds", type=positive, default=2, help="seconds a run (2)")
    parser.add_argument("--gateways", default="", metavar="A,B", help="only these gateways, such as nginx,gwproxy")
    parser.add_argument("--tree", type=Path, action="append", default=[], help="another checkout of gwproxy, measured beside this one")
    parser.add_argument("--compiled", action="store_true", help="measure this checkout compiled, too (needs a C compiler)")
    parser.add_argument("--profile", action="store_true", help="instead of the table: where the time goes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all numbers go")
    parser.add_argument("--keep", action="store_true", help="write the table, all numbers and the plot to results/")
    asked = parser.parse_args()
    for tree in asked.tree:
        if not (tree / "gwproxy").is_dir():
            parser.error(f"{tree} is no checkout of gwproxy")
    return asked


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main() -> int:
    asked = options()
    signal.signal(signal.SIGTERM, _interrupt)
    trees = {"gwproxy": TREE, **{f"gwproxy@{tree.resolve().name}": tree.resolve() for tree in asked.tree}}
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian keeps servers
    try:
        tools.debian()
        if asked.compiled:
            trees["gwproxy-compiled"] = tools.compiled(TREE)
        bench = Bench(asked.seconds, asked.rounds, trees, tuple(filter(None, asked.gateways.split(","))))
        with bench:
            if asked.profile:
                print(profile(bench, RESULTS).read_text())
                return 0
            results = [measured(bench, job) for job in asked.only or JOBS]
    except Failed as failed:
        print(f"Error: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    settings = {"seconds": asked.seconds, "rounds": asked.rounds, "connections": bench.connections}
    text = report.markdown(results, settings)
    print(text)
    if asked.json:
        report.write_json(asked.json, results, settings)
    if asked.keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "table.md").write_text(text)
        (RESULTS / "plot.svg").write_text(report.plot(results, list(trees)))
        report.write_json(RESULTS / "table.json", results, settings)
        readme = HERE / "README.md"
        readme.write_text(report.inserted(readme.read_text(), text))
    return 0


def measured(bench: Bench, job: str) -> Result:
    """Run a job; progress goes to standard error. One that fails is in the table with the reason."""
    began = time.monotonic()
    print(f"{job} ...", end=" ", file=sys.stderr, flush=True)
    busy = machine.others()
    try:
        result = JOBS[job](bench)
    except Failed as failed:
        result = Result(job, job, missing={"the job": " ".join(str(failed).split())[:300]})
    result.others = busy
    result.seconds = time.monotonic() - began
    print(f"{result.seconds:.0f} s", file=sys.stderr)
    return result


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
