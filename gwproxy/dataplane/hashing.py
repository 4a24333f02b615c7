"""Consistent hashing: the same key goes to the same target."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain

from gwproxy.context import Context
from gwproxy.dataplane import keys
from gwproxy.dataplane.seat import Chooser, Seat
from gwproxy.dataplane.target import LiveTarget

_POINTS = 160  # on the ring, for each unit of weight, as many as ketama's: shares then differ by a tenth or so
_FEWEST = 32  # for each, where there are very many
_ALL = 65_536  # PERF: the ring of 1,000 targets is made in some 30 ms
_MOST = 20  # units of weight, of the heaviest
_EACH = 8  # points of one digest
_WHOLE = float(1 << 64)
_REMEMBERED = 4096  # hashes of keys, of all upstreams of a worker
_LONGEST = 256  # characters of a key whose hash is


class ConsistentHash:
    """The same key goes to the same target while it is there: one that leaves moves its own keys only, one that joins takes its own only.

    A ring with 160 points for each unit of weight; a lookup is one hash, which is remembered for a while, and one binary search, and
    a walk past the points of targets that are out, that come back and do not take this key yet, or that are full.

    :param balance: the most a target has in flight, as a multiple of its share of all (Mirrokni's bounded loads); None: unlimited.
        Counted are this worker's requests.
    """

    def __init__(self, seats: Sequence[Seat], hash_on: str, balance: float | None = None) -> None:
        self._key = _key_of(hash_on)
        self._balance = balance
        self._count = len(seats)
        points = sorted(_points(seats), key=lambda point: point[0])
        self._hashes = [point for point, _ in points]
        self._ring = [seat for _, seat in points]

    def __call__(self, seats: Sequence[Seat]) -> Chooser:
        """Pick the first of ``seats`` from the key's place on the ring that has room."""
        key_of, hashes, ring, walked = self._key, self._hashes, self._ring, self._walked
        points, balance = len(ring), self._balance
        targets, whole = [seat.target for seat in seats], sum(seat.share for seat in seats)
        simple = len(seats) == self._count and all(target.share >= 1.0 for target in targets)

        def choose(ctx: Context) -> LiveTarget:
            key = key_of(ctx)
            place, luck = _hashed(key) if len(key) <= _LONGEST else _hash(key)
            at = bisect(hashes, place) % points
            first = ring[at].target
            if simple and (balance is None or first.active == 0):  # PERF: what nearly always is
                return first
            if balance is None:
                return walked(at, luck, 0.0, seats)
            active = 1
            for target in targets:
                active += target.active
            fair = balance * active / whole  # in flight for a share of 1, this request included
            if simple:
                if first.active < fair * ring[at].share:
                    return first
                for point in range(at + 1, at + points):  # one of them has room: the bound is 1 at least
                    seat = ring[point % points]
                    if seat.target.active < fair * seat.share:
                        return seat.target
            return walked(at, luck, fair, seats)

        return choose

    def _walked(self, at: int, luck: float, fair: float, seats: Sequence[Seat]) -> LiveTarget:
        """Pick one of ``seats``, going on from the point ``at``.

        :param luck: of the key: a target that comes back gets those whose luck is below its share.
        :param fair: how many requests a share of 1 may have in flight; 0: any number.
        """
        first: LiveTarget | None = None
        for seat in self._walk(at, seats):
            target = seat.target
            if first is None:
                first = target
            if target.share < 1.0 and luck >= target.share:
                continue  # it comes back with a part of its keys, and then more and more of them
            if not fair or target.active < fair * seat.share:
                return target
        return first if first is not None else seats[0].target

    def _walk(self, at: int, seats: Sequence[Seat]) -> Iterator[Seat]:
        """Yield each of ``seats`` once, in the order in which the ring has them from the point ``at`` on."""
        ring, left = self._ring, set(seats)
        for position in chain(range(at, len(ring)), range(at)):
            seat = ring[position]
            if seat in left:
                yield seat
                left.remove(seat)
                if not left:
                    return


def _points(seats: Sequence[Seat]) -> Iterator[tuple[int, Seat]]:
    if not seats:
        return
    most = max(seat.weight for seat in seats)
    shares = [max(1, round(_MOST * seat.weight / most)) if most > _MOST else seat.weight for seat in seats]
    # Fewer points are the first of more: where their number changes, all the others stay where they are.
    each = max(_FEWEST, min(_POINTS, _ALL // sum(shares)))
    for seat, share in zip(seats, shares, strict=True):
        for number in range(math.ceil(each * share / _EACH)):
            digest = hashlib.blake2b(f"{seat.target.url}#{number}".encode(), digest_size=8 * _EACH).digest()
            for start in range(0, len(digest), 8):
                yield int.from_bytes(digest[start : start + 8]), seat


def _hash(key: str) -> tuple[int, float]:
    """Return a key's place on a ring, and its luck, from 0 to 1, which has nothing to do with the place."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16).digest()
    return int.from_bytes(digest[:8]), int.from_bytes(digest[8:]) / _WHOLE


_hashed = lru_cache(maxsize=_REMEMBERED)(_hash)


def _key_of(hash_on: str) -> Callable[[Context], str]:
    kind, _, name = hash_on.partition(":")
    if kind == "header":
        field = name.lower()
        return lambda ctx: ctx.request.headers.first(field) or ctx.request.remote_addr
    if kind == "cookie":
        read = keys.cookie(name)
        return lambda ctx: read(ctx.request) or ctx.request.remote_addr
    if kind == "path":
        return lambda ctx: ctx.request.path
    return lambda ctx: ctx.request.remote_addr
