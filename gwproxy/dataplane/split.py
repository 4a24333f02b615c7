"""To which of several upstreams a request goes: the canary's if it asks for that, else one by weight."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from gwproxy.context import Context, UpstreamChoice
from gwproxy.dataplane import keys
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.messages import Request
from gwproxy.model import Route, RouteCanary, Split

_LONGEST_KEY = 256  # characters of a cookie or header that count
_ALL = (1 << 64) - 1
_REMEMBERED = 4096  # choices by key, of all routes of a worker


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

    A choice by lot costs 0.5 us; one by key as much if it was made lately, else 3 us for two upstreams. It is the same for a key
    on every worker of every gateway. With other weights only those move that must: an upstream whose weight grows takes from all
    others, and nothing moves between those.

    :ivar own: the route's.
    """

    __slots__ = ("_asks", "_bounds", "_cookie", "_key", "_lives", "_lot", "_max_age", "_only", "canary", "own", "split", "to_canary")

    def __init__(self, route: Route, own: LiveUpstream, find: Callable[[str], LiveUpstream]) -> None:
        """Compile it.

        :param find: returns the upstream of a name or URL.
        """
        split = route.split or Split(weights={route.upstream: 1})
        self.own = own
        self.split = route.split
        self.canary = route.canary
        self.to_canary = find(route.canary.upstream) if route.canary is not None else own
        self._asks = _asking(route.canary) if route.canary is not None else None
        weights = {name: weight for name, weight in split.weights.items() if weight}
        self._lives = [find(name) for name in weights]
        self._lot = Lot(weights)
        self._bounds = list(accumulate(weights.values()))
        kind, _, name = (split.sticky or "").partition(":")
        self._key = _key_of(kind, name)
        self._cookie = name if kind == "cookie" else ""
        self._only = self._lives[0] if len(self._lives) == 1 and not self._cookie else None
        self._max_age = split.max_age

    def upstreams(self) -> Iterator[LiveUpstream]:
        """Yield all of them, with repetitions."""
        yield self.own
        yield self.to_canary
        yield from self._lives

    def choose(self, ctx: Context) -> None:
        """Decide where the request goes, unless a plugin has done that already."""
        choice = ctx.upstream
        if choice is None or choice.replaced:
            return
        if self._asks is not None and self._asks(ctx.request):
            live = self.to_canary
        elif self._only is not None:
            live = self._only
        else:
            key = self._key(ctx) if self._key is not None else None
            if key is None and self._cookie:
                key = f"{random.getrandbits(64):016x}"  # nobody gains by guessing it
                secure = "; Secure" if ctx.request.scheme == "https" else ""
                choice._cookie = f"{self._cookie}={key}; Path=/; Max-Age={self._max_age}; HttpOnly; SameSite=Lax{secure}"
            live = self.pick(key)
        self.lead(choice, live)

    def lead(self, choice: UpstreamChoice, live: LiveUpstream) -> None:
        """Have what was to go to the route's own upstream go to ``live``."""
        choice._live = live
        if live is not self.own:
            own, single = self.own.single, live.single
            path = choice.target if own is None else choice.target[len(own.prefix) :]
            choice.base, choice.target = live.base, path if single is None else single.prefix + path

    def pick(self, key: str | None) -> LiveUpstream:
        """Return the upstream of a key; None: any, by weight."""
        if key is None:
            return self._lives[bisect(self._bounds, random.random() * self._bounds[-1])]  # noqa: S311 - no secret
        return self._lives[_drawn(self._lot, key) if len(key) <= _LONGEST_KEY else _draw(self._lot, key)]

    def key_of(self, client: str, user: str | None) -> str | None:
        """Return the key of a client of whom no more than this is known; None: that does not tell."""
        sticky = self.split.sticky if self.split is not None else None
        return (user or client) if sticky == "user" else client if sticky == "client" else None

    def shares(self) -> list[tuple[LiveUpstream, float]]:
        """Return the upstreams that are chosen by weight, and how many of those requests each gets, 0 to 1."""
        return [(live, weight / self._bounds[-1]) for live, weight in zip(self._lives, self._lot.weights, strict=True)]

    @property
    def is_split(self) -> bool:
        """Whether there is more than one upstream, but for the canary's."""
        return len(self._lives) > 1

    def ways(self, ctx: Context) -> list[Way]:
        """Return where the request may go, as far as that is known before any plugin runs."""
        if self.canary is not None and self._asks is not None and self._asks(ctx.request):
            return [Way(self.to_canary, 1.0, f"the canary's: {_asked(self.canary)}")]
        if not self.is_split:
            return [Way(self.pick(None), 1.0, "not the canary's" if self.canary is not None else "the only one with a weight")]
        sticky = self.split.sticky if self.split is not None else None
        key = None if sticky == "user" or self._key is None else self._key(ctx)
        if key is not None:
            return [Way(self.pick(key), 1.0, f"by {sticky}")]
        why = {None: "by lot, each request anew", "user": "by user, once one is authenticated"}.get(sticky, f"by lot, then by {sticky}")
        return [Way(live, share, why) for live, share in self.shares()]


class Lot:
    """The weights of a split, by which keys are drawn. Of its own, so that what is remembered by it keeps nothing else alive.

    :param weights: by the name of the upstream, each above 0.
    """

    __slots__ = ("salts", "weights")

    def __init__(self, weights: dict[str, int]) -> None:
        self.salts = [_hash(name) for name in weights]
        self.weights: Sequence[int] = list(weights.values())


def _draw(lot: Lot, key: str) -> int:
    """Return which of the weights has the key."""
    hashed = _hash(key)
    scores = [_score(salt, weight, hashed) for salt, weight in zip(lot.salts, lot.weights, strict=True)]
    return scores.index(max(scores))


_drawn = lru_cache(maxsize=_REMEMBERED)(_draw)


def _asking(canary: RouteCanary) -> Callable[[Request], bool]:
    """Return what tells whether a request asks for the canary, by header or by cookie."""
    value = canary.value
    by_header = canary.header.lower() if canary.header is not None else None
    by_cookie = keys.cookie(canary.cookie) if canary.cookie is not None else None

    def asks(request: Request) -> bool:
        if by_header is not None:
            for field in request.headers.fields():
                if field[0] == by_header and field[2] == value:
                    return True
        return by_cookie is not None and by_cookie(request) == value

    return asks


def _asked(canary: RouteCanary) -> str:
    places = [f"{kind} {name}" for kind, name in (("header", canary.header), ("cookie", canary.cookie)) if name is not None]
    return f"{' or '.join(places)} is {canary.value}"


def _key_of(kind: str, name: str) -> Callable[[Context], str | None] | None:
    """Return what gives the key of a request (None: this one has none); None: none has."""
    if kind in ("cookie", "header"):
        read = keys.cookie(name) if kind == "cookie" else keys.header(name)

        def key_of(ctx: Context) -> str | None:
            value = read(ctx.request) or None
            return value if value is None or len(value) <= _LONGEST_KEY else value[:_LONGEST_KEY]

        return key_of
    if kind == "user":
        return lambda ctx: ctx.state.get("user_id") or ctx.request.remote_addr
    if kind == "client":
        return lambda ctx: ctx.request.remote_addr
    return None


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def _score(salt: int, weight: int, hashed: int) -> float:
    """Rendezvous hashing by weight: the highest score has the key, and does so with the probability of its weight."""
    mixed = (hashed ^ salt) * 0x9E3779B97F4A7C15 & _ALL  # PERF: 0.3 us; hashing the key with each name takes five times that
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _ALL
    return -weight / math.log((((mixed ^ mixed >> 32) >> 12) + 0.5) / (1 << 52))  # of 52 bits: never 0, never 1
