"""Commands of all greenlets of a worker on one connection: written together, answered in order.

No command waits for the reply to another, unless that is late: a store that hangs will do all it was told when it is back, though
nobody waits for it any more. What comes in one turn of gevent's loop leaves in one write at its end, and each
reply goes to the greenlet at the head of the queue: one that was killed meanwhile keeps its place there, and its reply is
dropped. So there is nothing to hand over, no lock, and no connection to fetch and to give back. A command costs 2 µs of
CPU among others and 15 alone, where a call of redis-py costs 80 to 125.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

import gevent
import hiredis
import redis
from gevent import get_hub, getcurrent
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gwproxy.errors import StoreUnavailable
from gwproxy.store.breaker import Breaker
from gwproxy.store.connection import STORE_ERRORS, describe, refuses_all

TICK = 0.005  # seconds: how far beyond its time a call may get
PATIENCE = 0.005  # seconds: how much later than usual a reply may be, until further commands are held back
_READ = 64 * 1024
_READABLE, _WRITABLE = 1, 2  # libev's masks
_NONE = object()

Bound = Callable[[float, Callable[[], Any]], Any]


def _unsettled() -> None:
    raise AssertionError("nobody waits before the first command")


class Pipeline:
    """Sends commands of the greenlets of one thread, and wakes each with its reply.

    One connection, of the client's own pool; a closed one is replaced at the next command, by a greenlet that no request
    can take along. A store that does not answer the oldest command in time is left, and whoever waited for it is told.

    :param bound: ends a function after some seconds, wherever it waits.
    :param timeout: seconds from the end of the turn in which a call was made, to its reply.
    """

    def __init__(self, client: redis.Redis, breaker: Breaker, bound: Bound, timeout: float) -> None:
        self.breaker = breaker
        self._pool: Any = client.connection_pool
        self._bound = bound
        self._timeout = timeout
        self._hub: Any = None
        self._wait: Callable[[], object] = _unsettled
        self._gathered: list[_Call] = []  # in this turn of the loop, or since a connection is made
        self._leaving = False  # whether they are about to be written
        self._dialling = False
        self._usual = 0.0  # seconds a reply takes
        self._patience = PATIENCE
        self._line: _Line | None = None
        self._lines: list[_Line] = []  # it, and those that are left and not answered yet
        self._tick: Any = None
        self._ticking = False

    def ask(self, command: bytes) -> Any:
        """Send a packed command and return its reply.

        :raises StoreUnavailable: no reply in time, or an error as reply; in another thread than its first caller's, always.
        :raises NoScriptError: as :meth:`RoundTrips.execute`.
        """
        hub = get_hub()
        if hub is not self._hub:
            self._settle(hub)
        call = _Call(command, getcurrent())
        self._gathered.append(call)
        if not self._leaving:
            self._leaving = True
            hub.loop.run_callback(self._leave)
        try:
            while call.reply is _NONE:
                self._wait()
        except BaseException:  # killed, or out of its budget
            if call in self._gathered:
                self._gathered.remove(call)
            raise
        finally:
            call.waiter = None
        reply = call.reply
        return _raised(reply) if isinstance(reply, Exception) else reply

    def close(self) -> None:
        """Close the connection; a later command opens another. Who waits is told."""
        for line in tuple(self._lines):
            line.fail(RedisConnectionError("the store was closed"))
        if self._tick is not None:
            self._tick.stop()
            self._ticking = False

    def _settle(self, hub: Any) -> None:
        if self._hub is not None:
            raise StoreUnavailable("the store belongs to another thread of this worker")
        self._hub = hub
        self._wait = hub.switch
        self._tick = hub.loop.timer(TICK, TICK)

    # ---- in the hub

    def _leave(self) -> None:
        """Write what was gathered in this turn."""
        self._leaving = False
        calls = self._gathered
        if not calls:
            return
        if not self._ticking:
            self._ticking = True
            self._tick.start(self._look)
        line = self._line
        if line is not None and line.outdated:
            line.retire()
            line = self._line
        now = monotonic()
        for call in calls:
            if not call.deadline:
                call.deadline = now + self._timeout
        if line is None:
            if not self._dialling:
                self._dialling = True
                gevent.spawn(self._dial)
        elif not line.waiting or now - line.waiting[0].sent < self._patience:
            self._gathered = []
            line.send(calls, now)

    def _look(self) -> None:
        """Leave a store that has not answered in time. No timer a call: this one costs a worker under load 0.1 %."""
        now = monotonic()
        for line in tuple(self._lines):
            if line.overdue(now):
                line.ready()  # the loop may have been held by somebody while the reply came
                if line.overdue(now):
                    line.fail(RedisTimeoutError("the store did not answer in its time"))
        late = [call for call in self._gathered if 0 < call.deadline <= now]  # held back, or still without a connection
        if late:
            self._gathered = [call for call in self._gathered if call not in late]
            self.tell(late, RedisTimeoutError("the store did not answer in its time"))
        if not self._gathered and not any(line.waiting for line in self._lines):
            self._ticking = False
            self._tick.stop()

    def answered(self, sent: float) -> None:
        """Note that a command was answered; let those leave that were held back."""
        self.breaker.succeeded()
        self._usual = max(monotonic() - sent, 0.9 * self._usual)
        self._patience = PATIENCE + 2 * self._usual
        self.let_leave()

    def let_leave(self) -> None:
        """Write at the end of this turn what was held back."""
        if self._gathered and not self._leaving:
            self._leaving = True
            self._hub.loop.run_callback(self._leave)

    def failed(self, calls: list[_Call], error: Exception) -> None:
        """Note that the store is not well, and tell ``calls`` and those who were held back for its sake."""
        self.breaker.failed(error)
        calls += self._gathered
        self._gathered = []
        self.tell(calls, error)

    def left(self, line: _Line) -> None:
        """Note that ``line`` takes no further commands."""
        if self._line is line:
            self._line = None

    def closed(self, line: _Line) -> None:
        """Note that ``line`` is gone."""
        self.left(line)
        self._lines.remove(line)

    def tell(self, calls: Iterable[_Call], error: Exception) -> None:
        """Wake ``calls`` with an error; they run in the hub's turn, not in that of who tells them."""
        for call in calls:
            self._hub.loop.run_callback(call.end, error)

    # ---- in a greenlet of its own

    def _dial(self) -> None:
        failure: Exception = RedisConnectionError("connecting was interrupted")
        try:
            connection = self._bound(self._timeout, self._pool.get_connection)
            try:
                self._line = _Line(self, self._hub, self._pool, connection)
            except OSError:  # no descriptor left
                connection.disconnect()
                self._pool.release(connection)
                raise
            self._lines.append(self._line)
        except STORE_ERRORS as error:
            failure = error
        finally:
            self._dialling = False
            if self._line is None:
                self.failed([], failure)
            else:
                self._hub.loop.run_callback(self._leave)


class _Line:
    """A connection that commands are written to, as they come, and the queue of those who wait for its replies."""

    def __init__(self, pipeline: Pipeline, hub: Any, pool: Any, connection: Any) -> None:
        self._pipeline = pipeline
        self._pool = pool
        self._connection = connection
        self._sock = connection._sock
        self._sock.settimeout(0.0)
        # A descriptor of its own: redis-py may close its one at any time, and the number must not be another's then.
        self._fd = os.dup(self._sock.fileno())
        self._plain = not hasattr(self._sock, "context")
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=connection._parser.parse_error, notEnoughData=_NONE)
        self.waiting: deque[_Call] = deque()
        self._unsent = b""
        self._retired = False
        # Not what keeps a loop running that has nothing else to do: while somebody waits, the tick does.
        self._readable = hub.loop.io(self._fd, _READABLE, ref=False)
        self._writable = hub.loop.io(self._fd, _WRITABLE, ref=False)
        self._readable.start(self.ready)

    @property
    def outdated(self) -> bool:
        """Whether it is to be replaced, as :attr:`gwproxy.store.redial.Paced.outdated`."""
        return bool(self._connection.outdated)

    def overdue(self, now: float) -> bool:
        """Whether the oldest command should have been answered."""
        return bool(self.waiting) and self.waiting[0].deadline <= now

    def send(self, calls: list[_Call], now: float) -> None:
        """Write the commands of ``calls``."""
        for call in calls:
            call.sent = now
        self.waiting.extend(calls)
        data = calls[0].command if len(calls) == 1 else b"".join([call.command for call in calls])
        if self._unsent:
            self._unsent += data
        else:
            self._write(data)

    def retire(self) -> None:
        """Take no further commands, and close when the last one is answered."""
        self._retired = True
        self._pipeline.left(self)
        if not self.waiting:
            self._close()

    def fail(self, error: Exception) -> None:
        """Close, and tell those who wait."""
        calls = list(self.waiting)
        self.waiting.clear()
        self._close()
        if calls:
            self._pipeline.failed(calls, error)

    def ready(self) -> None:
        """Read what is there, and wake those whose replies it holds."""
        try:
            data = os.read(self._fd, _READ) if self._plain else self._decrypted()
            if not data:
                raise RedisConnectionError("the store has closed the connection")
            self._reader.feed(data)
            answered, grave = self._answered()
        except BlockingIOError:
            return
        except STORE_ERRORS as error:
            self.fail(error)
            return
        if grave is not None:
            self._pipeline.breaker.failed(grave)
            self._connection.refused(grave)
            self.retire()
            self._pipeline.let_leave()
        elif answered:
            self._pipeline.answered(answered[0].sent)
            if self._retired and not self.waiting:
                self._close()
        for call in answered:
            call.wake()

    def _answered(self) -> tuple[list[_Call], Exception | None]:
        """Give each reply to who waits for it; return those, and an error that is the store's own state."""
        answered: list[_Call] = []
        grave: Exception | None = None
        gets, waiting = self._reader.gets, self.waiting
        while (reply := gets()) is not _NONE:
            if not waiting:
                raise RedisConnectionError("a reply that nobody has asked for")
            call = waiting.popleft()
            call.reply = reply
            answered.append(call)
            if isinstance(reply, Exception) and (not isinstance(reply, ResponseError) or refuses_all(reply)):
                grave = reply
        return answered, grave

    def _decrypted(self) -> bytes:
        """Return all that TLS has: the descriptor does not tell of what was read from it and not given out.

        :raises BlockingIOError: there is nothing yet.
        """
        parts: list[bytes] = []
        try:
            while part := self._sock.recv(_READ):
                parts.append(part)
        except ssl.SSLWantReadError:
            if not parts:
                raise BlockingIOError from None
        return b"".join(parts)

    def _write(self, data: bytes) -> None:
        try:
            sent = os.write(self._fd, data) if self._plain else self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.fail(error)
            return
        if sent == len(data):
            if self._unsent:
                self._unsent = b""
                self._writable.stop()
        else:
            if not self._unsent:
                self._writable.start(self._write_on)
            self._unsent = data[sent:]

    def _write_on(self) -> None:
        self._write(self._unsent)

    def _close(self) -> None:
        if self._fd < 0:
            return
        for watcher in (self._readable, self._writable):
            watcher.stop()
            watcher.close()
        os.close(self._fd)
        self._fd = -1
        self._pipeline.closed(self)
        self._connection.disconnect()
        self._pool.release(self._connection)


class _Call:
    """One command on its way, and who waits for its reply; None: nobody any more."""

    __slots__ = ("command", "deadline", "reply", "sent", "waiter")

    def __init__(self, command: bytes, waiter: Any) -> None:
        self.command = command
        self.waiter = waiter
        self.reply: Any = _NONE
        self.deadline = self.sent = 0.0

    def end(self, error: Exception) -> None:
        self.reply = RedisConnectionError(describe(error))
        self.wake()

    def wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            try:
                waiter.switch()
            except BaseException:  # of what runs on there: it is nobody else's, who still have to be woken
                get_hub().handle_error(waiter, *sys.exc_info())


def _raised(error: Exception) -> Any:
    """Raise what the caller gets, each its own exception."""
    if isinstance(error, NoScriptError):
        raise NoScriptError(str(error))
    raise StoreUnavailable(describe(error))
