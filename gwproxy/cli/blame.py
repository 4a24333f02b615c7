"""``gwproxy blame``: who gave each field of a route the value it has."""

from __future__ import annotations

import click

from gwproxy.cli.differences import value_text
from gwproxy.cli.output import json_option, print_json, print_line, print_table
from gwproxy.cli.publisher import open_publisher
from gwproxy.cli.store_option import redis_option
from gwproxy.controlplane.difference import KINDS, Kind
from gwproxy.controlplane.history import Blamed, blame, described

EPILOG = """\b
Examples:
  gwproxy blame users
  gwproxy blame users --kind upstream
  gwproxy blame users --json | jq '.[] | select(.actor == "external")'
"""


@click.command(epilog=EPILOG)
@click.argument("name", metavar="ROUTE")
@click.option("--kind", type=click.Choice(list(KINDS)), default="route", show_default=True, help="What ROUTE is the name of.")
@redis_option
@json_option
def command(name: str, kind: Kind, redis_url: str | None, as_json: bool) -> int:
    """Show which revision each field of a route is from, who made it, when and why.

    ROUTE is the id of a live route, or with --kind the name of an upstream, the id of a consumer, the name of a global
    plugin. Secrets are masked. A field with '<=' is at least as old: what came before is no longer kept.
    """
    publisher = open_publisher(redis_url)
    publisher.live()
    found = blame(kind, name, publisher.store.walk(), publisher.registry)
    if as_json:
        print_json([_data(blamed) for blamed in found])
        return 0
    if not found:
        print_line("no configuration was ever published")
        return 1
    print_table(("field", "value", "revision", "at (UTC)", "actor", "comment"), map(_row, found))
    return 0


def _data(blamed: Blamed) -> dict[str, object]:
    return {"field": blamed.field.path, "value": blamed.field.after, **described(blamed.revision), "earlier": blamed.earlier}


def _row(blamed: Blamed) -> tuple[object, ...]:
    made = blamed.revision
    number = f"<= {made.revision}" if blamed.earlier else made.revision
    return blamed.field.path, value_text(blamed.field.after), number, made.at[:19].replace("T", " "), made.actor, made.comment
