"""``gwproxy plugins remove``: take a pushed distribution out."""

from __future__ import annotations

import click

from gwproxy.cli.actor import actor
from gwproxy.cli.deploying import Wishes, carry_out, deploying_options
from gwproxy.cli.output import json_option
from gwproxy.cli.store_option import open_deployer, redis_option
from gwproxy.settings import Settings

EPILOG = """\b
Examples:
  gwproxy plugins remove gwproxy-tenant
  gwproxy plugins remove gwproxy-tenant --comment 'is part of the image now'
"""


@click.command(epilog=EPILOG)
@click.argument("distribution")
@deploying_options
@redis_option
@json_option
def command(distribution: str, comment: str, wait: bool | None, timeout: float, redis_url: str | None, as_json: bool) -> int:
    """Take a pushed DISTRIBUTION out of what is deployed.

    An installed plugin of the same name is used again. If the live configuration uses a plugin that nothing has then,
    workers refuse it, and nothing is changed: change the configuration first.
    """
    deployer = open_deployer(redis_url, actor(Settings.from_environment()))
    return carry_out(deployer, "remove", lambda: deployer.remove(distribution), Wishes(as_json, comment, wait, timeout))
