"""The control plane as the API works on it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from gwproxy.controlplane.parse import Environment
from gwproxy.registry import Registry
from gwproxy.settings import Settings
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.tokens import TokenStore


@dataclass(slots=True)
class Plane:
    """What endpoints read and change.

    :ivar registry: the plugins installed here: they decide what is valid, as at ``gwproxy check``.
    :ivar stopping: whether the process is about to end: what goes on for long ends then.
    :ivar streams: how many event streams are open.
    """

    settings: Settings
    store: ConfigurationStore
    tokens: TokenStore
    registry: Registry
    stopping: bool = field(default=False)
    streams: int = field(default=0)

    @property
    def environment(self) -> Environment:
        """Variables of this process: one that is not set here may be set for the workers."""
        return Environment(os.environ, self.settings.may_reference, strict=False)
