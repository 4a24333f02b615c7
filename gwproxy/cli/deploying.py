"""How ``plugins push``, ``rollback`` and ``remove`` change what is deployed: tried by every worker, then live, then waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import click

from gwproxy.cli.canary import show_end as show_canary_end
from gwproxy.cli.failures import COULD_NOT, message_of
from gwproxy.cli.output import counted, print_error, print_json, print_line, print_table, printable
from gwproxy.cli.trying import show_acknowledgements, told_workers
from gwproxy.cli.waiting import progress, show_end, watch
from gwproxy.controlplane.candidates import NotStaged
from gwproxy.controlplane.deploying import Deployer, DeploymentRollout, Planned
from gwproxy.controlplane.measured import Key, StepSum, steps
from gwproxy.controlplane.rules import Rules
from gwproxy.errors import ConfigurationRefused, GatewayError, StoreUnavailable
from gwproxy.store.candidates import CandidateBusy, CandidateGone
from gwproxy.store.configuration import Published, RevisionConflict
from gwproxy.store.deployments import DeploymentConflict

F = TypeVar("F", bound=Callable[..., Any])

LOOK_EVERY = 1.0  # seconds between two looks at a canary that is waited for


@dataclass(frozen=True, slots=True)
class Wishes:
    """What else is asked for with a change.

    :ivar wait: None: until all workers run it, but not for the end of a canary.
    :ivar timeout: seconds to wait for workers.
    :ivar share: percent of the clients that it serves as a canary; None: all, once every worker has built it.
    :ivar rules: by which the canary ends by itself.
    """

    as_json: bool = False
    comment: str = ""
    wait: bool | None = None
    timeout: float = 30.0
    share: float | None = None
    rules: Rules = field(default_factory=Rules)

    def say(self, line: str) -> None:
        """Print a line for people."""
        if not self.as_json:
            print_line(line)


def deploying_options(function: F) -> F:
    """Decorate a command that changes what is deployed: it gets ``comment``, ``wait`` and ``timeout``."""
    seconds = click.FloatRange(min=0, min_open=True, max=86_400)
    until = "Return when every live worker runs it (the default), or once it is live. With a canary: when that has ended."
    bound = "How long to wait for workers at most."
    options = (
        click.option("--comment", default="", metavar="TEXT", help="Why, for the history."),
        click.option("--wait/--no-wait", default=None, help=until),
        click.option("--timeout", type=seconds, default=30.0, show_default=True, metavar="SECONDS", help=bound),
    )
    for option in reversed(options):
        function = option(function)
    return function


def carry_out(deployer: Deployer, action: str, prepare: Callable[[], Planned], wishes: Wishes) -> int:
    """Make a change, tell what happened, and return the exit status.

    :param action: for the audit stream, if it is refused before any worker is asked.
    :param prepare: plans the change, and puts what it needs into the store.
    """
    told: dict[str, Any] = {}
    try:
        planned = _prepared(deployer, action, prepare)
        status = _carry_out(deployer, planned, wishes, told)
    except GatewayError as error:
        told |= {"outcome": _outcome(error), "reason": message_of(error)}
        if isinstance(error, ConfigurationRefused):
            told["problems"] = list(map(str, error.problems))
        status = COULD_NOT
        if isinstance(error, NotStaged):
            told["staged"] = [worker.as_data() for worker in error.workers]
        if not wishes.as_json:
            _show_failure(error)
    if wishes.as_json:
        print_json(told)
    return status


def _prepared(deployer: Deployer, action: str, prepare: Callable[[], Planned]) -> Planned:
    try:
        return prepare()
    except StoreUnavailable:
        raise
    except GatewayError as error:
        deployer.refused(action, message_of(error))
        raise


def _carry_out(deployer: Deployer, planned: Planned, wishes: Wishes, told: dict[str, Any]) -> int:
    live = Published(planned.base.revision, planned.before.digest)
    told |= {"outcome": "unchanged", "revision": live.revision, "digest": live.digest, "changes": planned.summary()}
    if planned.unchanged:
        wishes.say("nothing to change: it is live already")
        return followed(deployer, live, wishes, told) if wishes.wait is not False else 0
    wishes.say(planned.summary())
    if wishes.share is not None:
        return _canary(deployer, planned, wishes, wishes.share, told)
    known = deployer.configurations.workers()
    with told_workers("staged") as (tell, workers):
        published = deployer.stage(planned, comment=wishes.comment, timeout=wishes.timeout, tell=tell)
    told |= {"outcome": "done", "revision": published.revision, "digest": published.digest}
    told["staged"] = [worker.as_data() for worker in workers]
    wishes.say(f"deployed, as plugins revision {published.revision}")
    return 0 if wishes.wait is False else followed(deployer, published, wishes, told, known)


def followed(
    deployer: Deployer, published: Published, wishes: Wishes, told: dict[str, Any], known: list[dict[str, str]] | None = None
) -> int:
    """Wait until every live worker runs what is deployed, or it is clear that they will not.

    :param told: gets ``rollout``, and another ``outcome`` if not all workers run it.
    :param known: heartbeats of the workers that were there before it was made live.
    """
    rollout = DeploymentRollout(deployer.configurations, published, deployer.store, timeout=wishes.timeout, known=known or ())
    return show_end(watch(rollout), told, quiet=wishes.as_json)


def _canary(deployer: Deployer, planned: Planned, wishes: Wishes, share: float, told: dict[str, Any]) -> int:
    """Serve it to a share of the clients, and wait until every live worker does, or for its end."""
    candidates = deployer.candidates
    before = steps(deployer.configurations.workers()) if wishes.wait else {}
    begun = deployer.canary(planned, share=share, rules=wishes.rules, comment=wishes.comment)
    told |= {"outcome": "canary", "canary": {"id": begun.id, "share": begun.share, "rules": wishes.rules.shown()}}
    wishes.say(f"canary: {begun.share:g}% of clients; plugins revision {begun.deployment_base} serves all others")
    with told_workers("canary") as (tell, workers):
        candidates.confirm(begun, timeout=wishes.timeout, tell=tell)
    told["canary"]["workers"] = [worker.as_data() for worker in workers]
    wishes.say(f"all {counted(len(workers), 'worker')} serve it")
    if not wishes.wait:
        wishes.say("how it does: gwproxy canary status --watch")
        return 0
    ended = _end_of(deployer, begun.id)
    told |= {"outcome": ended["outcome"], "reason": ended["reason"], "revision": ended["revision"], "sides": ended["sides"]}
    told["plugins"] = _compared(deployer, planned.plugins, before)
    if not wishes.as_json:
        show_canary_end(ended)
        _show_compared(told["plugins"])
    return 0 if ended["outcome"] == "promoted" else COULD_NOT


def _compared(deployer: Deployer, names: set[str], before: Mapping[Key, StepSum]) -> list[dict[str, Any]]:
    """Return what the hooks of these plugins have come to since, of each version by itself."""
    found = steps(deployer.configurations.workers())
    since = {key: step.minus(before[key]) if key in before else step for key, step in found.items() if key[0] in names}
    rows = [{"plugin": key[0], "version": key[1], "phase": key[2], **step.shown()} for key, step in sorted(since.items())]
    return [row for row in rows if row["hooks"]]


def _show_compared(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print how often the hooks of each version ran, how long they took, what they decided, and how they failed."""
    if rows:
        click.echo()
        columns = ("plugin", "version", "phase", "hooks", "p50", "p99", "went on", "other decisions", "errors")
        print_table(columns, [_compared_row(row) for row in rows])


def _compared_row(row: Mapping[str, Any]) -> tuple[object, ...]:
    times = [f"{row['spent'][name] * 1000:.3g} ms" if row["spent"][name] is not None else "" for name in ("p50", "p99")]
    counts = [", ".join(f"{kind} {count}" for kind, count in row[name].items()) for name in ("decisions", "errors")]
    return row["plugin"], row["version"], row["phase"], row["hooks"], *times, row["went_on"], *counts


def _end_of(deployer: Deployer, ident: str) -> Mapping[str, Any]:
    """Wait for the end of a canary; the store being away is waited for, too. Whoever does not wait any more leaves it as it is.

    :raises CandidateGone: there was another one since, and how this one ended is not known.
    """
    with progress() as say:
        while True:
            try:
                found = deployer.candidates.status().as_data()
            except StoreUnavailable as error:
                say(f"canary: the store cannot be asked: {error}")
                time.sleep(LOOK_EVERY)
                continue
            running, last = found["candidate"], found["last"]
            if running is None or running["id"] != ident:
                if last is None or last["id"] != ident:
                    raise CandidateGone("the canary has ended, and another one came since")
                return last  # type: ignore[no-any-return]
            sides = running["sides"]
            told = (f"{side} {sides[side]['requests']:,} requests, {sides[side]['5xx']:,} failed" for side in ("candidate", "live"))
            say(f"canary: {'; '.join(told)}")
            time.sleep(LOOK_EVERY)


_OUTCOMES: dict[type[GatewayError], str] = {
    DeploymentConflict: "conflict",
    RevisionConflict: "conflict",
    CandidateBusy: "busy",
    CandidateGone: "superseded",
    StoreUnavailable: "unknown",
}


def _outcome(error: GatewayError) -> str:
    return _OUTCOMES.get(type(error), "refused")


def _show_failure(error: GatewayError) -> None:
    if isinstance(error, NotStaged):
        show_acknowledgements(error.workers)
    if isinstance(error, ConfigurationRefused):
        for problem in error.problems:
            click.echo(printable(str(problem)), err=True)
        print_error("nothing was changed: the live configuration does not fit the plugins")
        return
    goes_on = isinstance(error, NotStaged) and not error.withdrawn  # a canary that was there before
    if goes_on or isinstance(error, (CandidateGone, StoreUnavailable)):
        print_error(message_of(error))
    else:
        print_error(f"nothing was changed: {message_of(error)}")
