"""HTTP/1.1 as bytes, as spoken to upstreams: the head that is sent, the head that comes, chunks. No sockets.

A response's head is judged line by line on its raw bytes, stricter than any parser that repairs: RFC 9112 sections 4 and 5
without obs-fold, bare CR or LF. Chunks are llhttp's, in its strict mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import httptools
from mypy_extensions import mypyc_attr

from gwproxy.http.forwarding import is_hop_by_hop, without_nominated
from gwproxy.http.headers import Field, Shared, field

MAX_HEAD = 64 * 1024  # bytes
MAX_FIELDS = 100
MAX_INTERIM = 10

_PLAIN: Final = -1
_HOP: Final = -2  # for the next hop only

_MOST_STATUSES, _MOST_BYTES = 256, 128 * 1024  # of lines that are remembered; in memory they take about five times that

_FRAMING = frozenset(("content-length", "transfer-encoding"))

# Possessive throughout: an upstream must not be able to make it backtrack.
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*+)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\0")
_LENGTH = re.compile(r"[0-9]{1,18}")
_TARGET: Final = re.compile(rb"/[^\0-\x20\x7f]*+|\*")
_KEEP_ALIVE = re.compile(r"(?:^|[,; \t])timeout=([0-9]{1,9})", re.IGNORECASE)
NO_BODY: Final = frozenset((204, 304))
_SENT_EMPTY: Final = frozenset(("POST", "PUT", "PATCH"))


class Malformed(Exception):
    """What came is not HTTP/1.1, or is ambiguous; the message says how, for the log."""


@mypyc_attr(acyclic=True)
class Head:
    """The head of a response. Never changes: answers on a connection that come with the same one share it.

    :ivar status: 100 to 599.
    :ivar fields: those that go on to the client, in order, as spelled.
    :ivar hop: those that do not (RFC 9110 section 7.6.1); those that ``Connection`` names are in neither.
    :ivar length: as declared by ``Content-Length``; None if it was not.
    :ivar chunked: whether the body is.
    :ivar reusable: whether the upstream leaves the connection open after the message.
    :ivar idle: seconds it says it keeps an idle connection open; None if it does not say.
    """

    __slots__ = ("_shared", "chunked", "fields", "hop", "idle", "length", "reusable", "status")

    def __init__(
        self, status: int, fields: list[Field], hop: Sequence[Field], length: int | None, chunked: bool, reusable: bool, idle: int | None
    ) -> None:
        self.status = status
        self.fields = fields
        self.hop = hop
        self.length = length
        self.chunked = chunked
        self.reusable = reusable
        self.idle = idle
        self._shared: Shared | None = None

    def shared(self) -> Shared:
        """Return the fields for one more message that has them."""
        shared = self._shared
        if shared is None:
            shared = self._shared = Shared(self.fields)
        return shared

    def has_body(self, method: str) -> bool:
        """Whether the answer to ``method`` has a body, if only an empty one (RFC 9112 section 6.3)."""
        return method != "HEAD" and self.status not in NO_BODY


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the lines of a header block, in this order; ``Content-Length`` and ``Transfer-Encoding`` are left out.

    :raises ValueError: one of them cannot stand in a head.
    """
    return b"".join([field(name, value)[3] for name, value in fields if name.lower() not in _FRAMING])


def encode_head(method: str, target: bytes, block: bytes, framing: bytes, *, close: bool = False) -> bytes:
    """Return the head of a request.

    :param block: the lines of its header but those that frame the body.
    :param framing: from :func:`framing`.
    :param close: whether to say ``Connection: close``.
    :raises ValueError: the target would not be one.
    """
    # PERF: joined, which costs half of what formatting does.
    return b"".join((_request_line(method, target), block, framing, b"Connection: close\r\n\r\n" if close else b"\r\n"))


@lru_cache(maxsize=512)
def _request_line(method: str, target: bytes) -> bytes:
    """Return the first line of a request; popular ones are remembered.

    :raises ValueError: the target would not be one.
    """
    if not _TARGET.fullmatch(target):
        raise ValueError("a request target starts with '/' and holds no space or control character")
    return b"%b %b HTTP/1.1\r\n" % (method.encode("ascii"), target)


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


class _Statuses(dict[bytes, tuple[bool, int]]):
    """Status lines by their bytes: whether it is HTTP/1.1, and the status."""

    def __missing__(self, line: bytes) -> tuple[bool, int]:
        match = _STATUS.fullmatch(line)
        if match is None:
            raise Malformed("a head that is not HTTP/1.1")
        if len(self) >= _MOST_STATUSES:
            self.clear()
        found = self[line] = match[1] == b"1", int(match[2])
        return found


class _Lines(dict[bytes, tuple[Field, int]]):
    """Header lines by their bytes, each with what it says: a ``Content-Length`` its number, others :data:`_PLAIN` or :data:`_HOP`.

    Most lines of an upstream's answers are the same each time, and need not be judged again.

    :ivar size: bytes of them all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __missing__(self, line: bytes) -> tuple[Field, int]:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise Malformed("a head that is not HTTP/1.1")
        name, value = match[1].decode("latin-1"), match[2].decode("latin-1").rstrip(" \t")
        key = name.lower()
        says = _HOP if is_hop_by_hop(key) else _PLAIN
        if key == "content-length":
            if not _LENGTH.fullmatch(value):
                raise Malformed("a Content-Length that is no number")
            says = int(value)
        made = self[line] = (key, name, value, f"{name}: {value}\r\n".encode("latin-1")), says
        self.size += len(line)
        return made


class _Memory:
    """What is remembered of answers, until it is too much; then all of it is forgotten.

    Replaced, never emptied: a head that is being parsed, in another thread perhaps, goes on with the lines that it began with.
    """

    def __init__(self) -> None:
        self.statuses, self.lines = _Statuses(), _Lines()

    def forget(self) -> _Lines:
        """Forget all lines."""
        self.lines = _Lines()
        return self.lines


remembered: Final = _Memory()


def parse_head(data: bytes, end: int) -> Head:
    """Parse a response's head.

    :param data: begins with it.
    :param end: where its empty line begins.
    :raises Malformed: it is too large, breaks the grammar, or frames its body in two ways or in an unknown one.
    """
    if end + 4 > MAX_HEAD:
        raise Malformed(f"a head of more than {MAX_HEAD} bytes")
    rest = data[:end].split(b"\r\n")
    first = rest.pop(0)
    if len(rest) > MAX_FIELDS:
        raise Malformed(f"more than {MAX_FIELDS} header fields")
    modern, status = remembered.statuses[first]
    lines: dict[bytes, Any] = remembered.lines
    if remembered.lines.size > _MOST_BYTES:
        lines = remembered.forget()
    length: int | None = None
    fields: list[Any] = []  # of Field. PERF: Any, so that compiled code passes on what it has instead of making it anew
    hop: list[Any] = []
    for line in rest:
        judged = lines[line]
        says: int = judged[1]
        if says == _HOP:
            hop.append(judged[0])
            continue
        fields.append(judged[0])
        if says >= 0:
            if length is not None:
                raise Malformed("Content-Length twice")
            length = says
    if not hop:
        return Head(status, fields, (), length, False, modern, None)
    if len(hop) == 1 and hop[0][0] == "connection" and hop[0][2].lower() == "keep-alive":
        return Head(status, fields, hop, length, False, modern, None)
    return _framed(modern, status, fields, hop, length)


def _framed(modern: bool, status: int, fields: list[Field], hop: list[Field], length: int | None) -> Head:
    """Read what frames the message and what becomes of the connection."""
    found: dict[str, str] = {}
    for key, name, value, _ in hop:
        if key in found and key == "transfer-encoding":
            raise Malformed(f"{name} twice")
        found[key] = f"{found[key]},{value}" if key in found else value
    coding = found.get("transfer-encoding")
    if coding is not None and (coding.lower() != "chunked" or length is not None or not modern):
        raise Malformed("a Transfer-Encoding beside a Content-Length, in HTTP/1.0, or other than chunked")
    options = found.get("connection", "").lower()
    closes = "close" in options and "close" in {option.strip() for option in options.split(",")}
    hint = _KEEP_ALIVE.search(found["keep-alive"]) if "keep-alive" in found else None
    return Head(
        status=status,
        fields=without_nominated(fields, options),
        hop=hop,
        length=length,
        chunked=coding is not None,
        reusable=modern and not closes,
        idle=int(hint[1]) if hint else None,
    )


class _Chunks:
    """What llhttp says of one chunked body: by itself, because the parser refers to whom it tells."""

    __slots__ = ("ended", "on_body", "parts")

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ended = False
        self.on_body = self.parts.append

    def on_message_begin(self) -> None:
        """Called by the parser: at the start, and for whatever follows the end, which it must not take for a message."""
        if self.ended:
            raise Malformed("bytes after the last chunk")

    def on_message_complete(self) -> None:
        """Called by the parser at the end."""
        self.ended = True


class Dechunker:
    """Decodes one chunked body; trailers and extensions are checked and dropped. Keeps nothing between two calls.

    :ivar ended: whether the body is complete.
    :ivar excess: whether bytes came after its end.
    """

    __slots__ = ("_chunks", "_parser", "ended", "excess")

    def __init__(self) -> None:
        self._chunks = _Chunks()
        self.ended = False
        self.excess = False
        self._parser = httptools.HttpResponseParser(self._chunks)
        self._parser.feed_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def feed(self, data: bytes) -> bytes:
        """Return what ``data`` holds of the body; may be nothing.

        :raises Malformed: it is not chunked coding.
        """
        chunks = self._chunks
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not chunks.ended:
                raise Malformed(f"chunked coding: {error}") from None
            self.excess = True
        self.ended = chunks.ended
        parts = chunks.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return body
