"""What is asked, as types: checked when it comes in, described by ``/openapi.json``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from gwproxy.controlplane.rules import MIN_REQUESTS
from gwproxy.model import Model
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


class Count(Parameters):
    """How much to show."""

    count: int = Field(default=100, ge=1, le=1000)
    """The newest so many."""


class Changing(Parameters):
    """How to change something."""

    comment: str = Field(default="", max_length=1000)
    """Why, for the history."""
    wait: float = Field(default=0.0, ge=0.0, le=300.0)
    """Seconds to wait for all live workers to run it; 0: not at all."""


class Replacing(Changing):
    """How to change everything."""

    allow_empty: bool = False
    """Whether a configuration without routes is meant."""


class RollbackWanted(Given):
    """Where to go back to."""

    revision: Annotated[int, Field(ge=1, le=999_999_999_999_999)]


Made = Annotated[dict[str, Any], WithJsonSchema({"type": "object"})]


class CanaryWanted(Given):
    """A configuration to be tried on a share of the clients."""

    config: Configuration
    share: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    """Percent of the clients."""
    abort_if: list[Annotated[str, Field(max_length=200)]] = Field(default_factory=list, max_length=20)
    """Rules such as `5xx > 1%`: it is aborted as soon as one is broken."""
    promote_after: Annotated[float, Field(gt=0, le=30 * 86_400, allow_inf_nan=False)] | None = None
    """Seconds after which it is promoted, if every rule could be judged; None: by people only."""
    min_requests: Annotated[int, Field(ge=1, le=1_000_000_000)] = MIN_REQUESTS
    """So many of each side that a rule looks at, before it is judged."""
    comment: Annotated[str, Field(max_length=1000)] = ""


class AbortWanted(Given):
    """Why to abort."""

    reason: Annotated[str, Field(max_length=1000)] = ""


class ExplainWanted(Given):
    """A request to explain."""

    method: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9-]{0,19}$")] = "GET"
    url: Annotated[str, Field(min_length=1, max_length=8190)]
    """A path, or a URL whose host is the request's."""
    headers: dict[str, str] = Field(default_factory=dict, max_length=100)
    revision: Annotated[int, Field(ge=1, le=999_999_999_999_999)] | None = None
    """Ask a past revision; None: the live configuration."""
    config: Configuration = None
    """Ask this configuration; None: the live one."""


class Between(Parameters):
    """Two revisions."""

    before: int = Field(ge=1, le=999_999_999_999_999)
    after: int = Field(ge=1, le=999_999_999_999_999)


class TokenWanted(Given):
    """A token to be made."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    role: Role
    expires_in: Annotated[int, Field(ge=1, le=10 * 366 * 86_400)] | None = None
    """Seconds; None: it does not expire."""
