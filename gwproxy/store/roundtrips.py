"""Round trips that concurrent requests share: one redis-py call costs 80-125 µs of CPU, a command among others 7-15 µs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.exceptions import NoScriptError, ResponseError

from gwproxy.errors import StoreUnavailable
from gwproxy.store.breaker import Breaker
from gwproxy.store.connection import describe, is_cluster, refuses_all

PATIENCE = 0.005  # seconds a call waits for a trip under way; a distant store would else be asked one trip at a time
_PROBE_TIMEOUT = 1.0  # seconds
MOST = 128  # commands a trip: more would keep the first waiting for the last


class RoundTrips:
    """Sends commands of one worker; those that come while a trip is under way go together in the next.

    An idle store is asked at once. A call ends within ``timeout`` seconds, whatever the store does: in greenlets also if
    a name is resolved slowly, a handshake is, or a reply comes byte by byte (threads have the sockets' timeouts only, which
    begin anew with each of those). When a trip fails, those who waited for it fail too.

    :param timeout: seconds for a call, from its arrival to its reply.
    """

    def __init__(self, client: redis.Redis, breaker: Breaker, timeout: float = 0.1) -> None:
        self._client: Any = client
        self._breaker = breaker
        self._timeout = timeout
        self._lock = threading.Lock()
        self._waiting: list[_Call] = []
        self._under_way = 0
        self._alone = is_cluster(client)
        self._bound = _bound_of_greenlets()

    def execute(self, *command: str | bytes | int | float) -> Any:
        """Send one command and return its reply.

        :raises StoreUnavailable: no reply in time, an error as reply, or the breaker is open.
        :raises NoScriptError: the server does not know the script of an ``EVALSHA``; send it.
        """
        if self._alone:
            return self._execute_alone(command)
        self._breaker.check()
        call = _Call(command, time.monotonic() + self._timeout)
        with self._lock:
            idle = not self._under_way
            if idle:
                self._under_way += 1
            else:
                self._waiting.append(call)
        batch = [call] if idle else self._wait(call)
        if batch:
            self._lead(batch, call.deadline)
        return call.result()

    def _execute_alone(self, command: tuple[Any, ...]) -> Any:
        def send() -> Any:
            try:
                return self._client.execute_command(*command)
            except NoScriptError as error:  # the store is well
                return error

        reply = self._breaker.call(lambda: self._bound(self._timeout, send))
        if isinstance(reply, NoScriptError):
            raise reply
        return reply

    def probe(self, *command: str | bytes | int | float) -> None:
        """Send one command, whatever the breaker says, as somebody who may wait for longer than a request.

        :raises redis.RedisError: the store is not well.
        """
        if self._alone:
            self._bound(_PROBE_TIMEOUT, lambda: self._client.execute_command(*command))
            return
        deadline = time.monotonic() + _PROBE_TIMEOUT
        self._bound(_PROBE_TIMEOUT, lambda: self._travel([_Call(command, deadline)], deadline))

    def _wait(self, call: _Call) -> list[_Call] | None:
        """Wait for a reply (None), or for the turn to lead a batch."""
        try:
            if call.gate.acquire(timeout=PATIENCE):
                return call.batch
            with self._lock:
                if call in self._waiting:
                    self._under_way += 1
                    return self._next_batch(call)
            if not call.gate.acquire(timeout=max(call.deadline - time.monotonic(), 0.0)):
                with self._lock:
                    call.gone = call.batch is None
                    if call in self._waiting:
                        self._waiting.remove(call)
        except BaseException:
            self._leave(call)
            raise
        return call.batch

    def _next_batch(self, first: _Call | None = None) -> list[_Call]:
        if first is not None:
            self._waiting.remove(first)
            self._waiting.insert(0, first)
        batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        return batch

    def _leave(self, call: _Call) -> None:
        """Take out a call whose greenlet was killed, and pass on what it was to lead."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            if call.batch:
                # Who has given up in the meantime must not be made to lead: the trip would be under way for ever.
                self._waiting[:0] = [other for other in call.batch if other is not call and not other.gone]
                self._hand_over()

    def _lead(self, batch: list[_Call], deadline: float) -> None:
        failure = "the round trip was interrupted"
        also: list[_Call] = []
        try:
            self._breaker.call(lambda: self._bound(deadline - time.monotonic(), lambda: self._travel(batch, deadline)))
        except StoreUnavailable as error:
            failure = str(error)
            with self._lock:
                also, self._waiting = self._waiting, []
        finally:
            with self._lock:
                self._hand_over()
            for call in batch + also:
                call.end(failure)

    def _hand_over(self) -> None:
        """Let the first who waits lead the rest, or note that one trip fewer is under way. Called with the lock."""
        if self._waiting:
            batch = self._next_batch()
            batch[0].batch = batch
            batch[0].gate.release()
        else:
            self._under_way -= 1

    def _travel(self, batch: list[_Call], deadline: float) -> None:
        pool = self._client.connection_pool
        connection = pool.get_connection()
        grave: ResponseError | None = None
        try:
            connection.send_packed_command(connection.pack_commands([call.command for call in batch]), check_health=False)
            for call in batch:
                try:
                    call.reply = connection.read_response(timeout=max(deadline - time.monotonic(), 0.001))
                except ResponseError as error:
                    call.reply = error
                    if refuses_all(error):
                        grave = error
            if grave is not None:
                raise grave
        except BaseException:
            connection.disconnect()  # replies may be under way; and a demoted master is left
            raise
        finally:
            pool.release(connection)


def _bound_of_greenlets() -> Callable[[float, Callable[[], Any]], Any]:
    """Return what ends a function after some seconds wherever it waits: possible in greenlets, not in threads."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("socket"):
        return lambda seconds, function: function()
    gevent = sys.modules["gevent"]

    def bound(seconds: float, function: Callable[[], Any]) -> Any:
        timer = gevent.Timeout(max(seconds, 0.001))
        timer.start()
        try:
            return function()
        except gevent.Timeout as expired:  # no Exception, so that nothing on its way takes it for an answer of one server of several
            if expired is not timer:
                raise
            raise redis.TimeoutError("the store did not answer in its time") from None
        finally:
            timer.close()

    return bound


_NO_REPLY = object()


class _Call:
    """One command on its way: waiting, in somebody's batch, leading one, or ended."""

    __slots__ = ("batch", "command", "deadline", "failure", "gate", "gone", "reply")

    def __init__(self, command: tuple[Any, ...], deadline: float) -> None:
        self.command = command
        self.deadline = deadline
        self.batch: list[_Call] | None = None
        self.reply: Any = _NO_REPLY
        self.failure = ""
        self.gone = False  # its caller did not wait for it any longer
        self.gate = threading.Lock()
        self.gate.acquire()

    def end(self, failure: str) -> None:
        self.failure = failure
        if self.gate.locked():
            self.gate.release()

    def result(self) -> Any:
        """Return the reply, or raise; each caller its own exception."""
        if isinstance(self.reply, NoScriptError):
            raise NoScriptError(str(self.reply))
        if isinstance(self.reply, ResponseError):
            raise StoreUnavailable(describe(self.reply))
        if self.reply is _NO_REPLY:
            raise StoreUnavailable(self.failure or "the store did not answer in its time")
        return self.reply
