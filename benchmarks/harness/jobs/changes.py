"""Very many routes: looked up, applied, and applied again and again while requests are served."""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import redis

from harness.bench import Bench
from harness.gateways import Gateway, Gwproxy, document
from harness.jobs.capacity import MANY
from harness.jobs.comparisons import labelled
from harness.jobs.starting import answers
from harness.load import cost, in_turns, median, p99, rate, ratio, run
from harness.prober import PAUSE, Prober
from harness.process import Child, Failed, until
from harness.publisher import READY, publish
from harness.report import Result, Row

PUBLISHER = Path(__file__).parent.parent / "publisher.py"


def routes(bench: Bench) -> Result:
    """Compare a request among 10,000 routes with one among 10."""
    result = Result("routes", "10,000 routes against 10")
    for name, what in labelled(bench, "10,000 routes x 10"):
        with ExitStack() as stack:
            gateways = [
                answers(Gwproxy(bench, stack, bench.trees[name], document(bench, count), name=f"{name}, {count:,} routes"))
                for count in (10, MANY)
            ]
            for gateway in gateways:
                run(bench, gateway, 1)
            runs = in_turns(bench, gateways)
        few, many = runs.values()
        value = ratio(few, many, cost)
        result.rows.append(Row(what, f"{value:.3f} by CPU, {ratio(many, few, rate):.3f} by throughput", value, 0.97))
        result.runs |= runs
    return result


def reapplied(bench: Bench) -> Result:
    """Compare the slowest hundredth of requests with and without a change of 10,000 routes every second."""
    result = Result("reapplied", "10,000 routes re-applied every second")
    seconds = max(4, bench.seconds)  # some changes a run
    for name, what in labelled(bench, "p99 while 10,000 routes are re-applied every second"):
        for kind, texts, most in (
            ("one route changed", [document(bench, MANY, marks=[f"/mark-{n}"]) for n in (0, 1)], 2.0),
            ("all routes changed", [document(bench, MANY, under=f"/v{n}") for n in (0, 1)], None),
        ):
            with ExitStack() as stack:
                port = bench.redis(stack)
                gateway = answers(Gwproxy(bench, stack, bench.trees[name], texts[0], name=name, redis=port))
                files = [gateway.write(f"document-{n}.json", text) for n, text in enumerate(texts)]
                run(bench, gateway, 1)
                quiet, changing, applied = [], [], 0
                for _ in range(bench.rounds):
                    quiet += in_turns(bench, [gateway], rounds=1, seconds=seconds)[name]
                    before = _revision(port)
                    with publishing(bench, gateway, port, files):
                        changing += in_turns(bench, [gateway], rounds=1, seconds=seconds)[name]
                    applied += _revision(port) - before
            value = ratio(changing, quiet, p99)
            shown = f"{value:.2f} ({median(changing, p99) / 1000:.1f} ms; {median(quiet, p99) / 1000:.1f} ms without)"
            per_second = applied / (seconds * bench.rounds)
            kept_up = per_second >= 0.5  # else it is the p99 of something else
            shown += f", {per_second:.2f} applied a second"
            result.rows.append(Row(f"{what}, {kind}", shown, value if kept_up else None, most, lower=True))
            result.runs |= {f"{name}, no changes ({kind})": quiet, f"{name}, {kind}": changing}
    return result


@contextmanager
def publishing(bench: Bench, gateway: Gateway, port: int, files: Sequence[Path]) -> Iterator[None]:
    """Change the configuration every second meanwhile, from the first moment: starting an interpreter would take the load's core."""
    log = gateway.folder / "publisher.log"
    log.unlink(missing_ok=True)
    with Child([sys.executable, str(PUBLISHER), str(port), "1", *map(str, files)], log, bench.load_cores):
        until(lambda: READY in log.read_text(), "the publisher to start")
        yield


def _revision(port: int) -> int:
    """Return the revision that the worker runs, from its heartbeat."""
    store = redis.Redis(port=port, decode_responses=True)
    return max((int(store.hget(key, "revision") or 0) for key in store.scan_iter("gw:worker:*")), default=0)


def applying(bench: Bench) -> Result:
    """Publish 10,000 routes and ask all the while: how long until they are live, and how long does a request wait meanwhile?"""
    result = Result("applying", "Applying 10,000 routes")
    for name, what in labelled(bench, "10,000 routes"):
        took: dict[str, list[float]] = {"whole": [], "one changed": []}
        stalls: dict[str, list[float]] = {"whole": [], "one changed": []}
        with ExitStack() as stack:
            port = bench.redis(stack)
            gateway = answers(Gwproxy(bench, stack, bench.trees[name], document(bench), name=name, redis=port))
            store = redis.Redis(port=port)
            prober = stack.enter_context(Prober(gateway.port, gateway.path))
            idle = prober.longest(1.0)
            marks = (f"/mark-{n}" for n in itertools.count())
            for number in range(bench.rounds):
                for kind in took:
                    mark = next(marks)
                    text = document(bench, MANY, under=f"/round-{number}", marks=[mark])
                    seconds, stall = _applied(store, prober, text, mark)
                    took[kind].append(seconds)
                    stalls[kind].append(stall)
        whole, one = (statistics.median(took[kind]) for kind in took)
        stall = statistics.median(map(max, zip(*stalls.values(), strict=True)))
        longest = max(map(max, stalls.values()))
        result.numbers[name] = {"seconds": took, "stalls, seconds": stalls, "longest without a change, seconds": idle}
        result.rows += [
            Row(f"{what} applied, all changed", f"{whole:.2f} s", whole, 1.5, unit=" s", lower=True),
            Row(f"{what} applied, one changed", f"{one:.2f} s"),
            Row(
                f"{what}: longest wait of a request meanwhile",
                f"{stall * 1000:.0f} ms (of all rounds {longest * 1000:.0f} ms; without a change {idle * 1000:.0f} ms)",
                stall * 1000,
                50,
                unit=" ms",
                lower=True,
            ),
        ]
    return result


def _applied(store: redis.Redis, prober: Prober, text: str, mark: str) -> tuple[float, float]:
    """Publish a document; return the seconds until its mark is served, and the longest that a request waited meanwhile."""
    data = text.encode()
    began = time.perf_counter()
    publish(store, data)
    longest = 0.0
    while True:
        status, waited = prober.ask(mark)
        longest = max(longest, waited)
        if status == 200:
            break
        if time.perf_counter() - began > 30:
            raise Failed("a published configuration was not live within 30 s")
        time.sleep(PAUSE)
    seconds = time.perf_counter() - began
    return seconds, max(longest, prober.longest(0.5))  # what is cleaned up afterwards stalls as well
