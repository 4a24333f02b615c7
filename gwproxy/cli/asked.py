"""Which configuration a command is asked about: a file, a past revision, or the live one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from gwproxy.cli.config_file import read_file
from gwproxy.cli.store_option import live_configuration, past_configuration
from gwproxy.controlplane.masking import MASK
from gwproxy.controlplane.text import read
from gwproxy.controlplane.trial import Rehearsal
from gwproxy.errors import CommandFailed, ConfigurationRefused, StoreUnavailable
from gwproxy.registry import Registry
from gwproxy.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

LIVE = "live"


def asked_options(function: F) -> F:
    """Decorate a command that is asked about a configuration: it gets ``config`` and ``revision``, None if not given."""
    function = click.option("--revision", type=click.IntRange(1), metavar="N", help="Ask a past revision of the gateway.")(function)
    return click.option("--config", metavar="FILE", help="Ask this file (- for stdin).")(function)


def asked(config: str | None, revision: int | None, redis_url: str | None, registry: Registry, settings: Settings) -> Rehearsal:
    """Read and build what is asked about; with neither file nor revision, the live configuration.

    Where a file has masks, as ``gwproxy export`` prints them, the live configuration's secrets are meant, as when it is applied.
    A plugin that is not installed here refuses a file; routes of the gateway that need it answer 503.

    :raises click.UsageError: both are given.
    :raises CommandFailed: it is not there.
    :raises ConfigurationRefused: it is not valid.
    """
    if config is not None and revision is not None:
        raise click.UsageError("--config and --revision exclude each other")
    if config is not None:
        data, name = read_file(config)
    else:
        data, name = live_configuration(redis_url) if revision is None else past_configuration(redis_url, revision)
    return Rehearsal.of(
        data,
        name,
        registry,
        trusted=settings.trusted_proxies,
        may_reference=settings.may_reference,
        lenient=config is None,
        kept=_live_tree(redis_url) if config is not None and MASK.encode() in data else None,
    )


def _live_tree(redis_url: str | None) -> Any:
    """Return the live configuration, for a file that has masks where secrets are; None if there is none to be had."""
    try:
        return read(*live_configuration(redis_url)).tree
    except (CommandFailed, StoreUnavailable, ConfigurationRefused):
        return None
