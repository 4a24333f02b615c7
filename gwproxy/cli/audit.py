"""``gwproxy audit``: who changed what, and who was refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import click

from gwproxy.cli.output import print_json, print_line
from gwproxy.cli.store_option import open_store, redis_option
from gwproxy.settings import Settings
from gwproxy.store.audit import KEPT, AuditEntry

EPILOG = """\b
Examples:
  gwproxy audit
  gwproxy audit -n 20 -f                    the last 20, then what comes, until interrupted
  gwproxy audit --json | jq 'select(.outcome == "refused")'
"""


@click.command(epilog=EPILOG)
@click.option("-n", "count", type=click.IntRange(0, KEPT), default=100, show_default=True, help="How many entries.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new entries until interrupted.")
@redis_option
@click.option("--json", "as_json", is_flag=True, help="Print each entry as one line of JSON.")
def command(count: int, follow: bool, redis_url: str | None, as_json: bool) -> int:
    """Show who changed what, and who was refused.

    That is the audit stream, newest last: every change by command or admin API, and everything that was refused. What is written to the
    store directly is in 'gwproxy history' only.
    """
    _, audit = open_store(redis_url, Settings.from_environment())
    entries: Iterable[AuditEntry] = audit.follow(count) if follow else audit.entries(count)
    for entry in entries:
        if as_json:
            print_json(asdict(entry), line=True)
        else:
            show(entry)
    return 0


def show(entry: AuditEntry) -> None:
    """Print an entry for people."""
    revision = f" revision={entry.revision}" if entry.revision is not None else ""
    outcome = (entry.outcome, "green" if entry.outcome == "done" else "red")
    print_line(f"{entry.at}  ", outcome, f"  {entry.actor}  {entry.action}{revision}  {entry.detail}")
