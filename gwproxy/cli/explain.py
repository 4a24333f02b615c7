"""``gwproxy explain``: which route a request takes and why, and what happens on the way; nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
import orjson

from gwproxy.cli.asked import asked, asked_options
from gwproxy.cli.config_file import problem_line
from gwproxy.cli.output import counted, json_option, print_json, print_line, print_table, printable
from gwproxy.cli.store_option import redis_option
from gwproxy.controlplane.chains import DEFAULT, Placed
from gwproxy.controlplane.trial import Rehearsal, Trial
from gwproxy.errors import TEXTS
from gwproxy.http.headers import check_field
from gwproxy.registry import Registry
from gwproxy.settings import Settings

EPILOG = """\b
Examples:
  gwproxy explain GET /api/users/7
  gwproxy explain POST https://api.example.com/orders -H 'X-Version: 2'
  gwproxy explain GET /api/users/7 --config gateway.yaml     before it is live
  gwproxy explain GET /api/users/7 --revision 41             as it was
  gwproxy explain GET /nowhere --json | jq '.routes[].reason'
"""

_LISTED = 50  # routes whose path does not match are listed up to this many


def _parse_headers(_ctx: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[tuple[str, str]]:
    fields = []
    for value in values:
        name, colon, text = value.partition(":")
        try:
            if not colon:
                raise ValueError("no colon")
            check_field(name.strip(), text.strip())
        except ValueError as error:
            raise click.BadParameter(f"{value!r} is no header field such as 'X-Version: 2' ({error})") from None
        fields.append((name.strip(), text.strip()))
    return fields


@click.command(epilog=EPILOG)
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, metavar="'K: V'", callback=_parse_headers, help="A header field; repeatable.")
@asked_options
@redis_option
@json_option
def command(
    method: str, url: str, headers: list[tuple[str, str]], config: str | None, revision: int | None, redis_url: str | None, as_json: bool
) -> int:
    """Show which route a request takes, why each other does not, and what happens on the way.

    URL is a path, or a URL whose host is the request's host. The request is read and routed by the gateway's own code,
    with the plugins installed here, but nothing is sent and no plugin runs: the target is where it goes unless a plugin
    changes that. The live configuration is asked, or a file, or a past revision. Secrets are masked. A request that
    matches no route is an answer too.
    """
    settings = Settings.from_environment()
    rehearsal = asked(config, revision, redis_url, Registry.discover(), settings)
    trial = rehearsal.try_out(method.upper(), url, headers)
    if as_json:
        print_json(rehearsal.as_data(trial))
        return 0
    for warning in rehearsal.parsed.warnings:
        click.echo(printable(problem_line(warning, "warning")), err=True)
    show(trial, rehearsal)
    return 0


def show(trial: Trial, rehearsal: Rehearsal) -> None:
    """Print all there is to say, for people."""
    written = rehearsal.written
    request = trial.request
    query = f"?{request.query_string}" if request.query_string else ""
    print_line((f"{request.method} {request.scheme}://{request.host_header}{request.path}{query}", "bold"))
    won = next((explanation for explanation in trial.explanations if explanation.won), None)
    if won is not None:
        print_line("route: ", (won.route.id, "green"), f"  {won.route.path}  ({won.reason})")
        for name, value in trial.params.items():
            print_line(f"  {name} = {value}")
    elif trial.explanations:
        print_line(("no route matches", "yellow"))
    if trial.status is not None:
        print_line("answer: ", (f"{trial.status} {TEXTS[trial.status]}", "red"), f"  {trial.reason}" if trial.reason else "")
    _show_chain(trial, rehearsal)
    _show_ways(trial, rehearsal)
    _show_sending(trial, written)
    _show_others(trial)


def _show_ways(trial: Trial, rehearsal: Rehearsal) -> None:
    written = rehearsal.written
    for way in trial.ways:
        upstream = way.upstream
        where = f"one of {written(upstream.name)}'s, by {upstream.described.algorithm}" if len(way.sendings) > 1 else ""
        if way.reason:
            where = (
                f"{where or written(upstream.name)}  ({f'{way.share:.4g} of such requests: ' if len(trial.ways) > 1 else ''}{way.reason})"
            )
        print_line(f"target: {where}".rstrip())
        for sending in way.sendings:
            print_line(f"  {written(sending.url)}")
    if (mirror := rehearsal.mirrored(trial)) is not None:
        print_line(
            f"mirror: {mirror['upstream']}  ({mirror['share']:.4g} of such requests, with bodies of at most {mirror['max_body']} bytes)"
        )


def _show_chain(trial: Trial, rehearsal: Rehearsal) -> None:
    if not any(trial.chain.values()):
        return
    print_line("chain:")
    for phase, entries in trial.chain.items():
        for index, placed in enumerate(entries):
            note = " [shadow]" if placed.ref.mode == "shadow" else ""
            shown = orjson.dumps(rehearsal.chains.shown(placed)).decode()
            config = f"not known here: {placed.unknown}" if placed.config is None else shown
            print_line(f"  {phase if not index else '':<11}", (f"{placed.ref.name} {placed.priority}", "cyan"), f"{note}  {config}")
            print_line(f"{'':<15}{_origin(placed)}")


def _origin(placed: Placed) -> str:
    """Say where the settings of an entry come from."""
    given = ", ".join(_given(placed.sources))
    where = {"global": "globally", "route": "on the route"}[placed.owner]
    return f"set {where}: {given}; built-in default: all else" if given else f"listed {where}; built-in default: all settings"


def _given(sources: dict[str, Any]) -> Iterator[str]:
    for name, source in sources.items():
        if isinstance(source, dict):
            yield from (f"{name}.{below}" for below in _given(source))
        elif source != DEFAULT:
            yield name


def _show_sending(trial: Trial, written: Callable[[str], str]) -> None:
    if not trial.sendings:
        return
    first, *others = trial.sendings
    print_line("headers, before any plugin:")
    for name, value in first.headers:
        differs = any((name, value) not in sending.headers for sending in others)
        told = "(a new one each time)" if value is None else "(the target's own)" if differs else written(value)
        print_line(f"  {name}: {told}")
    if trial.not_sent:
        print_line(f"  not sent on: {', '.join(trial.not_sent)}")
    for note in trial.notes:
        print_line(f"  note: {note}")


def _show_others(trial: Trial) -> None:
    others = [explanation for explanation in trial.explanations if not explanation.won]
    near = [explanation for explanation in others if not explanation.reason.startswith(("path ", "host "))]
    listed = others if len(others) <= _LISTED else near[:_LISTED]
    if listed:
        print_line("other routes:" if trial.compiled else "routes:")
        print_table(("id", "path", "why not"), [(e.route.id, e.route.path, e.reason) for e in listed])
    if len(others) > len(listed):
        print_line(f"and {counted(len(others) - len(listed), 'other route')}; --json lists all")
