"""A concurrency limit that follows what an upstream can do, by how long it takes to answer."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable

from gwproxy.model import Adaptive

_ENOUGH = 10  # samples without which a window says nothing
_MOST = 512  # that it keeps; more say no more
_PATIENCE = 5  # windows after which a measurement ends, whatever it has


class AdaptiveLimit:
    """The gradient algorithm, as in Netflix's concurrency-limits and Envoy's adaptive concurrency, and AIMD's step back on failures.

    The base latency is what the upstream takes while at most ``min`` requests are in flight. Each window, the limit is
    multiplied by base over median, 0.5 to 2, where a median of ``tolerance`` above the base is as good as the base; its
    square root is added, so that there is room to find more. It grows only while it is used, shrinks by a tenth at least in
    a window in which a tenth of the requests failed, and stays between ``min`` and the upstream's own ``limit``.

    The base is measured every ``remeasure`` seconds, on requests that began while no more than ``min`` were in flight: until
    there are ten, or for five windows, the limit is ``min``. A sample costs 0.4 us; the end of a window sorts 512 numbers at most.

    :ivar limit: as it is now.
    :ivar base: the base latency, in seconds; 0 until it was measured.
    """

    __slots__ = (
        "_asked",
        "_busiest",
        "_clock",
        "_ends",
        "_failures",
        "_found",
        "_measure_at",
        "_measuring",
        "_most",
        "_quiet_since",
        "_samples",
        "_windows",
        "base",
        "limit",
    )

    def __init__(
        self, described: Adaptive, most: int, clock: Callable[[], float] = time.monotonic, before: AdaptiveLimit | None = None
    ) -> None:
        """Begin by measuring the base latency.

        :param most: beyond which the limit never grows.
        :param before: what is known of the same upstream, described otherwise.
        """
        self._asked = described
        self._most = most
        self._clock = clock
        now = clock()
        self.base: float = before.base if before is not None else 0.0
        self._found: int = before._found if before is not None else min(described.initial, most)  # the limit, but for measurements
        self._measure_at: float = before._measure_at if before is not None else now
        self._measuring = False
        self._quiet_since: float | None = None  # since when so few were in flight that it can be measured
        self.limit = self._bounded(self._found)
        self._samples: list[float] = []
        self._failures = self._busiest = self._windows = 0
        self._ends = now
        self._begin(now)

    def answered(self, seconds: float, in_flight: int) -> bool:
        """Count an answer; return whether :attr:`limit` has changed.

        :param seconds: from the request sent to the head of its response.
        :param in_flight: requests, this one included.
        """
        now = self._clock()
        if in_flight > self._busiest:
            self._busiest = in_flight
        if self._measuring and not self._is_quiet(now, seconds, in_flight):
            pass
        elif len(self._samples) < _MOST:
            self._samples.append(seconds)
        return now >= self._ends and self._turn(now)

    def failed(self, in_flight: int) -> bool:
        """Count a request that was not answered in time, or that the upstream had no room for; return as :meth:`answered`."""
        now = self._clock()
        self._failures += 1
        self._busiest = max(self._busiest, in_flight)
        return now >= self._ends and self._turn(now)

    def _is_quiet(self, now: float, seconds: float, in_flight: int) -> bool:
        """Whether a request began after those of before the measurement were gone."""
        if self._quiet_since is None:
            if in_flight <= self._asked.min:
                self._quiet_since = now
            return False
        return now - seconds >= self._quiet_since

    def _turn(self, now: float) -> bool:
        """End a window, if it has enough to say; return whether the limit has changed."""
        before = self.limit
        self._windows += 1
        enough = len(self._samples) + self._failures >= _ENOUGH
        if not enough and (self._windows < _PATIENCE or not self._measuring):
            self._ends = now + self._asked.interval  # goes on with what it has
            if not self._measuring and now >= self._measure_at:
                self._begin(now)
            return self.limit != before
        if self._measuring:
            self._measured(now)
        else:
            self._adjust()
        self._begin(now)
        return self.limit != before

    def _begin(self, now: float) -> None:
        """Begin a window: a measurement, if one is due."""
        self._samples = []
        self._failures = self._busiest = self._windows = 0
        self._ends = now + self._asked.interval
        if not self._measuring and now >= self._measure_at:
            self._measuring = True
            self._quiet_since = now if not self.base else None  # at first there is nothing to wait for
            self.limit = self._bounded(self._asked.min)

    def _measured(self, now: float) -> None:
        if self._samples:
            self.base = _median(self._samples)
        self._measuring = False
        self._measure_at = now + self._asked.remeasure * random.uniform(0.9, 1.1)  # noqa: S311 - no secret; not all workers at once
        self.limit = self._found

    def _adjust(self) -> None:
        gradient = 1.0
        if self._samples and self.base:
            gradient = min(2.0, max(0.5, self.base * (1 + self._asked.tolerance) / max(_median(self._samples), 1e-6)))
        wanted = self._found * gradient
        wanted += math.sqrt(wanted)
        if self._failures * 10 >= len(self._samples) + self._failures:
            wanted = min(wanted, self._found * 0.9)
        elif self._busiest * 2 < self._found:
            wanted = min(wanted, self._found)  # it is not used: nothing tells what more of it would do
        self._found = self.limit = self._bounded(wanted)

    def _bounded(self, wanted: float) -> int:
        return min(self._most, max(self._asked.min, int(wanted)))


def _median(samples: list[float]) -> float:
    return sorted(samples)[len(samples) // 2]
