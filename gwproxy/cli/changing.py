"""How ``apply`` and ``rollback`` change the configuration: compare, show, publish, wait, and go back if told so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from gwproxy.cli.config_file import problem_json, problem_line
from gwproxy.cli.differences import show_difference
from gwproxy.cli.failures import COULD_NOT
from gwproxy.cli.output import print_error, print_json, print_line, print_warning, printable
from gwproxy.cli.trying import Trial, begin_canary, show_acknowledgements, stage
from gwproxy.cli.waiting import follow, show_end
from gwproxy.controlplane.candidates import NotStaged
from gwproxy.controlplane.publish import Overtaken, Prepared, Publisher
from gwproxy.errors import CommandFailed, ConfigurationRefused, StoreUnavailable
from gwproxy.store.candidates import CandidateBusy, CandidateGone
from gwproxy.store.configuration import Published, RevisionConflict, digest_of

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Wishes:
    """What else is asked for with a change.

    :ivar base: the revision it was made from; None: the live one.
    :ivar timeout: seconds to wait for workers.
    :ivar trial: what is to be done before it is live; None: nothing.
    """

    as_json: bool = False
    comment: str = ""
    base: int | None = None
    dry_run: bool = False
    wait: bool = False
    timeout: float = 30.0
    rollback_on_failure: bool = False
    trial: Trial | None = None


def waiting_options(function: F) -> F:
    """Decorate a command that may wait for the workers: it gets ``wait`` and ``timeout``."""
    seconds = click.FloatRange(min=0, min_open=True, max=86_400)
    timeout = click.option(
        "--timeout", type=seconds, default=30.0, show_default=True, metavar="SECONDS", help="How long to wait for workers at most."
    )
    wait = click.option("--wait", is_flag=True, help="Return when every live worker runs it; exit 1 if one does not, and say why.")
    return wait(timeout(function))


def carry_out(publisher: Publisher, prepare: Callable[[], Prepared], wishes: Wishes) -> int:
    """Make a change, tell what happened, and return the exit status."""
    told: dict[str, Any] = {}
    try:
        status = _carry_out(publisher, prepare(), wishes, told)
    except ConfigurationRefused as refused:
        if not wishes.as_json:
            raise
        told |= {"outcome": "invalid", "problems": [problem_json(problem) for problem in refused.problems]}
        status = COULD_NOT
    except Overtaken as overtaken:
        if not wishes.as_json:
            show_conflict(overtaken)
            return COULD_NOT
        since = [change.as_data() for change in overtaken.since]
        told |= {"outcome": "conflict", "base": overtaken.base, "revision": overtaken.revision, "since": since}
        status = COULD_NOT
    except NotStaged as refused:
        told |= {"outcome": "refused", "reason": str(refused), "staged": [worker.as_data() for worker in refused.workers]}
        status = COULD_NOT
        if not wishes.as_json:
            show_acknowledgements(refused.workers)
            goes_on = "; the canary goes on, 'gwproxy canary abort' ends it"
            print_error(f"nothing was changed: {refused}" if refused.withdrawn else f"{refused}{goes_on}")
    except (CandidateBusy, CandidateGone) as other:
        if not wishes.as_json:
            raise
        told |= {"outcome": "busy" if isinstance(other, CandidateBusy) else "superseded", "reason": str(other)}
        status = COULD_NOT
    if wishes.as_json:
        print_json(told)
    return status


def show_conflict(overtaken: Overtaken) -> None:
    """Tell who changed what meanwhile."""
    first, *since = str(overtaken).split("; ", 1)[:1] + [str(change) for change in overtaken.since]
    print_error(f"nothing was changed: {first}")
    for line in since:
        click.echo(f"  {printable(line)}", err=True)


def _carry_out(publisher: Publisher, prepared: Prepared, wishes: Wishes, told: dict[str, Any]) -> int:
    told |= {"outcome": "unchanged", "base": prepared.revision, "revision": prepared.revision, "digest": prepared.digest}
    told |= {"changes": prepared.difference.as_data(), "warnings": [problem_json(warning) for warning in prepared.warnings]}
    if not wishes.as_json:
        for warning in prepared.warnings:
            click.echo(printable(problem_line(warning, "warning")), err=True)
    if prepared.unchanged and prepared.base.data is not None:
        _say(wishes, f"nothing to change: {prepared.name} is live already, as revision {prepared.revision}")
        if wishes.dry_run or not wishes.wait:
            return 0
        live = Published(prepared.revision, digest_of(prepared.base.data))
        return show_end(follow(publisher.store, live, wishes.timeout, prepared.workers), told, quiet=wishes.as_json)
    if not wishes.as_json:
        show_difference(prepared.difference)
        if not prepared.difference:
            print_line("the same configuration, written differently")
    if wishes.dry_run:
        publisher.expect(prepared, prepared.revision if wishes.base is None else wishes.base)
        told["outcome"] = "dry_run"
        _say(wishes, "nothing was changed: this is a dry run")
        return 0
    return _written(publisher, prepared, wishes, told)


def _written(publisher: Publisher, prepared: Prepared, wishes: Wishes, told: dict[str, Any]) -> int:
    if wishes.trial is None:
        return _published(publisher, prepared, publisher.commit(prepared, wishes.comment, wishes.base), wishes, told)
    try:
        return _tried(publisher, prepared, wishes, wishes.trial, told)
    except RevisionConflict as conflict:
        if not isinstance(conflict, Overtaken):  # between the comparison and the writing
            publisher.expect(replace(prepared, base=publisher.live()), prepared.revision)
        raise


def _tried(publisher: Publisher, prepared: Prepared, wishes: Wishes, trial: Trial, told: dict[str, Any]) -> int:
    """Have the workers build it first, or serve it to some clients only."""
    publisher.expect(prepared, prepared.revision if wishes.base is None else wishes.base)
    if prepared.base.data is None:
        raise CommandFailed("there is no live configuration to stage it beside; apply it without --stage and --canary")
    if trial.share is not None:
        begin_canary(trial, prepared, wishes.comment, wishes.timeout, told, quiet=wishes.as_json)
        return 0
    return _published(publisher, prepared, stage(trial, prepared, wishes.comment, wishes.timeout, told), wishes, told)


def _published(publisher: Publisher, prepared: Prepared, published: Published, wishes: Wishes, told: dict[str, Any]) -> int:
    told |= {"outcome": "done", "revision": published.revision, "digest": published.digest}
    _say(wishes, f"published as revision {published.revision}")
    if not wishes.wait:
        if not prepared.workers and not wishes.as_json:
            print_warning("no worker is live: nobody runs it yet")
        return 0
    standing = follow(publisher.store, published, wishes.timeout, prepared.workers)
    status = show_end(standing, told, quiet=wishes.as_json)
    if status != 0:
        publisher.record_failure(prepared.action, published, standing.reason())
        if wishes.rollback_on_failure and standing.outcome != "overtaken":
            _go_back(publisher, prepared, published, standing.reason(), wishes, told)
    return status


def _go_back(publisher: Publisher, prepared: Prepared, failed: Published, reason: str, wishes: Wishes, told: dict[str, Any]) -> None:
    """Put back what was live before, and wait until the workers run that; the command has failed all the same."""
    told["rolled_back"] = None
    try:
        restored = publisher.put_back(failed, prepared.base, reason)
    except (Overtaken, CommandFailed, StoreUnavailable) as refused:
        print_error(f"not rolled back: {refused}")
        return
    told["rolled_back"] = held = {"revision": restored.revision, "digest": restored.digest}
    _say(wishes, f"rolled back: revision {restored.revision} is what revision {prepared.revision} was")
    standing = follow(publisher.store, restored, wishes.timeout)
    show_end(standing, held, quiet=wishes.as_json)


def _say(wishes: Wishes, line: str) -> None:
    if not wishes.as_json:
        print_line(line)
