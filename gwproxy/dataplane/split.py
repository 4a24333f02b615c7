"""To which of several upstreams a request goes: the canary's if it asks for that, else one by weight."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import NamedTuple

from gwproxy.context import Context, UpstreamChoice
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.messages import Request
from gwproxy.model import Route, RouteCanary, Split, Timeouts

_LONGEST_KEY = 256  # characters of a cookie or header that count
_ALL = (1 << 64) - 1


class Chosen(UpstreamChoice):
    """Where a request of such a route goes.

    :ivar live: the upstream that was chosen.
    :ivar cookie: a ``Set-Cookie`` that keeps the client there; None: there is nothing to set.
    """

    __slots__ = ("cookie", "live")

    def __init__(self, live: LiveUpstream, path: str, timeout: Timeouts, cookie: str | None) -> None:
        super().__init__(live.base, live.single.prefix + path if live.single is not None else path, timeout)
        self.live = live
        self.cookie = cookie


class Way(NamedTuple):
    """An upstream that a request may go to.

    :ivar share: how many of such requests do, 0 to 1; 1: this one does.
    :ivar reason: a phrase.
    """

    live: LiveUpstream
    share: float
    reason: str


class Traffic:
    """The upstreams of a route that has ``split`` or ``canary``.

    A choice by lot costs 0.5 us, one by key 2 us, and 0.5 for each upstream. It is the same for a key on every worker of every
    gateway. With other weights only those move that must: an upstream whose weight grows takes from all others, and nothing
    moves between those.

    :ivar own: the route's.
    """

    __slots__ = ("_bounds", "_cookie", "_key", "_max_age", "_weighted", "canary", "own", "split", "to_canary")

    def __init__(self, route: Route, own: LiveUpstream, find: Callable[[str], LiveUpstream]) -> None:
        """Compile it.

        :param find: returns the upstream of a name or URL.
        """
        split = route.split or Split(weights={route.upstream: 1})
        self.own = own
        self.split = route.split
        self.canary = route.canary
        self.to_canary = find(route.canary.upstream) if route.canary is not None else own
        self._weighted = [(_hash(name), weight, find(name)) for name, weight in split.weights.items() if weight]
        self._bounds = list(accumulate(weight for _, weight, _ in self._weighted))
        kind, _, self._cookie = (split.sticky or "").partition(":")
        self._key = _key_of(kind, self._cookie)
        self._cookie = self._cookie if kind == "cookie" else ""
        self._max_age = split.max_age

    def upstreams(self) -> Iterator[LiveUpstream]:
        """Yield all of them, with repetitions."""
        yield self.own
        yield self.to_canary
        yield from (live for _, _, live in self._weighted)

    def choose(self, ctx: Context) -> None:
        """Decide where the request goes, unless a plugin has done that already."""
        choice = ctx.upstream
        if choice is None or choice.replaced:
            return
        path = self.path_of(choice)
        if self.canary is not None and asks_for(self.canary, ctx.request):
            ctx.upstream = Chosen(self.to_canary, path, choice.timeout, None)
            return
        cookie = None
        key = self._key(ctx)
        if key is None and self._cookie:
            key = f"{random.getrandbits(64):016x}"  # nobody gains by guessing it
            secure = "; Secure" if ctx.request.scheme == "https" else ""
            cookie = f"{self._cookie}={key}; Path=/; Max-Age={self._max_age}; HttpOnly; SameSite=Lax{secure}"
        ctx.upstream = Chosen(self.pick(key), path, choice.timeout, cookie)

    def path_of(self, choice: UpstreamChoice) -> str:
        """Return path and query of a choice of the route's own upstream, without the path that is prepended there."""
        return choice.target if self.own.single is None else choice.target[len(self.own.single.prefix) :]

    def pick(self, key: str | None) -> LiveUpstream:
        """Return the upstream of a key; None: any, by weight."""
        if key is None:
            return self._weighted[bisect(self._bounds, random.random() * self._bounds[-1])][2]  # noqa: S311 - no secret
        hashed = _hash(key)
        best, chosen = 0.0, self.own
        for salt, weight, live in self._weighted:
            score = _score(salt, weight, hashed)
            if score > best:
                best, chosen = score, live
        return chosen

    def key_of(self, client: str, user: str | None) -> str | None:
        """Return the key of a client of whom no more than this is known; None: that does not tell."""
        sticky = self.split.sticky if self.split is not None else None
        return (user or client) if sticky == "user" else client if sticky == "client" else None

    def shares(self) -> list[tuple[LiveUpstream, float]]:
        """Return the upstreams that are chosen by weight, and how many of those requests each gets, 0 to 1."""
        return [(live, weight / self._bounds[-1]) for _, weight, live in self._weighted]

    @property
    def is_split(self) -> bool:
        """Whether there is more than one upstream, but for the canary's."""
        return len(self._weighted) > 1

    def ways(self, ctx: Context) -> list[Way]:
        """Return where the request may go, as far as that is known before any plugin runs."""
        if self.canary is not None and asks_for(self.canary, ctx.request):
            return [Way(self.to_canary, 1.0, f"the canary's: {_asked(self.canary)}")]
        if not self.is_split:
            return [Way(self.pick(None), 1.0, "not the canary's" if self.canary is not None else "the only one with a weight")]
        sticky = self.split.sticky if self.split is not None else None
        key = None if sticky == "user" else self._key(ctx)
        if key is not None:
            return [Way(self.pick(key), 1.0, f"by {sticky}")]
        why = {None: "by lot, each request anew", "user": "by user, once one is authenticated"}.get(sticky, f"by lot, then by {sticky}")
        return [Way(live, share, why) for live, share in self.shares()]


def asks_for(canary: RouteCanary, request: Request) -> bool:
    """Whether a request asks for the canary, by header or by cookie."""
    if canary.header is not None and canary.value in request.headers.getlist(canary.header):
        return True
    return canary.cookie is not None and request.cookies.get(canary.cookie) == canary.value


def remember(ctx: Context) -> None:
    """Have the client stay with the upstream that has answered."""
    choice, response = ctx.upstream, ctx.response
    if isinstance(choice, Chosen) and choice.cookie is not None and response is not None:
        response.headers.add("Set-Cookie", choice.cookie)


def _asked(canary: RouteCanary) -> str:
    places = [f"{kind} {name}" for kind, name in (("header", canary.header), ("cookie", canary.cookie)) if name is not None]
    return f"{' or '.join(places)} is {canary.value}"


def _key_of(kind: str, name: str) -> Callable[[Context], str | None]:
    """Return what gives the key of a request; None: it has none."""
    if kind == "cookie":
        return lambda ctx: (ctx.request.cookies.get(name) or "")[:_LONGEST_KEY] or None
    if kind == "header":
        return lambda ctx: (ctx.request.headers.get(name) or "")[:_LONGEST_KEY] or None
    if kind == "user":
        return lambda ctx: ctx.state.get("user_id") or ctx.request.remote_addr
    if kind == "client":
        return lambda ctx: ctx.request.remote_addr
    return lambda ctx: None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def _score(salt: int, weight: int, hashed: int) -> float:
    """Rendezvous hashing by weight: the highest score has the key, and does so with the probability of its weight."""
    mixed = (hashed ^ salt) * 0x9E3779B97F4A7C15 & _ALL  # PERF: 0.3 us; hashing the key with each name takes five times that
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _ALL
    return -weight / math.log((((mixed ^ mixed >> 32) >> 12) + 0.5) / (1 << 52))  # of 52 bits: never 0, never 1
