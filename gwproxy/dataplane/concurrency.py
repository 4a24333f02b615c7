"""How many requests this worker has at an upstream at once; who comes beyond that waits in a bounded queue, or is refused."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent.monkey import get_original

from gwproxy.dataplane.adaptive import AdaptiveLimit
from gwproxy.dataplane.failures import ClientLeft, UpstreamBusy
from gwproxy.dataplane.throttle import Throttle
from gwproxy.dataplane.upstream_response import LOOK
from gwproxy.model import Concurrency
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.concurrency")

# The system's own, in a worker too: it is held for a few instructions in which no greenlet switches, so that only threads
# of another WSGI server ever wait for it. Reentrant, because a collection may end a forgotten greenlet in between, and
# that gives a place back.
_RLock: Callable[[], Any] = get_original("_thread", "RLock")


class Turn:
    """A request's stand in the queue.

    :ivar granted: whether it was handed a place.
    :ivar called: set when it was.
    """

    __slots__ = ("called", "granted")

    def __init__(self) -> None:
        self.granted = False
        self.called = threading.Event()


class Places:
    """The places of an upstream, all its targets together: a request takes one, and gives it back when its response is over.

    Who finds none waits in order of arrival: a place that is given back goes to whoever waits longest, never to a newcomer.
    A free place costs 0.3 us to take, and as much to give back.

    :param name: of the upstream, for the log.
    :param label: under which refusals are counted as ``upstream_refused``.
    :param before: of the same upstream described otherwise, whose adaptive limit goes on.

    :ivar adaptive: what moves the limit; None: nothing.
    :ivar in_flight: places taken.
    :ivar refused: requests that got none, since the worker started.
    """

    __slots__ = (
        "_described",
        "_enter",
        "_leave",
        "_limit",
        "_lock",
        "_name",
        "_throttle",
        "_waiting",
        "adaptive",
        "in_flight",
        "label",
        "refused",
        "tally",
    )

    def __init__(self, name: str, described: Concurrency, tally: Tally, label: str, before: Places | None = None) -> None:
        self._name = name
        self._described = described
        self.adaptive: AdaptiveLimit | None = _adaptive(described, before.adaptive if before is not None else None)
        self._limit = self.adaptive.limit if self.adaptive is not None else described.limit
        self.tally = tally
        self.label = label
        self._lock = _RLock()
        # PERF: where nothing can be raised in between, called as they are: half of what "with" costs.
        self._enter: Callable[[], object] = self._lock.acquire
        self._leave: Callable[[], object] = self._lock.release
        self._waiting: deque[Turn] = deque()  # empty unless every place is taken
        self._throttle = Throttle()
        self.in_flight = 0
        self.refused = 0

    @property
    def limit(self) -> int:
        """How many places there are now."""
        return self._limit

    @property
    def queued(self) -> int:
        """How many requests wait for a place."""
        return len(self._waiting)

    def take(self, client_gone: Callable[[], bool] | None = None) -> None:
        """Take a place, waiting for one if the queue has room; :meth:`give_back` it exactly once.

        :param client_gone: asked every half second of waiting, and before a place that was waited for is used.
        :raises UpstreamBusy: the queue is full, or no place became free in time.
        :raises ClientLeft: nobody is waiting for the answer any more.
        """
        self._enter()
        if self.in_flight < self._limit:
            self.in_flight += 1
            self._leave()
            return
        self._leave()
        self._queue(client_gone)

    def _queue(self, client_gone: Callable[[], bool] | None) -> None:
        """Take a place that has become free meanwhile, or wait for one."""
        with self._lock:
            if self.in_flight < self._limit:
                self.in_flight += 1
                return
            turn = Turn() if len(self._waiting) < self._described.queue else None
            if turn is not None:
                self._waiting.append(turn)
        if turn is None:
            raise self._busy("full")
        try:
            self._wait(turn, client_gone)
        except BaseException:  # a killed greenlet, too, must not keep a place, or its stand
            self._give_up(turn)
            raise

    def give_back(self) -> None:
        """Hand a place to whoever waits longest; does not wait."""
        self._enter()
        if not self._waiting or self.in_flight > self._limit:
            self.in_flight -= 1
            self._leave()
            return
        turn = self._waiting.popleft()
        turn.granted = True
        self._leave()
        turn.called.set()

    def resize(self, limit: int) -> None:
        """Have so many places from now on: those who wait get what is free; of those taken too many, none is taken away."""
        called = []
        with self._lock:
            self._limit = limit
            while self._waiting and self.in_flight < limit:
                turn = self._waiting.popleft()
                turn.granted = True
                self.in_flight += 1
                called.append(turn)
        for turn in called:
            turn.called.set()

    def answered(self, seconds: float) -> None:
        """Learn from an answer that took so long, if the limit is adaptive."""
        adaptive = self.adaptive
        if adaptive is not None and adaptive.answered(seconds, self.in_flight):
            self.resize(adaptive.limit)

    def failed(self) -> None:
        """Learn from a request that was not answered in time, or had no room, if the limit is adaptive."""
        adaptive = self.adaptive
        if adaptive is not None and adaptive.failed(self.in_flight):
            self.resize(adaptive.limit)

    def _wait(self, turn: Turn, client_gone: Callable[[], bool] | None) -> None:
        until = time.monotonic() + self._described.wait
        while not turn.granted:
            left = until - time.monotonic()
            if left <= 0:
                raise self._busy("slow")
            turn.called.wait(left if client_gone is None else min(left, LOOK))
            if client_gone is not None and client_gone():
                raise ClientLeft("the client closed while it waited for a place at the upstream", phase="connect")

    def _give_up(self, turn: Turn) -> None:
        """Give up a stand in the queue, or the place that was handed over meanwhile."""
        with self._lock:
            if not turn.granted:
                self._waiting.remove(turn)
                return
        self.give_back()

    def _busy(self, queue: str) -> UpstreamBusy:
        """Count a refusal, and log one a second.

        :param queue: ``full``, or ``slow``: it was waited for in vain.
        """
        self.refused += 1
        self.tally.add("upstream_refused", self.label)
        if (suppressed := self._throttle.due()) is not None:
            log.warning(
                "upstream_busy upstream=%s queue=%s in_flight=%d queued=%d suppressed=%d",
                self._name,
                queue,
                self.in_flight,
                self.queued,
                suppressed,
            )
        return UpstreamBusy(f"upstream {self._name} has no place: its queue is {queue}", headers=[("Retry-After", "1")])


def _adaptive(described: Concurrency, before: AdaptiveLimit | None) -> AdaptiveLimit | None:
    return AdaptiveLimit(described.adaptive, described.limit, before=before) if described.adaptive is not None else None
