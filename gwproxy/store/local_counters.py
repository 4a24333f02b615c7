"""The same counters in one worker's memory: what a limit falls back to when the store is away."""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from gwproxy.ports import Algorithm, Decision
from gwproxy.store.counters import bounded

SLICES = 60
_ALMOST_ONE = 1 - 1e-9


@dataclass(slots=True)
class _Fixed:
    count: int
    ends: int


@dataclass(slots=True)
class _Sliding:
    size: int  # of a slice, microseconds
    slices: array[int]  # index, count, index, count, ... ascending


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: int


_State = _Fixed | _Sliding | _Bucket
_Answer = tuple[_State | None, int, float, float, float]  # what to keep (None: refused), remaining, reset, retry, lifetime


class LocalCounters:
    """Decides as ``counters.lua`` does, on a clock and in a memory of its own.

    At most ``most`` counters are kept: beyond that the one not used for the longest time is forgotten. Expired ones go
    two a call. A call costs one dict lookup, and for ``sliding_window`` a pass over at most 61 slices.

    :param clock: seconds, monotonic.
    """

    def __init__(self, most: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, _State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def take(self, key: str, *, limit: int, window: float, algorithm: Algorithm) -> Decision:
        """Take one from the counter ``key``; ``window`` is in seconds. Never raises."""
        limit, span = bounded(limit, window)
        with self._lock:
            now = round(self._clock() * 1_000_000)
            expires, state = self._kept.get(key, (0.0, None))
            if expires <= now:
                state = None
            decide = _ALGORITHMS.get(algorithm, _fixed_window)
            new, remaining, reset, retry, lifetime = decide(state, now, limit, span)
            if new is not None:
                self._kept[key] = (now + max(1, math.ceil(lifetime / 1000)) * 1000, new)
                self._forget(now)
            if key in self._kept:
                self._kept.move_to_end(key)
        return Decision(new is not None, limit, max(0, remaining), _milliseconds(reset), _milliseconds(retry))

    def _forget(self, now: int) -> None:
        for _ in range(2):
            key = next(iter(self._kept))
            if self._kept[key][0] > now and len(self._kept) <= self._most:
                return
            del self._kept[key]
            if not self._kept:
                return


def _milliseconds(microseconds: float) -> float:
    return math.ceil(max(0.0, microseconds) / 1000) / 1000


def _fixed_window(state: _State | None, now: int, limit: int, span: int) -> _Answer:
    count, ends = 0, now + span
    if isinstance(state, _Fixed) and state.ends > now:
        count, ends = state.count, min(state.ends, ends)
    new = _Fixed(count + 1, ends) if count < limit else None
    count += 1 if new else 0
    return new, limit - count, ends - now, 0 if count < limit else ends - now, ends - now


def _sliding_window(state: _State | None, now: int, limit: int, span: int) -> _Answer:
    size = math.ceil(span / SLICES)
    current = now // size
    counts: dict[int, int] = {}
    if isinstance(state, _Sliding) and state.size == size:
        for at in range(0, len(state.slices), 2):
            if state.slices[at] >= current - SLICES:
                counts[state.slices[at]] = state.slices[at + 1]
    total = sum(counts.values())
    new = None
    if total < limit:
        counts[current] = counts.get(current, 0) + 1
        total += 1
        new = _Sliding(size, array("q", (number for pair in counts.items() for number in pair)))
    retry, left = 0, total
    for slice_, count in counts.items():
        if left < limit:
            break
        left -= count
        retry = (slice_ + SLICES + 1) * size - now
    newest = next(reversed(counts))
    return new, limit - total, (newest + SLICES + 1) * size - now, retry, (SLICES + 1) * size


def _token_bucket(state: _State | None, now: int, limit: int, span: int) -> _Answer:
    tokens = float(limit)
    if isinstance(state, _Bucket):
        tokens = min(limit, state.tokens + max(0, now - state.at) * limit / span)
    new = None
    if tokens >= _ALMOST_ONE:
        tokens = max(0.0, tokens - 1)
        new = _Bucket(tokens, now)
    reset = (limit - tokens) * span / limit
    retry = 0.0 if tokens >= _ALMOST_ONE else (1 - tokens) * span / limit
    return new, math.floor(tokens + 1e-9), reset, retry, reset


_ALGORITHMS: dict[Algorithm, Callable[[_State | None, int, int, int], _Answer]] = {
    "fixed_window": _fixed_window,
    "sliding_window": _sliding_window,
    "token_bucket": _token_bucket,
}
