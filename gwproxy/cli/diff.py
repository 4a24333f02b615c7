"""``gwproxy diff``: one configuration against another, each a file or a revision."""

from __future__ import annotations

import re
from typing import Any

import click

from gwproxy.cli.config_file import STDIN, read_file
from gwproxy.cli.differences import show_difference
from gwproxy.cli.failures import COULD_NOT
from gwproxy.cli.output import json_option, print_json, print_line
from gwproxy.cli.publisher import open_publisher
from gwproxy.cli.store_option import redis_option
from gwproxy.controlplane.difference import Difference, difference
from gwproxy.controlplane.publish import Publisher
from gwproxy.controlplane.restoring import restore
from gwproxy.controlplane.text import read
from gwproxy.errors import CommandFailed
from gwproxy.registry import Registry

EPILOG = """\b
Examples:
  gwproxy diff gateway.yaml             what would 'gwproxy apply gateway.yaml' change?
  gwproxy diff 6                        what would 'gwproxy rollback 6' change?
  gwproxy diff 6 8                      what happened between revisions 6 and 8?
  gwproxy diff old.yaml new.yaml        no gateway is asked
  gwproxy diff --exit-code gateway.yaml && echo 'nothing to do'
"""

LIVE = "live"


@click.command(epilog=EPILOG)
@click.argument("first", metavar="[BEFORE]")
@click.argument("second", metavar="AFTER", required=False)
@click.option("--exit-code", is_flag=True, help="Exit 1 if anything differs.")
@redis_option
@json_option
def command(first: str, second: str | None, exit_code: bool, redis_url: str | None, as_json: bool) -> int:
    """Show what differs between two configurations, field by field.

    BEFORE and AFTER are each a file (- for stdin), the number of a revision, or 'live'; BEFORE is 'live' by default. A file
    whose name is a number is ./7. Secrets are compared, and shown as ***.
    """
    before, after = (LIVE, first) if second is None else (first, second)
    if before == after == STDIN:
        raise click.UsageError("only one of the two can be stdin")
    found = _between(before, after, redis_url)
    if as_json:
        print_json({"before": before, "after": after, "changes": found.as_data()})
    elif found:
        show_difference(found)
    else:
        print_line("no difference")
    return COULD_NOT if found and exit_code else 0


def is_file(name: str) -> bool:
    """Whether an argument names a file: whatever is neither a number nor ``live``."""
    return name != LIVE and not re.fullmatch(r"[1-9][0-9]{0,14}", name)


def _between(before: str, after: str, redis_url: str | None) -> Difference:
    if is_file(before) and is_file(after):
        plugins = Registry.discover()
        return difference(read(*read_file(before)).tree, read(*read_file(after)).tree, plugins)
    publisher = open_publisher(redis_url)
    if before == LIVE and is_file(after):
        return publisher.check(*read_file(after), allow_empty=True, trial=True).difference
    return difference(_tree(publisher, before), _tree(publisher, after), publisher.registry)


def _tree(publisher: Publisher, name: str) -> Any:
    """Return a configuration, in a file with the secrets that it has masked filled in."""
    if name != LIVE and not is_file(name):
        return read(publisher.revision(int(name)).configuration, f"revision {name}").tree
    live = publisher.live().data
    if name == LIVE:
        if live is None:
            raise CommandFailed("there is no live configuration")
        return read(live, "the live configuration").tree
    written = read(*read_file(name)).tree
    return restore(written, read(live, "the live configuration").tree if live else None, publisher.registry)[0]
