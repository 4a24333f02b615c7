"""``gwproxy plugins revoke``: what is not to run any more, anywhere, ever."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import click
from packaging.utils import canonicalize_name

from gwproxy.cli.actor import actor
from gwproxy.cli.deploying import Wishes, deploying_options, followed
from gwproxy.cli.output import json_option, print_json, print_line, print_warning
from gwproxy.cli.store_option import open_deployer, redis_option
from gwproxy.controlplane.deploying import Bad, Deployer
from gwproxy.errors import CommandFailed, WheelRefused
from gwproxy.settings import Settings
from gwproxy.store.configuration import Published
from gwproxy.wheels import minisign
from gwproxy.wheels.deployment import Deployment, Pinned

EPILOG = """\b
Examples:
  gwproxy plugins revoke gwproxy-tenant==1.1 --reason 'logs passwords'
  gwproxy plugins revoke dist/gwproxy_tenant-1.1-py3-none-any.whl --reason 'logs passwords'
  gwproxy plugins revoke --key 9B2C6F3A11D07E54 --reason 'the laptop was stolen'
"""

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@click.command(epilog=EPILOG)
@click.argument("wheel", required=False)
@click.option("--key", metavar="ID", help="Revoke a key, and so every wheel that it has signed.")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for those who look at it later.")
@deploying_options
@redis_option
@json_option
def command(
    wheel: str | None, key: str | None, reason: str, comment: str, wait: bool | None, timeout: float, redis_url: str | None, as_json: bool
) -> int:
    """Revoke a WHEEL, or a key, for ever: no worker loads it any more, and one that runs it takes it out at once.

    WHEEL is a file, a SHA-256, or DISTRIBUTION==VERSION of what was deployed. No worker is asked first: routes whose
    plugin is gone answer 503, unless an installed one has the name. Workers keep what they have seen of this, also while
    the store is away, or emptied.
    """
    if (wheel is None) == (key is None):
        raise click.UsageError("give a WHEEL, or a key with --key")
    deployer = open_deployer(redis_url, actor(Settings.from_environment()))
    known = deployer.configurations.workers()
    bad = [_key(deployer, key)] if key is not None else _wheels(deployer, wheel or "")
    planned, live = deployer.revoke(bad, f"{reason}; {comment}" if comment else reason)
    told: dict[str, Any] = {"outcome": "done", "revoked": [each.name for each in bad]}
    told |= {"revision": live.revision, "digest": live.digest, "changes": planned.summary()}
    status = 0
    if not as_json:
        for each in bad:
            print_line(f"revoked: {each.told}")
        if not planned.unchanged:
            print_line(f"{planned.summary()}, as plugins revision {live.revision}")
            print_warning("routes of a plugin that is gone answer 503, until it is there again or the configuration uses it no more")
    if wait is not False and not planned.unchanged:
        wishes = Wishes(as_json, timeout=timeout)
        status = followed(deployer, Published(live.revision, live.digest), wishes, told, known)
    if as_json:
        print_json(told)
    return status


def _key(deployer: Deployer, text: str) -> Bad:
    """Return a key, by its id as minisign prints it."""
    try:
        ident = minisign.key_id(text.strip())
    except WheelRefused as refused:
        raise click.BadParameter(str(refused), param_hint="--key") from None

    def signed(pinned: Pinned) -> bool:
        stored = deployer.store.wheel(pinned.sha256)
        try:
            return stored is not None and minisign.signed_by(stored.signature) == ident
        except WheelRefused:
            return False

    return Bad(ident, f"key {ident}", signed)


def _wheels(deployer: Deployer, text: str) -> list[Bad]:
    """Return the wheels that are meant.

    :raises CommandFailed: there are none.
    """
    if _SHA256.fullmatch(text):
        return [_wheel(text.lower(), _names(deployer, text.lower()))]
    distribution, equal, version = text.partition("==")
    if equal:
        name = canonicalize_name(distribution)
        found = {pinned.sha256: str(pinned) for pinned in _deployed(deployer) if (pinned.distribution, pinned.version) == (name, version)}
        if not found:
            raise CommandFailed(f"{name} {version} was never deployed, as far as the history goes; name its file, or its SHA-256")
        return [_wheel(sha256, told) for sha256, told in found.items()]
    data = Path(text).read_bytes()
    return [_wheel(hashlib.sha256(data).hexdigest(), Path(text).name)]


def _wheel(sha256: str, told: str) -> Bad:
    return Bad(sha256, f"{told} (sha256 {sha256[:12]})" if told else f"sha256 {sha256}", lambda pinned: pinned.sha256 == sha256)


def _names(deployer: Deployer, sha256: str) -> str:
    return next((str(pinned) for pinned in _deployed(deployer) if pinned.sha256 == sha256), "")


def _deployed(deployer: Deployer) -> Iterable[Pinned]:
    """Yield every wheel that is deployed, or was."""
    past = (Deployment.load(entry.deployment) for entry in deployer.store.walk())
    return chain(deployer.live()[1], chain.from_iterable(past))
