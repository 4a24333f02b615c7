"""The circuit breaker of an upstream."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Breaker


class Probe:
    """A request that was let through to see whether the upstream is back."""

    __slots__ = ()


class CircuitBreaker:
    """Leaves an upstream alone after ``failures`` failures within ``window`` seconds, for ``open_for`` seconds.

    Then ``half_open`` requests at once may probe. As many successes close it, one failure opens it again. What was sent
    before it opened says nothing any more: only probes are believed. Nothing is held while a request is under way.

    :ivar open_until: by its clock; requests pass as probes after that. None: it is closed.
    """

    def __init__(self, described: Breaker, clock: Callable[[], float] = time.monotonic, before: CircuitBreaker | None = None) -> None:
        """Begin closed.

        :param before: whose state goes on, of the same upstream described otherwise.
        """
        self._described = described
        self._clock = clock
        self._failures: deque[float] = deque(before._failures if before is not None else (), maxlen=described.failures)
        self.open_until: float | None = before.open_until if before is not None else None
        self._probes: dict[Probe, float] = {}  # those under way, since when
        self._proved = 0

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        if self.open_until is None:
            return "closed"
        return "open" if self._clock() < self.open_until else "half_open"

    def check(self) -> Probe | None:
        """Let a request pass, or not; return what :meth:`succeeded` and the others are to be told. None: it is no probe.

        :raises ServiceUnavailable: open, or enough others are probing; with ``Retry-After``.
        """
        if self.open_until is None:
            return None
        now = self._clock()
        # One that takes as long as a circuit stays open makes way for another.
        probing = sum(1 for since in self._probes.values() if now - since < self._described.open_for)
        if now < self.open_until or probing + self._proved >= self._described.half_open:
            wait = max(1, math.ceil(self.open_until - now))
            raise ServiceUnavailable("the circuit is open", headers=[("Retry-After", str(wait))])
        probe = Probe()
        self._probes[probe] = now
        return probe

    def withdrawn(self, probe: Probe | None) -> None:
        """Take back a request that has proved nothing: if it was to probe, another may. After a verdict this does nothing."""
        if probe is not None:
            self._probes.pop(probe, None)

    def succeeded(self, probe: Probe | None) -> None:
        """Count an answer."""
        if probe is None or probe not in self._probes:
            return
        del self._probes[probe]
        self._proved += 1
        if self._proved >= self._described.half_open:
            self.open_until = None
            self._settle()

    def failed(self, probe: Probe | None) -> None:
        """Count a failure: no answer, or a 5xx that says the upstream is in trouble (502, 503, 504)."""
        now = self._clock()
        if self.open_until is not None:
            if probe in self._probes:
                self._open(now)
            return
        self._failures.append(now)
        if len(self._failures) == self._described.failures and now - self._failures[0] <= self._described.window:
            self._open(now)

    def _open(self, now: float) -> None:
        self.open_until = now + self._described.open_for
        self._settle()

    def _settle(self) -> None:
        self._failures.clear()
        self._probes.clear()
        self._proved = 0
