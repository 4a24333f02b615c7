"""Passive ejection: a target is taken out by what requests to it come to, and returns by itself, a part of its share at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from gwproxy.dataplane.seat import Seat
from gwproxy.dataplane.statuses import codes
from gwproxy.dataplane.target import LiveTarget
from gwproxy.model import Ejection
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.ejection")


class Ejections:
    """Judges the targets of an upstream by this worker's requests. Nothing waits, nothing is held.

    A request that goes well costs 0.1 us. Which targets are out survives a change of the configuration with them.

    :param ramp: seconds in which a target comes back from a tenth of its share to the whole, after it was out.
    :param seats: returns those of the upstream's targets as they are now.
    """

    def __init__(
        self,
        upstream: str,
        described: Ejection,
        ramp: float,
        seats: Callable[[], Sequence[Seat]],
        tally: Tally,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._described = described
        self._failing = codes(described.statuses)
        self._window = described.window if described.error_rate is not None else None
        self._ramp = ramp
        self._seats = seats
        self._tally = tally
        self._clock = clock

    def answered(self, target: LiveTarget, status: int) -> None:
        """Count an answer."""
        if status in self._failing:
            self._count(target, f"status {status}")
            return
        target.row = 0
        if self._window is not None:
            now = self._clock()  # PERF: as _request, for nearly all
            if now <= target.window_ends:
                target.requests += 1
            else:
                self._request(target, self._window)

    def failed(self, target: LiveTarget, failure: Exception) -> None:
        """Count a request that got no answer."""
        self._count(target, str(failure))

    def _count(self, target: LiveTarget, what: str) -> None:
        described = self._described
        target.row += 1
        if described.error_rate is not None:
            self._request(target, described.window)
            target.failures += 1
            if target.requests >= described.min_requests and target.failures >= described.error_rate * target.requests:
                self._eject(target, f"{target.failures} of {target.requests} requests failed, the last one: {what}")
                return
        if described.consecutive_errors is not None and target.row >= described.consecutive_errors:
            self._eject(target, f"{target.row} failures in a row, the last one: {what}")

    def _request(self, target: LiveTarget, window: float) -> None:
        """Count a request in the target's window, or as the first one of the next."""
        now = self._clock()
        if now > target.window_ends:
            target.window_ends, target.requests, target.failures = now + window, 0, 0
        target.requests += 1

    def _eject(self, target: LiveTarget, why: str) -> None:
        if not target.up:
            return  # what was under way when it was taken out
        seats = self._seats()
        out = sum(not seat.target.up for seat in seats)
        if out + 1 > int(self._described.max_share * len(seats) + 1e-9):
            self._tally.add("ejections_withheld", self._upstream)
            return
        described = self._described
        seconds = target.ejected(self._clock(), described.base_time, described.max_time, self._ramp, why)
        self._tally.add("targets_ejected", self._upstream)
        log.warning("target_ejected upstream=%s target=%s seconds=%.1f why=%s", self._upstream, target.url, seconds, why)
