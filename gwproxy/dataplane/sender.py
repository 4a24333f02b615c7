"""The way of a request through the transport of an upstream: a connection, and the exchange on it.

By itself, because setup.py compiles it: :mod:`gwproxy.dataplane.transport` is made of requests' classes and cannot be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from gwproxy.dataplane.connect import Origin
from gwproxy.dataplane.exchange import exchange
from gwproxy.dataplane.pool import Pool
from gwproxy.dataplane.upstream_request import UpstreamRequest
from gwproxy.dataplane.upstream_response import RawResponse, WholeResponse

_monotonic: Final = time.monotonic  # PERF: at hand for compiled code, without a look-up in a module

#: Makes an exchange on a connection that is its own: as :func:`gwproxy.dataplane.exchange.exchange`.
Exchanging = Callable[..., RawResponse | WholeResponse]


class Sender:
    """Sends requests, each once, over connections that are kept for the next.

    :ivar pools: by the name of their origin: a hash that is there already.

    :param make: returns what makes a pool and puts it there. Asked for it because that refers to it weakly: an upstream that is let go of
        is freed at once, and not by a collection.
    :param keepalive: False: every connection serves one exchange.
    :param otherwise: by which an exchange is made; None: by the gateway's own. PERF: which is called directly then.
    """

    __slots__ = ("_keepalive", "_make", "_otherwise", "pools")

    def __init__(
        self, make: Callable[[], Callable[[Origin], Pool] | None], *, keepalive: bool, otherwise: Exchanging | None = None
    ) -> None:
        self.pools: dict[str, Pool] = {}
        self._make = make
        self._keepalive = keepalive
        self._otherwise = otherwise

    def exchange(self, request: UpstreamRequest) -> RawResponse | WholeResponse:
        """Send ``request`` and return the response, its body still to come.

        :raises: as :meth:`gwproxy.dataplane.transport.GatewayAdapter.send`.
        """
        now = _monotonic()
        pool = self.pools.get(request.origin.name)
        if pool is None:
            make = self._make()
            assert make is not None  # noqa: S101 - who has this has the adapter
            pool = make(request.origin)
        connection = None if request.fresh else pool.kept(now)
        if connection is None:
            connection = pool.lease(self._connected_by(request, now), fresh=True)
            now = _monotonic()
        try:
            if self._otherwise is not None:
                return self._otherwise(request, connection, keepalive=self._keepalive)
            return exchange(request, connection, now, keepalive=self._keepalive)
        except BaseException:  # a killed greenlet, too, must not leave an answer for somebody else
            connection.close()
            raise

    @staticmethod
    def _connected_by(request: UpstreamRequest, now: float) -> float:
        until = now + request.timeouts.connect
        return until if request.deadline is None else min(until, request.deadline)
