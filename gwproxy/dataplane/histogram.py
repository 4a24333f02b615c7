"""Times in buckets that grow by the square root of two: from a microsecond to a minute and a half in 54 of them.

Adding to one costs some 150 ns, which is why it is a list and not an object of a metrics library (a microsecond and more).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

#: Upper bounds of the buckets in seconds; one more bucket follows. Every second one is a power of two of microseconds.
BOUNDS: Final = tuple(2 ** (step / 2) / 1e6 for step in range(54))
_LAST: Final = len(BOUNDS)
_LEAST: Final[float] = BOUNDS[0]
_MOST: Final[float] = BOUNDS[-1]
_STEPS_A_NEPER: Final = 2 / math.log(2)
_STEPS_TO_A_SECOND: Final = 2 * math.log2(1e6)


def bucket_of(seconds: float) -> int:
    """Return the bucket of a time: ``bisect_left(BOUNDS, seconds)``.

    PERF: computed. Compiled code would have to make an object of the time to search for it, and that takes three times as long.
    """
    if seconds <= _LEAST:
        return 0
    if seconds > _MOST:
        return _LAST
    number = int(math.log(seconds) * _STEPS_A_NEPER + _STEPS_TO_A_SECOND) + 1
    # That is right but for times so near to a bound that they are within the error of rounding.
    if seconds <= BOUNDS[number - 1]:
        return number - 1
    return number + 1 if seconds > BOUNDS[number] else number


class Histogram:
    """Times in buckets.

    :ivar buckets: how many by :data:`BOUNDS`, each with those above the bound before it.
    :ivar seconds: all of them together.
    """

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets: list[int] = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.seconds += seconds
        self.buckets[bucket_of(seconds)] += 1

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.buckets)

    def shown(self) -> dict[str, object]:
        """Return it as JSON's types: ``seconds``, and ``buckets`` by number, without empty ones."""
        return {"seconds": round(self.seconds, 6), "buckets": {str(number): count for number, count in enumerate(self.buckets) if count}}

    def merge(self, shown: object) -> None:
        """Add what another one has shown; what is no such thing is nothing: anybody may write to the store."""
        if not isinstance(shown, Mapping):
            return
        buckets = shown.get("buckets")
        for number, count in buckets.items() if isinstance(buckets, Mapping) else ():
            if isinstance(count, int) and count > 0 and str(number).isdecimal() and int(number) < len(self.buckets):
                self.buckets[int(number)] += count
        if isinstance(shown.get("seconds"), (int, float)):
            self.seconds += shown["seconds"]

    def minus(self, before: Histogram) -> Histogram:
        """Return what has come since; a worker that has left takes what it has counted with it, which is no less than nothing."""
        made = Histogram()
        made.buckets = [max(0, now - then) for now, then in zip(self.buckets, before.buckets, strict=True)]
        made.seconds = max(0.0, self.seconds - before.seconds)
        return made

    def quantile(self, share: float) -> float | None:
        """Return the time that a share of them, 0 to 1, did not exceed, right to a fifth; None if there are none."""
        total = self.count
        if not total:
            return None
        wanted, seen = share * total, 0
        for number, count in enumerate(self.buckets):
            if count and seen + count >= wanted:
                upper = BOUNDS[min(number, len(BOUNDS) - 1)]
                lower = BOUNDS[number - 1] if number else 0.0
                return float(lower + (upper - lower) * (wanted - seen) / count)
            seen += count
        return BOUNDS[-1]


def cumulative(buckets: Sequence[int]) -> Iterator[tuple[float, int]]:
    """Yield each power of two of microseconds, in seconds, with how many times were no longer."""
    seen = 0
    for number, count in enumerate(buckets[:-1]):
        seen += count
        if number % 2 == 0:
            yield BOUNDS[number], seen
