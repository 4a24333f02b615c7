"""``gwproxy token``: who may ask the admin listener, and for what."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

from gwproxy.cli.actor import actor
from gwproxy.cli.output import ago, json_option, print_json, print_table
from gwproxy.cli.store_option import PATIENCE, find_store, redis_option
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings
from gwproxy.store.audit import AuditLog, Outcome
from gwproxy.store.connection import check_prefix, connect
from gwproxy.store.tokens import ROLES, Role, TokenStore

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_LONGEST = 10 * 366 * 86_400  # seconds


@click.group(
    epilog="""\b
Examples:
  gwproxy token create ci --role operator --expires 30d
  gwproxy token list
  gwproxy token revoke ci
"""
)
def command() -> None:
    """Make, list and revoke tokens for the admin listener.

    viewer: may read. operator: may also change the configuration. admin: may also make tokens and read the audit stream. The token
    of GWPROXY_ADMIN_TOKEN or of the state folder is an admin's, and is not among these.
    """


def _parse_lifetime(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", value)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST:
        raise click.BadParameter(f"{value!r} is no time such as 90m, 12h, 30d or 4w, ten years at most")
    return seconds


@command.command(
    epilog="""\b
Examples:
  gwproxy token create ci --role operator
  gwproxy token create on-call --role viewer --expires 12h
  GWPROXY_CI_TOKEN=$(gwproxy token create ci --role operator --json | jq -r .token)
"""
)
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do.")
@click.option("--expires", "lifetime", metavar="TIME", callback=_parse_lifetime, help="After which it ends, such as 30d. Default: never.")
@redis_option
@json_option
def create(name: str, role: Role, lifetime: int | None, redis_url: str | None, as_json: bool) -> int:
    """Make a token NAME, and print it. It is kept as a hash only and cannot be printed again."""
    tokens, record = _open(redis_url)
    try:
        token, secret = tokens.create(name, role, by=record.actor, lifetime=lifetime)
    except CommandFailed as failed:
        record("token create", "refused", str(failed))
        raise
    record("token create", "done", f"{token.name}, {token.role}, expires {token.expires or 'never'}")
    if as_json:
        print_json({"name": token.name, "role": token.role, "expires": token.expires, "token": secret})
    else:
        click.echo(secret)
    return 0


@command.command(
    "list",
    epilog="""\b
Examples:
  gwproxy token list
  gwproxy token list --json | jq -r '.[] | select(.expired) | .name'
""",
)
@redis_option
@json_option
def list_tokens(redis_url: str | None, as_json: bool) -> int:
    """Show the tokens there are: names, roles, who made them, when they expire. Not the tokens themselves."""
    tokens = _open(redis_url)[0].all()
    if as_json:
        names = ("name", "role", "created", "created_by", "expires", "expired")
        print_json([{name: getattr(token, name) for name in names} for token in tokens])
        return 0
    now = datetime.now(UTC)
    rows = [(t.name, t.role, ago(t.created, now), t.created_by, "expired" if t.expired else t.expires or "never") for t in tokens]
    print_table(("name", "role", "age", "made by", "expires"), rows, {"expired": "red"})
    return 0


@command.command(
    epilog="""\b
Examples:
  gwproxy token revoke ci
"""
)
@click.argument("name")
@redis_option
def revoke(name: str, redis_url: str | None) -> int:
    """Revoke the token NAME. It opens nothing from this moment on, streams that it has open included."""
    tokens, record = _open(redis_url)
    if not tokens.revoke(name):
        raise CommandFailed(f"there is no token {name!r}; 'gwproxy token list' shows them")
    record("token revoke", "done", name)
    return 0


class _Record:
    """Writes to the audit stream what was done here."""

    def __init__(self, audit: AuditLog, actor: str) -> None:
        self._audit = audit
        self.actor = actor

    def __call__(self, action: str, outcome: Outcome, detail: str) -> None:
        self._audit.record(self.actor, action, outcome, detail)


def _open(redis_url: str | None) -> tuple[TokenStore, _Record]:
    settings = Settings.from_environment()
    found = find_store(redis_url, settings)
    check_prefix(found.url, found.prefix)
    client = connect(found.url, timeout=PATIENCE, max_connections=2)
    return TokenStore(client, found.prefix), _Record(AuditLog(client, found.prefix), actor(settings))
