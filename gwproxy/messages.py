"""The messages of a request: what the client sent, and what will leave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import orjson
from mypy_extensions import mypyc_attr
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.sansio.http import parse_cookie

from gwproxy.errors import TEXTS
from gwproxy.http.bodies import NoBody, RequestBody, ResponseBody
from gwproxy.http.headers import Headers


@mypyc_attr(allow_interpreted_subclasses=True)
class Request:
    """The client's request, in the form that is forwarded.

    :ivar method: upper case, as sent.
    :ivar path: the canonical path (see the configuration reference): what is matched, logged and forwarded.
    :ivar query_string: as sent, without ``?``; forwarded byte for byte.
    :ivar headers: end-to-end fields only: hop-by-hop fields, identity headers and untrusted forwarding headers were
        removed before any plugin ran. What a plugin sets is forwarded.
    :ivar host: the requested host, lower case, without port and trailing dot.
    :ivar scheme: ``http`` or ``https``, as the client used it.
    :ivar remote_addr: the client's address, past the trusted proxies.
    :ivar upgrade: the protocol that the client asks to switch to, e.g. ``websocket``; empty: none.
    :ivar body: the stream; use :meth:`get_data`.
    """

    __slots__ = (
        "_cookies",
        "_max_buffer",
        "_query",
        "body",
        "forwarded",
        "headers",
        "host",
        "host_header",
        "http_version",
        "method",
        "path",
        "peer",
        "query_string",
        "remote_addr",
        "scheme",
        "upgrade",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query_string: str = "",
        headers: Headers | None = None,
        *,
        host_header: str = "",
        host: str = "",
        scheme: str = "http",
        remote_addr: str = "",
        peer: str = "",
        forwarded: Headers | None = None,
        http_version: str = "1.1",
        upgrade: str = "",
        body: RequestBody | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query_string
        self.headers = headers if headers is not None else Headers()
        self.host_header = host_header  # as sent, with its port
        self.host = host
        self.scheme = scheme
        self.remote_addr = remote_addr
        self.peer = peer  # the TCP peer or what the PROXY protocol says
        self.forwarded = forwarded  # forwarding headers of a trusted peer; None: there are none to extend
        self.http_version = http_version
        self.upgrade = upgrade
        self.body = body if body is not None else NoBody()
        self._max_buffer = 1 << 20
        self._query: ImmutableMultiDict[str, str] | None = None
        self._cookies: ImmutableMultiDict[str, str] | None = None

    @property
    def query(self) -> ImmutableMultiDict[str, str]:
        """The decoded query parameters, in order, repetitions kept; parsed when first asked for."""
        if self._query is None:
            self._query = ImmutableMultiDict(parse_qsl(self.query_string, keep_blank_values=True, errors="replace"))
        return self._query

    @property
    def cookies(self) -> ImmutableMultiDict[str, str]:
        """The cookies, repetitions kept; parsed when first asked for. Bytes that are no UTF-8 are replaced: they are the client's fault."""
        if self._cookies is None:
            sent = "; ".join(self.headers.getlist("Cookie"))
            self._cookies = ImmutableMultiDict(parse_cookie(sent.encode("latin-1").decode("utf-8", "replace")))
        return self._cookies

    def get_data(self) -> bytes:
        """Return the whole raw body; it is kept and still forwarded.

        :raises PayloadTooLarge: it is longer than the route's ``max_buffer`` (the client gets 413).
        :raises RequestTimeout: the client was too slow (408).
        """
        return self.body.read_all(self._max_buffer)

    def copy(self) -> Request:
        """Return a request with its own headers, and the same body."""
        new = Request(
            self.method,
            self.path,
            self.query_string,
            self.headers.copy(),
            host_header=self.host_header,
            host=self.host,
            scheme=self.scheme,
            remote_addr=self.remote_addr,
            peer=self.peer,
            forwarded=self.forwarded,
            http_version=self.http_version,
            upgrade=self.upgrade,
            body=self.body,
        )
        new._max_buffer = self._max_buffer
        return new


@mypyc_attr(allow_interpreted_subclasses=True)
class Response:
    """What will leave, from an upstream or from the gateway itself.

    :ivar status: 200 to 599; 101 when an upstream agrees to an upgrade: there is no body then, and a tunnel follows.
    :ivar headers: mutable; framing headers are the gateway's own business and set when it is sent.
    :ivar upstream: whether an upstream made it.
    """

    __slots__ = ("_borrowed", "_max_buffer", "body", "headers", "status", "unread", "upstream")

    def __init__(self, status: int, headers: Headers | None = None, body: ResponseBody | bytes = b"", *, upstream: bool = False) -> None:
        self.status = status
        self.headers = headers if headers is not None else Headers()
        self.body = ResponseBody(body) if isinstance(body, bytes) else body
        self.upstream = upstream
        #: Whether a plugin asked for a body that was longer than ``max_buffer``; access logs note it.
        self.unread = False
        self._max_buffer = 1 << 20
        self._borrowed = False  # a copy made for a plugin in shadow mode: closing is not its business

    def get_data(self) -> bytes | None:
        """Return the whole body as it came (compressed if it is), or None if it is longer than ``max_buffer``.

        Waits until the body is complete: a stream that never ends would be held back. Nothing is lost by a None: the
        body is streamed on.
        """
        data = self.body.read_ahead(self._max_buffer)
        if data is None:
            self.unread = True
        return data

    def set_data(self, data: bytes) -> None:
        """Replace the body; ``Content-Encoding`` and ``ETag`` of the old one go, the length is set when it is sent."""
        if not self._borrowed:
            self.body.close()
        self.body = ResponseBody(data)
        for name in ("Content-Encoding", "ETag", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"):
            self.headers.remove(name)

    def copy(self) -> Response:
        """Return a response with its own status and headers, and the same body."""
        new = Response(self.status, self.headers.copy(), self.body, upstream=self.upstream)
        new._max_buffer = self._max_buffer
        new._borrowed = True
        return new

    @classmethod
    def error(cls, status: int, text: str | None = None, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """Make an error of the gateway's own: ``{"error": "<text>"}``."""
        return cls.of(status, {"error": text if text is not None else TEXTS[status]}, headers)

    @classmethod
    def of(cls, status: int, body: Any, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """Make a response from what a plugin gave: None (no body), bytes, str (text) or anything JSON can hold.

        :raises TypeError: JSON cannot hold it.
        :raises ValueError: a header field cannot stand in a response.
        """
        made = Headers()
        for name, value in headers:
            made.add(name, value)
        if body is None:
            return cls(status, made)
        if isinstance(body, (bytes, bytearray)):
            data, kind = bytes(body), "application/octet-stream"
        elif isinstance(body, str):
            data, kind = body.encode(), "text/plain; charset=utf-8"
        else:
            data, kind = orjson.dumps(body), "application/json"
        made.setdefault("Content-Type", kind)
        return cls(status, made, data)
