"""Load: wrk against one gateway, metered; and several gateways in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.bench import Bench
from harness.gateways import Gateway
from harness.process import Child, Failed

_SCRIPT = Path(__file__).parent / "report.lua"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of wrk against one gateway.

    :ivar cpu: seconds of CPU time that the gateway used for it.
    :ivar p50: and the other latencies: microseconds.
    :ivar refused: answers of 400 and above.
    :ivar broken: connections that failed and requests that timed out.
    """

    requests: int
    seconds: float
    bytes: int
    refused: int
    broken: int
    p50: float
    p99: float
    p999: float
    longest: float
    cpu: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of CPU time a request."""
        return self.cpu / self.requests * 1e6

    @property
    def busy(self) -> float:
        """Share of one core that the gateway used."""
        return self.cpu / self.seconds

    @property
    def byte_rate(self) -> float:
        """Bytes a second, heads included."""
        return self.bytes / self.seconds

    def shown(self) -> dict[str, float]:
        return {**asdict(self), "rate": round(self.rate, 1), "cost": round(self.cost, 3), "busy": round(self.busy, 3)}


def run(bench: Bench, gateway: Gateway, seconds: int, connections: int | None = None) -> Run:
    """Let wrk ask ``gateway`` for so many seconds.

    :raises Failed: wrk did not work, or not one request was answered.
    """
    return together(bench, [gateway], seconds, connections)[0]


def together(bench: Bench, gateways: Sequence[Gateway], seconds: int, connections: int | None = None) -> list[Run]:
    """Let one wrk for each ask the gateways at the same time: whatever the machine does meanwhile, it does to all of them.

    :raises Failed: as :func:`run`.
    """
    logs = [bench.place("wrk") / "wrk.log" for _ in gateways]
    before = [gateway.usage().cpu for gateway in gateways]
    with ExitStack() as stack:
        asking = [
            stack.enter_context(Child(_command(gateway, seconds, connections or bench.connections), log, bench.load_cores))
            for gateway, log in zip(gateways, logs, strict=True)
        ]
        for wrk in asking:
            try:
                wrk.wait(seconds + 30)
            except subprocess.TimeoutExpired:
                raise Failed(f"wrk did not end: {wrk.tail()}") from None
    used = [gateway.usage().cpu - was for gateway, was in zip(gateways, before, strict=True)]
    return [_counted(gateway, log, cpu) for gateway, log, cpu in zip(gateways, logs, used, strict=True)]


def _command(gateway: Gateway, seconds: int, connections: int) -> list[str]:
    fields = [part for name, value in gateway.headers.items() for part in ("-H", f"{name}: {value}")]
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "--latency", "-s", str(_SCRIPT)]
    return ["wrk", *options, *fields, f"http://127.0.0.1:{gateway.port}{gateway.path}"]


def _counted(gateway: Gateway, log: Path, cpu: float) -> Run:
    try:
        counted = json.loads(log.read_text().strip().rpartition("\n")[2])
    except ValueError:
        raise Failed(f"wrk failed: {log.read_text(errors='replace')[-1500:]}") from None
    if not counted["requests"]:
        raise Failed(f"{gateway.name} answered nothing: {gateway.tail()}")
    return Run(**counted, cpu=cpu)


def in_turns(
    bench: Bench, gateways: Sequence[Gateway], connections: int | None = None, rounds: int | None = None, seconds: int | None = None
) -> dict[str, list[Run]]:
    """Run each gateway once a round.

    :param connections: and rounds, and seconds of a run; None: as many as the bench says.
    """
    runs: dict[str, list[Run]] = {gateway.name: [] for gateway in gateways}
    for _ in range(rounds or bench.rounds):
        for gateway in gateways:
            runs[gateway.name].append(run(bench, gateway, seconds or bench.seconds, connections))
    return runs


def ratio(of: Sequence[Run], to: Sequence[Run], number: Callable[[Run], float]) -> float:
    """Return the median over the rounds of ``of`` divided by ``to`` in the same round: what drifts hits both."""
    return statistics.median(number(a) / number(b) for a, b in zip(of, to, strict=True))


def median(runs: Sequence[Run], number: Callable[[Run], float]) -> float:
    return statistics.median(number(run) for run in runs)


def cost(run: Run) -> float:
    return run.cost


def rate(run: Run) -> float:
    return run.rate


def bad(run: Run) -> int:
    """Return how many requests had no good answer."""
    return run.refused + run.broken


def byte_rate(run: Run) -> float:
    return run.byte_rate


def p50(run: Run) -> float:
    return run.p50


def p99(run: Run) -> float:
    return run.p99
