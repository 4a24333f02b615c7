"""The transport of the upstream sessions: a requests adapter of our own, on plain pooled sockets.

requests' own adapter rewrites targets, adds header fields and accepts responses that other parsers read differently. This
one sends the bytes it is given, and takes only answers that have one meaning.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from weakref import WeakMethod

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from gwproxy.dataplane.connect import Origin, client_context, connect
from gwproxy.dataplane.failures import ClientLeft, Failure, UpstreamFailed, UpstreamTimedOut
from gwproxy.dataplane.pool import Pool
from gwproxy.dataplane.sender import Exchanging, Sender
from gwproxy.dataplane.upstream_request import SizedBody, UpstreamRequest
from gwproxy.dataplane.upstream_response import RawResponse, WholeResponse
from gwproxy.model import TLS

__all__ = [
    "ClientLeft",
    "Failure",
    "GatewayAdapter",
    "GatewayResponse",
    "Origin",
    "RawResponse",
    "SizedBody",
    "UpstreamFailed",
    "UpstreamRequest",
    "UpstreamTimedOut",
    "WholeResponse",
]


class GatewayResponse(requests.Response):
    """What requests makes of a response. The gateway itself uses ``raw`` only: a body is not decoded or kept there."""

    request: UpstreamRequest  # type: ignore[assignment]  # see there
    raw: RawResponse | WholeResponse

    def __init__(self, request: UpstreamRequest, raw: RawResponse | WholeResponse) -> None:
        # Not super().__init__(): 7 us, for a cookie jar that must not be.
        self.request = request
        self.raw = raw
        self.status_code = raw.status
        self.reason = ""
        self.history = []
        self.encoding = None
        self._content = False  # type: ignore[assignment]  # requests' mark for: not read yet
        self._content_consumed = False
        self._next = None

    @property
    def headers(self) -> CaseInsensitiveDict[str]:  # type: ignore[override]
        """Made when asked for; of repeated fields only the last."""
        return CaseInsensitiveDict([(name, value) for _, name, value, _ in self.raw.fields])

    @property
    def url(self) -> str:  # type: ignore[override]
        """As of the request."""
        return self.request.url


class GatewayAdapter(BaseAdapter):
    """Sends :class:`UpstreamRequest` objects, each once: retries are not decided here.

    Constructing it opens nothing and reads no file. One adapter serves any number of origins, each with its own pool.

    :param tls: for ``https`` origins.
    :param keepalive: False: every connection serves one exchange, and the upstream is told so.
    :param idle_timeout: seconds an idle connection is kept, if the upstream's ``Keep-Alive`` does not ask for less.

    :ivar sender: what sends them.
    """

    #: By which an exchange is made on a connection; None: by the gateway's own.
    _otherwise: Exchanging | None = None

    def __init__(self, *, tls: TLS | None = None, keepalive: bool = True, idle_timeout: float = 60.0) -> None:
        super().__init__()
        self._tls = tls if tls is not None else TLS()
        self._context: ssl.SSLContext | None = None
        self._keepalive = keepalive
        self._idle_timeout = idle_timeout
        self._closed = False
        self.sender = Sender(WeakMethod(self._pool), keepalive=keepalive, otherwise=self._otherwise)
        self._pools = self.sender.pools

    def send(
        self,
        request: requests.PreparedRequest | UpstreamRequest,
        stream: bool = True,
        timeout: object = None,
        verify: object = True,
        cert: object = None,
        proxies: Mapping[str, str] | None = None,
    ) -> GatewayResponse:
        """Send ``request`` and return its response, the body still to come in ``raw``.

        Only ``request`` counts: timeouts are its own, TLS is the adapter's, and there is no proxy.

        :raises Failure: see its three classes.
        :raises TypeError: the request is not an :class:`UpstreamRequest`.
        :raises ValueError: it cannot be sent as one request: a line break in a field, a body longer than its length.
        """
        if not isinstance(request, UpstreamRequest):
            raise TypeError("only an UpstreamRequest can be sent: anything else has been prepared by requests")
        return GatewayResponse(request, self.exchange(request))

    def exchange(self, request: UpstreamRequest) -> RawResponse | WholeResponse:
        """Send ``request`` and return what requests would wrap.

        :raises: as :meth:`send`.
        """
        return self.sender.exchange(request)

    def prune(self) -> None:
        """Close idle connections whose time is over or whose upstream has closed them; does not wait.

        Those in the way of a request are found by themselves: this is for upstreams that get none.
        """
        for pool in list(self._pools.values()):
            pool.prune()

    def forget(self, origin: Origin) -> None:
        """Close the connections to an origin that is there no more: the idle ones, and those in use at the end of their exchange."""
        pool = self._pools.pop(origin.name, None)
        if pool is not None:
            pool.close()

    def connections(self) -> Iterator[tuple[str, int]]:
        """Yield, for each origin that was ever asked: its name, idle connections."""
        for name, pool in list(self._pools.items()):
            yield name, pool.idle

    def close(self) -> None:
        """Close the idle connections, and those in use at the end of their exchange."""
        self._closed = True
        for pool in list(self._pools.values()):
            pool.close()

    def _pool(self, origin: Origin) -> Pool:
        pool = self._pools.get(origin.name)
        if pool is None:
            made = Pool(partial(self._dial, origin), self._idle_timeout, keepalive=self._keepalive and not self._closed)
            pool = self._pools.setdefault(origin.name, made)
        return pool

    def _dial(self, origin: Origin, until: float) -> socket.socket:
        """Make a connection; the one place to replace where nothing is to be opened."""
        return connect(origin, self._context_for(origin), until)

    def _context_for(self, origin: Origin) -> ssl.SSLContext | None:
        if origin.scheme == "http":
            return None
        if self._context is None:  # PERF: loading the system's certificates takes 20 ms; most upstreams speak no TLS
            try:
                self._context = client_context(self._tls)
            except OSError as error:
                raise UpstreamFailed(f"the TLS files of {origin}: {error}", phase="connect") from error
        return self._context

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a GatewayAdapter holds sockets and cannot be pickled")
