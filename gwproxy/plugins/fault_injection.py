"""Delay or abort requests on purpose, to see what clients and operators make of it. For tests, not for production traffic.

A fault comes last before the request is forwarded: who is not let in, or over a limit, is refused as always. A delayed
request may be aborted, too. With ``headers``, only requests that have these fields meet any.
"""

from __future__ import annotations

import random
import time
from typing import Annotated

from pydantic import Field, model_validator

from gwproxy import Context, Plugin, PluginConfig, hookimpl

Share = Annotated[float, Field(ge=0, le=1)]


class Delay(PluginConfig):
    """Requests that wait."""

    seconds: Annotated[float, Field(gt=0, le=60)]
    """How long. The entry's `budget` (5 seconds unless it says otherwise) has to be longer."""
    share: Share = 1.0
    """How many of the requests, 0 to 1."""


class Abort(PluginConfig):
    """Requests that are answered without asking the upstream."""

    status: Annotated[int, Field(ge=200, le=599)] = 503
    """Of the answer."""
    body: Annotated[str, Field(max_length=65_536)] | None = None
    """Of the answer, as text. None: `{"error": "Injected fault"}`."""
    share: Share = 1.0
    """How many of the requests, 0 to 1."""


class FaultInjectionConfig(PluginConfig):
    """Which faults, for whom."""

    delay: Delay | None = None
    """None: nobody waits."""
    abort: Abort | None = None
    """None: nobody is refused."""
    headers: dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(max_length=1024)]] = Field(default_factory=dict)
    """Header values that a request must have, exactly, to meet a fault; empty: every request may."""

    @model_validator(mode="after")
    def _any(self) -> FaultInjectionConfig:
        if self.delay is None and self.abort is None:
            raise ValueError("delay, abort or both")
        return self


class FaultInjection(Plugin):
    """Delay or abort a share of the requests."""

    name = "fault_injection"
    version = "1.0"
    priority = 500
    config_model = FaultInjectionConfig

    @hookimpl
    def pre_proxy(self, ctx: Context, config: FaultInjectionConfig) -> None:
        """Let the request wait, abort it, or leave it alone."""
        if config.headers and any(value not in ctx.request.headers.getlist(name) for name, value in config.headers.items()):
            return
        delay, abort = config.delay, config.abort
        if delay is not None and _hits(delay.share):
            time.sleep(delay.seconds)  # under gevent only this request waits
        if abort is not None and _hits(abort.share):
            ctx.abort(abort.status, abort.body if abort.body is not None else {"error": "Injected fault"})


def _hits(share: float) -> bool:
    return random.random() < share  # noqa: S311 - no secret
