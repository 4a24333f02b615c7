"""``gwproxy replay``: what would become of logged requests under another configuration; nothing is sent."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import orjson

from gwproxy.cli.asked import LIVE, asked, asked_options
from gwproxy.cli.config_file import STDIN, problem_line
from gwproxy.cli.failures import COULD_NOT
from gwproxy.cli.output import counted, json_option, print_json, print_line, print_table, print_warning, printable
from gwproxy.cli.store_option import open_configuration, redis_option
from gwproxy.controlplane.replay import Change, Logged, Replayed, lines_of, replay
from gwproxy.controlplane.trial import Rehearsal
from gwproxy.errors import CommandFailed
from gwproxy.registry import Registry
from gwproxy.settings import Settings

EPILOG = """\b
Examples:
  gwproxy replay live --config gateway.yaml                 what the store's log holds
  gwproxy logs -n 10000 --json | gwproxy replay - --config gateway.yaml
  gwproxy replay access.log --config gateway.yaml --exit-code
  gwproxy replay access.log --revision 41 --against 40      between two revisions
"""

_STORED = 10_000  # what the store keeps
_NO_ROUTE = "(no route: 404)"


@click.command(epilog=EPILOG)
@click.argument("log", metavar="LOG")
@asked_options
@click.option("--against", default=LIVE, show_default=True, metavar="FILE|N", help="What to compare with: a file, or a past revision.")
@click.option("--exit-code", is_flag=True, help="Exit 1 if anything changes, or if that cannot be told of a request.")
@redis_option
@json_option
def command(log: str, config: str | None, revision: int | None, against: str, exit_code: bool, redis_url: str | None, as_json: bool) -> int:
    """Show what would become of logged requests under another configuration.

    LOG is a file of access log entries, one JSON object a line; - reads stdin, and 'live' is the log in the gateway's
    store. Each request is routed by both configurations, and their plugin chains are compared; no plugin runs and nothing
    is sent. --config or --revision says which configuration is tried.
    """
    if config is None and revision is None:
        raise click.UsageError("say what to try: --config FILE or --revision N")
    if [log, config, against].count(STDIN) > 1:
        raise click.UsageError("stdin can be only one of them")
    settings, registry = Settings.from_environment(), Registry.discover()
    after = asked(config, revision, redis_url, registry, settings)
    number = int(against) if against.isascii() and against.isdecimal() else None
    file = against if against != LIVE and number is None else None
    before = asked(file, number, redis_url, registry, settings)
    with _lines(log, redis_url) as lines:
        replayed = replay(lines, before, after, _progress())
    if replayed.malformed and not replayed.requests:
        line, why = replayed.why_malformed[0]
        raise CommandFailed(f"{log} holds no access log entry; line {line}: {why}")
    if as_json:
        print_json(replayed.as_data())
    else:
        _warn(before, after, replayed)
        show(replayed)
    return COULD_NOT if exit_code and not replayed.same else 0


@contextmanager
def _lines(log: str, redis_url: str | None) -> Iterator[Iterable[bytes]]:
    if log == LIVE:
        yield open_configuration(redis_url).access_log(_STORED)
    elif log == STDIN:
        yield lines_of(sys.stdin.buffer)
    else:
        with open(log, "rb") as stream:
            yield lines_of(stream)


def _progress() -> Callable[[int], None]:
    """Return what tells stderr how far a long log was read: on a terminal twice a second, else every ten seconds."""
    terminal = sys.stderr.isatty()
    pause = 0.5 if terminal else 10.0
    due = time.monotonic() + pause

    def tell(lines: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + pause
            click.echo(f"\r{lines:,} lines" if terminal else f"gwproxy: {lines:,} lines read", err=True, nl=not terminal)

    return tell


def _warn(before: Rehearsal, after: Rehearsal, replayed: Replayed) -> None:
    for warning in dict.fromkeys((*before.parsed.warnings, *after.parsed.warnings)):
        click.echo(printable(problem_line(warning, "warning")), err=True)
    if not replayed.requests:
        print_warning("the log holds no requests")


def show(replayed: Replayed) -> None:
    """Print what has changed, for people."""
    total = f"{replayed.requests:,}"
    print_line((f"{replayed.elsewhere:,} of {total} requests go elsewhere", "bold"))
    if replayed.otherwise:
        print_line(f"{replayed.otherwise:,} go where they went, with other plugins or settings")
    for reason, requests in replayed.unknown.items():
        print_line(f"{requests:,} ", ("cannot be told", "yellow"), f": {reason}")
    if replayed.unrouted:
        print_line(f"{replayed.unrouted:,} were refused before they were routed")
    if replayed.malformed:
        told = "; ".join(f"line {line}: {why}" for line, why in replayed.why_malformed)
        more = "; ..." if replayed.malformed > len(replayed.why_malformed) else ""
        print_line((counted(replayed.malformed, "malformed line"), "yellow"), f": {told}{more}")
    if replayed.changes:
        print_table(("from", "to", "requests", "elsewhere", "example", "target"), map(_row, replayed.changes))
        for change in replayed.changes:
            _show_differences(change)


def _row(change: Change) -> tuple[object, ...]:
    before, after = change.targets_before, change.targets_after
    gone, new = [url for url in before if url not in after] or before, [url for url in after if url not in before] or after
    target = " -> ".join(dict.fromkeys(urls[0] if urls else "-" for urls in (gone, new)))
    return (*_ends(change), f"{change.requests:,}", f"{change.elsewhere:,}", _asked(change.example), target)


def _ends(change: Change) -> tuple[str, str]:
    return change.route_before or _NO_ROUTE, change.route_after or _NO_ROUTE


def _asked(logged: Logged) -> str:
    return f"{logged.method} {f'//{logged.host}' if logged.host else ''}{logged.path}"


def _show_differences(change: Change) -> None:
    if not change.differences:
        return
    before, after = _ends(change)
    print_line(f"{before}:" if before == after else f"{before} -> {after}:")
    for what, was, becomes in change.differences:
        print_line(f"  {what}: {_value(was)} -> {_value(becomes)}")


def _value(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()
