"""``gwproxy admin``: the admin listener alone, for production beside gunicorn."""

from __future__ import annotations

import dataclasses
import os

import click

from gwproxy.admin import token_file
from gwproxy.cli import admin_process
from gwproxy.cli.store_option import find_store, redis_option
from gwproxy.cli.supervisor import say
from gwproxy.errors import CommandFailed
from gwproxy.settings import DEFAULT_ADMIN_BIND, Settings, admin_bind
from gwproxy.store.connection import check_prefix, connect

EPILOG = """\b
Examples:
  gwproxy admin --redis redis://10.0.0.9/0
  gwproxy admin --bind unix:/run/gwproxy/admin.sock
  curl -H "Authorization: Bearer $(cat ~/.local/state/gwproxy/admin.token)" http://127.0.0.1:8081/v1/workers
"""


@click.command(epilog=EPILOG)
@click.option("--bind", metavar="HOST:PORT", help=f"Where it listens. Default: GWPROXY_ADMIN_BIND, else {DEFAULT_ADMIN_BIND}.")
@redis_option
def command(bind: str | None, redis_url: str | None) -> int:
    """Run the admin listener alone.

    It serves the HTTP API, /healthz and /readyz. One a machine, beside gunicorn; 'gwproxy run' starts it itself. It always asks for a
    token: GWPROXY_ADMIN_TOKEN, else one that is made at the first start and kept in the state folder; further ones are made by
    'gwproxy token create'.
    """
    settings = Settings.from_environment()
    if bind is not None:
        settings = dataclasses.replace(settings, admin_bind=admin_bind(bind))
    if settings.admin_bind is None:
        raise CommandFailed("the admin listener is off; name an address with --bind or GWPROXY_ADMIN_BIND")
    found = find_store(redis_url, settings)
    check_prefix(found.url, found.prefix)
    connect(found.url).close()  # refuses a URL that makes no sense
    where = token_file.ensure(settings)
    listener = admin_process.open_listener(settings.admin_bind)
    environ = admin_process.environ_for(listener, settings, found.url, found.prefix)
    say(f"admin: {admin_process.shown(listener)}; its token is in {where}")
    listener.set_inheritable(True)
    argv = admin_process.command()
    os.execve(argv[0], argv, environ)  # noqa: S606 - the same process: signals reach the server itself
