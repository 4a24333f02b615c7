"""The tunnel of an upgraded connection: bytes both ways, as they come, until either side or a limit ends it."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event
from gevent.socket import socket as GeventSocket  # noqa: N812 - a class

from gwproxy.dataplane.upstream_response import RawResponse
from gwproxy.dataplane.websocket import GOING_AWAY, Frames, close_frame
from gwproxy.http.bodies import ResponseBody
from gwproxy.http.headers import Headers, check_field
from gwproxy.stream import take_turns

ENDING = 1.0  # seconds the other side gets to end, too, once one has
PARTING = 2.0  # seconds both sides get to say goodbye when the gateway ends it

_READ = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds
_UNSAID = frozenset(("connection", "content-length", "transfer-encoding", "upgrade"))


class Upgraded(ResponseBody):
    """What a 101 has in place of a body: the upstream's connection.

    :ivar raw: the response it came with.
    """

    __slots__ = ("raw",)

    def __init__(self, raw: RawResponse, close: Callable[[], None]) -> None:
        super().__init__(close=close)
        self.raw = raw


def switching_head(headers: Headers) -> bytes:
    """Return the head of the 101 that a client gets.

    :param headers: end-to-end fields; what frames a body, or speaks of the connection, is left out.
    :raises ValueError: one of them cannot stand in a head.
    """
    lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket"]
    for key, name, value in headers.lower_items():
        if key not in _UNSAID:
            check_field(name, value)
            lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Way:
    """One direction of a tunnel. It keeps one piece at most, and reads the next when that one is out.

    :ivar received: bytes that came from its source.
    :ivar moved_at: when a byte was last received or sent, by ``time.monotonic``.
    :ivar stuck_since: since when its sink takes nothing; None while there is nothing to send.
    :ivar ended: whether the source has ended its side.
    :ivar broken: whether source or sink is beyond use.
    :ivar parted: whether its sink was sent a Close frame of ours; nothing may follow.
    """

    def __init__(self, source: Any, sink: Any, first: bytes, *, masked: bool, changed: Event) -> None:
        """Take over a direction.

        :param first: bytes of the source that were read before.
        :param masked: whether the source's frames are: a client's.
        :param changed: set whenever something happens that may end the tunnel.
        """
        self._source = source
        self._sink = sink
        self._first = first
        self._masked = masked
        self._changed = changed
        self._farewell = b""
        self.frames = Frames(masked=masked)
        self.received = 0
        self.moved_at = time.monotonic()
        self.stuck_since: float | None = None
        self.ended = self.broken = self.parted = False

    def copy(self) -> None:
        """Copy until the source ends, and pass that on."""
        first, self._first = self._first, b""
        try:
            if first:
                self._pass_on(first)
            del first  # like every piece: an idle tunnel keeps none
            while self._pass_on(self._source.recv(_READ)):
                take_turns()  # two that are always ready must not keep all others waiting
            self.ended = True
            GeventSocket.shutdown(self._sink, socket.SHUT_WR)  # of the base class: TLS would stop reading, too
        except OSError:
            pass  # told by broken
        finally:
            self.broken = not self.ended
            self._changed.set()

    def part(self, reason: str) -> None:
        """Send the sink a Close frame, as soon as it does not stand within another; what comes after is not passed on."""
        self._farewell = close_frame(GOING_AWAY, reason, masked=self._masked)
        if self.stuck_since is None and self.frames.between and not self.ended:
            self._part()

    @property
    def over(self) -> bool:
        """Whether nothing of importance can come from the source any more."""
        return self.ended or self.frames.closed or self.frames.lost

    @property
    def closed(self) -> bool:
        """Whether a Close frame went this way, the source's or ours."""
        return self.frames.closed or self.parted

    def reset(self) -> None:
        """Make closing the sink forget what it has not taken: else the kernel keeps megabytes for who does not read."""
        if self.stuck_since is not None:
            with contextlib.suppress(OSError):
                self._sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _pass_on(self, data: bytes) -> bool:
        """Send on what came; False if it was the end."""
        if not data:
            return False
        self.moved_at = time.monotonic()
        self.received += len(data)
        end = self.frames.feed(data)
        if self.frames.closed:
            self._changed.set()
        if self.parted:
            return True
        cut = self._farewell and end and not self.frames.closed
        self._send(data[:end] if cut else data)
        if cut or (self._farewell and self.frames.between):
            self._part()
        return True

    def _part(self) -> None:
        self.parted = True
        self._send(self._farewell)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        self.stuck_since = time.monotonic()
        while view:
            count = self._sink.send(view)
            self.moved_at = self.stuck_since = time.monotonic()
            view = view[count:]
        self.stuck_since = None


class Tunnel:
    """A client's and an upstream's connection, joined.

    It ends when one side does (the other gets :data:`ENDING` seconds), when no byte went either way for ``idle`` seconds, when a
    side takes nothing for as long, at ``deadline``, or by :meth:`end`. If it is the gateway that ends it, both sides are sent
    a Close frame (1001), if one can be told to stand between two frames. The sockets are closed by whoever brought them.

    :param client: its socket, without a timeout.
    :param early: what was read of it before.
    :param body: of the response that joins them.
    :param idle: seconds.
    :param deadline: by ``time.monotonic``; None: none.
    """

    def __init__(self, client: Any, early: bytes, body: Upgraded, *, idle: float, deadline: float | None) -> None:
        upstream: Any = body.raw.socket
        upstream.settimeout(None)
        self._client = client
        self._idle = idle
        self._deadline = deadline
        self._changed = Event()
        self._up = Way(client, upstream, early, masked=True, changed=self._changed)
        self._down = Way(upstream, client, body.raw.leftover, masked=False, changed=self._changed)
        self._ways: Sequence[Way] = (self._up, self._down)
        self._ended_at: float | None = None
        self._asked = ""
        self.reason = ""

    @property
    def bytes_in(self) -> int:
        """Bytes the client sent."""
        return self._up.received

    @property
    def bytes_out(self) -> int:
        """Bytes the upstream sent."""
        return self._down.received

    @property
    def completed(self) -> bool:
        """Whether it ended with a Close frame, not by a lost connection."""
        return any(way.closed for way in self._ways)

    def end(self, reason: str) -> None:
        """Ask it to end; returns at once."""
        self._asked = reason
        self._changed.set()

    def run(self, head: bytes) -> None:
        """Send the client ``head``, then copy until it is over; :attr:`reason` says why the gateway ended it, if it did."""
        copying: list[gevent.Greenlet] = []
        try:
            with gevent.Timeout(self._idle, TimeoutError("the client takes no response")):
                self._client.sendall(head)
            copying = [gevent.spawn(way.copy) for way in self._ways]
            self.reason = self._watch()
            if self.reason:
                with gevent.Timeout(PARTING, False):
                    self._part()
        except OSError:
            self._down.broken = True
        finally:
            gevent.killall(copying)
            for way in self._ways:
                way.reset()

    def _watch(self) -> str:
        """Wait until it has to end; return why, empty if client or upstream ended it."""
        while not self._over():
            if self._asked:
                return self._asked
            due, reason = min(self._limits(), key=lambda limit: limit[0])
            left = due - time.monotonic()
            if left <= 0:
                return reason
            self._changed.wait(left)
            self._changed.clear()
        return ""

    def _over(self) -> bool:
        """Whether both sides are done, or one is lost."""
        if any(way.broken for way in self._ways) or all(way.ended for way in self._ways):
            return True
        both_closed = all(way.frames.closed for way in self._ways)
        if self._ended_at is None and (both_closed or any(way.ended for way in self._ways)):
            self._ended_at = time.monotonic()
        return both_closed and any(way.ended for way in self._ways)

    def _limits(self) -> list[tuple[float, str]]:
        """Return when it has to end if nothing happens until then, and why; why is empty once a side has ended."""
        limits = [(way.stuck_since + self._idle, "write timeout") for way in self._ways if way.stuck_since is not None]
        limits.append((max(way.moved_at for way in self._ways) + self._idle, "idle timeout"))
        if self._deadline is not None:
            limits.append((self._deadline, "time limit"))
        if self._ended_at is not None:
            limits.append((self._ended_at + ENDING, ""))
        return limits

    def _part(self) -> None:
        """Say goodbye both ways, and wait for the answers: closing with them unread would reset away the goodbye."""
        for way in self._ways:
            way.part(self.reason)
        while not (any(way.broken for way in self._ways) or all(way.over for way in self._ways)):
            self._changed.wait()
            self._changed.clear()
