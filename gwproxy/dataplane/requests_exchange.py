"""One exchange as http.client and urllib3 read and write it, on a connection of the gateway's.

Both take for granted what a gateway cannot: that an upstream means well, that every wait is bounded by one timeout, that a
request is sent before its answer comes. So they get a socket that is none. How long is waited, and for whom, and what is no
HTTP at all, is decided below it, by the same code as in the gateway's own transport; what is written for a request, and where
a body begins and ends, is theirs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from gwproxy.dataplane import wire
from gwproxy.dataplane.exchange import Exchange
from gwproxy.dataplane.failures import ClientLeft, Failure
from gwproxy.dataplane.pool import Connection
from gwproxy.dataplane.upstream_request import SizedBody, UpstreamRequest
from gwproxy.dataplane.upstream_response import RawResponse

_BUFFER = 64 * 1024


class AnsweredEarly(Exception):
    """The upstream has answered, or closed, before it had the whole request.

    No OSError: those that come out of a client's body are the client's.
    """


class JudgedBytes(io.RawIOBase):
    """What http.client reads: a head, then the pieces of a body that have passed :class:`RequestsResponse`."""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        self._ready = head
        self.response: RequestsResponse | None = None

    def readable(self) -> bool:
        """Answer yes: it is a stream to read from."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # that is what comes
        """Read into ``buffer``; return how many bytes, 0 at the end."""
        data = self._ready
        if not data and self.response is not None:
            data = self.response.receive(len(buffer))
        count = min(len(data), len(buffer))
        buffer[:count] = data[:count]
        self._ready = data[count:]
        return count


class ExchangeSocket(Exchange):
    """An exchange as http.client wants it: a connected socket, and the file to read of it.

    :ivar transmitted: whether the upstream had the whole request before it answered.
    :ivar head: of the final response, once the file was made.
    """

    __slots__ = ("bytes", "connection", "head", "request", "transmitted")

    def __init__(self, request: UpstreamRequest, connection: Connection) -> None:
        super().__init__(request, connection)
        self.request = request
        self.connection = connection
        self.transmitted = False
        self.head: wire.Head | None = None
        self.bytes = JudgedBytes(b"")

    # ---- what http.client calls

    def sendall(self, data: bytes) -> None:
        """Send ``data``.

        :raises AnsweredEarly: it was not taken.
        :raises UpstreamTimedOut: not in time.
        """
        if (self.sent and self._answered()) or not self._write(data):
            raise AnsweredEarly

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return what the answer is read of, as soon as the head of the final one is complete and was judged.

        http.client is shown what it needs of that head, in one spelling: of the rest it would read otherwise what
        :func:`wire.parse_head` refuses, and it refuses the hundredth field.

        :raises Failure: as :meth:`Exchange.run`.
        """
        if self.transmitted:
            self._phase = "head"
        head = self.head = self._wait()
        shown = b"HTTP/1.1 %d\r\n" % head.status
        if head.length is not None or head.chunked:
            shown += wire.framing("", body=True, length=head.length)
        self.bytes = JudgedBytes(shown + b"\r\n")
        return io.BufferedReader(self.bytes, _BUFFER)

    def settimeout(self, seconds: float | None) -> None:
        """Do nothing: the request's own timeouts count."""

    def close(self) -> None:
        """Do nothing: what becomes of the connection is decided by the response, or by who lent it."""

    # ---- what the connection's request() does beside sending

    def chunks(self, body: SizedBody) -> Iterator[bytes]:
        """Yield a body as it comes, held to its length.

        :raises: as :meth:`Exchange._pieces`.
        """
        length, sent = body.length, 0
        for chunk in self._in_time(body):
            sent += len(chunk)
            if length is not None and sent > length:
                raise ValueError(f"a body of more than the {length} bytes that were declared")
            yield chunk
        if length is not None and sent < length:
            raise ClientLeft(f"{sent} of {length} bytes came", phase="send", sent=True)

    def interrupt(self) -> None:
        """Look for an answer while the client is waited for.

        :raises AnsweredEarly: there is one.
        """
        if self._answered():
            raise AnsweredEarly

    def failed(self, detail: str) -> Failure:
        """Describe what http.client or urllib3 has refused."""
        return self._failed(detail)

    def fileno(self) -> int:
        """Return the connection's descriptor, to wait for an answer beside the client."""
        return self.connection.sock.fileno()


class RequestsResponse(RawResponse):
    """A response whose body is read by urllib3 and http.client, after it was judged as it came.

    Two readers find one body, or the exchange has failed: of a length that lies, a chunk that does not end where it says or
    the end of the connection within a chunk they would make a body that is complete.
    """

    __slots__ = ("_bytes", "_due", "_http", "_spare")

    def __init__(self, http: BaseHTTPResponse, socket: ExchangeSocket, *, reusable: bool) -> None:
        """Take over the connection of ``socket``, whose head has come."""
        request, head = socket.request, socket.head
        assert head is not None  # noqa: S101 - http was made of it
        self._http = http
        self._bytes = socket.bytes
        self._spare = b""  # what came behind the head, until it is read
        self._due = 0  # bytes of the body that have come and that http.client has not returned yet
        super().__init__(
            head,
            socket.received,
            socket.connection,
            body=head.has_body(request.method),
            reusable=reusable and socket.transmitted,
            read=request.timeouts.read,
            deadline=request.deadline,
            client_gone=request.client_gone,
        )
        if self._rest or not self.complete:
            self._bytes.response = self
        if self.complete and self._rest:
            self._spare, self._due = self._rest, len(self._rest)
            self._rest = b"".join(self._pieces(_BUFFER))

    def stream(self, amt: int = 65536, decode_content: bool = False) -> Iterator[bytes]:
        """Yield the body's bytes as they come; see :meth:`RawResponse.stream`."""
        data, self._rest = self._rest, b""
        if not self.complete:
            self._spare = data
            yield from self._pieces(amt)
        elif data:
            yield data

    def close(self) -> None:
        """Close the connection, unless the body came to its end; see :meth:`RawResponse.close`."""
        super().close()
        self._bytes.response = None  # the two need not wait for the collector

    release_conn = close

    def receive(self, size: int) -> bytes:
        """Return bytes of the message as they came, chunks and all, once they were judged; empty at its end.

        :raises Failure: as :meth:`RawResponse.stream`.
        """
        data, self._spare = self._spare, b""
        if self.complete:
            return data
        data = data or self._receive(size)
        self._due += len(self._take(data) if data else self._end())
        return data

    def _pieces(self, amt: int) -> Iterator[bytes]:
        while piece := self._piece(amt):
            pieces, room = [piece], amt - len(piece)
            while self._due > 0 and room > 0 and (piece := self._piece(room)):  # else each chunk would leave by itself
                pieces.append(piece)
                room -= len(piece)
            yield b"".join(pieces)
        if not self.complete or self._due:
            self._fail("http.client reads another body than came")

    def _piece(self, amt: int) -> bytes:
        try:
            piece = self._http.read1(amt, decode_content=False)
        except HTTPError as error:
            self._fail(str(error))
        self._due -= len(piece)
        return piece
