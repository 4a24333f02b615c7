"""``gwproxy plugins rollback``: back to the plugins of before."""

from __future__ import annotations

import click

from gwproxy.cli.actor import actor
from gwproxy.cli.deploying import Wishes, carry_out, deploying_options
from gwproxy.cli.output import json_option
from gwproxy.cli.store_option import open_deployer, redis_option
from gwproxy.settings import Settings

EPILOG = """\b
Examples:
  gwproxy plugins rollback                              undo the newest change
  gwproxy plugins rollback gwproxy-tenant               to the version before
  gwproxy plugins rollback gwproxy-tenant --to 1.0 --comment 'refuses guests'
"""


@click.command(epilog=EPILOG)
@click.argument("distribution", required=False)
@click.option("--to", "version", metavar="VERSION", help="The version to go back to. Default: the one before.")
@deploying_options
@redis_option
@json_option
def command(
    distribution: str | None, version: str | None, comment: str, wait: bool | None, timeout: float, redis_url: str | None, as_json: bool
) -> int:
    """Go back to what was deployed before: of one DISTRIBUTION, or all that the newest change has changed.

    Every live worker loads and builds it first, as with a push. The wheels of the newest twenty changes are in the store,
    and what was revoked is passed over. Doing it twice is going back to where one was.
    """
    if version is not None and distribution is None:
        raise click.UsageError("--to is a version of one DISTRIBUTION, which is missing")
    deployer = open_deployer(redis_url, actor(Settings.from_environment()))
    return carry_out(deployer, "rollback", lambda: deployer.rollback(distribution, version), Wishes(as_json, comment, wait, timeout))
