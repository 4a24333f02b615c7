"""Waiting for the workers, with something to look at meanwhile, and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from gwproxy.cli.failures import COULD_NOT
from gwproxy.cli.output import counted, print_error, print_line, print_table, printable
from gwproxy.controlplane.rollout import Acknowledgement, Rollout, Standing
from gwproxy.controlplane.roster import Worker
from gwproxy.store.configuration import ConfigurationStore, Published

_Say = Callable[[str], object]

_STATES = {"done": "green", "waiting": "yellow", "refused": "red"}


def follow(store: ConfigurationStore, published: Published, timeout: float, known: Sequence[Worker] = ()) -> Standing:
    """Wait until every live worker runs a revision, or it is clear that they will not; progress goes to stderr.

    :param timeout: seconds.
    :param known: heartbeats of the workers that were there before it was published.
    """
    return watch(Rollout(store, published, timeout=timeout, known=known))


def watch(rollout: Rollout) -> Standing:
    """Follow a rollout to its end; progress goes to stderr."""
    with progress() as say:
        return rollout.follow(lambda standing: say(_line(standing)))


def show_end(standing: Standing, told: dict[str, Any], *, quiet: bool) -> int:
    """Tell how a rollout ended, and return the exit status.

    :param told: gets ``rollout``, and another ``outcome`` if not all workers run it.
    :param quiet: print nothing.
    """
    told["rollout"] = standing.as_data()
    if standing.outcome != "done":
        told["outcome"] = standing.outcome
    if not quiet:
        if standing.workers:
            show_workers(standing)
        if standing.outcome == "done":
            print_line(f"all {counted(standing.live, 'worker')} on {standing.what} {standing.revision}, after {standing.seconds:.1f} s")
        else:
            print_error(standing.reason())
    return 0 if standing.outcome == "done" else COULD_NOT


def show_workers(standing: Standing) -> None:
    """Print what each worker runs."""
    print_table(("host", "worker", "revision", "build time", "state", "reason"), map(_row, standing.workers), _STATES)


def _row(worker: Acknowledgement) -> tuple[object, ...]:
    build = None if worker.build_ms is None else f"{worker.build_ms:.0f} ms"
    return worker.host, worker.pid, worker.revision or None, build, worker.state, worker.reason


def _line(standing: Standing) -> str:
    told = f"{standing.what} {standing.revision}: {standing.count('done')} of {counted(standing.live, 'worker')}"
    refused = standing.count("refused")
    return f"{told}, {refused} refused" if refused else told


@contextmanager
def progress() -> Iterator[_Say]:
    """Give something to call with a line: on a terminal it replaces the one before, and leaves nothing behind."""
    if not sys.stderr.isatty():
        yield lambda line: click.echo(printable(line), err=True)
        return
    from rich.console import Console

    with Console(file=sys.stderr, markup=False).status("waiting for the workers") as status:
        yield lambda line: status.update(printable(line))
