"""What is sent again: never what may have been acted upon, and never so much that it doubles an outage."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from gwproxy.dataplane.failures import Failure, UpstreamTimedOut
from gwproxy.messages import Request
from gwproxy.model import Retries, RetryBudget
from gwproxy.tally import Tally

KEPT = 64 * 1024  # a body of at most this many bytes is kept, to be sent again
WINDOW = 10  # seconds that a budget looks back

_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_LONGEST_PAUSE = 3600.0  # seconds of a Retry-After that are believed

Clock = Callable[[], float]


class Budget:
    """How many retries an upstream gets from this worker: a share of its requests, and a few a second beside.

    Both are counted over the last ten seconds, in buckets of one: a request costs 0.3 us, whatever their number.
    """

    __slots__ = ("_at", "_clock", "_floor", "_requests", "_retries", "_share")

    def __init__(self, described: RetryBudget, clock: Clock = time.monotonic, before: Budget | None = None) -> None:
        """Begin to count.

        :param before: whose counts go on, of an upstream that is described anew.
        """
        self._clock = clock
        self._share = described.share
        self._floor = described.min_per_second * WINDOW
        self._at: int = int(clock()) if before is None else before._at
        self._requests: list[int] = [0] * WINDOW if before is None else before._requests[:]
        self._retries: list[int] = [0] * WINDOW if before is None else before._retries[:]

    def requested(self) -> None:
        """Count a request, of which a share may be retried."""
        now = int(self._clock())
        if now != self._at:
            self._turn(now)
        self._requests[now % WINDOW] += 1

    def spend(self) -> bool:
        """Take one retry; False if there is none left."""
        now = int(self._clock())
        if now != self._at:
            self._turn(now)
        if sum(self._retries) + 1 > self._floor + self._share * sum(self._requests):
            return False
        self._retries[now % WINDOW] += 1
        return True

    def _turn(self, now: int) -> None:
        """Forget what is older than the window."""
        for second in range(max(self._at + 1, now - WINDOW + 1), now + 1):
            self._requests[second % WINDOW] = self._retries[second % WINDOW] = 0
        self._at = now


class RetryPolicy:
    """When the requests of an upstream are sent again.

    :ivar attempts: all tries of a request, the first included.
    :ivar statuses: answers that are not passed on if there may be a better one.
    :ivar keeps: methods whose bodies are kept while they are short.
    :ivar budget: None: unlimited.
    """

    __slots__ = ("_backoff", "_kinds", "_label", "_methods", "_tally", "attempts", "budget", "counts", "keeps", "statuses")

    def __init__(self, described: Retries | None, tally: Tally, label: str, clock: Clock = time.monotonic) -> None:
        """Compile what is described; None: what cannot have been acted upon is sent once more.

        :param label: under which retries are counted.
        """
        asked = described if described is not None else Retries(attempts=2, on=(), methods=())
        self._tally = tally
        self._label = label
        self._methods = frozenset(asked.methods)
        self._kinds = frozenset(kind for kind in asked.on if not kind.isdigit())
        self.attempts = asked.attempts
        self.statuses = frozenset(int(kind) for kind in asked.on if kind.isdigit())
        self.keeps = self._methods if asked.attempts > 1 else frozenset()
        self.budget = Budget(asked.budget, clock) if asked.budget is not None else None
        self._backoff = (asked.backoff.base, asked.backoff.max) if asked.backoff is not None else (0.0, 0.0)
        self.counts = described is not None  # a plain URL has the few a second only: its requests cost nothing here

    def goes_on(self, before: RetryPolicy, described: Retries | None, clock: Clock = time.monotonic) -> None:
        """Take over what the policy of the same upstream, described otherwise, has counted."""
        asked = described.budget if described is not None else RetryBudget()
        if asked is not None and before.budget is not None:
            self.budget = Budget(asked, clock, before.budget)

    def repeats(self, request: Request, failure: Failure) -> bool:
        """Whether a request may be sent again after ``failure``: never a second time what may have been acted upon."""
        body = request.body
        if failure.phase == "connect":  # nothing was sent to anybody
            return body.received == 0 or body.replayable(KEPT) is not None
        if failure.reused and body.length == 0 and request.method in _IDEMPOTENT and not request.upgrade:
            return True
        kind = "timeout" if isinstance(failure, UpstreamTimedOut) else "reset"
        return kind in self._kinds and self.resends(request)

    def resends(self, request: Request) -> bool:
        """Whether the operator calls repeating this safe, and its body is still here. An upgrade is asked for once."""
        if request.method not in self._methods or request.upgrade:
            return False
        return request.body.length == 0 or request.body.replayable(KEPT) is not None

    def pause(self, failure: Failure | None, elsewhere: bool, attempts: int) -> float:
        """Return the seconds to wait before a retry, drawn anew each time; 0.0 where that is free, as in :meth:`affords`.

        :param attempts: made so far.
        """
        if is_free(failure, elsewhere):
            return 0.0
        base, most = self._backoff
        return random.random() * min(most, base * ((1 << attempts) - 1))  # noqa: S311 - no secret; as Envoy does

    def affords(self, failure: Failure | None, elsewhere: bool) -> bool:
        """Count a retry, and pay for it unless it is free.

        :param failure: None: it was answered, with one of :attr:`statuses`.
        :param elsewhere: whether the next target is another one, to which the last connect has worked.
        """
        if not is_free(failure, elsewhere) and self.budget is not None and not self.budget.spend():
            self._tally.add("retries_over_budget", self._label)
            return False
        self._tally.add("retries", self._label)
        return True


def is_free(failure: Failure | None, elsewhere: bool) -> bool:
    """Whether a retry is none that an upstream in trouble has to bear.

    That is so where nobody has noticed the attempt before: a kept connection that had been closed, and a connect that failed and
    goes on to another target that can be reached.
    """
    return failure is not None and (failure.reused or (failure.phase == "connect" and elsewhere))


def pause_asked(value: str, now: float) -> float:
    """Return the seconds that a ``Retry-After`` asks for (RFC 9110 section 10.2.3): at most an hour; 0 if it is none.

    :param now: by :func:`time.time`.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), _LONGEST_PAUSE)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_PAUSE)
