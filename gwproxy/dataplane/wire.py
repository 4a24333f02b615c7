"""HTTP/1.1 as bytes, as spoken to upstreams: the head that is sent, the head that comes, chunks. No sockets.

A response's head is judged by one expression on its raw bytes, stricter than any parser that repairs: RFC 9112 sections
4 and 5 without obs-fold, bare CR or LF. Chunks are llhttp's, in its strict mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import httptools

MAX_HEAD = 64 * 1024  # bytes
MAX_FIELDS = 100
MAX_INTERIM = 10

_FRAMING = frozenset(("content-length", "transfer-encoding"))
_CONNECTION = frozenset((*_FRAMING, "connection", "keep-alive"))

# Possessive throughout: an upstream must not be able to make it backtrack.
_HEAD = re.compile(
    rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
)
_FIELD = re.compile(r"([^:]++):[ \t]*+([^\r]*+)\r\n")  # on what _HEAD has accepted
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_LENGTH = re.compile(r"[0-9]{1,18}")
_TARGET = re.compile(rb"/[^\0-\x20\x7f]*+|\*")
_KEEP_ALIVE = re.compile(r"(?:^|[,; \t])timeout=([0-9]{1,9})", re.IGNORECASE)
_NO_BODY = frozenset((204, 304))
_SENT_EMPTY = frozenset(("POST", "PUT", "PATCH"))


class Malformed(Exception):
    """What came is not HTTP/1.1, or is ambiguous; the message says how, for the log."""


class Head(NamedTuple):
    """The head of a response.

    :ivar status: 100 to 599.
    :ivar fields: in order, as spelled; latin-1, one character a byte.
    :ivar length: as declared by ``Content-Length``; None if it was not.
    :ivar chunked: whether the body is.
    :ivar reusable: whether the upstream leaves the connection open after the message.
    :ivar idle: seconds it says it keeps an idle connection open; None if it does not say.
    """

    status: int
    fields: list[tuple[str, str]]
    length: int | None
    chunked: bool
    reusable: bool
    idle: int | None

    def has_body(self, method: str) -> bool:
        """Whether the answer to ``method`` has a body, if only an empty one (RFC 9112 section 6.3)."""
        return method != "HEAD" and self.status not in _NO_BODY


def encode_head(method: str, target: bytes, fields: Iterable[tuple[str, str]], framing: bytes, *, close: bool = False) -> bytes:
    """Return the head of a request.

    :param fields: in this order; ``Content-Length`` and ``Transfer-Encoding`` among them are left out.
    :param framing: from :func:`framing`.
    :param close: whether to say ``Connection: close``.
    :raises ValueError: target or fields would not be one head: a line break, NUL, or what is not latin-1.
    """
    if not _TARGET.fullmatch(target):
        raise ValueError("a request target starts with '/' and holds no space or control character")
    lines = [f"{name}: {value}\r\n" for name, value in fields if name.lower() not in _FRAMING]
    block = "".join(lines)
    if not block.count("\r") == block.count("\n") == len(lines) or "\0" in block:
        raise ValueError("a line break or NUL in a header field")
    head = b"%b %b HTTP/1.1\r\n%b%b%b\r\n"
    return head % (method.encode("ascii"), target, block.encode("latin-1"), framing, b"Connection: close\r\n" if close else b"")


def framing(method: str, *, body: bool, length: int | None) -> bytes:
    """Return the one field that frames a request's body, or nothing (RFC 9112 section 6).

    :param body: whether there is one.
    :param length: of the body; None: chunked.
    """
    if not body:
        return b"Content-Length: 0\r\n" if method in _SENT_EMPTY else b""
    return b"Transfer-Encoding: chunked\r\n" if length is None else b"Content-Length: %d\r\n" % length


def is_hopeless(start: bytes, scanned: int = 0) -> bool:
    """Whether no further bytes can make ``start`` the beginning of a head: waiting for more would be in vain.

    :param scanned: how many bytes of it were judged before.
    """
    if scanned < 7 and not b"HTTP/1.".startswith(start[:7]):
        return True
    return len(start) > MAX_HEAD or _BARE.search(start, max(0, scanned - 1)) is not None


def parse_head(data: bytes) -> Head:
    """Parse a response's head, its empty line included.

    :raises Malformed: it is too large, breaks the grammar, or frames its body in two ways or in an unknown one.
    """
    if len(data) > MAX_HEAD:
        raise Malformed(f"a head of more than {MAX_HEAD} bytes")
    match = _HEAD.fullmatch(data)
    if match is None:
        raise Malformed("a head that is not HTTP/1.1")
    block = match[3].decode("latin-1")
    fields: list[tuple[str, str]] = _FIELD.findall(block)
    if " \r\n" in block or "\t\r\n" in block:
        fields = [(name, value.rstrip(" \t")) for name, value in fields]
    if len(fields) > MAX_FIELDS:
        raise Malformed(f"more than {MAX_FIELDS} header fields")
    return _framed(match[1] == b"1", int(match[2]), fields)


def _framed(modern: bool, status: int, fields: list[tuple[str, str]]) -> Head:
    """Read what frames the message and what becomes of the connection."""
    found: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        if key in _CONNECTION:
            if key in found and key in _FRAMING:
                raise Malformed(f"{name} twice")
            found[key] = f"{found[key]},{value}" if key in found else value
    length, coding = found.get("content-length"), found.get("transfer-encoding")
    if length is not None and not _LENGTH.fullmatch(length):
        raise Malformed("a Content-Length that is no number")
    if coding is not None and (coding.lower() != "chunked" or length is not None or not modern):
        raise Malformed("a Transfer-Encoding beside a Content-Length, in HTTP/1.0, or other than chunked")
    options = found.get("connection", "").lower()
    closes = "close" in options and "close" in {option.strip() for option in options.split(",")}
    hint = _KEEP_ALIVE.search(found["keep-alive"]) if "keep-alive" in found else None
    return Head(
        status=status,
        fields=fields,
        length=int(length) if length is not None else None,
        chunked=coding is not None,
        reusable=modern and not closes,
        idle=int(hint[1]) if hint else None,
    )


class Dechunker:
    """Decodes one chunked body; trailers and extensions are checked and dropped. Keeps nothing between two calls.

    :ivar ended: whether the body is complete.
    :ivar excess: whether bytes came after its end.
    """

    __slots__ = ("_parser", "_parts", "ended", "excess", "on_body")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.ended = False
        self.excess = False
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def on_message_begin(self) -> None:
        """Called by the parser: at the start, and for whatever follows the end, which it must not take for a message."""
        if self.ended:
            raise Malformed("bytes after the last chunk")

    def on_message_complete(self) -> None:
        """Called by the parser at the end."""
        self.ended = True

    def feed(self, data: bytes) -> bytes:
        """Return what ``data`` holds of the body; may be nothing.

        :raises Malformed: it is not chunked coding.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.ended:
                raise Malformed(f"chunked coding: {error}") from None
            self.excess = True
        parts = self._parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return body
