"""Connections to one origin: the one used last is used next."""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable

from gevent.monkey import get_original

from gwproxy.dataplane.wire import Head, parse_head
from gwproxy.http.headers import Shared
from gwproxy.stream import stream_of

# The system's own, in a worker too: it is asked without waiting, and gevent's would cost a watcher each time.
_poll: Callable[[], select.poll] = get_original("select", "poll")

#: Bytes of a head that a connection keeps.
LONGEST_KEPT = 2048


class Connection:
    """A connection that one exchange has for itself; its end is :meth:`give_back` or :meth:`close`.

    :ivar sock: connected.
    :ivar stream: what it is read and written through.
    :ivar reused: whether it has served an exchange before.
    """

    __slots__ = ("_head", "_head_data", "_held", "_poll", "_pool", "_secured", "idle_until", "reused", "sock", "stream")

    def __init__(self, sock: socket.socket, pool: Pool) -> None:
        self.sock = sock
        self.stream = stream_of(sock)
        self.reused = False
        self.idle_until = 0.0
        self._held = True
        self._head: Head | None = None
        self._head_data = b""
        self._pool = pool
        self._secured = sock if isinstance(sock, ssl.SSLSocket) else None
        poll = _poll()
        poll.register(sock.fileno(), select.POLLIN)
        self._poll = poll.poll

    def readable(self) -> bool:
        """Whether bytes, the end or an error of the connection are here already. Costs one system call."""
        return bool(self._poll(0)) or (self._secured is not None and self._secured.pending() > 0)

    def parse_head(self, data: bytes) -> tuple[Head, Shared | None]:
        """Parse the head of a response, without its empty line, as :func:`gwproxy.dataplane.wire.parse_head`.

        With it come its fields, if it came before.

        PERF: within a second, an upstream that is asked for the same again answers with the same head. Then it is compared (0.1 us), not
        parsed again (1.4 us).
        """
        known = self._head
        if known is not None and self._head_data == data:
            return known, known.shared()
        head = parse_head(data, len(data))
        if len(data) <= LONGEST_KEPT:
            self._head, self._head_data = head, data
        return head, None

    def give_back(self, idle: float | None, now: float) -> None:
        """Let the next exchange have the connection; for one whose last message was read to its very end.

        :param idle: seconds the upstream keeps it open; None if it does not say.
        :param now: by ``time.monotonic``, or a little before.
        """
        if self._held:
            self._held = False
            self._pool.take_back(self, idle, now)

    def close(self) -> None:
        """Close it for good; a second call does nothing, nor does one after :meth:`give_back`."""
        if self._held:
            self._held = False
            self.end()

    def end(self) -> None:
        """Close the socket itself."""
        self.stream.close()
        self.sock.close()


class Pool:
    """The connections to one origin. Getting one that is idle costs 3 us; no lock is held while anything waits.

    There are as many as there are exchanges: :class:`gwproxy.dataplane.concurrency.Places` bounds those of an upstream.

    :param dial: makes a connection, given the ``time.monotonic`` until which it may take.
    :param idle_timeout: seconds an idle connection is kept, at most.
    :param keepalive: False: every connection serves one exchange.
    """

    def __init__(self, dial: Callable[[float], socket.socket], idle_timeout: float, *, keepalive: bool = True) -> None:
        self._dial = dial
        self._idle_timeout = idle_timeout
        self._idle: deque[Connection] = deque()
        self._keepalive = keepalive

    @property
    def idle(self) -> int:
        """How many connections wait for an exchange."""
        return len(self._idle)

    def lease(self, until: float, fresh: bool = False) -> Connection:
        """Return a connection: the idle one used last that still stands, else a new one.

        :param until: when to give up, by ``time.monotonic``.
        :param fresh: whether it has to be a new one.
        :raises UpstreamFailed: as :func:`gwproxy.dataplane.connect.connect`.
        :raises UpstreamTimedOut: as there.
        """
        kept = None if fresh else self.kept(time.monotonic())
        return kept if kept is not None else Connection(self._dial(until), self)

    def kept(self, now: float) -> Connection | None:
        """Return the idle connection used last that still stands; None: there is none.

        :param now: by ``time.monotonic``.
        """
        idle = self._idle
        while idle:
            try:
                connection = idle.pop()
            except IndexError:  # another thread's
                return None
            if connection.idle_until > now and not connection.readable():
                connection.reused = connection._held = True
                return connection
            connection.end()
        return None

    def take_back(self, connection: Connection, idle: float | None, now: float) -> None:
        """Keep a connection for the next exchange, a second shorter than the upstream would.

        :param now: by ``time.monotonic``, or a little before.
        """
        kept = self._idle_timeout if idle is None else min(self._idle_timeout, idle - 1.0)
        if self._keepalive and kept > 0:
            connection.idle_until = now + kept
            self._idle.append(connection)
            if self._idle[0].idle_until <= now:
                self.prune()
        else:
            connection.end()

    def prune(self) -> None:
        """Close the idle connections whose time is over, or whose upstream has closed them."""
        now = time.monotonic()
        for _ in range(len(self._idle)):
            connection = self._oldest()
            if connection is None:
                return
            if connection.idle_until > now and not connection.readable():
                self._idle.append(connection)
            else:
                connection.end()

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they are given back."""
        self._keepalive = False
        while (connection := self._newest()) is not None:
            connection.end()

    def _newest(self) -> Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _oldest(self) -> Connection | None:
        try:
            return self._idle.popleft()
        except IndexError:
            return None
