"""What is answered, as types: described by ``/openapi.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from gwproxy.admin.asked import Anything, Configuration
from gwproxy.model import Problem
from gwproxy.store.tokens import Role


class Told(BaseModel):
    """The base of what is answered."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Conflict(Told):
    """What came before a change."""

    base: int
    """The revision that the change was made from."""
    revision: int
    """The live one."""
    actor: str
    """Who made it."""
    at: str
    since: list[Anything]
    """What was changed since, newest first: revision, actor, comment, and the changes field by field."""


class Error(Told):
    """Why something was not done."""

    error: str
    """For people."""
    problems: list[Problem] = Field(default_factory=list)
    """What is wrong with a body or a configuration: where, what was found, what was expected."""
    conflict: Conflict | None = None
    """With 409, if somebody else has changed the configuration first."""


class Probe(Told):
    """Whether all is well, and nothing else: it is told without a token."""

    status: Literal["ok", "unavailable"]


class Changed(Told):
    """A change that was made."""

    outcome: Literal["applied", "unchanged"]
    """`unchanged`: it was live already, and is no new revision."""
    revision: int
    digest: str
    changes: list[Anything]
    """Routes, upstreams, consumers and global plugins that were added, removed or changed, field by field, secrets masked."""
    warnings: list[Problem]
    rollout: Anything | None
    """What the workers made of it, if that was waited for: `outcome` (`done`, `refused`, `late`, `overtaken`, `nobody`), `workers`."""


class Compared(Told):
    """What a change would be."""

    base: int
    """The live revision; 0: there is none."""
    unchanged: bool
    changes: list[Anything]
    warnings: list[Problem]


#: A route, an upstream or a consumer as it is written.
Item = Anything


class CanaryBegun(Told):
    """A canary that serves from now on."""

    id: str
    digest: str
    base: int
    """The live revision that it was made from, and is only good for."""
    share: float
    changes: list[Anything]
    warnings: list[Problem]


class CanaryStatus(Told):
    """How the canary does, or how the last one ended."""

    candidate: Anything | None
    last: Anything | None


class Promoted(Told):
    """A canary that is live now."""

    outcome: Literal["promoted"]
    revision: int
    digest: str


class Explained(Told):
    """What would become of a request."""

    request: Anything
    status: int | None
    """What the gateway itself answers before any plugin runs; None: it goes on to the plugins."""
    reason: str | None
    route: str | None
    params: Anything
    routes: list[Anything]
    """Each route, and why it is or is not the one."""
    chain: Anything
    """Phase by phase what runs, with where each setting comes from."""
    upstream: str | None
    ways: list[Anything]
    """The upstreams that it may go to, each with its share and why; one if that is certain."""
    mirror: Anything | None
    """Who gets copies of such requests; None: nobody."""
    targets: list[str]
    sent: list[Anything]
    """What each target would be sent."""
    not_sent: list[str]
    notes: list[str]
    warnings: list[Problem]


class RevisionsCompared(Told):
    """What differs between two revisions."""

    before: int
    after: int
    changes: list[Anything]


class AuditEntry(Told):
    """Something that somebody did, or was not allowed to do."""

    at: str
    actor: str
    action: str
    outcome: str
    """`done` or `refused`."""
    revision: int | None
    detail: str


class AuditEntries(Told):
    """The audit stream, newest last."""

    entries: list[AuditEntry]


class Validation(Told):
    """What is wrong with a configuration, if anything."""

    valid: bool
    problems: list[Problem]
    warnings: list[Problem]


class Change(Told):
    """An entry of the history, without its configuration."""

    revision: int
    digest: str
    """SHA-256 of the configuration's bytes, in hex."""
    at: str
    """ISO 8601, UTC."""
    actor: str
    """Who made it; `external` for a bare `SET gw:routes`."""
    comment: str


class History(Told):
    """Past configurations, newest first."""

    revisions: list[Change]


class PastConfiguration(Change):
    """An entry of the history."""

    configuration: Configuration
    """As it was written, secrets as `***`."""


class LiveConfiguration(Told):
    """Which configuration is live."""

    revision: int
    digest: str | None
    """None: there is none."""


class Worker(Told):
    """A worker's heartbeat."""

    id: str
    host: str
    pid: int = 0
    state: str
    """`starting`, `ready`, `refused` or `draining`."""
    revision: int = 0
    digest: str
    error: str
    """Why it does not run the live configuration; empty if it does."""
    started: str
    applied_at: str
    log_dropped: int = 0
    plugins: Anything
    """Versions by name; `broken` for one that does not load there."""
    deployment: str
    """The digest of what was pushed and runs; empty: nothing."""
    deployment_error: str
    """Why it does not run what is deployed; empty if it does."""
    counters: Anything
    gauges: Anything


class Load(Told):
    """An upstream's requests, of all workers."""

    upstream: str
    in_flight: int
    queued: int
    refused: int
    limit: int
    """How many may be in flight."""
    adaptive: bool
    """Whether that follows what the upstream can do."""
    circuits: dict[str, int]
    """How many workers have its circuit `closed`, `open` and `half_open`; none without a breaker."""


class TargetHealth(Told):
    """A target as its workers see it."""

    upstream: str
    url: str
    name: str | None
    """The URL that is configured, if the target is an address that DNS has told of its name."""
    workers: int
    """How many know of it."""
    healthy: int
    """For how many of them it is up: it gets requests, unless its weight is 0."""
    active: int
    """Requests in flight, of all."""
    states: dict[str, int]
    """For how many it is `healthy`, `returning`, `unhealthy`, `ejected`, `unresolved` or `drained`."""
    why: str
    """What its last check or its ejection had to say, where it is not up; else empty."""


class SwitchedOff(Told):
    """A plugin entry that its breaker has switched off."""

    plugin: str
    version: str
    route: str
    """Which route's entry; empty: a global one."""
    phase: str
    """In which its hook failed."""
    why: str
    """`raised` or `over_budget`."""
    workers: list[str]
    """Ids of the workers where."""


class Fleet(Told):
    """Every worker that is alive, and what it runs."""

    live: LiveConfiguration
    workers: list[Worker]
    behind: list[str]
    """Ids of workers that do not run the live configuration."""
    broken_plugins: dict[str, list[str]]
    """Plugins that do not load, with the hosts where."""
    plugins_off: list[SwitchedOff]
    upstreams: list[Load]
    targets: list[TargetHealth]


class Health(Told):
    """Whether the gateway serves as it is meant to."""

    status: Literal["ok", "degraded", "down"]
    """`down`: no worker is ready. `degraded`: not all is well, for `reasons`."""
    reasons: list[str]
    live: LiveConfiguration
    workers: int
    ready: int
    behind: list[str]
    targets: list[TargetHealth]


class PluginSummary(Told):
    """An installed plugin."""

    name: str
    version: str | None
    priority: int | None
    phases: list[str]
    package: str | None
    state: Literal["loaded", "refused"]
    reason: str | None
    """Why it cannot be used."""


class PluginDescription(PluginSummary):
    """An installed plugin, and what it takes."""

    description: str = ""
    config: Anything | None = None
    """The JSON Schema of its configuration; None for one that cannot be used."""


class Plugins(Told):
    """What is installed where the admin listener runs."""

    plugins: list[PluginDescription]


class Entries(Told):
    """Entries of a log, newest last."""

    entries: list[Anything]


class TokenShown(Told):
    """A token, without itself."""

    name: str
    role: Role
    created: str
    created_by: str
    expires: str | None
    """ISO 8601, UTC; None: never."""
    expired: bool


class Tokens(Told):
    """The tokens that were made."""

    tokens: list[TokenShown]


class TokenMade(TokenShown):
    """A token that was made."""

    token: str
    """The token itself: told this once."""
