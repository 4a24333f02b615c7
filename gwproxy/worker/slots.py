"""The connections of a worker: at most so many, and an idle one is given up for a new one."""

from __future__ import annotations

from time import monotonic

from gevent.pool import Pool
from gevent.server import StreamServer

from gwproxy.dataplane.throttle import Throttle
from gwproxy.dataplane.waits import Serving
from gwproxy.tally import Tally
from gwproxy.worker.connection import Connection
from gwproxy.worker.refusals import logger
from gwproxy.worker.standing import Standing

#: A connection idle for less than this many seconds may have a request on its way: it is not ended before.
IDLE_GRACE_SECONDS = 0.5
#: The same for one that has brought none yet, while the worker drains: whoever has just been accepted was promised an answer.
FIRST_GRACE_SECONDS = 3.0


class Slots:
    """The connections that a worker has, those of all its listeners together.

    While every slot is taken and a new connection waits, the one that is idle longest is given up for it. If none is idle the
    worker accepts nothing, answers with ``Connection: close``, and gives up the first that becomes idle: what waits is accepted
    then, unless another worker takes it before.

    :param limit: the most connections at a time.

    :ivar pool: the greenlets that serve them.
    :ivar connections: those that are open.
    """

    def __init__(self, limit: int, tally: Tally, standing: Standing) -> None:
        self.pool = Pool(limit, greenlet_class=Serving)
        self.connections: set[Connection] = set()
        self._tally = tally
        self._standing = standing
        self._throttle = Throttle()

    def attach(self, server: StreamServer) -> None:
        """Make ``server`` accept only what there is a slot for."""
        # One at a time: whenever gevent asks for room somebody waits then, and some are left to the other workers.
        server.max_accept = 1
        server.full = self._full

    @property
    def crowded(self) -> bool:
        """Whether every slot is taken and somebody waited for one when it was last tried to accept."""
        return self._standing.crowded and self.pool.full()

    def make_room(self) -> bool:
        """Give up the connection that is idle longest, if there is need; False: none is idle."""
        if not self.crowded:
            return True
        idle = self._idle()
        if idle:
            self._tally.add("connections_given_up")
            min(idle)[2].wake()
        return bool(idle)

    def wake_idle(self) -> None:
        """End every connection on which nothing is under way, or about to be."""
        accepted = monotonic() - FIRST_GRACE_SECONDS
        for since, _, connection in self._idle():
            if not connection.fresh or since <= accepted:
                connection.wake()

    def _full(self) -> bool:
        """Whether a connection that waits has to go on waiting: until a slot is free, nothing is accepted then."""
        self._standing.crowded = self.pool.full()
        if not self.make_room():
            self._tally.add("worker_full")
            if (suppressed := self._throttle.due()) is not None:
                logger.warning("worker_full connections=%d suppressed=%d", len(self.connections), suppressed)
        return self._standing.crowded

    def _idle(self) -> list[tuple[float, int, Connection]]:
        latest = monotonic() - IDLE_GRACE_SECONDS
        return [
            (since, id(connection), connection)
            for connection in self.connections
            if (since := connection.idle_since) is not None and since <= latest
        ]
