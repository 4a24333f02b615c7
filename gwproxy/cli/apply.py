"""``gwproxy apply``: make a configuration live, as a new revision."""

from __future__ import annotations

import click

from gwproxy.cli.changing import Wishes, carry_out, waiting_options
from gwproxy.cli.config_file import read_file
from gwproxy.cli.output import json_option
from gwproxy.cli.publisher import open_publisher
from gwproxy.cli.store_option import redis_option
from gwproxy.cli.trying import trial_of, trial_options

EPILOG = """\b
Examples:
  gwproxy apply gateway.yaml --dry-run                what would change?
  gwproxy apply gateway.yaml --wait --comment 'users: 200 a minute'
  gwproxy apply gateway.yaml --wait --timeout 10 --rollback-on-failure
  gwproxy apply gateway.yaml --stage --wait           live only once every worker has built it
  gwproxy apply gateway.yaml --canary 5% --abort-if '5xx > 1%' --promote-after 10m
  gwproxy export > gateway.yaml; edit; gwproxy apply gateway.yaml --based-on 7
"""


@click.command(epilog=EPILOG)
@click.argument("config")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--comment", default="", metavar="TEXT", help="Why, for the history.")
@click.option("--based-on", "base", type=click.IntRange(min=0), metavar="REVISION", help="Refuse it if the live revision is another one.")
@click.option("--allow-empty", is_flag=True, help="Accept a configuration without routes.")
@waiting_options
@click.option("--rollback-on-failure", is_flag=True, help="With --wait: if a worker does not run it, put back what was live before.")
@trial_options
@redis_option
@json_option
def command(
    config: str,
    dry_run: bool,
    comment: str,
    base: int | None,
    allow_empty: bool,
    wait: bool,
    timeout: float,
    rollback_on_failure: bool,
    stage: bool,
    canary: float | None,
    abort_if: tuple[str, ...],
    promote_after: float | None,
    min_requests: int,
    redis_url: str | None,
    as_json: bool,
) -> int:
    """Make a configuration live, as a new revision.

    CONFIG is YAML or JSON; - reads it from stdin. It is validated first, by the plugins that are installed here and by
    those that the live workers have; what changes is shown, secrets masked. If somebody else changes the configuration in
    between, nothing is changed, and you are told who changed what. Secrets that CONFIG holds as *** stay as they are.

    With --stage, every live worker builds it beside the live one first: if one refuses it, or is not done within
    --timeout, nothing is changed. With --canary, it serves a share of the clients, and what is live all others, until it
    is promoted or aborted; the same again with another share changes that.
    """
    if rollback_on_failure and not wait:
        raise click.UsageError("--rollback-on-failure needs --wait: who does not wait does not know of failures")
    if rollback_on_failure and canary is not None:
        raise click.UsageError("--rollback-on-failure is not for a canary: what is live is not changed by it")
    trial = trial_of(redis_url, stage, canary, abort_if, promote_after, min_requests)
    publisher = open_publisher(redis_url)
    data, name = read_file(config)
    wishes = Wishes(as_json, comment, base, dry_run, wait, timeout, rollback_on_failure, trial)
    return carry_out(publisher, lambda: publisher.check(data, name, allow_empty=allow_empty, trial=dry_run), wishes)
