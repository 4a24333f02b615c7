"""What was measured: rows against targets, tables of runs, and how they are written."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness import machine
from harness.load import Run, bad, cost, median, p50, p99, rate, ratio
from harness.plot import bars


@dataclass(frozen=True, slots=True)
class Row:
    """A number against its target.

    :ivar measured: as it is shown.
    :ivar value: the number that is compared; None: it could not be measured.
    :ivar floor: what it must reach; None: there is no target.
    :ivar goal: what it should reach; None: the floor is all there is.
    :ivar lower: whether lower is better.
    """

    what: str
    measured: str
    value: float | None = None
    floor: float | None = None
    goal: float | None = None
    unit: str = ""
    lower: bool = False

    @property
    def met(self) -> str:
        if self.floor is None:
            return ""
        if self.value is None:
            return "not measured"
        if not self._reaches(self.floor):
            return "no"
        return "yes" if self.goal is None or self._reaches(self.goal) else "floor"

    def _reaches(self, target: float) -> bool:
        assert self.value is not None
        return self.value <= target if self.lower else self.value >= target

    def target(self, number: float | None) -> str:
        return "" if number is None else f"{'≤' if self.lower else '≥'} {number:g}{self.unit}"


@dataclass
class Result:
    """What one job found.

    :ivar runs: of each gateway, in the order of the rounds.
    :ivar missing: gateways that could not be measured, each with the reason.
    :ivar numbers: everything else, for the JSON.
    :ivar seconds: that the job took.
    :ivar others: the share of the machine that others used just before it.
    """

    job: str
    title: str
    rows: list[Row] = field(default_factory=list)
    runs: dict[str, list[Run]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    others: float = 0.0

    def shown(self) -> dict[str, object]:
        return {
            "job": self.job,
            "title": self.title,
            "rows": [{**asdict(row), "met": row.met} for row in self.rows],
            "runs": {name: [run.shown() for run in runs] for name, runs in self.runs.items()},
            "missing": self.missing,
            "numbers": self.numbers,
            "seconds": round(self.seconds, 1),
            "others": round(self.others, 3),
        }


def table(results: Sequence[Result]) -> str:
    """Return the table of targets, in Markdown."""
    lines = ["| job | measured | floor | goal | met |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        lines += [f"| {row.what} | {row.measured} | {row.target(row.floor)} | {row.target(row.goal)} | {row.met} |" for row in result.rows]
        lines += [f"| {result.title}: {name} | missing: {reason} | | | |" for name, reason in result.missing.items()]
    return "\n".join(lines)


def details(result: Result) -> str:
    """Return a table of the gateways of one job, in Markdown; empty if it compared none."""
    if not result.runs:
        return ""
    first = next(iter(result.runs.values()))
    against = next(iter(result.runs))
    lines = [
        f"### {result.title}",
        "",
        f"| gateway | CPU a request | {against} = 1 | requests a second | {against} = 1 | core busy | p50 | p99 | bad answers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in result.runs.items():
        wrong = sum(map(bad, runs))
        cells = [
            name,
            f"{median(runs, cost):.1f} us",
            times(ratio(first, runs, cost)),
            f"{median(runs, rate):,.0f}",
            times(ratio(runs, first, rate)),
            f"{median(runs, lambda run: run.busy):.0%}",
            f"{median(runs, p50) / 1000:.2f} ms",
            f"{median(runs, p99) / 1000:.2f} ms",
            str(wrong),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def times(number: float) -> str:
    """Return a ratio with as many digits as it needs."""
    return f"{number:.2f}" if number >= 0.1 else f"{number:.3f}"


def markdown(results: Sequence[Result], settings: Mapping[str, object]) -> str:
    """Return the whole report in Markdown."""
    about = "{cores} cores of {processor}, {memory_gib} GiB, Linux {kernel}, Python {python}".format(**machine.described())
    how = "{rounds} rounds of {seconds} s each, {connections} connections".format(**settings)
    shares = [result.others for result in results] or [0.0]
    noise = f"Others used {statistics.median(shares):.0%} of the machine meanwhile (between jobs; at most {max(shares):.0%})"
    return "\n\n".join([f"{about}. {how}. {noise}.", table(results), *filter(None, map(details, results))]) + "\n"


def inserted(page: str, text: str) -> str:
    """Return ``page`` with the summary and the table of targets of a report between its two marks."""
    before, _, rest = page.partition("<!-- results -->\n")
    _, _, after = rest.partition("<!-- end -->\n")
    return f"{before}<!-- results -->\n{text.partition('### ')[0].rstrip()}\n<!-- end -->\n{after}"


def plot(results: Sequence[Result], ours: Sequence[str]) -> str:
    """Return the SVG of what a core serves: of the jobs that compare gateways."""
    compared = [result for result in results if result.job in ("bare", "five-plugins") and result.runs]
    charts = {result.title: {name: 1e6 / median(runs, cost) for name, runs in result.runs.items()} for result in compared}
    return bars(charts, "requests per second of CPU time", ours)


def write_json(path: Path, results: Sequence[Result], settings: Mapping[str, object]) -> None:
    whole = {"machine": machine.described(), "settings": dict(settings), "results": [result.shown() for result in results]}
    path.write_text(json.dumps(whole, indent=1) + "\n")
