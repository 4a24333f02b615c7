"""How ``apply`` tries a configuration before it is live: built by every worker first, or served to a share of the clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from gwproxy.cli.actor import actor
from gwproxy.cli.output import counted, print_line, print_table
from gwproxy.cli.store_option import open_candidates
from gwproxy.cli.waiting import progress
from gwproxy.controlplane.candidates import Acknowledgement, Candidates
from gwproxy.controlplane.publish import Prepared
from gwproxy.controlplane.rules import GRAMMAR, MIN_REQUESTS, Rules
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings
from gwproxy.store.configuration import Published

F = TypeVar("F", bound=Callable[..., Any])

ABORT_HELP = f"With --canary: end it if a rule is broken: {GRAMMAR}."
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_STATES = {"built": "green", "refused": "red", "waiting": "yellow", "building": "yellow"}


@dataclass(frozen=True, slots=True)
class Trial:
    """What is to be done before a configuration is live.

    :ivar share: percent of the clients that it serves as a canary; None: every worker is to build it, then it is live.
    """

    redis_url: str | None
    share: float | None
    rules: Rules

    def candidates(self) -> Candidates:
        """Open the store for it."""
        return open_candidates(self.redis_url, actor(Settings.from_environment()))


class Share(click.ParamType[float]):
    """A percentage of clients: ``5%``, or ``5``."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it in percent."""
        try:
            share = float(str(value).strip().removesuffix("%"))
        except ValueError:
            share = 0.0
        if not 0 < share <= 100:
            self.fail(f"{value!r} is no share of clients: expected a percentage above 0% and at most 100%", param, ctx)
        return share


class Period(click.ParamType[float]):
    """A time: ``90s``, ``10m``, ``2h``, or seconds."""

    name = "period"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return it in seconds."""
        text = str(value).strip()
        unit = _UNITS.get(text[-1:])
        try:
            seconds = float(text[:-1] if unit is not None else text) * (unit or 1.0)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 10 * 365 * 86_400:
            self.fail(f"{value!r} is no time: expected 90s, 10m or 2h", param, ctx)
        return seconds


class RuleText(click.ParamType[str]):
    """A rule such as ``5xx > 1%``, or several with ``or`` between."""

    name = "rule"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it was written."""
        try:
            return " or ".join(rule.text for rule in Rules.of([str(value)]).abort_if)
        except CommandFailed as error:
            self.fail(str(error), param, ctx)


min_requests_option = click.option(
    "--min-requests",
    type=click.IntRange(min=1),
    default=MIN_REQUESTS,
    show_default=True,
    metavar="N",
    help="With --abort-if: judge from so many requests.",
)


def trial_options(function: F) -> F:
    """Decorate a command that may try a configuration: it gets ``stage``, ``canary``, ``abort_if``, ``promote_after``, ``min_requests``."""
    options = (
        click.option("--stage", is_flag=True, help="Have every worker build it first; if one cannot, nothing is changed."),
        click.option("--canary", type=Share(), metavar="PERCENT", help="Serve it to a share of the clients only, such as 5%."),
        click.option("--abort-if", type=RuleText(), multiple=True, metavar="RULE", help=ABORT_HELP),
        click.option("--promote-after", type=Period(), metavar="TIME", help="With --canary: make it live by itself after 10m, say."),
        min_requests_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def trial_of(
    redis_url: str | None, stage: bool, canary: float | None, abort_if: Sequence[str], promote_after: float | None, min_requests: int
) -> Trial | None:
    """Return what the options of :func:`trial_options` ask for; None if that is nothing.

    :raises click.UsageError: they contradict each other.
    """
    if canary is None and (abort_if or promote_after is not None):
        raise click.UsageError("--abort-if and --promote-after are about a canary: --canary PERCENT is missing")
    if canary is not None and stage:
        raise click.UsageError("--stage and --canary are two ways: workers build a canary beside the live configuration anyway")
    if canary is None and not stage:
        return None
    return Trial(redis_url, canary, Rules.of(abort_if, promote_after, min_requests))


def stage(trial: Trial, prepared: Prepared, comment: str, timeout: float, told: dict[str, Any]) -> Published:
    """Have every worker build it, then make it live.

    :raises NotStaged: a worker cannot.
    :raises RevisionConflict: another revision is live.
    """
    with told_workers("staged") as (tell, workers):
        published = trial.candidates().stage(
            prepared.data, base=prepared.revision, comment=comment, detail=prepared.difference.summary(), timeout=timeout, tell=tell
        )
    told["staged"] = [worker.as_data() for worker in workers]
    return published


def begin_canary(trial: Trial, prepared: Prepared, comment: str, timeout: float, told: dict[str, Any], *, quiet: bool) -> None:
    """Serve it to a share of the clients, and wait until every live worker does.

    :raises NotStaged: a worker cannot.
    :raises RevisionConflict: another revision is live.
    :raises CandidateBusy: there is another candidate.
    :raises CandidateGone: it has ended meanwhile.
    """
    assert trial.share is not None  # noqa: S101 - asked before
    candidates = trial.candidates()
    detail = prepared.difference.summary()
    begun = candidates.canary(prepared.data, base=prepared.revision, share=trial.share, rules=trial.rules, comment=comment, detail=detail)
    told |= {"outcome": "canary", "canary": {"id": begun.id, "share": begun.share, "base": begun.base, "rules": trial.rules.shown()}}
    if not quiet:
        print_line(f"canary: {begun.share:g}% of clients; revision {begun.base} serves all others")
    with told_workers("canary") as (tell, workers):
        candidates.confirm(begun, timeout=timeout, tell=tell)
    told["canary"]["workers"] = [worker.as_data() for worker in workers]
    if not quiet:
        print_line(f"all {counted(len(workers), 'worker')} serve it")
        print_line("how it does: gwproxy canary status --watch")


@contextmanager
def told_workers(what: str) -> Iterator[tuple[Callable[[tuple[Acknowledgement, ...]], object], list[Acknowledgement]]]:
    """Give what shows the progress of a candidate, and the workers as they were told last."""
    workers: list[Acknowledgement] = []
    with progress() as say:

        def tell(acknowledgements: tuple[Acknowledgement, ...]) -> None:
            workers[:] = acknowledgements
            built = sum(worker.state == "built" for worker in acknowledgements)
            say(f"{what}: {built} of {counted(len(acknowledgements), 'worker')} built it")

        yield tell, workers


def show_acknowledgements(workers: Sequence[Acknowledgement]) -> None:
    """Print what each worker has made of a candidate."""
    rows = [(worker.host, worker.pid, worker.state, _time(worker.build_ms), worker.reason) for worker in workers]
    if rows:
        print_table(("host", "worker", "state", "build time", "reason"), rows, _STATES)


def _time(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.0f} ms"
