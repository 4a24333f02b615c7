"""Limit how many requests a caller may make, exactly, across all workers of all gateways on one store.

Every response says where the caller stands: ``X-RateLimit-Limit``, ``X-RateLimit-Remaining`` and ``X-RateLimit-Reset``
(whole seconds until it resets). Beyond the limit the answer is 429 with ``Retry-After``. Preflights that ``cors``
answers are not counted. Other plugins find the :class:`~gwproxy.Decision` that is shown in ``ctx.state["rate_limit"]``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import Field

from gwproxy import Algorithm, Context, Gateway, Plugin, PluginConfig, hookimpl
from gwproxy.plugins.rate_limit_rule import OnStoreError, Rule


class RateLimitConfig(PluginConfig):
    """How many, how long, and who shares a counter."""

    limit: int = Field(default=100, ge=1, le=1_000_000_000)
    """Requests a window; for `token_bucket` also the largest burst."""
    window_seconds: float = Field(default=60.0, ge=0.1, le=2_678_400.0)
    """Length of the window in seconds, at most 31 days."""
    algorithm: Algorithm = "fixed_window"
    """`fixed_window`: a window begins with a caller's first request; up to twice the limit can pass around its end. `sliding_window`:
    never more than the limit in any window. `token_bucket`: a burst of the limit, then its rate, evenly."""
    key: Annotated[str, Field(pattern=r"^(auto|user|consumer|address|route|header:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})$")] = "auto"
    """Who shares a counter: `auto` or `user` (the authenticated user), `consumer`, `address` (of the client; IPv6 by /64), `route` (all
    callers together) or `header:NAME`. A request without it counts by address."""
    on_store_error: OnStoreError = "local"
    """While the store is away: `local` counts in each worker by itself, `allow` counts nothing, `deny` answers 503."""

    @cached_property
    def prefix(self) -> str:
        """The beginning of this entry's counter names. No route id contains a slash or a star, so no two entries share one."""
        route = self.entry.route if self.entry.route is not None else "*"
        return f"{route}/{self.entry.index}/"

    @cached_property
    def rule(self) -> Rule:
        """What follows from all of it."""
        return Rule(
            self.prefix,
            self.key,
            limit=self.limit,
            window=self.window_seconds,
            algorithm=self.algorithm,
            on_store_error=self.on_store_error,
        )


class RateLimit(Plugin):
    """Take one from the caller's counter; refuse the request when there is none left."""

    name = "rate_limit"
    version = "1.0"
    priority = 300
    config_model = RateLimitConfig
    gateway: Gateway

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        """Keep the way to the store."""
        self.gateway = gateway

    @hookimpl
    def post_auth(self, ctx: Context, config: RateLimitConfig) -> None:
        """Count the request, say what is left, or refuse it."""
        config.rule.apply(ctx, self.gateway.store)
