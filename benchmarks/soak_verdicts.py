"""What a soak run proves, a verdict for each of the rows S01 to S11: pure functions of what was sampled."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.soak_samples import Sample, StoreSample

MIB = 1 << 20
#: A worker's pools: 64 for requests, 4 for the configuration, 1 for logs, 1 subscription.
REDIS_CLIENTS_A_WORKER = 70
LONG = 1800.0  # seconds: below that hours cannot be compared
SHORT = 60.0  # seconds: below that a fault may not have had its turn


@dataclass(slots=True)
class Verdict:
    row: str
    what: str
    result: Literal["holds", "VIOLATED", "not judged"]
    reason: str


@dataclass(slots=True)
class Run:
    """What was seen.

    :ivar baseline: of each worker before the traffic, by pid; ``final``: after it, when all was quiet.
    :ivar samples: of workers, in order of time; ``store``: of Redis and the log.
    :ivar done: what the traffic did, by name; ``violations``: what it found wrong.
    :ivar latencies: (seconds since the start, seconds it took) of plain small requests.
    """

    seconds: float
    baseline: dict[int, Sample]
    final: dict[int, Sample]
    samples: list[Sample]
    store: list[StoreSample]
    done: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    latencies: list[tuple[float, float]] = field(default_factory=list)


def judge(run: Run) -> list[Verdict]:
    """Return the verdicts, in order of their rows."""
    return [_judged(row, what, check, run) for row, (what, check) in _ROWS.items()]


#: What is wrong, or None; and a line of what was measured.
Finding = tuple[str | None, str]


def _judged(row: str, what: str, check: Callable[[Run], Finding | None], run: Run) -> Verdict:
    found = check(run)
    if found is None:
        return Verdict(row, what, "not judged", f"the run is too short: {run.seconds:.0f} s")
    wrong, measured = found
    return Verdict(row, what, "holds" if wrong is None else "VIOLATED", wrong or measured)


def growth(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> float:
    """Return how much a value has grown from the second quarter of a run to its last: the first is warm-up."""
    known = [found for sample in samples if (found := value(sample)) is not None]
    quarter = len(known) // 4
    if quarter == 0:
        return 0.0
    return statistics.median(known[-quarter:]) - statistics.median(known[quarter : 2 * quarter])


def _of(run: Run, pid: int) -> list[Sample]:
    return [sample for sample in run.samples if sample.pid == pid]


def _memory(run: Run) -> Finding:
    grown = {pid: growth(_of(run, pid), lambda sample: sample.rss) for pid in run.final}
    worst, pid = max((size, pid) for pid, size in grown.items())
    allowed = max(8 * MIB, 0.1 * run.final[pid].rss)
    said = f"after warm-up {worst / MIB:+.1f} MiB (at most {allowed / MIB:.1f}), now {run.final[pid].rss / MIB:.0f}"
    return (f"pid {pid}: {said}" if worst > allowed else None), said


def _descriptors(run: Run) -> Finding:
    for pid, final in run.final.items():
        if final.files > run.baseline[pid].files + 2:
            return f"pid {pid}: {final.files} files are open, {run.baseline[pid].files} were at first", ""
        if final.unattached:
            return f"pid {pid}: {final.unattached} sockets are open that have no connection any more", ""
        if final.clients:
            return f"pid {pid}: {final.clients} connections of clients that have left", ""
    most = max(sample.descriptors for sample in run.samples)
    return None, f"all are explained; at most {most} at once, {max(s.descriptors for s in run.final.values())} at the end"


def _greenlets(run: Run) -> Finding:
    for pid, final in run.final.items():
        first = run.baseline[pid].greenlets
        if first is None or final.greenlets is None:
            return f"pid {pid}: its probe did not say", ""
        if final.greenlets > first + 3:
            return f"pid {pid}: {final.greenlets} at the end, {first} before the traffic", ""
    return None, f"{max(s.greenlets or 0 for s in run.samples)} at most, {max(s.greenlets or 0 for s in run.final.values())} at the end"


def _upstream(run: Run) -> Finding:
    most, oldest = max(s.upstream for s in run.samples), max(s.close_wait for s in run.samples)
    if oldest > 60:
        return f"a connection was in CLOSE_WAIT for {oldest:.0f} s", ""
    return (f"{most} connections to upstreams" if most > 3000 else None), f"at most {most}; longest CLOSE_WAIT {oldest:.0f} s"


def _redis_clients(run: Run) -> Finding:
    most, allowed = max(s.clients for s in run.store), REDIS_CLIENTS_A_WORKER * len(run.final) + 5
    return (f"{most}, at most {allowed} are allowed" if most > allowed else None), f"at most {most} of {allowed}"


def _lifetimes(run: Run) -> Finding:
    lasting = sorted({key for sample in run.store for key in sample.lasting})
    return (
        f"no lifetime: {', '.join(lasting[:5])}" if lasting else None
    ), f"all but four keys of {max(s.keys for s in run.store)} have one"


def _reloads(run: Run) -> Finding:
    reloads = run.done.get("configurations", 0)
    left = {pid: sample.snapshots for pid, sample in run.final.items()}
    if reloads < 5:
        return f"only {reloads} changes of the configuration", ""
    return (None if set(left.values()) == {1} else f"snapshots left: {left}"), f"{reloads} changes, one snapshot a worker is left"


def _faults(run: Run) -> Finding | None:
    if run.violations:
        return f"{len(run.violations)} answers were wrong: {run.violations[0]}", ""
    kinds = ("aborts", "faults", "malformed", "websockets", "restarts of Redis")
    missing = [name for name in kinds if not run.done.get(name)]
    if missing and run.seconds < SHORT:
        return None
    counted = ", ".join(f"{run.done.get(name, 0)} {name}" for name in ("requests", *kinds))
    return (f"none of: {', '.join(missing)}" if missing else None), f"{counted}; no wrong byte"


def _log(run: Run) -> Finding:
    rate = (run.store[-1].log - run.store[0].log) / run.seconds
    return (f"{rate:.0f} bytes a second" if rate > 16_384 else None), f"{rate:.0f} bytes a second"


def _latency(run: Run) -> Finding | None:
    if run.seconds < LONG:
        return None
    halves = [[took for at, took in run.latencies if (at >= run.seconds / 2) == second] for second in (False, True)]
    first, second = (statistics.quantiles(half, n=100)[98] for half in halves)
    said = f"p99 {first * 1000:.0f} ms in the first half, {second * 1000:.0f} ms in the second"
    return (said if second > 1.2 * first else None), said


def _instances(run: Run) -> Finding:
    for pid, final in run.final.items():
        for name in ("configs", "upstreams"):
            first, last = getattr(run.baseline[pid], name), getattr(final, name)
            if first is None or last is None or last > first:
                return f"pid {pid}: {last} {name} at the end, {first} at first", ""
    return None, "as many plugin configurations and upstreams as at first"


_ROWS: dict[str, tuple[str, Callable[[Run], Finding | None]]] = {
    "S01": ("memory is flat", _memory),
    "S02": ("descriptors are explained", _descriptors),
    "S03": ("greenlets come back", _greenlets),
    "S04": ("upstream connections end", _upstream),
    "S05": ("Redis clients are bounded", _redis_clients),
    "S06": ("keys have a lifetime", _lifetimes),
    "S07": ("reloads leave one snapshot", _reloads),
    "S08": ("right answers despite faults", _faults),
    "S09": ("the log is bounded", _log),
    "S10": ("as quick as at first", _latency),
    "S11": ("plugin configurations go", _instances),
}
