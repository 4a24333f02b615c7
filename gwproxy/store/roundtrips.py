"""Commands of requests on their way to the store and back: bounded in time, behind a breaker."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import NoScriptError, ResponseError

from gwproxy.errors import StoreUnavailable
from gwproxy.store.breaker import Breaker
from gwproxy.store.commands import Argument, exchange, pack
from gwproxy.store.connection import describe, is_cluster, refuses_all

if TYPE_CHECKING:
    from gwproxy.store.pipeline import Pipeline

_PROBE_TIMEOUT = 1.0  # seconds


class RoundTrips:
    """Sends commands of one worker, those of its greenlets together: see :mod:`gwproxy.store.pipeline`.

    A call ends within ``timeout`` seconds, whatever the store does: in greenlets also if a name is resolved slowly, a
    handshake is, or a reply comes byte by byte. In threads, and to a cluster, each command takes a connection for itself,
    and threads have the sockets' timeouts only, which begin anew with each of those.

    :param timeout: seconds for a call, from its arrival to its reply.
    """

    def __init__(self, client: redis.Redis, breaker: Breaker, timeout: float = 0.1) -> None:
        self._client: Any = client
        self._breaker = breaker
        self._timeout = timeout
        self._cluster = is_cluster(client)
        self._pipeline: Pipeline | None = None
        self._bound = _unbounded
        if in_greenlets():
            self._bound = _bounded
            if not self._cluster:
                from gwproxy.store.pipeline import Pipeline  # where there is no gevent it stays unloaded

                self._pipeline = Pipeline(client, breaker, _bounded, timeout)

    def pipeline(self) -> Pipeline | None:
        """Return where a packed command is sent with those of others; None if :meth:`execute` has to send it."""
        return None if self._breaker.tripped else self._pipeline

    def execute(self, *command: Argument) -> Any:
        """Send one command and return its reply.

        :raises StoreUnavailable: no reply in time, an error as reply, or the breaker is open.
        :raises NoScriptError: the server does not know the script of an ``EVALSHA``; send it.
        """
        pipeline = self.pipeline()
        if pipeline is not None:
            return pipeline.ask(pack(*command))
        deadline = time.monotonic() + self._timeout
        reply = self._breaker.call(lambda: self._bound(self._timeout, lambda: self._send(command, deadline)))
        if isinstance(reply, NoScriptError):
            raise reply
        if isinstance(reply, ResponseError):
            raise StoreUnavailable(describe(reply))
        return reply

    def probe(self, *command: Argument) -> None:
        """Send one command, whatever the breaker says, as somebody who may wait for longer than a request.

        :raises redis.RedisError: the store is not well.
        """
        deadline = time.monotonic() + _PROBE_TIMEOUT
        self._bound(_PROBE_TIMEOUT, lambda: self._send(command, deadline))

    def close(self) -> None:
        """Close what commands share; a later one opens it again."""
        if self._pipeline is not None:
            self._pipeline.close()

    def _send(self, command: tuple[Argument, ...], deadline: float) -> Any:
        """Send a command on a connection of its own; return its reply, an error of the command's own included."""
        if self._cluster:
            try:
                return self._client.execute_command(*command)
            except NoScriptError as error:
                return error
        (reply,) = exchange(self._client, pack(*command), 1, deadline)
        if isinstance(reply, ResponseError) and refuses_all(reply):
            raise reply
        return reply


def in_greenlets() -> bool:
    """Whether sockets of this process are gevent's."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("socket")


def _unbounded(seconds: float, function: Callable[[], Any]) -> Any:
    return function()


def _bounded(seconds: float, function: Callable[[], Any]) -> Any:
    """End ``function`` after some seconds wherever it waits: possible in greenlets, not in threads."""
    gevent = sys.modules["gevent"]
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
