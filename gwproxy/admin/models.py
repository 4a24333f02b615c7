"""What is asked and answered, as types: checked when it comes in, described by ``/openapi.json``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from gwproxy.model import Model, Problem
from gwproxy.store.tokens import Role

_ROUTES = {"type": "array", "items": {"type": "object"}}

#: A configuration as it is written: docs/configuration.md has its keys. What is wrong with one is answered with every place.
Configuration = Annotated[
    Any,
    WithJsonSchema(
        {
            "title": "Configuration",
            "oneOf": [
                _ROUTES,
                {
                    "type": "object",
                    "required": ["routes"],
                    "properties": {
                        "routes": _ROUTES,
                        "upstreams": {"type": "object", "additionalProperties": {"type": "object"}},
                        "consumers": {"type": "array", "items": {"type": "object"}},
                        "plugins": {"type": "array", "items": {"type": "object"}},
                    },
                    "additionalProperties": False,
                },
            ],
        }
    ),
]

Anything = dict[str, Any]


class Given(Model):
    """The base of what a request may hold: no unknown keys, no silent conversions."""


class Parameters(BaseModel):
    """The base of what may stand in a query, where all is text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class Nothing(Parameters):
    """No parameters."""


class Told(BaseModel):
    """The base of what is answered."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Error(Told):
    """Why something was not done."""

    error: str
    """For people."""
    problems: list[Problem] = Field(default_factory=list)
    """What is wrong with a body or a configuration: where, what was found, what was expected."""


class Probe(Told):
    """Whether all is well, and nothing else: it is told without a token."""

    status: Literal["ok", "unavailable"]


class Count(Parameters):
    """How much to show."""

    count: int = Field(default=100, ge=1, le=1000)
    """The newest so many."""


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
    counters: Anything
    gauges: Anything


class Load(Told):
    """An upstream's requests, of all workers."""

    upstream: str
    in_flight: int
    queued: int
    refused: int


class TargetHealth(Told):
    """A target as its workers see it."""

    upstream: str
    url: str
    workers: int
    """How many send to it."""
    healthy: int
    """For how many of them it is well."""
    active: int
    """Requests in flight, of all."""


class Fleet(Told):
    """Every worker that is alive, and what it runs."""

    live: LiveConfiguration
    workers: list[Worker]
    behind: list[str]
    """Ids of workers that do not run the live configuration."""
    broken_plugins: dict[str, list[str]]
    """Plugins that do not load, with the hosts where."""
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


class TokenWanted(Given):
    """A token to be made."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    role: Role
    expires_in: Annotated[int, Field(ge=1, le=10 * 366 * 86_400)] | None = None
    """Seconds; None: it does not expire."""


class TokenMade(TokenShown):
    """A token that was made."""

    token: str
    """The token itself: told this once."""
