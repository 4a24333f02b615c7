"""What the client gets: the head held until there is something to send with it, the body framed as it comes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate
from functools import lru_cache
from http.client import responses
from types import TracebackType
from typing import Literal

from gwproxy.errors import TEXTS

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Kind = Literal["plain", "date", "length", "connection", "hop"]

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROLS = bytes(code for code in (*range(0x20), 0x7F) if code not in b"\t\r\n")
_HOP = frozenset({"keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"})  # RFC 9110 section 7.6.1


@lru_cache(maxsize=1024)
def _kind(name: str) -> Kind:
    """Classify a response header.

    :raises ValueError: that is no name.
    """
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    key = name.lower()
    if key in _HOP:
        return "hop"
    kinds: dict[str, Kind] = {"date": "date", "content-length": "length", "connection": "connection"}
    return kinds.get(key, "plain")


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


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
        f"Date: {_date(int(time.time()))}",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + ("" if bodyless else body)).encode("latin-1")


class Response:
    """Writes one response; the ``start_response`` of PEP 3333 is :meth:`start`.

    The head leaves with the first piece of the body in one send, or alone when the app yields an empty piece first.
    Every later piece leaves at once. ``Content-Length`` is the app's word and is held to; without one, HTTP/1.1 clients
    get chunks and others a connection that is closed at the end.

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
        self._status = ""
        self._headers: Sequence[tuple[str, str]] = ()
        self._bodyless = self._chunked = False
        self._length: int | None = None
        self._sent = 0
        self.begun = self.complete = self.keep = self.detached = False
        self.framed = True

    def start(self, status: str, headers: Sequence[tuple[str, str]], exc_info: ExcInfo | None = None, /) -> Callable[[bytes], None]:
        """Take status and headers; nothing is sent yet.

        :raises RuntimeError: it was called before, and not with ``exc_info``.
        """
        if exc_info is not None and exc_info[1] is not None:
            if self.begun:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self._status:
            raise RuntimeError("start_response was called twice")
        self._status, self._headers = status, headers
        return self.write

    def pump(self, chunks: Iterable[bytes]) -> None:
        """Write every chunk as it comes, and the end.

        :raises ValueError: a header is not valid, or the body is shorter than declared.
        :raises RuntimeError: there is a body, but the app never called ``start_response``.
        """
        if type(chunks) is list and len(chunks) == 1 and not self.begun and not self.detached:
            self._begin(chunks[0], ended=True)
            self.complete = True
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

    def _head(self, whole: int | None) -> bytes:
        """Return the head, and decide on the framing.

        :param whole: the length of the body, if it is all there.
        """
        status, code = self._checked_status()
        lines = ["HTTP/1.1 " + status]
        dated = False
        closing = code < 200
        lengthless = code == 204 or closing
        self._bodyless = self._head_only or lengthless or code == 304
        declared: int | None = None
        for name, value in self._headers:
            kind = _kind(name)
            if kind == "length":
                declared = _declared(value, declared)
                if lengthless:
                    continue
            elif kind == "connection":
                closing = closing or "close" in value.lower()
                continue
            elif kind == "hop":
                continue
            elif kind == "date":
                dated = True
            lines.append(f"{name}: {value}")
        if not self._bodyless:
            self._set_framing(declared, whole, lines)
        if not dated:
            lines.append("Date: " + _date(int(time.time())))
        self.keep = self.framed and not closing and self._may_keep()
        if not self.keep:
            lines.append("Connection: close")
        elif not self._http11:
            lines.append("Connection: keep-alive")
        return _encode(lines)

    def _checked_status(self) -> tuple[str, int]:
        status = self._status
        if not status:
            raise RuntimeError("the app did not call start_response")
        if not re.match(r"[1-9][0-9]{2}(?: |$)", status):
            raise ValueError("not a status line")
        return (status if len(status) > 3 else status + " "), int(status[:3])

    def _set_framing(self, declared: int | None, whole: int | None, lines: list[str]) -> None:
        self._length = declared
        if declared is not None:
            if whole is not None and whole != declared:
                raise ValueError(f"the body has {whole} bytes, {declared} are declared")
        elif whole is not None:
            self._length = whole
            lines.append(f"Content-Length: {whole}")
        elif self._http11:
            self._chunked = True
            lines.append("Transfer-Encoding: chunked")
        else:
            self.framed = False


def _declared(value: str, before: int | None) -> int:
    if not (value.isascii() and value.isdigit()) or (before is not None and before != int(value)):
        raise ValueError("not a Content-Length")
    return int(value)


def _encode(lines: list[str]) -> bytes:
    """Join the lines of a head.

    :raises ValueError: one of them holds a line end, another control character, or one beyond latin-1 (H15).
    """
    text = "\r\n".join(lines)
    breaks = len(lines) - 1
    try:
        head = text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("a character beyond latin-1 in a header") from None
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or len(head.translate(None, _CONTROLS)) != len(head):
        raise ValueError("a control character in a header")
    return head + b"\r\n\r\n"
