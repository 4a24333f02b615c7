"""The response as it comes from an upstream."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from mypy_extensions import mypyc_attr

from gwproxy.dataplane.failures import ClientLeft, UpstreamFailed, UpstreamTimedOut
from gwproxy.dataplane.pool import Connection
from gwproxy.dataplane.wire import Dechunker, Head, Malformed
from gwproxy.http.headers import Field, Headers, Shared

LOOK = 0.5  # seconds between two looks at the client while the upstream is silent


@mypyc_attr(acyclic=True, free_list_len=1)
class WholeResponse:
    """A response that came in one piece: its connection serves others already. See :class:`RawResponse` for the attributes."""

    __slots__ = ("complete", "fields", "hop", "length", "reused", "shared", "status", "whole")

    def __init__(self, head: Head, whole: bytes, reused: bool, shared: Shared | None) -> None:
        """:param shared: the fields, of a head that came before; they are not to be changed then."""
        self.complete = True
        self.hop: Sequence[Field] = ()
        self.status = head.status
        self.fields = head.fields
        self.shared = shared
        self.length = head.length
        self.whole = whole
        self.reused = reused

    def headers(self) -> Headers:
        """Return the fields, to be changed."""
        return Headers.adopt(self.fields.copy()) if self.shared is None else Headers.sharing(self.shared)

    def stream(self, amt: int = 65536, decode_content: bool = False) -> Iterator[bytes]:
        """Yield the body."""
        if self.whole:
            yield self.whole

    def close(self) -> None:
        """Do nothing."""


@mypyc_attr(allow_interpreted_subclasses=True)
class RawResponse:
    """A response whose head is here and whose body may still come.

    The connection is its own until the last byte was read, and is given back then. Whoever got it calls :meth:`close` in
    the end, which closes the connection of a body that was not read to its end. Memory is bounded by one read.

    :ivar status: 200 to 599; 101 if an upgrade was asked for.
    :ivar fields: end-to-end ones, in order, repeated, as spelled.
    :ivar hop: the others.
    :ivar length: what ``Content-Length`` declares (to HEAD and in a 304, for a body that does not come); None if there
        is none.
    :ivar reused: whether the connection had served another request before.
    :ivar complete: whether the whole body has come.
    """

    __slots__ = (
        "_client_gone",
        "_connection",
        "_deadline",
        "_dechunker",
        "_idle",
        "_left",
        "_read",
        "_rest",
        "_reusable",
        "complete",
        "fields",
        "hop",
        "length",
        "reused",
        "status",
    )

    def __init__(
        self,
        head: Head,
        rest: bytes,
        connection: Connection,
        *,
        body: bool,
        reusable: bool,
        read: float,
        deadline: float | None,
        client_gone: Callable[[], bool] | None = None,
    ) -> None:
        """Take over ``connection``.

        :param rest: what came behind the head.
        :param body: whether a body is expected.
        :param reusable: whether the request's side leaves the connection in a state that allows another one.
        :param read: seconds of silence that are accepted.
        :param client_gone: asked every half second of silence; True ends the exchange.
        """
        self.status = head.status
        self.fields = head.fields
        self.hop = head.hop
        self.length = head.length
        self.reused = connection.reused
        self.complete = False
        self._client_gone = client_gone
        self._connection = connection
        self._deadline = deadline
        self._idle = head.idle
        self._read = read
        self._rest = rest
        self._reusable = reusable and head.reusable
        self._dechunker = Dechunker() if body and head.chunked else None
        self._left = head.length if body else 0  # bytes still to come; None: until the end or the last chunk
        if head.status == 101:
            return
        if not body and (head.chunked or head.length) and head.status == 204:
            self._reusable = False  # RFC 9112 section 6.3: what it announces may follow, and would answer somebody else
        if self._left is not None and len(rest) >= self._left:
            self._rest = rest[: self._left]
            self._finish(excess=len(rest) > self._left)

    def headers(self) -> Headers:
        """Return the fields, to be changed."""
        return Headers.adopt(self.fields)

    @property
    def whole(self) -> bytes | None:
        """The whole body, if it came together with the head and was not read yet; else None."""
        return self._rest if self.complete else None

    @property
    def socket(self) -> socket.socket:
        """The connection itself, for a tunnel after 101; its timeout is the caller's to set, :meth:`close` closes it."""
        self._connection.stream.close()  # one way to read it, not two
        return self._connection.sock

    @property
    def leftover(self) -> bytes:
        """What came behind the head of a 101."""
        return self._rest

    def stream(self, amt: int = 65536, decode_content: bool = False) -> Iterator[bytes]:
        """Yield the body's bytes as they come, without waiting for more. They are never decoded, whatever is asked.

        :param amt: the most bytes of one read.
        :raises UpstreamFailed: the body was cut or is malformed. It must not be passed on as if it had ended.
        :raises UpstreamTimedOut: the upstream was silent for too long, or the whole exchange took too long.
        :raises ClientLeft: nobody waits for the rest any more.
        """
        data, self._rest = self._rest, b""
        body = data if self.complete else self._take(data)
        while True:
            if body:
                yield body
            if self.complete:
                return
            data = self._receive(amt)
            body = self._take(data) if data else self._end()

    def close(self) -> None:
        """Close the connection, unless the body was read to its end: then it was given back. A second call does nothing."""
        if not self.complete:  # else it may be somebody else's already
            self._connection.close()

    def release_conn(self) -> None:
        """Do as :meth:`close`: requests' name for it. R14: one with a body left is never released."""
        self.close()

    def _take(self, data: bytes) -> bytes:
        """Return what of ``data`` belongs to the body; finish with its last byte."""
        if self._dechunker is not None:
            try:
                body = self._dechunker.feed(data)
            except Malformed as error:
                self._fail(str(error))
            if self._dechunker.ended:
                self._finish(excess=self._dechunker.excess)
            return body
        if self._left is None:
            return data
        if len(data) < self._left:
            self._left -= len(data)
            return data
        body, excess = data[: self._left], len(data) > self._left
        self._left = 0
        self._finish(excess=excess)
        return body

    def _receive(self, amt: int) -> bytes:
        until = time.monotonic() + self._read
        if self._deadline is not None:
            until = min(until, self._deadline)
        stream, gone = self._connection.stream, self._client_gone
        try:
            while (now := time.monotonic()) < until:
                try:
                    return stream.receive(amt, until if gone is None else min(until, now + LOOK))
                except TimeoutError:
                    if gone is not None and gone():
                        raise ClientLeft("the client closed before it had the whole body", phase="body", sent=True) from None
            raise UpstreamTimedOut("the body stalled", phase="body", sent=True)
        except OSError as error:
            self._fail(str(error))
        except BaseException:
            self.close()
            raise

    def _end(self) -> bytes:
        """Judge the end of the connection: it is the end of a body that has no other."""
        if self._left is not None:
            self._fail(f"the connection ended {self._left} bytes before the body")
        if self._dechunker is not None:
            self._fail("the connection ended before the last chunk")
        self._finish(excess=True)
        return b""

    def _finish(self, *, excess: bool) -> None:
        """The body is complete. ``excess``: nobody else may use the connection."""
        self.complete = True
        if excess or not self._reusable:
            self._connection.close()
        else:
            self._connection.give_back(self._idle, time.monotonic())

    def _fail(self, detail: str) -> NoReturn:
        self.close()
        raise UpstreamFailed(detail, phase="body", sent=True)
