"""When a worker may connect again: all its clients together, so that a fleet does not storm a store that comes back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

PAUSE = (0.75, 1.25)  # seconds from one attempt to the next while the last one failed: jittered, one a second on average


class Redial:
    """One a worker. After an attempt to connect has failed, others fail at once until about a second has passed; then one may try.

    It also tells connections apart by age. A store that refuses to write is a demoted master, and what is connected to it must
    find the new one, be it by name, by balancer or by sentinel. And where one connection swallows everything the others of its age
    are likely to: found out one after the other, each would cost its patience.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._why = ""
        self._next = 0.0
        self._succeeded = 0  # how often
        self._renewed = float("-inf")
        self.generation = 0

    def attempt(self, dial: Callable[[], object]) -> None:
        """Connect by ``dial``, or not yet.

        :raises redis.ConnectionError: it is too soon, with the reason of the last failure; and whatever ``dial`` raises.
        """
        if self._why:
            now = self._clock()
            if now < self._next:
                raise RedisConnectionError(self._why)
            self._pause(now)  # before the outcome is known: one at a time
        succeeded = self._succeeded
        try:
            dial()
        except BaseException as error:  # also one that was cut off: it took its caller's time
            if succeeded == self._succeeded:  # else it is old news: somebody has connected since it began
                self._why = str(error) if isinstance(error, RedisError) else f"connecting was cut off: {type(error).__name__}"
                self._pause(self._clock())
            raise
        self._why = ""
        self._succeeded += 1

    def renew(self) -> None:
        """Make what is connected now outdated, to be replaced when it is next used; not more often than attempts are made."""
        now = self._clock()
        if now - self._renewed >= PAUSE[0]:
            self._renewed = now
            self.generation += 1

    def _pause(self, now: float) -> None:
        self._next = now + random.uniform(*PAUSE)  # noqa: S311 - jitter


class Paced:
    """Mixed into a connection: asks a :class:`Redial` before it connects, and tells it of what all connections suffer from."""

    def __init__(self, *args: Any, redial: Redial | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._redial = redial
        self._generation = 0
        self._greeted = False

    @property
    def outdated(self) -> bool:
        """Whether it is to be replaced: another one was found dead, or to lead to a store that refuses to write."""
        return self._redial is not None and self._generation != self._redial.generation

    def connect(self) -> None:
        """Connect if there is need to.

        :raises redis.ConnectionError: also if it is too soon after a failure.
        """
        connection: Any = self
        if connection._sock:
            if not self.outdated:
                return
            connection.disconnect()
        dial = super().connect  # type: ignore[misc]  # of the class that this is mixed into
        self._greeted = False
        if self._redial is None:
            dial()
        else:
            self._generation = self._redial.generation
            self._redial.attempt(dial)
        self._greeted = True

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read a reply; one that says READONLY is the last of this connection."""
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]  # likewise
        except ReadOnlyError as error:
            connection: Any = self
            connection.mark_for_reconnect()
            self.refused(error)
            raise
        except RedisTimeoutError:
            if self._greeted and "timeout" not in options:  # it had all its time, and not what was left of a request's
                self._renew()
            raise

    def refused(self, error: Exception) -> None:
        """Take note of an error reply: of a store that does not write, all connections are outdated."""
        if isinstance(error, ReadOnlyError):
            self._renew()

    def _renew(self) -> None:
        if self._redial is not None:
            self._redial.renew()
