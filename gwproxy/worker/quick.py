"""The head of a plain request, quickly: what it does not fully understand is left to gunicorn's parser, unread.

Nearly every header line that comes has come before: user agents, hosts, tokens repeat themselves. So lines are judged once
and remembered by their bytes, in a bounded cache; a head then costs a split, a lookup a line and the rules that concern it
as a whole. Most clients send the same header again with each request of a connection: then it costs a comparison. The same
rules hold as in :mod:`~gwproxy.worker.fields`: what two readers could understand differently is never accepted here.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import Any, Final

from mypy_extensions import mypyc_attr

from gwproxy.errors import BadRequest
from gwproxy.http.forwarding import Entry, Stripped, kind_of, strip_request
from gwproxy.http.headers import Field
from gwproxy.worker.fields import HOST, cgi_name

#: Bytes of a head that is looked at here.
LONGEST_HEAD = 16 * 1024
#: Bytes of lines that are remembered; in memory they take about five times that. More, and all are forgotten: an order to
#: forget them by would cost every request, and a flood of new lines gains nothing.
MOST_BYTES = 128 * 1024

_METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_TARGET: Final = re.compile(rb"/[!\"$-~]*+")
# RFC 9112 section 5 without what parsers differ on: no space around the name, no control character in the value.
# Here and elsewhere, only single characters are repeated possessively: before Python 3.11.5 groups match what they should not.
_LINE = re.compile(rb"([!#$%&'*+\-.^`|~0-9A-Za-z]++):([\t\x20-\x7e\x80-\xff]*+)")
_LENGTH = re.compile(r"[0-9]{1,18}")

# What frames a message or takes more than one line to understand.
_NOT_HERE = frozenset(("transfer-encoding", "expect", "upgrade", "http2-settings"))

#: A line that was judged: what goes on of it, its WSGI variable, and its value.
Line = tuple[Entry, str, str]
_entry: Final = itemgetter(0)
_variable_and_value: Final = itemgetter(1, 2)


class Lines(dict[bytes, Line | None]):
    """Header lines by their bytes, without CR LF. None: one that is not for here.

    :param longest: bytes of a line.

    :ivar telling: lines that say how long the body is, or that the connection ends.
    :ivar size: bytes of them all.
    """

    def __init__(self, longest: int) -> None:
        super().__init__()
        self._longest = longest
        self.telling: set[bytes] = set()
        self.size = 0

    def __missing__(self, line: bytes) -> Line | None:
        judged = self._judge(line) if len(line) <= self._longest else None
        self[line] = judged
        self.size += len(line)
        return judged

    def _judge(self, line: bytes) -> Line | None:
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        name, value = match[1].decode("latin-1"), match[2].strip(b" \t").decode("latin-1")
        key = name.lower()
        if key in _NOT_HERE or (key == "host" and not HOST.fullmatch(value)) or (key == "origin" and ("," in value or " " in value)):
            return None
        if key == "content-length":
            if not _LENGTH.fullmatch(value):
                return None
            self.telling.add(line)
        elif key == "connection":
            option = value.lower()
            if option not in ("close", "keep-alive"):
                return None
            if option == "close":
                self.telling.add(line)
        field: Field = (key, name, value, f"{name}: {value}\r\n".encode("latin-1"))
        return (field, kind_of(key)), cgi_name(name), value


@mypyc_attr(acyclic=True)
class Block:
    """The header of a request, understood. Never changes: all requests of a connection that come with the same share one.

    :ivar data: as it came, without the last CR LF.
    :ivar stripped: what :func:`~gwproxy.http.forwarding.strip_request` makes of it; None: a refusal.
    """

    __slots__ = ("close", "data", "entries", "folded", "length", "stripped")

    def __init__(self, data: bytes, entries: list[Entry], folded: dict[str, str]) -> None:
        self.data = data
        self.entries = entries
        self.folded = folded
        self.stripped = _stripped(entries)
        self.close = False
        self.length = 0


def _stripped(entries: list[Entry]) -> Stripped | None:
    try:
        return strip_request(entries)
    except BadRequest:
        return None


@mypyc_attr(acyclic=True)
class RequestLine:
    """The first line of a request, understood."""

    __slots__ = ("method", "path", "query", "uri")

    def __init__(self, method: str, uri: str) -> None:
        self.method = method
        self.uri = uri
        self.path, _, self.query = uri.partition("?")


class RequestLines(dict[bytes, RequestLine | None]):
    """Request lines by their bytes, as :class:`Lines`. None: one that is not for here."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self._longest = longest
        self.size = 0

    def __missing__(self, line: bytes) -> RequestLine | None:
        judged = self._judge(line) if len(line) <= self._longest else None
        self[line] = judged
        self.size += len(line)
        return judged

    def _judge(self, line: bytes) -> RequestLine | None:
        parts = line.split(b" ")
        if len(parts) != 3 or parts[2] != b"HTTP/1.1":
            return None
        method = _METHODS.get(parts[0])
        if method is None or _TARGET.fullmatch(parts[1]) is None:
            return None
        return RequestLine(method, parts[1].decode("ascii"))


@mypyc_attr(acyclic=True, free_list_len=1)
class QuickHead:
    """The head of an HTTP/1.1 request: the attributes of :class:`gwproxy.worker.request.Request`, of which it is the simple case."""

    __slots__ = ("block", "close", "entries", "folded", "length", "method", "path", "query", "uri")

    http11 = True
    awaits_continue = False
    dropped = 0

    def __init__(self, line: RequestLine, block: Block) -> None:
        self.block = block
        self.method = line.method
        self.uri = line.uri
        self.path = line.path
        self.query = line.query
        self.entries = block.entries
        self.folded = block.folded
        self.close = block.close
        self.length = block.length

    def pieces(self) -> None:
        """Return None: its body is not chunked."""


class QuickHeads:
    """Parses heads by the limits of one worker, and remembers lines for all its connections."""

    def __init__(self, line: int, fields: int, field_size: int) -> None:
        """Take the limits: bytes of a request line, number of fields, bytes of a field."""
        self._longest_line = line
        self._first_lines = RequestLines(line)
        self._most_fields = fields
        self._longest_field = field_size
        self._lines = Lines(field_size)

    def forget(self) -> Lines:
        """Forget all lines."""
        self._lines = Lines(self._longest_field)
        return self._lines

    def parse(self, data: bytes, end: int, before: Block | None = None) -> QuickHead | None:
        """Return the head that is ``data`` up to ``end``, where its empty line begins; None: it is not for here.

        :param before: the header of the connection's last request.
        """
        if end > LONGEST_HEAD:
            return None
        first, _, header = (data if len(data) == end else data[:end]).partition(b"\r\n")
        first_lines = self._first_lines
        if first_lines.size > MOST_BYTES:
            first_lines = self._first_lines = RequestLines(self._longest_line)
        line = first_lines[first]
        if line is None:
            return None
        block = before if before is not None and before.data == header else self._block(header)
        return QuickHead(line, block) if block is not None else None

    def _block(self, header: bytes) -> Block | None:
        """Return the header that consists of these lines."""
        rest = header.split(b"\r\n")
        if len(rest) > self._most_fields:
            return None
        lines = self._lines
        if lines.size > MOST_BYTES:
            lines = self.forget()
        # PERF: not a loop: what is in C costs a third.
        judged: list[Any] = list(map(lines.__getitem__, rest))
        if None in judged:
            return None
        folded: dict[str, str] = dict(map(_variable_and_value, judged))
        if len(folded) != len(judged) or "HTTP_HOST" not in folded:  # repetitions have rules of their own
            return None
        block = Block(header, list(map(_entry, judged)), folded)
        if not lines.telling.isdisjoint(rest):
            length = folded.get("CONTENT_LENGTH")
            if length is not None:
                block.length = int(length)
                folded["CONTENT_LENGTH"] = str(block.length)  # 003 is 3
            block.close = folded.get("HTTP_CONNECTION", "").lower() == "close"
        return block
