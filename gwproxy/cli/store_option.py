"""Finding the live gateway: its store, by option, environment or the state folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gwproxy.cli import run_file
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings

if TYPE_CHECKING:
    import redis

    from gwproxy.controlplane.candidates import Candidates
    from gwproxy.controlplane.deploying import Deployer
    from gwproxy.store.audit import AuditLog
    from gwproxy.store.configuration import ConfigurationStore

F = TypeVar("F", bound=Callable[..., Any])

DEMO = "demo"  # where, in the state folder, ``gwproxy demo`` keeps its own
PATIENCE = 5.0  # seconds a command waits for the store


def redis_option(function: F) -> F:
    """Decorate a command that concerns a live gateway: it gets ``redis_url``, None if the option was not given."""
    text = "The gateway's store. Default: GWPROXY_REDIS_URL, else that of the gateway started on this machine."
    return click.option("--redis", "redis_url", metavar="URL", help=text)(function)


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """Where a gateway keeps its data.

    :ivar prefix: of its keys.
    """

    url: str
    prefix: str


def find_store(redis_url: str | None, settings: Settings) -> StoreAddress:
    """Return the store of the live gateway.

    :param redis_url: the option; None if it was not given.
    :raises CommandFailed: there is none; says what to do.
    """
    if url := redis_url or settings.redis_url:
        return StoreAddress(url, settings.prefix)
    running = run_file.read(settings.state_dir) or run_file.read(settings.state_dir / DEMO)
    if running is None:
        raise CommandFailed(
            f"no gateway found: none runs with the state folder {settings.state_dir}; "
            "start one with 'gwproxy run gateway.yaml', or name its store with --redis URL or GWPROXY_REDIS_URL"
        )
    return StoreAddress(running.redis_url, running.prefix)


def live_configuration(redis_url: str | None) -> tuple[bytes, str]:
    """Return the live configuration as it is in the store, and the name of its key.

    :param redis_url: the option; None if it was not given.
    :raises CommandFailed: there is no gateway, or no configuration; says what to do.
    :raises StoreUnavailable: the store does not answer.
    """
    settings = Settings.from_environment()
    key = f"{find_store(redis_url, settings).prefix}routes"
    data = open_store(redis_url, settings)[0].read().data
    if data is None:
        raise CommandFailed(f"{key} is missing or empty; publish a configuration with 'gwproxy apply gateway.yaml', or SET {key}")
    return data, key


def past_configuration(redis_url: str | None, number: int) -> tuple[bytes, str]:
    """Return a past revision's configuration, and what messages call it.

    :param redis_url: the option; None if it was not given.
    :raises CommandFailed: there is no gateway, or no such revision in its history.
    :raises StoreUnavailable: the store does not answer.
    """
    found = open_configuration(redis_url).revision(number)
    if found is None:
        raise CommandFailed(f"the history has no revision {number}; 'gwproxy history' lists those that are kept")
    return found.configuration, f"revision {number}"


def open_configuration(redis_url: str | None) -> ConfigurationStore:
    """Open the live gateway's store.

    :param redis_url: the option; None if it was not given.
    :raises CommandFailed: there is none, or its URL makes no sense; says what to do.
    """
    return open_store(redis_url, Settings.from_environment())[0]


def open_store(redis_url: str | None, settings: Settings) -> tuple[ConfigurationStore, AuditLog]:
    """Open the live gateway's store, and the audit stream in it.

    :param redis_url: the option; None if it was not given.
    :raises CommandFailed: there is none, or its URL makes no sense; says what to do.
    """
    from gwproxy.store.audit import AuditLog

    client, prefix = _client(redis_url, settings)
    return _configurations(client, prefix, settings), AuditLog(client, prefix)


def open_candidates(redis_url: str | None, actor: str) -> Candidates:
    """Open what one may do with the live gateway's candidate.

    :param redis_url: the option; None if it was not given.
    :param actor: who acts.
    :raises CommandFailed: there is no gateway; says what to do.
    """
    return open_deployer(redis_url, actor).candidates


def open_deployer(redis_url: str | None, actor: str) -> Deployer:
    """Open what one may do with the live gateway's pushed plugins.

    Parameters and errors are those of :func:`open_candidates`.
    """
    from gwproxy.controlplane.candidates import Candidates
    from gwproxy.controlplane.deploying import Deployer
    from gwproxy.store.audit import AuditLog
    from gwproxy.store.candidates import CandidateStore
    from gwproxy.store.deployments import DeploymentStore

    settings = Settings.from_environment()
    client, prefix = _client(redis_url, settings)
    configurations, audit = _configurations(client, prefix, settings), AuditLog(client, prefix)
    candidates = Candidates(CandidateStore.of(configurations), configurations, audit, actor)
    return Deployer(DeploymentStore(client, prefix), candidates, configurations, audit, actor)


def _client(redis_url: str | None, settings: Settings) -> tuple[redis.Redis, str]:
    """Return a client of the live gateway's store, and the prefix of its keys."""
    from gwproxy.store.connection import check_prefix, connect

    found = find_store(redis_url, settings)
    check_prefix(found.url, found.prefix)
    return connect(found.url, timeout=PATIENCE, max_connections=4), found.prefix


def _configurations(client: redis.Redis, prefix: str, settings: Settings) -> ConfigurationStore:
    from gwproxy.store.configuration import ConfigurationStore, Retention

    return ConfigurationStore(client, prefix, Retention(settings.history_keep, settings.history_days))
