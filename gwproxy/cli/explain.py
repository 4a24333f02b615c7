"""``gwproxy explain``: which route a request takes and why, and what happens on the way; nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import click
import orjson

from gwproxy.cli.config_file import problem_json, problem_line, read_file
from gwproxy.cli.output import counted, json_option, print_json, print_line, print_table, printable
from gwproxy.cli.store_option import live_configuration, redis_option
from gwproxy.controlplane.parse import Environment, Parsed, parse
from gwproxy.controlplane.stand_ins import StandIns
from gwproxy.controlplane.text import read
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
@click.option("--config", metavar="FILE", help="Ask this file (- for stdin) instead of the live configuration.")
@redis_option
@json_option
def command(method: str, url: str, headers: list[tuple[str, str]], config: str | None, redis_url: str | None, as_json: bool) -> int:
    """Show which route a request takes, why each other does not, and what happens on the way.

    URL is a path, or a URL whose host is the request's host. The request is read and routed by the gateway's own code,
    with the plugins installed here, but nothing is sent and no plugin runs: the target is where it goes unless a plugin
    changes that. Secrets are masked. A request that matches no route is an answer too.
    """
    settings, registry = Settings.from_environment(), Registry.discover()
    data, name = read_file(config) if config is not None else live_configuration(redis_url)
    stand_ins = StandIns(read(data, name).tree, os.environ)
    environment = Environment(stand_ins.variables, settings.may_reference, strict=False)
    parsed = parse(data, file=name, plugins=registry, environment=environment, lenient=config is None)
    trial = Rehearsal(parsed, registry, settings.trusted_proxies).try_out(method.upper(), url, headers)
    if as_json:
        print_json(as_data(trial, parsed, stand_ins.written))
        return 0
    for warning in parsed.warnings:
        click.echo(printable(problem_line(warning, "warning")), err=True)
    show(trial, stand_ins.written)
    return 0


def as_data(trial: Trial, parsed: Parsed, written: Callable[[str], str]) -> dict[str, Any]:
    """Return all there is to say, as JSON's types."""
    request, upstream = trial.request, trial.compiled.upstream if trial.compiled else None
    asked = ("method", "scheme", "host", "path", "query_string")
    return {
        "request": {name: getattr(request, name) for name in asked},
        "status": trial.status,
        "reason": trial.reason or None,
        "route": trial.compiled.route.id if trial.compiled else None,
        "params": trial.params,
        "routes": [{"id": e.route.id, "path": e.route.path, "matched": e.won, "reason": e.reason} for e in trial.explanations],
        "chain": trial.chain,
        "upstream": written(upstream.name) if upstream else None,
        "targets": [written(target) for target in trial.targets],
        "warnings": [problem_json(warning) for warning in parsed.warnings],
    }


def show(trial: Trial, written: Callable[[str], str]) -> None:
    """Print all there is to say, for people."""
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
    _show_chain(trial)
    if trial.targets and trial.compiled is not None:
        upstream = trial.compiled.upstream
        several = len(trial.targets) > 1
        print_line(f"target: one of {written(upstream.name)}'s, by {upstream.described.algorithm}" if several else "target:")
        for target in trial.targets:
            print_line(f"  {written(target)}")
    _show_others(trial)


def _show_chain(trial: Trial) -> None:
    if not any(trial.chain.values()):
        return
    print_line("chain:")
    for phase, entries in trial.chain.items():
        for index, entry in enumerate(entries):
            note = " [shadow]" if entry.get("mode") == "shadow" else ""
            config = f"not known here: {entry['unknown']}" if "unknown" in entry else orjson.dumps(entry["config"]).decode()
            print_line(f"  {phase if not index else '':<11}", (f"{entry['plugin']} {entry['priority']}", "cyan"), f"{note}  {config}")


def _show_others(trial: Trial) -> None:
    others = [explanation for explanation in trial.explanations if not explanation.won]
    near = [explanation for explanation in others if not explanation.reason.startswith(("path ", "host "))]
    listed = others if len(others) <= _LISTED else near[:_LISTED]
    if listed:
        print_line("other routes:" if trial.compiled else "routes:")
        print_table(("id", "path", "why not"), [(e.route.id, e.route.path, e.reason) for e in listed])
    if len(others) > len(listed):
        print_line(f"and {counted(len(others) - len(listed), 'other route')}; --json lists all")
