"""How long a change takes from ``apply`` until every worker of two gateways says that it runs it: ``python benchmarks/rollouts.py``."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness import machine
from harness.bench import HERE, TREE
from harness.plot import bars
from harness.process import Child, Failed, free_port, until

from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.publish import Publisher
from gwproxy.controlplane.rollout import Rollout
from gwproxy.registry import Registry
from gwproxy.store.audit import AuditLog
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect

RESULTS = HERE / "results"
GATEWAYS, WORKERS = 2, 2  # and workers of each
TARGET = 500.0  # milliseconds, of the p99
STEP = 20  # milliseconds a bar of the histogram is wide
WHOLE = "**from apply to the last acknowledgement**"
MARKS = ("<!-- rollouts -->", "<!-- end of rollouts -->")


@dataclass(frozen=True, slots=True)
class Change:
    """One change, in milliseconds.

    :ivar checked: until it was found valid and compared with what was live.
    :ivar written: from there until it was in the store.
    :ivar acknowledged: from there until all workers ran it, as who waits sees it.
    """

    checked: float
    written: float
    acknowledged: float

    @property
    def whole(self) -> float:
        return self.checked + self.written + self.acknowledged


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=300, help="how many (300)")
    parser.add_argument("--routes", type=int, default=100, help="of the configuration; one is changed each time (100)")
    parser.add_argument(
        "--pause", type=float, default=0.5, metavar="SECONDS", help="the longest between two changes, drawn at random (0.5)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all numbers go")
    parser.add_argument("--keep", action="store_true", help="write table, histogram and numbers to results/ and README.md")
    asked = parser.parse_args()
    if asked.changes < 2 or asked.routes < 1 or asked.pause < 0:
        parser.error("at least two changes and a route, and no pause below 0")
    return asked


def main() -> int:
    asked = options()
    others = machine.others()
    try:
        with fleet() as publisher:
            changes = [change(publisher, document(asked.routes, number), asked.pause) for number in range(asked.changes + 1)][1:]
    except Failed as failed:
        print(f"Error: {failed}", file=sys.stderr)
        return 1
    text = report(changes, asked, (others, machine.others()))
    print(text)
    numbers = {"machine": machine.described(), "others": others, "routes": asked.routes, "changes": [asdict(one) for one in changes]}
    if asked.json:
        asked.json.write_text(json.dumps(numbers) + "\n")
    if asked.keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "rollouts.json").write_text(json.dumps(numbers) + "\n")
        (RESULTS / "rollouts.svg").write_text(
            bars({f"{len(changes)} changes": counted(changes)}, "how many took so many ms", list(counted(changes)))
        )
        readme = HERE / "README.md"
        before, _, rest = readme.read_text().partition(MARKS[0])
        readme.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    return 0


@contextmanager
def fleet() -> Iterator[Publisher]:
    """Start Redis and the gateways, as in production; give who changes their configuration. Nothing is left of them."""
    folder = Path(tempfile.mkdtemp(prefix="gwproxy-bench-"))
    cores = os.sched_getaffinity(0)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        port = free_port()
        command = ["redis-server", "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(folder)]
        stack.enter_context(Child(command, folder / "redis.log", cores)).listening(port)
        url = f"redis://127.0.0.1:{port}/0"
        for number in range(GATEWAYS):
            place = folder / str(number)
            place.mkdir()
            bind = free_port()
            argv = ["-m", "gunicorn", "-c", str(TREE / "gunicorn.conf.py"), "-b", f"127.0.0.1:{bind}", "-w", str(WORKERS)]
            env = {"GWPROXY_REDIS_URL": url, "GWPROXY_STATE_DIR": str(place / "state"), "GWPROXY_LOG_LEVEL": "warning"}
            child = Child([sys.executable, *argv, "gwproxy.wsgi:application"], place / "output.log", cores, env, place)
            stack.enter_context(child).listening(bind)
        client = connect(url, timeout=5)
        publisher = Publisher(
            ConfigurationStore(client), AuditLog(client), Registry.discover(), Environment({}, lambda name: True), "bench"
        )
        until(lambda: len(publisher.store.workers()) == GATEWAYS * WORKERS, "every worker")
        yield publisher


def document(routes: int, number: int) -> bytes:
    """Return a configuration; with another number another one of its routes is another."""
    plugins = [{"name": "rate_limit", "config": {"limit": 100}}, {"name": "access_log"}]
    made = [{"path": f"/resource-{n}/{{id}}", "upstream": "http://10.0.0.1:8000", "plugins": plugins} for n in range(routes)]
    made[number % routes]["timeout"] = 30 + number
    return json.dumps(made).encode()


def change(publisher: Publisher, data: bytes, pause: float) -> Change:
    """Do what ``gwproxy apply --wait`` does, some time after the change before.

    :raises Failed: not all workers ran it within 30 seconds.
    """
    time.sleep(random.uniform(0, pause))
    began = time.monotonic()
    prepared = publisher.check(data, "bench")
    checked = time.monotonic()
    published = publisher.commit(prepared)
    written = time.monotonic()
    standing = Rollout(publisher.store, published).follow()
    ended = time.monotonic()
    if standing.outcome != "done" or standing.live != GATEWAYS * WORKERS:
        raise Failed(f"{standing.live} workers, {standing.outcome}: {standing.reason()}")
    return Change((checked - began) * 1000, (written - checked) * 1000, (ended - written) * 1000)


def report(changes: Sequence[Change], asked: argparse.Namespace, others: tuple[float, float]) -> str:
    """Return Markdown: the percentiles of each part, and the histogram of the whole."""
    found = machine.described()
    parts = {
        "checked and compared": [one.checked for one in changes],
        "written": [one.written for one in changes],
        "acknowledged by every worker": [one.acknowledged for one in changes],
        WHOLE: [one.whole for one in changes],
    }
    reached = percentile(parts[WHOLE], 99)
    rows = [" | ".join(f"{number:.0f} ms" for number in (*(percentile(t, p) for p in (50, 90, 99)), max(t))) for t in parts.values()]
    marks = [("#" * round(60 * count / len(changes))) or "." * bool(count) for count in counted(changes).values()]
    lines = [
        f"{found['cores']} cores of {found['processor']}, Python {found['python']}.",
        f"{len(changes)} changes of one of {asked.routes} routes, {GATEWAYS} gateways of {WORKERS} workers.",
        f"Others used {others[0]:.0%} of the machine before and {others[1]:.0%} after.",
        "",
        "| | p50 | p90 | p99 | most |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {name} | {row} |" for name, row in zip(parts, rows, strict=True)),
        "",
        f"Target: a p99 below {TARGET:.0f} ms. Met: {'yes' if reached < TARGET else 'no'}.",
        "",
        "```text",
        *(f"{name:>12}  {count:4.0f}  {mark}".rstrip() for (name, count), mark in zip(counted(changes).items(), marks, strict=True)),
        "```",
    ]
    return "\n".join(lines) + "\n"


def percentile(times: Sequence[float], which: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[which - 1]


def counted(changes: Sequence[Change]) -> dict[str, float]:
    """Return how many took how long, from the quickest to the slowest, by a label of each step."""
    steps = [int(one.whole // STEP) for one in changes]
    return {f"{step * STEP}-{(step + 1) * STEP} ms": steps.count(step) for step in range(min(steps), max(steps) + 1)}


if __name__ == "__main__":
    sys.exit(main())
