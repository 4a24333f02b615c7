"""Bytes over a connected socket, every wait bounded: what both sides of the gateway read and write through.

Two kinds with one interface. On gevent's loop a plain socket is read by its descriptor, waits on a watcher that stays, and
is bounded by a timer that is set once for many waits: a wait costs a microsecond, where a socket's own ``settimeout`` and
``recv`` cost five. Everything else (TLS, threads) goes through the socket's own methods.
"""

from __future__ import annotations

import os
import socket
import ssl
from time import monotonic
from typing import Any, Final

from gevent import get_hub, getcurrent, sleep
from gevent.socket import socket as GeventSocket  # noqa: N812 - a class
from mypy_extensions import mypyc_attr

_NEVER: Final = float("inf")
_READ, _WRITE = 1, 2  # libev's masks

# PERF: Final, so that compiled code has them at hand; a look-up in a module costs as much as the call.
_read: Final = os.read
_write: Final = os.write
_current: Final = getcurrent


@mypyc_attr(allow_interpreted_subclasses=True)
class Stream:
    """A connection to read from and write to.

    Both raise TimeoutError if nothing happened in time, and OSError if the connection is broken. One greenlet at a time.

    PERF: a class, not a protocol: compiled code calls its methods directly, those of a protocol by name (0.1 us).
    """

    __slots__ = ()

    def receive(self, size: int, until: float, *, awaited: bool = False) -> bytes:
        """Return up to ``size`` bytes as soon as there is one; empty at the end.

        :param until: when to give up, by ``time.monotonic``.
        :param awaited: nothing is expected to be there yet, so that looking before waiting would be in vain.
        """
        raise NotImplementedError

    def receive_now(self, size: int) -> bytes | None:
        """Return up to ``size`` bytes that are here; empty at the end, None if there is nothing yet."""
        raise NotImplementedError

    def fileno(self) -> int:
        """Return the descriptor, to wait for it among others."""
        raise NotImplementedError

    def send(self, data: bytes | memoryview, patience: float) -> int:
        """Send some of ``data``; return how many bytes.

        :param patience: seconds to wait for room, if there is none. PERF: not a time, which nearly nobody would look at.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the socket, without closing it. A second call does nothing."""
        raise NotImplementedError


def stream_of(sock: Any) -> Stream:
    """Return the stream of a connected socket."""
    return LoopStream(sock) if type(sock) is GeventSocket else SocketStream(sock)


def take_turns() -> None:
    """Let the loop look at its sockets, and run whoever is ready, before the caller goes on. Costs 6 us.

    Not ``gevent.sleep(0)``: that comes back a thousand times before the loop has looked at one.
    """
    sleep(1e-9)


class LoopStream(Stream):
    """A plain socket on gevent's loop."""

    __slots__ = ("_fd", "_loop", "_rings_at", "_sleep", "_timer", "_until", "_waiter", "_watch", "_watching")

    def __init__(self, sock: GeventSocket) -> None:
        hub = get_hub()
        self._fd: int = sock.fileno()
        self._loop: Any = hub.loop
        self._sleep = hub.switch
        self._watch: Any = hub.loop.io(self._fd, _READ)
        self._watching = False
        self._waiter: Any = None
        self._timer: Any = None
        self._until = self._rings_at = _NEVER

    def receive(self, size: int, until: float, *, awaited: bool = False) -> bytes:
        if not awaited:
            try:
                return _read(self._fd, size)
            except BlockingIOError:
                pass
        while True:
            self._wait(until)
            try:
                return _read(self._fd, size)
            except BlockingIOError:
                continue

    def receive_now(self, size: int) -> bytes | None:
        try:
            return _read(self._fd, size)
        except BlockingIOError:
            return None

    def fileno(self) -> int:
        return self._fd

    def send(self, data: bytes | memoryview, patience: float) -> int:
        try:
            return _write(self._fd, data)
        except BlockingIOError:
            return self._send_later(data, patience)

    def close(self) -> None:
        self._fd = -1
        if self._watch is not None:
            self._watch.stop()
            self._watch.close()
            self._watch = None
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    # ---- waiting to read: in the hub, all but the first

    def _wait(self, until: float) -> None:
        if self._watch is None:
            raise OSError("the stream is closed")
        self._waiter = _current()
        self._until = until
        if until < self._rings_at:
            self._ring_at(until)
        if not self._watching:
            self._watching = True
            self._watch.start(self._ready)
        try:
            self._sleep()
        finally:
            self._waiter = None

    def _ready(self) -> None:
        waiter = self._waiter
        if waiter is None:  # bytes that nobody waits for: stop being told of them. The next wait starts anew
            self._watching = False
            self._watch.stop()
        else:
            self._waiter = None
            waiter.switch()

    def _ring_at(self, until: float) -> None:
        if self._timer is not None:
            self._timer.close()
        self._rings_at = until
        self._timer = self._loop.timer(max(until - monotonic(), 0.0))
        self._timer.start(self._rang)

    def _rang(self) -> None:
        """Look whether the time is really over: most waits end long before, and the next one has set a later end."""
        self._rings_at = _NEVER
        waiter = self._waiter
        if waiter is None:
            return
        if self._until > monotonic():
            self._ring_at(self._until)
        else:
            self._waiter = None
            waiter.throw(TimeoutError("timed out"))

    # ---- waiting to write: seldom

    def _send_later(self, data: bytes | memoryview, patience: float) -> int:
        watch = self._loop.io(self._fd, _WRITE)
        timer = self._loop.timer(max(patience, 0.0))
        current = _current()
        watch.start(current.switch)
        timer.start(current.throw, TimeoutError("timed out"))
        try:
            self._sleep()
        finally:
            for watcher in (watch, timer):
                watcher.stop()
                watcher.close()
        try:
            return _write(self._fd, data)
        except BlockingIOError:
            return 0


class SocketStream(Stream):
    """Any socket, by its own methods and its own timeout."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self, size: int, until: float, *, awaited: bool = False) -> bytes:
        self._limit(until - monotonic())
        return self._sock.recv(size)

    def receive_now(self, size: int) -> bytes | None:
        self._sock.settimeout(0.0)
        try:
            return self._sock.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes | memoryview, patience: float) -> int:
        self._limit(patience)
        return self._sock.send(data)

    def close(self) -> None:
        """Do nothing: there is nothing beside the socket."""

    def _limit(self, left: float) -> None:
        if left <= 0:
            raise TimeoutError("timed out")
        self._sock.settimeout(None if left == _NEVER else left)
