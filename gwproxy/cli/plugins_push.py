"""``gwproxy plugins push``: a signed wheel, from a file to every worker of the fleet."""

from __future__ import annotations

from pathlib import Path

import click

from gwproxy.cli.actor import actor
from gwproxy.cli.deploying import Wishes, carry_out, deploying_options
from gwproxy.cli.output import json_option, print_warning
from gwproxy.cli.store_option import open_deployer, redis_option
from gwproxy.cli.trying import ABORT_HELP, Period, RuleText, Share, min_requests_option
from gwproxy.cli.wheel_trial import try_here
from gwproxy.controlplane.deploying import Deployer, Planned
from gwproxy.controlplane.rules import Rules
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings
from gwproxy.wheels import minisign
from gwproxy.wheels.wheel import read

EPILOG = """\b
Examples:
  gwproxy plugins sign dist/gwproxy_tenant-1.1-py3-none-any.whl --key tenant.key
  gwproxy plugins push dist/gwproxy_tenant-1.1-py3-none-any.whl
  gwproxy plugins push tenant-1.1-py3-none-any.whl --canary 10% --for 5m --abort-if 'errors > 0.5% or p99 > +20 ms' --wait
"""


@click.command(epilog=EPILOG)
@click.argument("wheel", type=click.Path(path_type=Path))
@click.option("--signature", type=click.Path(path_type=Path), metavar="FILE", help="The wheel's signature. Default: WHEEL.minisig.")
@click.option("--canary", type=Share(), metavar="PERCENT", help="Serve a share of the clients with it only, such as 10%.")
@click.option("--for", "period", type=Period(), metavar="TIME", help="With --canary: for so long, such as 5m; then it is live by itself.")
@click.option("--abort-if", type=RuleText(), multiple=True, metavar="RULES", help=ABORT_HELP)
@min_requests_option
@deploying_options
@redis_option
@json_option
def command(
    wheel: Path,
    signature: Path | None,
    canary: float | None,
    period: float | None,
    abort_if: tuple[str, ...],
    min_requests: int,
    comment: str,
    wait: bool | None,
    timeout: float,
    redis_url: str | None,
    as_json: bool,
) -> int:
    """Deploy the plugins of a signed WHEEL on every worker, without a restart.

    The wheel is tried here first, in a process of its own, with the live configuration. Then every live worker verifies,
    loads and builds it beside what it serves. If one refuses it, nothing is changed, and it is named with its reason. If
    none does, all swap: requests that are being served keep what they began with.

    With --canary, it serves a share of the clients until it is promoted or taken back: by itself, by --for and
    --abort-if, or by 'gwproxy canary'.
    """
    if canary is None and (abort_if or period is not None):
        raise click.UsageError("--abort-if and --for are about a canary: --canary PERCENT is missing")
    settings = Settings.from_environment()
    deployer = open_deployer(redis_url, actor(settings))
    wishes = Wishes(as_json, comment, wait, timeout, canary, Rules.of(abort_if, period, min_requests))
    return carry_out(deployer, "push", lambda: _plan(deployer, wheel, signature, settings), wishes)


def _plan(deployer: Deployer, path: Path, signature_path: Path | None, settings: Settings) -> Planned:
    """Plan to deploy a wheel, and put it into the store."""
    data = path.read_bytes()
    signature = _signature(path, signature_path)
    wheel = read(data, environment=False)  # the workers' environment counts, and they judge by it
    planned = deployer.push(wheel.pinned)
    _verify(data, signature, settings)
    if planned.unchanged:
        return planned
    if (why_not := try_here(deployer, planned, {wheel.sha256: data}, settings)) is not None:
        print_warning(f"it is not tried here, but by the workers only: {why_not}")
    deployer.store.put_wheel(data, signature, distribution=wheel.distribution, version=wheel.version, actor=deployer.actor)
    return planned


def _signature(path: Path, given: Path | None) -> str:
    """Return the text of a wheel's signature.

    :raises CommandFailed: there is none; says how to make one.
    """
    try:
        return (given or path.with_name(f"{path.name}.minisig")).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CommandFailed(
            f"{path.name} is not signed: there is no {error.filename}; 'gwproxy plugins sign {path} --key FILE' makes it"
        ) from None
    except UnicodeDecodeError:
        raise CommandFailed(f"{given or path.name + '.minisig'} is no signature") from None


def _verify(data: bytes, signature: str, settings: Settings) -> None:
    """Verify it, where the keys are known here; else the workers do alone.

    :raises WheelRefused: no worker that has the same keys will load it.
    """
    if settings.plugin_keys:
        minisign.verify(data, signature, settings.plugin_keys)
