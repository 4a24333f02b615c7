"""``gwproxy rollback``: make an earlier revision live again, as a new one."""

from __future__ import annotations

import click

from gwproxy.cli.changing import Wishes, carry_out, waiting_options
from gwproxy.cli.output import json_option
from gwproxy.cli.publisher import open_publisher
from gwproxy.cli.store_option import redis_option

EPILOG = """\b
Examples:
  gwproxy history                       which one?
  gwproxy diff 6                        what would going back to it change?
  gwproxy rollback 6 --wait
"""


@click.command(epilog=EPILOG)
@click.argument("revision", type=click.IntRange(min=1))
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--comment", default=None, metavar="TEXT", help="Why, for the history. Default: 'rollback to revision REVISION'.")
@waiting_options
@redis_option
@json_option
def command(revision: int, dry_run: bool, comment: str | None, wait: bool, timeout: float, redis_url: str | None, as_json: bool) -> int:
    """Make an earlier revision live again, as a new, higher one.

    It is validated first, as 'gwproxy apply' does: plugins may have come and gone since. What changes is shown.
    """
    publisher = open_publisher(redis_url)
    comment = f"rollback to revision {revision}" if comment is None else comment
    wishes = Wishes(as_json, comment, None, dry_run, wait, timeout)
    return carry_out(publisher, lambda: publisher.check_rollback(revision, trial=dry_run), wishes)
