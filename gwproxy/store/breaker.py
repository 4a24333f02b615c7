"""A breaker for one worker's request path: after some failures in a row, the store is left alone for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from gwproxy.errors import StoreUnavailable
from gwproxy.store.connection import STORE_ERRORS, describe

T = TypeVar("T")


class Breaker:
    """Opens after ``failures`` in a row, for ``open_for`` seconds; then one call probes, and closes or opens it again.

    While it is open a call costs no I/O. No lock is held during a call: concurrent calls do not wait for each other.

    :param failures: in a row, 1 or more.
    :param open_for: seconds.
    :param clock: seconds, monotonic.
    """

    def __init__(self, failures: int = 5, open_for: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._open_for = open_for
        self._clock = clock
        self._failed = 0
        self._open_until = 0.0
        self._probing = False
        self._why = ""

    @property
    def is_open(self) -> bool:
        """Whether a call would be refused now."""
        return self._failed >= self._limit and (self._probing or self._clock() < self._open_until)

    def check(self) -> None:
        """Refuse while open; admits nothing.

        :raises StoreUnavailable: at once, with the error that opened it.
        """
        if self.is_open:
            raise StoreUnavailable(f"the store is left alone for a moment: {self._why}")

    def call(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns.

        :raises StoreUnavailable: it raised what an unavailable store raises, or the breaker is open.
        """
        self.check()
        probe = self._failed >= self._limit
        if probe:
            self._probing = True
        try:
            result = function()
        except STORE_ERRORS as error:
            self._note_failure(describe(error))
            raise StoreUnavailable(self._why) from error
        finally:
            # Also when a greenlet is killed while it probes: the next call may.
            if probe:
                self._probing = False
        self._failed = 0
        return result

    def _note_failure(self, why: str) -> None:
        self._why = why
        self._failed += 1
        if self._failed >= self._limit:
            self._open_until = self._clock() + self._open_for
