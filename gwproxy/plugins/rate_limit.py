"""Limit how many requests a caller may make, exactly, across all workers of all gateways on one store.

Every response says where the caller stands: ``X-RateLimit-Limit``, ``X-RateLimit-Remaining`` and ``X-RateLimit-Reset``
(whole seconds until it resets). Beyond the limit the answer is 429 with ``Retry-After``. Preflights that ``cors``
answers are not counted. Other plugins find the :class:`~gwproxy.Decision` that is shown in ``ctx.state["rate_limit"]``.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import ceil
from typing import Annotated, Literal

from pydantic import Field

from gwproxy import Algorithm, Context, Decision, Gateway, Headers, Plugin, PluginConfig, StoreUnavailable, hookimpl

# What may stand in a counter's name as it is; "#", which marks a hash, is not among them.
_PLAIN = re.compile(r"[A-Za-z0-9._@:+-]{1,64}")


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
    on_store_error: Literal["local", "allow", "deny"] = "local"
    """While the store is away: `local` counts in each worker by itself, `allow` counts nothing, `deny` answers 503."""

    @cached_property
    def prefix(self) -> str:
        """The beginning of this entry's counter names. No route id contains a slash or a star, so no two entries share one."""
        route = self.entry.route if self.entry.route is not None else "*"
        return f"{route}/{self.entry.index}/"

    @cached_property
    def header(self) -> str | None:
        """The header that tells callers apart; None if something else does."""
        return self.key.partition(":")[2] or None


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
        decision = self._take(ctx, config)
        if decision is None:
            return
        _show_tightest(ctx, decision)
        if not decision.allowed:
            retry_after = max(1, ceil(decision.retry_after))
            ctx.abort(429, {"error": "Rate limit exceeded"}, [("Retry-After", str(retry_after))])

    def _take(self, ctx: Context, config: RateLimitConfig) -> Decision | None:
        """Return the decision; None if nothing is counted while the store is away."""
        name, store = config.prefix + caller(ctx, config), self.gateway.store
        try:
            return store.take(name, limit=config.limit, window=config.window_seconds, algorithm=config.algorithm)
        except StoreUnavailable:
            if config.on_store_error == "deny":
                ctx.abort(503, {"error": "Service Unavailable"}, [("Retry-After", "1")])
            if config.on_store_error == "allow":
                return None
            return store.take_locally(name, limit=config.limit, window=config.window_seconds, algorithm=config.algorithm)


def _show_tightest(ctx: Context, decision: Decision) -> None:
    """Show ``decision``, unless one shown before leaves less; of equals the one that refused, then the one that lasts longer."""
    shown: Decision | None = ctx.state.get("rate_limit")
    if shown is not None and _tightness(shown) <= _tightness(decision):
        return
    ctx.state["rate_limit"] = decision
    ctx.state["rate_limit_remaining"] = decision.remaining
    ctx.response_headers.update(
        Headers.adopt(
            [
                _known_number("X-RateLimit-Limit", decision.limit),
                _number("X-RateLimit-Remaining", decision.remaining),
                _known_number("X-RateLimit-Reset", ceil(decision.reset)),
            ]
        )
    )


def _number(name: str, number: int) -> tuple[str, str, str, bytes]:
    """Make a field of :class:`Headers`, whose digits need no check."""
    text = str(number)
    return name.lower(), name, text, f"{name}: {text}\r\n".encode()


_known_number = lru_cache(maxsize=4096)(_number)  # of limits and of whole seconds there are few


def _tightness(decision: Decision) -> tuple[int, bool, float]:
    return decision.remaining, decision.allowed, -decision.reset


def caller(ctx: Context, config: RateLimitConfig) -> str:
    """Return who shares a counter with this request: printable, at most 80 characters, no two kinds alike."""
    key = config.key
    if key == "route":
        return "all"
    if key in ("auto", "user"):
        user = ctx.state.get("user_id")
        if user not in (None, ""):
            return "user:" + bounded(str(user))
    elif key == "consumer":
        if ctx.consumer is not None:
            return "consumer:" + bounded(ctx.consumer.id)
    elif config.header is not None:
        value = ctx.request.headers.get(config.header)
        if value:  # hashed whatever it is: the header may hold a secret, and a counter's name can be read in the store
            return "header:" + _hashed(value)
    return "address:" + network(ctx.request.remote_addr)


def bounded(text: str) -> str:
    """Return ``text`` if it is short and plain, else a hash of it."""
    return text if _PLAIN.fullmatch(text) else _hashed(text)


@lru_cache(maxsize=8192)
def network(address: str) -> str:
    """Return what stands for a client address: IPv4 as it is, also mapped into IPv6, and the /64 of IPv6.

    What a provider gives one subscriber is a /64 at least: counted singly its addresses would be limits without end.
    """
    try:
        parsed: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:  # a peer without an address, such as a UNIX socket
        return bounded(address or "unknown")
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
        parsed = parsed.ipv4_mapped
    return str(parsed)


def _hashed(text: str) -> str:
    return "#" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
