"""The other transport: requests' own adapter, and urllib3's connection, on the connections of the gateway's pools.

For comparing, and for whoever doubts the gateway's own: the same requests, the same answers, at several times the cost. See
:mod:`gwproxy.dataplane.requests_exchange` for what is whose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError

from gwproxy.dataplane import wire
from gwproxy.dataplane.pool import Connection
from gwproxy.dataplane.requests_exchange import AnsweredEarly, ExchangeSocket, RequestsResponse
from gwproxy.dataplane.transport import GatewayAdapter, GatewayResponse
from gwproxy.dataplane.upstream_request import SizedBody, UpstreamRequest
from gwproxy.model import TLS

#: What urllib3 and http.client add to a request that does not have it.
_IMPLIED = ("host", "user-agent", "accept-encoding", "content-length")


class Fields:
    """The fields of a request, for urllib3: in order, repeated, as spelled, and none that it would add.

    :ivar socket: what the request is sent over.
    """

    def __init__(self, lines: list[tuple[str, str]], socket: ExchangeSocket) -> None:
        self._lines = lines
        self._names = frozenset(name.lower() for name, _ in lines)
        self.socket = socket

    def __iter__(self) -> Iterator[str]:
        """Yield the names that urllib3 is not to think of, be they there or not."""
        yield from self._names
        yield from _IMPLIED

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._names

    def items(self) -> Iterable[tuple[str, str]]:
        """Return every line."""
        return self._lines

    def copy(self) -> Fields:
        """Return itself: urllib3 wants to add a proxy's fields to it, and there is no proxy."""
        return self

    def update(self, others: Iterable[Any]) -> None:
        """Do nothing."""


class Outgoing(requests.PreparedRequest):
    """An :class:`UpstreamRequest` as requests' adapter takes requests."""

    def __init__(self, request: UpstreamRequest, connection: Connection, *, keepalive: bool) -> None:
        """Say how it is sent.

        :raises ValueError: the target would not be one.
        """
        # Not super().__init__(): nothing is prepared here, either.
        body = request.body
        length = len(body) if isinstance(body, bytes) else getattr(body, "length", None)
        framing = wire.framing(request.method, body=body is not None, length=length)
        wire.encode_head(request.method, request.target, request.block, framing)  # for what it refuses
        lines = request.fields
        if framing:
            name, _, value = framing.decode().rstrip().partition(": ")
            lines.append((name, value))
        if not keepalive and not request.upgrade:
            lines.append(("Connection", "close"))
        self.sent = request
        self.keepalive = keepalive
        self.socket = ExchangeSocket(request, connection)
        self.method = request.method
        self.url = request.url
        self.headers = Fields(lines, self.socket)  # type: ignore[assignment]
        self.body = self.socket.chunks(body) if isinstance(body, SizedBody) else body  # type: ignore[assignment]


class LentConnection(HTTPConnection):
    """urllib3's connection, over a socket that comes with each request."""

    sock: Any

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        """Send a request, the target as it is; if the answer comes before all of it is sent, leave it at that."""
        socket: ExchangeSocket = headers.socket
        request = socket.request
        target = request.target.decode("latin-1")  # url has been through two libraries that quote
        self.sock = socket
        try:
            if isinstance(request.body, SizedBody):
                with request.body.watching(socket.fileno(), socket.interrupt, request.deadline):
                    super().request(method, target, body, headers, **options)
            else:
                super().request(method, target, body, headers, **options)
        except AnsweredEarly:
            return
        socket.transmitted = True

    def _encode_request(self, request: str) -> bytes:
        """Encode the request line as what it is: http.client knows ASCII only."""
        return request.encode("latin-1")


class LendingPool(HTTPConnectionPool):
    """urllib3's pool, of no connections: each exchange brings its own, from :mod:`gwproxy.dataplane.pool`."""

    def _get_conn(self, timeout: float | None = None) -> LentConnection:
        return LentConnection(self.host)

    def _put_conn(self, conn: Any) -> None:
        """Do nothing: see :meth:`RawResponse.close`."""


class RequestsAdapter(GatewayAdapter, HTTPAdapter):
    """Sends what :class:`GatewayAdapter` sends, by requests' own :class:`HTTPAdapter`."""

    def __init__(self, *, tls: TLS | None = None, keepalive: bool = True, idle_timeout: float = 60.0) -> None:
        super().__init__(tls=tls, keepalive=keepalive, idle_timeout=idle_timeout)
        self._lending = LendingPool("upstream")

    def _otherwise(self, request: UpstreamRequest, connection: Connection, *, keepalive: bool) -> RequestsResponse:
        outgoing = Outgoing(request, connection, keepalive=keepalive)
        try:
            response = HTTPAdapter.send(self, outgoing, stream=True)
        except (requests.RequestException, HTTPError) as error:  # whatever they refuse that we did not
            raise outgoing.socket.failed(str(error)) from error
        assert isinstance(response.raw, RequestsResponse)  # noqa: S101 - build_response made it
        return response.raw

    # ---- what requests lets a subclass decide

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> HTTPConnectionPool:
        """Return the pool: the request has its connection, and that its TLS."""
        return self._lending

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: that was done when the connection was made."""

    def request_url(self, request: Any, proxies: Any) -> str:
        """Return anything: :class:`LentConnection` sends the target itself."""
        return "/"

    def build_response(self, req: Any, resp: Any) -> GatewayResponse:
        """Wrap urllib3's response: no cookies are looked for, nothing is decoded."""
        return GatewayResponse(req.sent, RequestsResponse(resp, req.socket, reusable=req.keepalive))
