"""``gwproxy demo``: the gateway before sample services, with lines to try."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import jwt

from gwproxy.cli.announcement import reachable
from gwproxy.cli.run import DEFAULT_BIND, Wanted, serve
from gwproxy.cli.store_option import DEMO
from gwproxy.errors import CommandFailed
from gwproxy.settings import DEFAULT_ADMIN_BIND, Settings, state_dir
from gwproxy.settings import admin_bind as admin_bind_of
from gwproxy.store.embedded import die_with_parent

CONFIG = Path(__file__).parent.parent / "demo" / "demo.yaml"
EVENT = '{"event": "ping"}'
TOKEN_LIFETIME = 24 * 3600  # seconds

EPILOG = """\b
Examples:
  gwproxy demo
  gwproxy demo --bind 127.0.0.1:9000 --workers 2
"""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the sample configuration takes from its environment, made anew at each start."""

    jwt: str
    webhook: str


@click.command(epilog=EPILOG)
@click.option("--bind", metavar="HOST:PORT", default=DEFAULT_BIND, show_default=True, help="Address of the data listener.")
@click.option(
    "--admin-bind", metavar="HOST:PORT", default=DEFAULT_ADMIN_BIND, show_default=True, help="Address of the admin listener, or 'off'."
)
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Worker processes.")
def command(bind: str, admin_bind: str, workers: int) -> int:
    """Run the gateway with sample services and a sample configuration.

    Nothing leaves this machine. The demo has a state folder of its own and heeds no setting of yours, so that it touches
    no gateway of yours; `gwproxy status`, `logs` and `explain` find it while no other gateway runs.
    """
    made = Secrets(secrets.token_hex(32), secrets.token_hex(32))
    with sample_services() as ports:
        set_environment(ports, made)
        settings = dataclasses.replace(Settings.from_environment(), admin_bind=admin_bind_of(admin_bind))
        wanted = Wanted(settings, CONFIG, bind, workers)
        return serve(wanted, lambda listening: click.echo(lines_to_try(reachable(listening.urls[0]), made)))


@contextlib.contextmanager
def sample_services() -> Iterator[Mapping[str, int]]:
    """Run the sample services; yield their ports by name.

    :raises CommandFailed: they did not start.
    """
    services = subprocess.Popen(
        [sys.executable, "-m", "gwproxy.demo.services"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the supervisor: requests under way still want them
        preexec_fn=die_with_parent(),
    )
    try:
        assert services.stdout is not None  # noqa: S101
        line = services.stdout.readline()
        if not line:
            raise CommandFailed("the sample services did not start; they say why above")
        yield json.loads(line)
    finally:
        services.terminate()
        services.wait()


def set_environment(ports: Mapping[str, int], made: Secrets) -> None:
    """Set what the sample configuration refers to, and the demo's own settings in place of the user's."""
    own = {name: os.environ[name] for name in ("GWPROXY_LOG_LEVEL",) if name in os.environ}
    folder = state_dir() / DEMO
    for name in [name for name in os.environ if name.startswith("GWPROXY_")]:
        del os.environ[name]
    os.environ |= own
    os.environ["GWPROXY_STATE_DIR"] = str(folder)
    for name, port in ports.items():
        os.environ[f"GW_DEMO_{name.upper()}"] = f"http://127.0.0.1:{port}{'/users' if name == 'users' else ''}"
    os.environ["GW_DEMO_JWT_SECRET"] = made.jwt
    os.environ["GW_DEMO_WEBHOOK_SECRET"] = made.webhook


def lines_to_try(base: str, made: Secrets) -> str:
    """Return what the demo prints: a curl line for each thing there is to see.

    :param base: the gateway's URL, e.g. ``http://127.0.0.1:8080``.
    """
    token = jwt.encode({"sub": "acme-service", "exp": int(time.time()) + TOKEN_LIFETIME}, made.jwt, algorithm="HS256")
    signature = hmac.new(made.webhook.encode(), EVENT.encode(), hashlib.sha256).hexdigest()
    return f"""
Try in another terminal:

  # a public route, with CORS and 20 requests in 10 seconds
  curl -i -H 'Origin: https://app.example.com' {base}/api/public

  # an admin route: 401 without a token ...
  curl -i {base}/api/admin

  # ... 200 with one (valid for a day), 5 requests in 10 seconds
  curl -i -H 'Authorization: Bearer {token}' {base}/api/admin

  # a webhook route: only what is signed arrives
  curl -i -X POST -H 'Content-Type: application/json' -H 'X-Hub-Signature-256: sha256={signature}' -d '{EVENT}' {base}/api/webhooks/github

  # what happened, what runs, and why a request goes where it goes
  gwproxy logs -n 5
  gwproxy status
  gwproxy explain GET {base}/api/admin

The configuration is {CONFIG}. Ctrl-C ends the demo.
"""
