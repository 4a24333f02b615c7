"""What the client gets: the head held until there is something to send with it, the body framed as it comes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate
from functools import lru_cache
from http.client import responses
from types import TracebackType
from typing import Final

from gwproxy.errors import TEXTS
from gwproxy.http.headers import Field, Headers, field

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

_HOP = frozenset({"keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"})  # RFC 9110 section 7.6.1
_SPECIAL: Final = _HOP | {"connection", "content-length", "date"}
_BODYLESS = frozenset((204, 304))
_NOT_PLAIN: Final = _BODYLESS | {408}
_STATUS = re.compile(r"([1-9][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")


@lru_cache(maxsize=256)
def _status_line(status: str) -> tuple[bytes, int]:
    """Return the line of a WSGI status, and its number.

    :raises ValueError: it is none.
    """
    match = _STATUS.fullmatch(status)
    if match is None:
        raise ValueError("not a status line")
    return f"HTTP/1.1 {status if len(status) > 3 else status + ' '}\r\n".encode("latin-1"), int(match[1])


@lru_cache(maxsize=512)
def _known_status(status: int) -> tuple[bytes, int]:
    return _status_line(f"{status} {responses.get(status, 'Unknown')}")


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return f"Date: {formatdate(second, usegmt=True)}\r\n".encode()


def refusal(status: int, headers: Sequence[tuple[str, str]] = (), *, bodyless: bool = False) -> bytes:
    """Return a complete error response in the gateway's own words, after which the connection closes.

    :param status: one of :data:`gwproxy.errors.TEXTS`.
    :param headers: sent too; they have to be valid.
    :param bodyless: the request was HEAD.
    """
    body = f'{{"error":"{TEXTS[status]}"}}'
    lines = [
        f"HTTP/1.1 {status} {responses[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers),
        _date(int(time.time())).decode()[:-2],
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + ("" if bodyless else body)).encode("latin-1")


class Response:
    """Writes one response; the ``start_response`` of PEP 3333 is :meth:`start`.

    The head leaves with the first piece of the body in one send, or alone when the app yields an empty piece first.
    Every later piece leaves at once. An iterable may say by ``whole`` that it is one piece, and is told by ``sent(size)``.
    ``Content-Length`` is the app's word and is held to; without one, HTTP/1.1 clients get chunks and others a connection
    that is closed at the end.

    :param send: sends bytes to the client.
    :param head_only: the request was HEAD.
    :param http11: the client speaks HTTP/1.1.
    :param may_keep: asked when the head leaves: whether the connection may stay open as far as the request goes.

    :ivar begun: the head has left; no other response is possible.
    :ivar complete: everything has left.
    :ivar keep: once begun: the client was told that the connection stays open.
    :ivar framed: once begun: the client can tell a complete body from one that was cut, even if the connection ends
        in good order.
    :ivar detached: the socket is the app's; nothing is written any more.
    """

    __slots__ = (
        "_bodyless",
        "_chunked",
        "_fields",
        "_head_only",
        "_headers",
        "_http11",
        "_length",
        "_may_keep",
        "_send",
        "_sent",
        "_status",
        "begun",
        "complete",
        "detached",
        "framed",
        "keep",
    )

    def __init__(self, send: Callable[[bytes], None], *, head_only: bool, http11: bool, may_keep: Callable[[], bool]) -> None:
        self._send = send
        self._head_only = head_only
        self._http11 = http11
        self._may_keep = may_keep
        self._status: tuple[bytes, int] | None = None
        self._fields: Sequence[Field] = ()
        self._headers: Headers | None = None
        self._bodyless = self._chunked = False
        self._length: int | None = None
        self._sent = 0
        self.begun = self.complete = self.keep = self.detached = False
        self.framed = True

    def start(self, status: str, headers: Sequence[tuple[str, str]], exc_info: ExcInfo | None = None, /) -> Callable[[bytes], None]:
        """Take status and headers; nothing is sent yet.

        :raises RuntimeError: it was called before, and not with ``exc_info``.
        :raises ValueError: one of them cannot stand in a response: a line end, another control character, one beyond
            latin-1 (H15).
        """
        if exc_info is not None and exc_info[1] is not None:
            if self.begun:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self._status is not None:
            raise RuntimeError("start_response was called twice")
        self._status, self._fields = _status_line(status), [field(name, value) for name, value in headers]
        return self.write

    def start_checked(self, status: int, headers: Headers) -> None:
        """As :meth:`start`, with fields that were checked when they were made."""
        self._status, self._fields, self._headers = _known_status(status), headers.fields(), headers

    def pump(self, chunks: Iterable[bytes]) -> None:
        """Write every chunk as it comes, and the end.

        :raises ValueError: a header is not valid, or the body is shorter than declared.
        :raises RuntimeError: there is a body, but the app never called ``start_response``.
        """
        if type(chunks) is list and len(chunks) == 1 and not self.begun and not self.detached:
            self._begin(chunks[0], ended=True)
            self.complete = True
            return
        whole: bytes | None = getattr(chunks, "whole", None)
        if whole is not None and not self.begun and not self.detached:
            head = self._plain_head(len(whole)) or self._head(len(whole))
            self.begun = True
            if self._bodyless:
                whole = b""
            self._send(head + whole if whole else head)
            self.complete = True
            chunks.sent(len(whole))  # type: ignore[attr-defined]  # who has the one has the other
            return
        for chunk in chunks:
            self.write(chunk)
            if self._length is not None and self._sent > self._length:
                raise ValueError(f"the body is longer than the {self._length} bytes declared")
        self._finish()

    def write(self, data: bytes) -> None:
        """Send a piece of the body; the first call sends the head with it."""
        if self.detached:
            return
        if not self.begun:
            self._begin(data, ended=False)
        elif framed := self._frame(data):
            self._send(framed)

    def _finish(self) -> None:
        if self.detached:
            return
        if not self.begun:
            self._begin(b"", ended=True)
        elif self._chunked:
            self._send(b"0\r\n\r\n")
        elif self._length is not None and self._sent < self._length:
            raise ValueError(f"the body ended after {self._sent} of {self._length} bytes")
        self.complete = True

    def _begin(self, data: bytes, *, ended: bool) -> None:
        head = self._head(len(data) if ended else None)
        self.begun = True
        self._send(head + self._frame(data))

    def _frame(self, data: bytes) -> bytes:
        if self._bodyless or not data:
            return b""
        self._sent += len(data)
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._length is not None and self._sent > self._length:
            return data[: self._length - self._sent]
        return data

    def _plain_head(self, whole: int) -> bytes:
        """Return the head of a whole response of which nothing has to be looked at line by line; empty if there is.

        PERF: 3 us less than :meth:`_head`, and most responses are such.
        """
        headers, status = self._headers, self._status
        if headers is None or status is None or self._head_only:
            return b""
        line, code = status
        if code < 200 or code in _NOT_PLAIN:
            return b""
        declared = dated = False
        parts = [line]
        fields, shared = headers.fields(), headers.shared()
        if shared is not None and shared.lengths <= 1:
            if shared.lengths:
                if shared.length != str(whole):
                    return b""
                declared = True
            dated = shared.dated
            parts.append(shared.lines)
            fields = fields[len(shared.items) :]
        for key, _, value, sent in fields:
            if key in _SPECIAL:
                if key == "date":
                    dated = True
                elif key != "content-length" or declared or value != str(whole):
                    return b""
                else:
                    declared = True
            parts.append(sent)
        if not declared:
            return b""
        if not dated:
            parts.append(_date(int(time.time())))
        self._length = whole
        self.keep = self._may_keep()
        if not self.keep:
            parts.append(b"Connection: close\r\n")
        elif not self._http11:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _head(self, whole: int | None) -> bytes:
        """Return the head, and decide on the framing.

        :param whole: the length of the body, if it is all there.
        """
        if self._status is None:
            raise RuntimeError("the app did not call start_response")
        line, code = self._status
        parts = [line]
        dated = False
        closing = code < 200 or code == 408  # the rest of a body that is given up as too slow is not waited for
        lengthless = code == 204 or code < 200
        self._bodyless = self._head_only or lengthless or code == 304
        declared: int | None = None
        for one in self._fields:
            key = one[0]
            if key not in _SPECIAL:
                parts.append(one[3])
            elif key == "content-length":
                declared = _declared(one[2], declared)
                if not lengthless:
                    parts.append(one[3])
            elif key == "date":
                dated = True
                parts.append(one[3])
            elif key == "connection":
                closing = closing or "close" in one[2].lower()
        if whole is not None and declared == whole:
            self._length = whole
        elif not self._bodyless:
            self._set_framing(declared, whole, parts)
        if not dated:
            parts.append(_date(int(time.time())))
        self.keep = self.framed and not closing and self._may_keep()
        if not self.keep:
            parts.append(b"Connection: close\r\n")
        elif not self._http11:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _set_framing(self, declared: int | None, whole: int | None, parts: list[bytes]) -> None:
        self._length = declared
        if declared is not None:
            if whole is not None and whole != declared:
                raise ValueError(f"the body has {whole} bytes, {declared} are declared")
        elif whole is not None:
            self._length = whole
            parts.append(b"Content-Length: %d\r\n" % whole)
        elif self._http11:
            self._chunked = True
            parts.append(b"Transfer-Encoding: chunked\r\n")
        else:
            self.framed = False


def _declared(value: str, before: int | None) -> int:
    if not (value.isascii() and value.isdigit()) or (before is not None and before != int(value)):
        raise ValueError("not a Content-Length")
    return int(value)
