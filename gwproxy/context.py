"""What a plugin sees of a request, and may change.

One :class:`Context` lives as long as its request. Everything here is one request's own: nothing is shared with another
request but the route and the consumer, which are frozen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

import orjson
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.http import parse_cookie

from gwproxy.errors import TEXTS, Aborted
from gwproxy.http.bodies import RequestBody, ResponseBody
from gwproxy.http.headers import Headers
from gwproxy.model import Consumer, Route, Timeouts


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
        self.upgrade = upgrade  # the protocol the client asks to switch to, e.g. websocket; empty: none
        self.body = body if body is not None else RequestBody(_NOTHING, 0)
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
        """The cookies, parsed when first asked for."""
        if self._cookies is None:
            self._cookies = ImmutableMultiDict(parse_cookie(self.headers.get("Cookie")))
        return self._cookies

    def get_data(self) -> bytes:
        """Return the whole raw body; it is kept and still forwarded.

        :raises PayloadTooLarge: it is longer than the route's ``max_buffer`` (the client gets 413).
        :raises RequestTimeout: the client was too slow (408).
        """
        return self.body.read_all(self._max_buffer)

    def copy(self) -> Request:
        """Return a request with its own headers, and the same body."""
        new = Request.__new__(Request)
        for name in Request.__slots__:
            setattr(new, name, getattr(self, name))
        new.headers = self.headers.copy()
        return new


class _Nothing:
    def read(self, _size: int, /) -> bytes:
        return b""


_NOTHING = _Nothing()


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


class UpstreamChoice:
    """Where the request goes; a plugin may change both before the ``pre_proxy`` phase ends.

    :ivar base: scheme, host and port, e.g. ``http://10.0.0.5:8000``. For a named upstream its name stands for the host
        (``http://users``) until the request has been forwarded, then the target that got it.
    :ivar target: path and query, as they are sent.
    """

    __slots__ = ("_timeout", "base", "target")

    def __init__(self, base: str, target: str, timeout: Timeouts) -> None:
        self.base = base
        self.target = target
        self._timeout = timeout

    @property
    def timeout(self) -> Timeouts:
        """The route's, as a :class:`gwproxy.model.Timeouts`. A number assigned is ``read`` and ``head``, in seconds."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: Timeouts | float) -> None:
        if not isinstance(value, Timeouts):
            value = Timeouts.model_validate({**self._timeout.model_dump(), "read": value, "head": value})
        self._timeout = value

    @property
    def url(self) -> str:
        """The whole URL. Assigning one with another scheme, host or port sends the request there."""
        return self.base + self.target

    @url.setter
    def url(self, value: str) -> None:
        if value.startswith(self.base) and value[len(self.base) : len(self.base) + 1] == "/":
            self.target = value[len(self.base) :]
            return
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.fragment or parts.port == 0:
            raise ValueError("an upstream URL is http:// or https://, a host, a path and a query")
        self.base = f"{parts.scheme}://{parts.netloc}"
        self.target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended, given to what :meth:`Context.on_finish` registered.

    :ivar status: as sent.
    :ivar bytes_in: received of the request's body.
    :ivar bytes_out: sent of the response's body.
    :ivar duration: seconds from the request's head to the last byte.
    :ivar completed: whether the whole response was handed to the client's connection.
    """

    status: int
    bytes_in: int
    bytes_out: int
    duration: float
    completed: bool


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What a plugin in ``mode: shadow`` would have done.

    :ivar action: ``abort``, ``authenticate``, ``change`` or ``error``.
    :ivar detail: the status of an abort, else what was changed; no values.
    """

    plugin: str
    phase: str
    action: str
    detail: str


class Context:
    """One request on its way through the gateway.

    :ivar request: the :class:`Request`.
    :ivar response: None until there is one; in the ``response`` phase always what will leave.
    :ivar route: the matched :class:`~gwproxy.model.Route`; None if none matched.
    :ivar params: what the path template's ``{param}`` stood for, by name, as it stands in the canonical path.
    :ivar upstream: the :class:`UpstreamChoice`; None if no route matched.
    :ivar state: shared by the plugins of this request; ``user_id`` and ``authenticated`` are set by authentication.
    :ivar consumer: the :class:`~gwproxy.model.Consumer` that was found; None if there is none.
    :ivar response_headers: replace same-named headers of whatever leaves, refusals included.
    :ivar request_id: the client's ``X-Request-ID`` if it is well-formed, else made here.
    :ivar shadowed: what plugins in ``mode: shadow`` would have done.
    :ivar started: seconds, of ``time.monotonic``.
    """

    __slots__ = (
        "_aborted",
        "_authenticated",
        "_consumer_of",
        "_forwarded",
        "_greenlet",
        "_step",
        "_step_since",
        "challenges",
        "consumer",
        "finishers",
        "params",
        "request",
        "request_id",
        "response",
        "response_headers",
        "route",
        "shadowed",
        "started",
        "state",
        "upstream",
    )

    def __init__(
        self,
        request: Request,
        route: Route | None = None,
        *,
        params: dict[str, str] | None = None,
        upstream: UpstreamChoice | None = None,
        request_id: str = "",
        consumer_of: Callable[[dict[str, Any]], Consumer | None] = lambda state: None,
        started: float | None = None,
    ) -> None:
        self.request = request
        self.response: Response | None = None
        self.route = route
        self.params = params if params is not None else {}
        self.upstream = upstream
        self.state: dict[str, Any] = {}
        self.consumer: Consumer | None = None
        self.response_headers = Headers()
        self.request_id = request_id
        self.challenges: list[str] = []
        self.finishers: list[Callable[[Outcome], object]] = []
        self.shadowed: list[Shadowed] = []
        self.started = time.monotonic() if started is None else started
        self._consumer_of = consumer_of
        self._aborted: Aborted | None = None
        self._authenticated = False
        self._forwarded: Response | None = None  # the upstream's, whatever a plugin puts in its place
        # What runs now, since when, and in which greenlet: the watchdog of budgets looks here.
        self._step: object = None
        self._step_since = 0.0
        self._greenlet: object = None

    def abort(self, status: int, body: Any = None, headers: Sequence[tuple[str, str]] = ()) -> NoReturn:
        """End the request here with ``status`` and ``body``; only the ``response`` phase still runs.

        It cannot be undone by catching what it raises.

        :param body: None for none, bytes, str (sent as text), or anything JSON can hold.
        :param headers: of the response; a 401 gets ``WWW-Authenticate`` from :meth:`challenge` by itself.
        """
        self._aborted = Aborted(status, body, headers)
        raise self._aborted

    def authenticate(self, user_id: str, consumer: Consumer | None = None) -> None:
        """Say who is calling: sets ``state["user_id"]`` and ``state["authenticated"]``, and finds the consumer.

        :param consumer: who it is, if the plugin knows; None looks it up by the consumers' ``match``.
        :raises ValueError: ``user_id`` is empty or has control characters, and could not be told to an upstream.
        """
        if not user_id or not user_id.isprintable():
            raise ValueError("a user id is a non-empty string without control characters")
        self.state["user_id"] = user_id
        self.state["authenticated"] = self._authenticated = True
        self.consumer = consumer if consumer is not None else self._consumer_of(self.state)

    def challenge(self, value: str) -> None:
        """Add a ``WWW-Authenticate`` challenge (RFC 9110 section 11.6.1), sent if the request ends with 401."""
        if value not in self.challenges:
            self.challenges.append(value)

    def on_finish(self, function: Callable[[Outcome], object]) -> None:
        """Call ``function`` after the last byte has been sent, or the connection was lost.

        What it raises is logged and does nothing else.
        """
        self.finishers.append(function)

    def shadow(self) -> Context:
        """Return a twin for a plugin in shadow mode: what it changes there changes nothing here, but bodies are shared."""
        twin = Context(self.request.copy(), self.route, params=dict(self.params), request_id=self.request_id, started=self.started)
        if self.upstream is not None:
            twin.upstream = UpstreamChoice(self.upstream.base, self.upstream.target, self.upstream.timeout)
        twin.response = self.response.copy() if self.response is not None else None
        twin.state = dict(self.state)
        twin.consumer = self.consumer
        twin.response_headers = self.response_headers.copy()
        twin._consumer_of = self._consumer_of
        return twin
