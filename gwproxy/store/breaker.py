"""A breaker for one worker's request path: after some failures in a row, the store is left alone for a moment."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from redis.exceptions import TimeoutError as RedisTimeoutError

from gwproxy.errors import StoreUnavailable
from gwproxy.store.connection import STORE_ERRORS, describe

log = logging.getLogger(__name__)

T = TypeVar("T")


class StopEvent(Protocol):
    """What ends :meth:`Breaker.attend`: a ``threading.Event``, or gevent's."""

    def wait(self, timeout: float) -> bool:
        """Wait until set, or ``timeout`` seconds; return whether it is set."""


class Breaker:
    """Opens after ``failures`` in a row, or ``timeouts`` in a row, for ``open_for`` seconds; then a probe closes or opens it again.

    A refusal costs nothing and may be an accident, a timeout has cost a request its patience: few of those open it, so that
    a request that asks several times does not wait several times. While it is open a call costs no I/O. The probe is a call
    like any other, or, while somebody attends the breaker, made there, where no request waits for it. No lock is held during
    a call: concurrent calls do not wait for each other. Opening and closing are logged, once each.

    :param failures: in a row, 1 or more.
    :param timeouts: in a row, 1 or more.
    :param open_for: seconds.
    :param clock: seconds, monotonic.
    :param opened: called when it opens.

    :ivar tripped: whether it has opened, and nothing has succeeded since: a call is refused, or is the probe.
    """

    def __init__(
        self,
        failures: int = 5,
        open_for: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        timeouts: int = 2,
        opened: Callable[[], object] = lambda: None,
    ) -> None:
        self._when_opened = opened
        self._most_failures = failures
        self._most_timeouts = timeouts
        self._open_for = open_for
        self._clock = clock
        self._failed = 0
        self._timed_out = 0
        self.tripped = False
        self._opened = 0.0
        self._open_until = 0.0
        self._probing = False
        self._attended = False
        self._why = ""

    @property
    def is_open(self) -> bool:
        """Whether a call would be refused now."""
        return self.tripped and (self._attended or self._probing or self._clock() < self._open_until)

    def check(self) -> None:
        """Refuse while open; admits nothing.

        :raises StoreUnavailable: at once, with the error that opened it.
        """
        if self.tripped and self.is_open:
            raise StoreUnavailable(f"the store is left alone for a moment: {self._why}")

    def call(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns.

        :raises StoreUnavailable: it raised what an unavailable store raises, or the breaker is open.
        """
        self.check()
        return self._try(function)

    def attend(self, probe: Callable[[], object], stop: StopEvent) -> None:
        """Call ``probe`` while open, about every ``open_for`` seconds, until ``stop`` is set: no request has to.

        :param probe: asks of the store what requests ask of it; what it raises is a failure.
        """
        self._attended = True
        try:
            while not stop.wait(self._open_for * random.uniform(0.7, 1.0)):  # noqa: S311 - jitter
                if self.tripped:
                    try:
                        self._try(probe)
                    except StoreUnavailable:
                        continue
                    except Exception:  # whatever it was: without probes it would stay open for good
                        log.exception("store_probe_failed")
        finally:
            self._attended = False

    def _try(self, function: Callable[[], T]) -> T:
        probe = self.tripped
        if probe:
            self._probing = True
        try:
            result = function()
        except STORE_ERRORS as error:
            self.failed(error)
            raise StoreUnavailable(self._why) from error
        finally:
            # Also when a greenlet is killed while it probes: the next call may.
            if probe:
                self._probing = False
        self.succeeded()
        return result

    def succeeded(self) -> None:
        """Note that the store has answered, for a call that was not made by :meth:`call`."""
        self._failed = self._timed_out = 0
        if self.tripped:
            self.tripped = False
            log.info("store_breaker_closed after=%.1f", self._clock() - self._opened)

    def failed(self, error: Exception) -> None:
        """Note that it has not, likewise."""
        self._why = describe(error)
        self._failed += 1
        self._timed_out = self._timed_out + 1 if isinstance(error, (RedisTimeoutError, TimeoutError)) else 0
        if not self.tripped and self._failed < self._most_failures and self._timed_out < self._most_timeouts:
            return
        now = self._clock()
        self._open_until = now + self._open_for
        if not self.tripped:
            self.tripped, self._opened = True, now
            log.warning("store_breaker_opened reason=%r", self._why)
            self._when_opened()
