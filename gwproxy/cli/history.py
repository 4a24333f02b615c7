"""``gwproxy history``: past revisions, who made them, and what they changed."""

from __future__ import annotations

from itertools import islice

import click

from gwproxy.cli.output import json_option, print_json, print_line, print_table
from gwproxy.cli.publisher import open_publisher
from gwproxy.cli.store_option import redis_option
from gwproxy.controlplane.history import described, tree_of
from gwproxy.controlplane.masking import mask

EPILOG = """\b
Examples:
  gwproxy history
  gwproxy history -n 100
  gwproxy history --json | jq '.[] | select(.actor == "external")'
"""

_MOST = 1_000_000


@click.command(epilog=EPILOG)
@click.option("-n", "count", type=click.IntRange(1, _MOST), default=20, show_default=True, help="How many revisions.")
@redis_option
@json_option
def command(count: int, redis_url: str | None, as_json: bool) -> int:
    """Show past revisions, newest first.

    Each has a number, a time, who made it and what it changed. The actor 'external' is somebody who wrote to the store
    directly. With --json each has its whole configuration, with secrets masked.
    """
    publisher = open_publisher(redis_url)
    if as_json:
        publisher.live()
        revisions = publisher.store.history(count)
        print_json([{**described(revision), "configuration": mask(tree_of(revision), publisher.registry)} for revision in revisions])
        return 0
    rows = [
        (made.revision.revision, made.revision.at[:19].replace("T", " "), made.revision.actor, made.revision.comment, made.summary)
        for made in islice(publisher.history(), count)
    ]
    if not rows:
        print_line("no configuration was ever published")
        return 0
    print_table(("revision", "at (UTC)", "actor", "comment", "changed"), rows)
    return 0
