"""The circuit breaker of an upstream."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Breaker


class CircuitBreaker:
    """Leaves an upstream alone after ``failures`` failures within ``window`` seconds, for ``open_for`` seconds.

    Then one request probes: success closes it, failure opens it again. Nothing is held while a request is under way.
    """

    def __init__(self, described: Breaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._described = described
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=described.failures)
        self._open_until: float | None = None
        self._probing_since: float | None = None

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half_open``."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    def check(self) -> None:
        """Let a request pass, or not.

        :raises ServiceUnavailable: open, or another request is probing; with ``Retry-After``.
        """
        if self._open_until is None:
            return
        now = self._clock()
        # A probe that never reported back (its client left) makes way for another after the same time.
        probing = self._probing_since is not None and now - self._probing_since < self._described.open_for
        if now < self._open_until or probing:
            wait = max(1, math.ceil(self._open_until - now))
            raise ServiceUnavailable("the circuit is open", headers=[("Retry-After", str(wait))])
        self._probing_since = now

    def withdrawn(self) -> None:
        """Take back a request that was let pass and never sent: if it was to probe, another may."""
        self._probing_since = None

    def succeeded(self) -> None:
        """Count an answer."""
        if self._probing_since is not None:
            self._open_until = self._probing_since = None
            self._failures.clear()

    def failed(self) -> None:
        """Count a failure: no answer, or a 5xx that says the upstream is in trouble (502, 503, 504)."""
        now = self._clock()
        self._failures.append(now)
        full = len(self._failures) == self._described.failures and now - self._failures[0] <= self._described.window
        if self._probing_since is not None or full:
            self._open_until = now + self._described.open_for
            self._probing_since = None
            self._failures.clear()
