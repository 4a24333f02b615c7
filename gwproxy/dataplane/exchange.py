"""One request and the head of its response, on one connection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from mypy_extensions import mypyc_attr

from gwproxy.dataplane import wire
from gwproxy.dataplane.failures import ClientLeft, Failure, Phase, UpstreamFailed, UpstreamTimedOut
from gwproxy.dataplane.pool import Connection
from gwproxy.dataplane.upstream_request import SizedBody, UpstreamRequest
from gwproxy.dataplane.upstream_response import LOOK, RawResponse, WholeResponse
from gwproxy.errors import RequestTimeout

_NOTHING: Final = (b"", b"", b"")
_READ: Final = 64 * 1024
_PLAIN: Final = frozenset(("GET", "DELETE", "OPTIONS"))  # without a body, say nothing of its length, and are answered with one


class _Answered(Exception):
    """The upstream has answered, or closed, while the client's next bytes were waited for."""


def exchange(request: UpstreamRequest, connection: Connection, now: float, *, keepalive: bool) -> RawResponse | WholeResponse:
    """Send a request and return its response, which has the connection from here on.

    Here is the common case: a request without a body, taken at once, answered in one piece. :class:`Exchange` is all others.

    :param now: by ``time.monotonic``.
    :raises Failure: as it says; the connection is the caller's to close then, as with whatever the body raises.
    """
    method = request.method
    if request.body is not None or method not in _PLAIN or request.deadline is not None or request.upgrade or not keepalive:
        return Exchange(request, connection).run(keepalive=keepalive)
    stream, timeouts = connection.stream, request.timeouts
    head = wire.encode_head(method, request.target, request.block, b"")
    sent, data = 0, None
    try:
        sent = stream.send(head, timeouts.read)
        if sent == len(head):
            until = now + timeouts.head
            data = stream.receive(_READ, until if request.client_gone is None else min(until, now + LOOK), awaited=True)
    except OSError:  # a timeout, too
        data = None
    first, end, body = data.partition(b"\r\n\r\n") if data else _NOTHING  # PERF: not find(), which costs twice as much, and slices
    if first and end:
        try:
            answer, shared = connection.parse_head(first)
        except wire.Malformed as error:
            rest = Exchange(request, connection)
            rest.sent = sent
            raise rest.malformed(data or b"", error) from None
        status = answer.status
        if answer.length == len(body) and status >= 200 and answer.reusable and status not in wire.NO_BODY:
            whole = WholeResponse(answer, body, connection.reused, shared)
            connection.give_back(answer.idle, now)  # at most LOOK ago
            return whole
    rest = Exchange(request, connection)
    rest.sent = sent
    if data is not None:
        rest.received, rest.ended = data, not data
    else:
        rest.look()  # here, too: one that leaves at once would be noticed only after the next wait
    return rest.run(keepalive=True)


@mypyc_attr(allow_interpreted_subclasses=True)
class Exchange:
    """Sends a request, and reads until the head of the final response is complete.

    The upstream may answer before it has the whole request (413, 401), be it that the client is silent: then the rest is
    not sent, and the connection is not used again.

    :ivar sent: bytes of the request; more than 0 before :meth:`run`: those are not sent again.
    :ivar received: bytes of the answer that are not parsed yet.
    :ivar ended: the upstream sends no more.
    """

    __slots__ = ("_connection", "_head", "_interim", "_phase", "_request", "_scanned", "_stream", "_written", "ended", "received", "sent")

    def __init__(self, request: UpstreamRequest, connection: Connection) -> None:
        self._request = request
        self._connection = connection
        self._stream = connection.stream
        self.sent = 0
        self.received = b""
        self.ended = False
        self._phase: Phase = "send"
        self._scanned = 0  # bytes of it in which no end of a head was found
        self._interim = 0
        self._written = False
        self._head: wire.Head | None = None

    def run(self, *, keepalive: bool) -> RawResponse:
        """Return the response; it has the connection from here on.

        :raises Failure: as it says; the connection is the caller's to close then, as with whatever the body raises.
        """
        request = self._request
        transmitted = self._transmit(keepalive)
        if transmitted:
            self._phase = "head"
        head = self._wait()
        return RawResponse(
            head,
            self.received,
            self._connection,
            body=head.has_body(request.method),
            reusable=transmitted and keepalive,
            read=request.timeouts.read,
            deadline=request.deadline,
            client_gone=request.client_gone,
        )

    def _transmit(self, keepalive: bool) -> bool:
        """Send the request; False if the upstream has answered, or closed, before it had all of it."""
        request, body = self._request, self._request.body
        length = len(body) if isinstance(body, bytes) else getattr(body, "length", None)
        framing = wire.framing(request.method, body=body is not None, length=length)
        close = not keepalive and not request.upgrade
        head = wire.encode_head(request.method, request.target, request.block, framing, close=close)
        if not isinstance(body, SizedBody):
            return self._write(head + body if isinstance(body, bytes) else head)
        if not self._write(head):
            return False
        try:
            with body.watching(self._connection.sock.fileno(), self._interrupt, request.deadline):
                return all(not self._answered() and self._write(piece) for piece in self._pieces(body))
        except _Answered:
            return False

    def _pieces(self, body: SizedBody) -> Iterator[bytes]:
        """Yield what is sent of a body.

        :raises ClientLeft: it is shorter than its length.
        :raises RequestTimeout: the client's share of the exchange took all of its time: not the upstream's fault.
        :raises ValueError: it is longer; nothing beyond is sent.
        """
        if body.length is None:
            for chunk in self._in_time(body):
                if chunk:  # an empty one would be the end
                    yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
            yield b"0\r\n\r\n"
            return
        left = body.length
        for chunk in self._in_time(body):
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"a body of more than the {body.length} bytes that were declared")
            if chunk:
                yield chunk
        if left:
            raise ClientLeft(f"{body.length - left} of {body.length} bytes came", phase="send", sent=True)

    def _in_time(self, body: SizedBody) -> Iterator[bytes]:
        deadline = self._request.deadline
        for chunk in body:
            if deadline is not None and time.monotonic() > deadline:
                raise RequestTimeout("the body took longer than the whole exchange may")
            yield chunk

    def _write(self, data: bytes) -> bool:
        """Send ``data``; False if the upstream has answered or closed instead of taking it all."""
        until = self._until(self._request.timeouts.read)
        view: bytes | memoryview = data
        if self.sent and not self._written:  # :func:`exchange` has begun
            view = memoryview(data)[self.sent :]
        self._written = True
        while view:
            try:
                count = self._stream.send(view, self._pause(until, polls=True) - time.monotonic())
            except TimeoutError:
                if self._answered():
                    return False
                continue
            except OSError:
                return False  # what it said before it closed may be here
            self.sent += count
            if count == len(view):
                return True
            view = memoryview(view)[count:]
            until = self._until(self._request.timeouts.read)
        return True

    def _interrupt(self) -> None:
        if self._answered():
            raise _Answered

    def _answered(self) -> bool:
        """Whether a final response or the end came while the request is being sent; does not wait."""
        while not (self.ended or self._parse()):
            if not self._connection.readable():
                return False
            try:
                self._receive(self._until(LOOK), awaited=False)
            except TimeoutError:  # a part of a TLS record
                return False
        return True

    def _wait(self) -> wire.Head:
        """Read until the final head is complete."""
        until = self._until(self._request.timeouts.head)
        polls = self._request.client_gone is not None
        while not self._parse():
            if self.ended:
                raise self._failed("the upstream closed before it answered")
            try:
                self._receive(self._pause(until, polls=polls), awaited=True)
            except TimeoutError:
                self.look()
        assert self._head is not None  # noqa: S101 - _parse said so
        return self._head

    def look(self) -> None:
        """See whether the client is still there; does not wait.

        :raises ClientLeft: it is not.
        """
        gone = self._request.client_gone
        if gone is not None and gone():
            raise self._described(ClientLeft, "the client closed while the upstream was thinking") from None

    def _receive(self, until: float, *, awaited: bool) -> None:
        """Read once.

        :raises TimeoutError: nothing came until ``until``.
        """
        try:
            data = self._stream.receive(_READ, until, awaited=awaited)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._failed(str(error)) from error
        self.ended = not data
        self.received = self.received + data if self.received else data

    def _parse(self) -> bool:
        """Take heads off the buffer, up to the final one; False if that is not complete yet."""
        while self._head is None:
            end = self.received.find(b"\r\n\r\n", max(0, self._scanned - 3))
            if end < 0:
                if self.received and wire.is_hopeless(self.received, self._scanned):
                    raise self._failed("what is no HTTP/1.1 head, or too large a one")
                self._scanned = len(self.received)
                return False
            try:
                head = wire.parse_head(self.received, end)
            except wire.Malformed as error:
                raise self._failed(str(error)) from None
            self.received = self.received[end + 4 :]
            self._scanned = 0
            self._judge(head)
        return True

    def _judge(self, head: wire.Head) -> None:
        """Tell interim responses from the final one (RFC 9110 section 15.2)."""
        if head.status >= 200 or (head.status == 101 and self._request.upgrade):
            self._head = head
            return
        self._interim += 1
        if head.status == 101:
            raise self._failed("101 to a request that asked for no upgrade")
        if self._interim > wire.MAX_INTERIM:
            raise self._failed(f"more than {wire.MAX_INTERIM} interim responses")

    def _until(self, seconds: float) -> float:
        until = time.monotonic() + seconds
        return until if self._request.deadline is None else min(until, self._request.deadline)

    def _pause(self, until: float, *, polls: bool) -> float:
        """Return until when to wait at once.

        :raises UpstreamTimedOut: there is no time left.
        """
        now = time.monotonic()
        if now >= until:
            raise self._described(UpstreamTimedOut, "no answer in time" if self._phase == "head" else "the request is not taken")
        return min(until, now + LOOK) if polls else until

    def malformed(self, data: bytes, error: wire.Malformed) -> Failure:
        """Describe an answer that is none."""
        self.received, self._phase = data, "head"
        return self._failed(str(error))

    def _failed(self, detail: str) -> Failure:
        return self._described(UpstreamFailed, detail)

    def _described(self, kind: type[Failure], detail: str) -> Failure:
        stale = kind is UpstreamFailed and self._connection.reused and not self.received and not self._interim
        return kind(detail, phase=self._phase, sent=self.sent > 0, reused=stale)
