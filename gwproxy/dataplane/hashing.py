"""Consistent hashing: the same key goes to the same target."""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence

from gwproxy.context import Context
from gwproxy.dataplane.seat import Seat
from gwproxy.dataplane.target import LiveTarget

_POINTS = 160  # on the ring, for each unit of weight, as many as ketama's: shares then differ by a tenth or so
_FEWEST = 32  # for each, where there are very many
_ALL = 65_536  # PERF: the ring of 1,000 targets is made in some 30 ms
_MOST = 20  # units of weight, of the heaviest
_EACH = 8  # points of one digest
_WHOLE = float(1 << 64)


class ConsistentHash:
    """The same key goes to the same target while it is there: one that leaves moves its own keys only, one that joins takes its own only.

    A ring with 160 points for each unit of weight; a lookup is one hash and one binary search, and a walk past the points of
    targets that are out, that come back and do not take this key yet, or that are full.

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

    def __call__(self, seats: Sequence[Seat], ctx: Context) -> LiveTarget:
        """Pick the first of ``seats`` from the key's place on the ring that has room."""
        digest = hashlib.blake2b(self._key(ctx).encode("utf-8", "surrogateescape"), digest_size=16).digest()
        at = bisect.bisect(self._hashes, int.from_bytes(digest[:8])) % len(self._ring)
        if self._balance is None and len(seats) == self._count and self._ring[at].target.share >= 1.0:
            return self._ring[at].target  # PERF: what nearly always is, in half the time
        luck = int.from_bytes(digest[8:]) / _WHOLE  # from 0 to 1, and nothing to do with the place on the ring
        first: LiveTarget | None = None
        fair = 0.0
        if self._balance is not None:  # in flight for a share of 1, this request included
            fair = self._balance * (sum(seat.target.active for seat in seats) + 1) / sum(seat.share for seat in seats)
        for seat in self._walk(at, seats):
            target = seat.target
            if first is None:
                first = target
            if target.share < 1.0 and luck >= target.share:
                continue  # it comes back with a part of its keys, and then more and more of them
            if not fair or target.active < math.ceil(fair * seat.share):
                return target
        return first if first is not None else seats[0].target

    def _walk(self, at: int, seats: Sequence[Seat]) -> Iterator[Seat]:
        """Yield each of ``seats`` once, in the order in which the ring has them from the point ``at`` on."""
        ring, size = self._ring, len(self._ring)
        left = {id(seat) for seat in seats}
        for offset in range(size):
            seat = ring[(at + offset) % size]
            if id(seat) in left:
                yield seat
                left.remove(id(seat))
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


def _key_of(hash_on: str) -> Callable[[Context], str]:
    kind, _, name = hash_on.partition(":")
    if kind == "header":
        return lambda ctx: ctx.request.headers.get(name) or ctx.request.remote_addr
    if kind == "cookie":
        return lambda ctx: ctx.request.cookies.get(name) or ctx.request.remote_addr
    if kind == "path":
        return lambda ctx: ctx.request.path
    return lambda ctx: ctx.request.remote_addr
