"""A configuration as a whole."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gwproxy.model.base import Identifier, Model, Text
from gwproxy.model.route import PluginRef, Route
from gwproxy.model.upstream import Upstream


class Consumer(Model):
    """Somebody who calls: found once a plugin has authenticated."""

    id: Identifier
    """Unique; sent upstream as `X-Consumer`."""
    groups: tuple[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^,\s]+$")], ...] = ()
    """Sent upstream as `X-Consumer-Groups`, joined by commas."""
    match: Annotated[dict[Text, str], Field(min_length=1)]
    """What the request's state must hold, e.g. `{user_id: "acme-service"}`."""


class Document(Model):
    """A whole configuration, as written."""

    routes: tuple[Route, ...]
    """Order matters only as the last criterion of precedence."""
    upstreams: dict[Identifier, Upstream] = Field(default_factory=dict)
    """By name."""
    consumers: tuple[Consumer, ...] = ()
    """Who calls."""
    plugins: tuple[PluginRef, ...] = ()
    """Applied to every route."""
