"""What commands change the configuration with: who acts, and by which store, plugins and environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

from gwproxy.cli.actor import actor
from gwproxy.cli.store_option import open_store
from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.publish import Publisher
from gwproxy.registry import Registry
from gwproxy.settings import Settings


def open_publisher(redis_url: str | None, variables: Mapping[str, str] = os.environ) -> Publisher:
    """Open the live gateway's configuration for changes.

    :param redis_url: the option; None if it was not given.
    :param variables: the environment that references are looked up in; one that is not set is a warning.
    :raises CommandFailed: there is no gateway; says what to do.
    """
    settings = Settings.from_environment()
    store, audit = open_store(redis_url, settings)
    environment = Environment(variables, settings.may_reference, strict=False)
    return Publisher(store, audit, Registry.discover(), environment, actor(settings))
