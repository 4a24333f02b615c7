"""Which target gets the next request."""

from __future__ import annotations

import bisect
import hashlib
import random
from collections.abc import Callable, Collection, Sequence

from gwproxy.context import Context
from gwproxy.dataplane.target import LiveTarget
from gwproxy.model import Upstream

#: Picks one of the targets it is given, which are never none.
Balancer = Callable[[Sequence[LiveTarget], Context], LiveTarget]

_POINTS = 64  # on the hash ring, for each unit of weight up to _MOST: shares then differ by a few percent
_MOST = 20


def balancer_for(upstream: Upstream, targets: Sequence[LiveTarget]) -> Balancer:
    """Return the balancer an upstream asks for."""
    if upstream.algorithm == "least_connections":
        return least_connections
    if upstream.algorithm == "random":
        return weighted_random
    if upstream.algorithm == "consistent_hash":
        return ConsistentHash(targets, upstream.hash_on or "client")
    return round_robin


def round_robin(targets: Sequence[LiveTarget], _ctx: Context) -> LiveTarget:
    """Take turns by weight, evenly spread (nginx's smooth weighted round robin). Costs a pass over the targets."""
    best = targets[0]
    total = 0
    for target in targets:
        target.current += target.weight
        total += target.weight
        if target.current > best.current:
            best = target
    best.current -= total
    return best


def least_connections(targets: Sequence[LiveTarget], _ctx: Context) -> LiveTarget:
    """Take the target with the fewest requests in flight for its weight; among equals a random one."""
    shuffled = random.sample(targets, len(targets))
    return min(shuffled, key=lambda target: (target.active + 1) / target.weight)


def weighted_random(targets: Sequence[LiveTarget], _ctx: Context) -> LiveTarget:
    """Take any, by weight."""
    return random.choices(targets, [target.weight for target in targets])[0]  # noqa: S311 - no secret


class ConsistentHash:
    """The same key goes to the same target while it is there; one that leaves moves only its own keys.

    A ring with 64 points for each unit of weight; a lookup is one hash and one binary search, and a walk past the points
    of targets that are out.
    """

    def __init__(self, targets: Sequence[LiveTarget], hash_on: str) -> None:
        self._key = _key_of(hash_on)
        most = max(target.weight for target in targets)
        points = []
        for target in targets:
            share = max(1, round(_MOST * target.weight / most)) if most > _MOST else target.weight
            points += [(_hash(f"{target.url}#{number}"), target) for number in range(_POINTS * share)]
        points.sort(key=lambda point: point[0])
        self._hashes = [point for point, _ in points]
        self._targets = [target for _, target in points]

    def __call__(self, targets: Sequence[LiveTarget], ctx: Context) -> LiveTarget:
        """Pick the first of ``targets`` from the key's place on the ring."""
        allowed: Collection[LiveTarget] = targets
        start = bisect.bisect(self._hashes, _hash(self._key(ctx)))
        for offset in range(len(self._targets)):
            target = self._targets[(start + offset) % len(self._targets)]
            if target in allowed:
                return target
        return targets[0]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def _key_of(hash_on: str) -> Callable[[Context], str]:
    kind, _, name = hash_on.partition(":")
    if kind == "header":
        return lambda ctx: ctx.request.headers.get(name) or ctx.request.remote_addr
    if kind == "cookie":
        return lambda ctx: ctx.request.cookies.get(name) or ctx.request.remote_addr
    if kind == "path":
        return lambda ctx: ctx.request.path
    return lambda ctx: ctx.request.remote_addr
