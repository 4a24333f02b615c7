"""One limit as requests meet it: the part of :mod:`gwproxy.plugins.rate_limit` that every request passes.

It stands beside the plugin, whose hook calls it, and is compiled where gwproxy is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import ceil
from typing import Literal

from gwproxy import Algorithm, Context, Decision, Headers, Store, StoreUnavailable

OnStoreError = Literal["local", "allow", "deny"]

# What may stand in a counter's name as it is; "#", which marks a hash, is not among them.
_PLAIN = re.compile(r"[A-Za-z0-9._@:+-]{1,64}")


class Rule:
    """Counts requests by who makes them, shows what is left, and refuses those for which nothing is.

    :param prefix: the beginning of the counters' names.
    :param key: who shares a counter, as configured.
    :param window: seconds.
    :param on_store_error: what happens while the store is away, as configured.
    """

    def __init__(self, prefix: str, key: str, *, limit: int, window: float, algorithm: Algorithm, on_store_error: OnStoreError) -> None:
        self._prefix = prefix
        self._by_user = key in ("auto", "user")
        self._key = key
        self._header = key.partition(":")[2] or None
        self._limit = limit
        self._window = window
        self._algorithm: Algorithm = algorithm
        self._on_store_error = on_store_error

    def apply(self, ctx: Context, store: Store) -> None:
        """Count the request, say what is left, or refuse it."""
        name = self._prefix + self.caller(ctx)
        try:
            decision = store.take(name, limit=self._limit, window=self._window, algorithm=self._algorithm)
        except StoreUnavailable:
            if self._on_store_error == "deny":
                ctx.abort(503, {"error": "Service Unavailable"}, [("Retry-After", "1")])
            if self._on_store_error == "allow":
                return  # nothing is counted
            decision = store.take_locally(name, limit=self._limit, window=self._window, algorithm=self._algorithm)
        _show_tightest(ctx, decision)
        if not decision.allowed:
            retry_after = max(1, ceil(decision.retry_after))
            ctx.abort(429, {"error": "Rate limit exceeded"}, [("Retry-After", str(retry_after))])

    def caller(self, ctx: Context) -> str:
        """Return who shares a counter with this request: printable, at most 80 characters, no two kinds alike."""
        if self._by_user:
            user = ctx.state.get("user_id")
            if user is not None and user != "":
                return "user:" + bounded(str(user))
        elif self._key == "route":
            return "all"
        elif self._key == "consumer":
            if ctx.consumer is not None:
                return "consumer:" + bounded(ctx.consumer.id)
        elif self._header is not None:
            value = ctx.request.headers.get(self._header)
            if value:  # hashed whatever it is: the header may hold a secret, and a counter's name can be read in the store
                return "header:" + _hashed(value)
        return "address:" + network(ctx.request.remote_addr)


def _show_tightest(ctx: Context, decision: Decision) -> None:
    """Show ``decision``, unless one shown before leaves less; of equals the one that refused, then the one that lasts longer."""
    shown: Decision | None = ctx.state.get("rate_limit")
    if shown is not None and _tightness(shown) <= _tightness(decision):
        return
    ctx.state["rate_limit"] = decision
    ctx.state["rate_limit_remaining"] = decision.remaining
    left = str(decision.remaining)
    told = [
        _known_number("X-RateLimit-Limit", decision.limit),
        ("x-ratelimit-remaining", "X-RateLimit-Remaining", left, b"X-RateLimit-Remaining: " + left.encode() + b"\r\n"),
        _known_number("X-RateLimit-Reset", ceil(decision.reset)),
    ]
    ctx.response_headers.update(Headers.adopt(told))


@lru_cache(maxsize=4096)  # of limits and of whole seconds there are few
def _known_number(name: str, number: int) -> tuple[str, str, str, bytes]:
    """Make a field of :class:`Headers`, whose digits need no check."""
    return name.lower(), name, str(number), f"{name}: {number}\r\n".encode()


def _tightness(decision: Decision) -> tuple[int, bool, float]:
    return decision.remaining, decision.allowed, -decision.reset


@lru_cache(maxsize=1024)
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
