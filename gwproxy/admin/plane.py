"""The control plane as the API works on it."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field

from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.publish import Publisher
from gwproxy.registry import Registry
from gwproxy.settings import Settings
from gwproxy.store.audit import AuditLog, Outcome
from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.tokens import TokenStore

log = logging.getLogger("gwproxy.admin")


@dataclass(slots=True)
class Plane:
    """What endpoints read and change.

    :ivar registry: the plugins installed here: they decide what is valid, as at ``gwproxy check``.
    :ivar stopping: whether the process is about to end: what goes on for long ends then.
    :ivar streams: how many event streams are open.
    :ivar looked: when it was looked for a worker that is ready (:func:`time.monotonic`), and whether there was one.
    """

    settings: Settings
    store: ConfigurationStore
    candidates: CandidateStore
    tokens: TokenStore
    audit: AuditLog
    registry: Registry
    stopping: bool = field(default=False)
    streams: int = field(default=0)
    looked: tuple[float, bool] | None = field(default=None)

    @property
    def environment(self) -> Environment:
        """Variables of this process: one that is not set here may be set for the workers."""
        return Environment(os.environ, self.settings.may_reference, strict=False)

    def publisher(self, actor: str) -> Publisher:
        """Return what changes the configuration on somebody's behalf."""
        return Publisher(self.store, self.audit, self.registry, self.environment, actor)

    def record(self, actor: str, action: str, outcome: Outcome, detail: str) -> None:
        """Add to the audit stream; what cannot be recorded is logged."""
        self.audit.note(actor, action, outcome, detail)
