"""``gwproxy demo``: the gateway before sample services, with lines to try."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import click
import jwt

from gwproxy.cli.run import serve
from gwproxy.cli.supervisor import die_with_parent
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings

CONFIG = Path(__file__).parent.parent / "demo" / "demo.yaml"
EVENT = '{"event": "ping"}'

EPILOG = """\b
Examples:
  gwproxy demo
  gwproxy demo --bind 127.0.0.1:9000 --workers 2
"""


@click.command(epilog=EPILOG)
@click.option("--bind", default="127.0.0.1:8080", show_default=True, help="Address of the data listener.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, show_default=True, help="Worker processes.")
def command(bind: str, workers: int) -> int:
    """Run the gateway with sample services and a sample configuration.

    Nothing leaves this machine. The demo has a state folder of its own, so that it touches no gateway of yours; `gwproxy
    status`, `logs` and `explain` find it while no other gateway runs.
    """
    settings = Settings.from_environment()
    settings = dataclasses.replace(settings, redis_url=None, state_dir=settings.state_dir / "demo")
    services = subprocess.Popen(
        [sys.executable, "-m", "gwproxy.demo.services"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=die_with_parent,
    )
    try:
        assert services.stdout is not None  # noqa: S101
        line = services.stdout.readline()
        if not line:
            raise CommandFailed("the sample services did not start")
        ports: dict[str, int] = json.loads(line)
        jwt_secret, webhook_secret = secrets.token_hex(32), secrets.token_hex(32)
        for name, port in ports.items():
            os.environ[f"GW_DEMO_{name.upper()}"] = f"http://127.0.0.1:{port}/{'users' if name == 'users' else ''}".rstrip("/")
        os.environ["GW_DEMO_JWT_SECRET"] = jwt_secret
        os.environ["GW_DEMO_WEBHOOK_SECRET"] = webhook_secret
        click.echo(lines_to_try(bind, jwt_secret, webhook_secret))
        return serve(settings, CONFIG, bind=bind, workers=workers)
    finally:
        services.terminate()
        services.wait()


def lines_to_try(bind: str, jwt_secret: str, webhook_secret: str) -> str:
    """Return what the demo prints: a curl line for each thing there is to see."""
    token = jwt.encode({"sub": "acme-service", "exp": int(time.time()) + 24 * 3600}, jwt_secret, algorithm="HS256")
    signature = hmac.new(webhook_secret.encode(), EVENT.encode(), hashlib.sha256).hexdigest()
    base = f"http://{bind}"
    return f"""\
gwproxy demo. Once it is ready, try in another terminal:

  # a public route, with CORS and 20 requests in 10 seconds
  curl -i -H 'Origin: https://app.example.com' {base}/api/public

  # an admin route: 401 without a token ...
  curl -i {base}/api/admin

  # ... 200 with one (valid for a day), 5 requests in 10 seconds
  curl -i -H 'Authorization: Bearer {token}' {base}/api/admin

  # a webhook route: only what is signed arrives
  curl -i -X POST -H 'Content-Type: application/json' -H 'X-Hub-Signature-256: sha256={signature}' -d '{EVENT}' {base}/api/webhooks/github

  # what happened, and what runs
  gwproxy logs -n 5
  gwproxy status
  gwproxy explain GET {base}/api/admin
"""
