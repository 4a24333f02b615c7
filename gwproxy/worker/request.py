"""The head of a request, by gunicorn's Python parser, with what that one throws away kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from gunicorn.http import message
from gunicorn.http.body import ChunkedReader, LengthReader
from gunicorn.http.errors import (
    ExpectationFailed,
    InvalidChunkSize,
    InvalidRequestLine,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)

from gwproxy.errors import BadRequest, HttpError
from gwproxy.http.forwarding import Entry, entries_of
from gwproxy.worker.fields import check, fold, wants_close
from gwproxy.worker.reader import ClientReader

_STATUS: dict[type[Exception], int] = {
    LimitRequestLine: 414,
    ExpectationFailed: 417,
    LimitRequestHeaders: 431,
    UnsupportedTransferCoding: 501,
}
_LONGEST_BODY = 2**63 - 1
_LONGEST_LINE = 8190


@dataclass(frozen=True, slots=True)
class ParserLimits:
    """The parser's settings: limits that an operator chose, and switches that are none here.

    What gunicorn offers to relax its parser is fixed to the strict side: each of these reopens a way to smuggle.
    """

    limit_request_line: int
    limit_request_fields: int
    limit_request_field_size: int
    is_ssl: bool
    header_map: str  # "refuse" or "drop"; what has a "_" in its name is never mapped onto "-"

    casefold_http_method: ClassVar[bool] = False
    permit_obsolete_folding: ClassVar[bool] = False
    permit_unconventional_http_method: ClassVar[bool] = False
    permit_unconventional_http_version: ClassVar[bool] = False
    strip_header_spaces: ClassVar[bool] = False
    http_parser: ClassVar[str] = "python"
    forwarded_allow_ips: ClassVar[tuple[str, ...]] = ()
    forwarder_headers: ClassVar[tuple[str, ...]] = ()
    secure_scheme_headers: ClassVar[dict[str, str]] = {}

    @classmethod
    def from_config(cls, cfg: Any) -> ParserLimits:
        """Take the limits of a gunicorn configuration; 0 (there: unlimited) is the largest allowed."""
        line = cfg.limit_request_line
        return cls(
            limit_request_line=line if 0 < line <= _LONGEST_LINE else _LONGEST_LINE,
            limit_request_fields=cfg.limit_request_fields,
            limit_request_field_size=cfg.limit_request_field_size,
            is_ssl=cfg.is_ssl,
            header_map="refuse" if cfg.header_map == "refuse" else "drop",
        )

    def forwarded_allow_networks(self) -> tuple[()]:
        """No peer may set the scheme or script name by a header."""
        return ()


class _Chunks(ChunkedReader):  # type: ignore[misc]
    """Gunicorn's reader of chunks, which takes a chunk of any size: one of 2**64 bytes is what others read as 0."""

    def parse_chunk_size(self, unreader: ClientReader, data: bytes | None = None) -> tuple[int, bytes | None]:
        size, rest = super().parse_chunk_size(unreader, data)
        if size > _LONGEST_BODY:
            raise InvalidChunkSize("more than 63 bits")
        return size, rest


class Request(message.Request):  # type: ignore[misc]
    """One request head, valid and unambiguous; :func:`read_request` makes it.

    :ivar method: upper-case.
    :ivar uri: the target as sent.
    :ivar path: of the target, still escaped; :attr:`query` likewise.
    :ivar entries: its fields in order, with repetitions and case as sent, latin-1; none with a ``_`` in its name.
    :ivar folded: the same as WSGI variables.
    :ivar dropped: how many header lines had a ``_`` in their name.
    :ivar http11: whether the client speaks HTTP/1.1 (or a later 1.x); else it is HTTP/1.0.
    :ivar close: the connection is to be closed after this request.
    :ivar awaits_continue: the body comes only after a ``100 Continue``.
    :ivar length: of the body in bytes; None if it is chunked.
    """

    method: str
    body: Any  # of gunicorn: None, once it has decided
    uri: str
    path: str
    query: str

    def __init__(self, limits: ParserLimits, reader: ClientReader, peer: object) -> None:
        # Before the parser runs, which is in the constructor.
        self._pairs: list[tuple[str, str]] = []
        self.entries: list[Entry] = []
        self.folded: dict[str, str] = {}
        self.dropped = 0
        super().__init__(limits, reader, peer)

    def parse(self, unreader: ClientReader) -> bytes:
        """Read and parse; always in Python, and never a PROXY header: that one is read before."""
        buf = bytearray()
        self.read_into(unreader, buf, stop=True)
        if buf[0] <= 0x20 and buf[0] != 0x0D:  # a TLS hello may hold no line end to wait for
            raise InvalidRequestLine("control byte")
        rest: bytes = self._parse_python(unreader, buf)
        return rest

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> list[tuple[str, str]]:
        """Let gunicorn validate, then keep the names as they were spelled."""
        validated: list[tuple[str, str]] = super().parse_headers(data, from_trailer)
        if not from_trailer:
            for line in data.decode("latin-1").split("\r\n"):
                name, _, value = line.partition(":")
                if "_" in name:
                    self.dropped += 1
                else:
                    self._pairs.append((name, value.strip(" \t")))
        return validated

    def pieces(self) -> Iterator[bytes] | None:
        """Return a chunked body, piece by piece, to be read once; None if it is not chunked."""
        if self.length is not None:
            return None
        chunks = _Chunks(self, self.unreader)
        # Gunicorn's reader and its generator refer to each other: until a collection they would keep the connection that they read.
        pieces: Iterator[bytes] = chunks.parser
        chunks.parser = None
        return pieces

    def set_body_reader(self) -> None:
        """Let gunicorn decide on the framing, then apply the rules of :mod:`~gwproxy.worker.fields`."""
        super().set_body_reader()
        self.folded = fold(self._pairs)
        self.http11 = self.version >= (1, 1)
        check(self.folded, http11=self.http11)
        self.close = self.method in ("CONNECT", "TRACE") or wants_close(self.folded, http11=self.http11)
        body = self.body.reader
        self.length: int | None = body.length if isinstance(body, LengthReader) else None
        if self.length is None:
            body.parser = None  # as in pieces()
        self.body = None
        self.awaits_continue: bool = self._expected_100_continue and self.length != 0
        if self.length is not None:
            if self.length > _LONGEST_BODY:
                raise BadRequest("Content-Length")
            if "CONTENT_LENGTH" in self.folded:
                self.folded["CONTENT_LENGTH"] = str(self.length)  # 003 is 3
        try:
            self.entries = entries_of(self._pairs)
        except ValueError:
            raise BadRequest("a control character in a field") from None


def read_request(limits: ParserLimits, reader: ClientReader, peer: object) -> Request | None:
    """Read the head of the next request; None if the client sends no other.

    :raises TimeoutError: the client did not send it in its time; ``reader.begun`` says whether it sent a part.
    :raises OSError: the connection broke, or ended within a head.
    :raises HttpError: it is malformed, ambiguous or too large. The detail names the rule, never what was sent.
    """
    try:
        return Request(limits, reader, peer)
    except StopIteration:
        return None
    except ParseException as error:
        raise HttpError(type(error).__name__, status=_STATUS.get(type(error), 400)) from None
