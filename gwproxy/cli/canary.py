"""``gwproxy canary``: how a configuration does that serves a share of the clients, and its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from gwproxy.cli.actor import actor
from gwproxy.cli.changing import waiting_options
from gwproxy.cli.output import ago, counted, json_option, print_json, print_line, print_table
from gwproxy.cli.store_option import open_candidates, open_deployer, open_store, redis_option
from gwproxy.cli.waiting import follow, watch
from gwproxy.cli.waiting import show_end as show_end_of_rollout
from gwproxy.controlplane.candidates import audited
from gwproxy.controlplane.deploying import DeploymentRollout
from gwproxy.errors import StoreUnavailable
from gwproxy.settings import Settings

if TYPE_CHECKING:
    from gwproxy.controlplane.candidates import Candidates

WATCH_EVERY = 2.0  # seconds; workers report as often
_STYLES = {"refused": "red", "building": "yellow", "waiting": "yellow", "built": "green"}


@click.group(
    epilog="""\b
Examples:
  gwproxy apply gateway.yaml --canary 5% --abort-if "5xx > 1%"
  gwproxy canary status --watch
  gwproxy canary promote
  gwproxy canary abort
"""
)
def command() -> None:
    """Look at a configuration that serves a share of the clients, promote it or abort it.

    'gwproxy apply --canary' begins one. There is at most one at a time.
    """


@command.command(
    "status",
    epilog="""\b
Examples:
  gwproxy canary status
  gwproxy canary status --watch
  gwproxy canary status --json | jq .candidate.sides.candidate
""",
)
@click.option("--watch", is_flag=True, help="Show it every two seconds until it has ended; exit 1 if it was not promoted.")
@redis_option
@json_option
def status(watch: bool, redis_url: str | None, as_json: bool) -> int:
    """Show what both sides have answered: requests, errors and latencies, of all workers since the canary began.

    If there is none, show how the last one ended, and why.
    """
    canaries = open_candidates(redis_url, actor(Settings.from_environment()))
    while True:
        found = _look(canaries, patient=watch)
        if found is not None:
            if as_json:
                print_json(found, line=watch)
            else:
                show(found, datetime.now(UTC))
            if not watch:
                return 0
            if found["candidate"] is None:
                return 0 if (found["last"] or {}).get("outcome") in ("promoted", "committed") else 1
            if not as_json:
                click.echo()
        time.sleep(WATCH_EVERY)


@command.command(
    "promote",
    epilog="""\b
Examples:
  gwproxy canary promote
  gwproxy canary promote --wait --timeout 10
""",
)
@waiting_options
@redis_option
@json_option
def promote(wait: bool, timeout: float, redis_url: str | None, as_json: bool) -> int:
    """Make the canary live for all clients, as a new revision.

    Workers have built it already, and serve it at once. If the live configuration was changed since the canary began,
    there is no canary any more to promote.
    """
    settings = Settings.from_environment()
    store, audit = open_store(redis_url, settings)
    known = store.workers() if wait else []
    canaries = open_candidates(redis_url, actor(settings))
    candidate = canaries.running()
    published = canaries.promote()
    told: dict[str, Any] = {"outcome": "promoted", "revision": published.revision, "digest": published.digest}
    status = 0
    of_plugins = candidate.change is not None
    if not as_json:
        revision = f"{'plugins ' if of_plugins else ''}revision {published.revision}"
        print_line(f"promoted: it is {revision} now, digest {published.digest[:12] or 'none'}")
    if wait:
        if of_plugins:
            deployments = open_deployer(redis_url, actor(settings)).store
            standing = watch(DeploymentRollout(store, published, deployments, timeout=timeout, known=known))
        else:
            standing = follow(store, published, timeout, known)
        status = show_end_of_rollout(standing, told, quiet=as_json)
        if status != 0:
            audit.note(actor(settings), audited(candidate, "canary promote")[0], "refused", standing.reason(), published.revision)
    if as_json:
        print_json(told)
    return status


@command.command(
    "abort",
    epilog="""\b
Examples:
  gwproxy canary abort
  gwproxy canary abort --reason "complaints of customers"
""",
)
@click.option("--reason", metavar="TEXT", default="", help="Why, for those who look at it later.")
@redis_option
@json_option
def abort(reason: str, redis_url: str | None, as_json: bool) -> int:
    """End the canary: all clients are served by the live configuration again, which was not changed."""
    ended = open_candidates(redis_url, actor(Settings.from_environment())).abort(reason)
    tried = ended.candidate
    of_plugins = tried.change is not None
    base = tried.deployment_base if of_plugins else tried.base
    if as_json:
        print_json({"outcome": ended.outcome, "reason": ended.reason, "revision": base})
    else:
        print_line(f"aborted: {'plugins ' if of_plugins else ''}revision {base} serves all clients")
    return 0


def _look(canaries: Candidates, *, patient: bool) -> dict[str, Any] | None:
    """Return how it is; None if the store is away, and that is waited for."""
    try:
        return canaries.status().as_data()
    except StoreUnavailable:
        if not patient:
            raise
        return None


def show(found: Mapping[str, Any], now: datetime) -> None:
    """Print what :meth:`Status.as_data` returned."""
    candidate, last = found["candidate"], found["last"]
    if candidate is not None:
        _show_running(candidate, now)
    elif last is None:
        print_line("there is no canary, and none has been here")
    else:
        print_line(f"there is no {last['mode']}; the last one ended {ago(last['at'], now)} ago, by {last['by']}")
        show_end(last)


def show_end(last: Mapping[str, Any]) -> None:
    """Print how a candidate has ended, of a canary with what both sides have answered."""
    what = f"{_plugins(last)}: " if "plugins" in last else ""
    style = "green" if last["outcome"] in ("promoted", "committed") else "red"
    revision = f" as {'plugins ' if what else ''}revision {last['revision']}" if last["revision"] is not None else ""
    print_line(what, (f"{last['outcome']}{revision}", style), f": {last['reason']}")
    if last["mode"] == "canary":
        _show_sides(last)


def _plugins(candidate: Mapping[str, Any]) -> str:
    """Say what a deployment that is tried changes."""
    change = candidate["plugins"]
    return " ".join(filter(None, ("plugins", change["action"], change["distribution"], change["version"])))


def _show_running(candidate: Mapping[str, Any], now: datetime) -> None:
    comment = f": {candidate['comment']}" if candidate["comment"] else ""
    what = f"{_plugins(candidate)}, " if "plugins" in candidate else ""
    base = f"plugins revision {candidate['plugins']['base']}" if what else f"revision {candidate['base']}"
    since = f"{what}since {ago(candidate['at'], now)}, by {candidate['actor']}, made from {base}{comment}"
    if candidate["mode"] == "canary":
        print_line(("canary: ", "bold"), f"{candidate['share']:g}% of clients, {since}")
        print_line(("ends: ", "bold"), _rules(candidate["rules"]))
        _show_sides(candidate)
    else:
        print_line(("stage: ", "bold"), since)
    workers = candidate["workers"]
    missing = [worker for worker in workers if worker["state"] != "built"]
    click.echo()
    if missing or not workers:
        columns = ("host", "pid", "state", "error")
        print_table(columns, [[worker["host"], worker["pid"], worker["state"], worker["reason"]] for worker in missing], _STYLES)
        print_line((f"{len(missing)} of {counted(len(workers), 'worker')} have not built it", "red"))
    else:
        print_line(f"all {counted(len(workers), 'worker')} have built it")


def _rules(rules: Mapping[str, Any] | None) -> str:
    """Say by what it ends by itself."""
    if rules is None:
        return "by rules that this version does not understand"
    told = [f"aborted if {' or '.join(rules['abort_if'])} (from {rules['min_requests']} requests)"] if rules["abort_if"] else []
    if rules["promote_after"] is not None:
        told.append(f"promoted after {rules['promote_after']:g} s")
    return ", ".join(told) or "by 'gwproxy canary promote' or 'gwproxy canary abort' only"


def _show_sides(candidate: Mapping[str, Any]) -> None:
    seen = candidate["share_seen"]
    shares = {"candidate": seen, "live": 100 - seen} if seen is not None else {}
    rows = [_row(side, shares.get(side), candidate["sides"][side]) for side in ("live", "candidate")]
    click.echo()
    print_table(("side", "share", "requests", "errors", "5xx", "4xx", "p50", "p90", "p99"), rows)


def _row(side: str, share: float | None, numbers: Mapping[str, Any]) -> Sequence[str]:
    rates = [f"{numbers[f'{kind}_percent']:.3g}%" if numbers["requests"] else "" for kind in ("errors", "5xx", "4xx")]
    times = [_time(numbers[name]) for name in ("p50_ms", "p90_ms", "p99_ms")]
    return (side, f"{share:.3g}%" if share is not None else "", f"{numbers['requests']:,}", *rates, *times)


def _time(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.3g} ms"
