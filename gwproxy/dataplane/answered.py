"""What a worker has answered, by route: how often, how long it took, and how much of that was the gateway's."""

from __future__ import annotations

from typing import Any

from gwproxy.dataplane.histogram import Histogram

#: Rows that a worker has at most: a configuration may have 100,000 routes, and all is told every two seconds.
MOST = 200
#: The route of requests that none matched, and of those whose route has no row of its own. Neither can be a route's id.
UNMATCHED, OTHERS = "(none)", "(others)"


class RouteMeasure:
    """The requests of one route that are over: counters that only grow.

    :ivar statuses: how many by the hundreds of their status.
    :ivar total: from the request's head to the response's last byte; without upgraded connections, which last as long as they like.
    :ivar upstream: of those that were forwarded, the time until an upstream had answered its head, all attempts together, without
        what its client took to send a body.
    :ivar gateway: the rest of the time until the response was ready to leave: the gateway's own, its plugins' and their store's.
    """

    __slots__ = ("bytes_in", "bytes_out", "gateway", "statuses", "total", "upstream")

    def __init__(self) -> None:
        self.statuses: list[int] = [0] * 6
        self.total = Histogram()
        self.upstream = Histogram()
        self.gateway = Histogram()
        self.bytes_in = 0
        self.bytes_out = 0

    def count(self, status: int, took: float, upstream: float, gateway: float, bytes_in: int, bytes_out: int) -> None:
        """Count a request that is over; see :meth:`Answered.count`."""
        self.statuses[status // 100] += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        if status != 101:
            self.total.add(took)
        self.gateway.add(gateway)
        if upstream > 0.0:
            self.upstream.add(upstream)

    def shown(self, route: str) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "route": route,
            "statuses": {f"{hundreds}xx": count for hundreds, count in enumerate(self.statuses) if count},
            "total": self.total.shown(),
            "upstream": self.upstream.shown(),
            "gateway": self.gateway.shown(),
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
        }


class Answered:
    """All that a worker has answered.

    The first :data:`MOST` routes that are asked for have a row each, as long as the worker lives; those of all others are counted
    together, so that no counter ever jumps back.
    """

    __slots__ = ("_routes",)

    def __init__(self) -> None:
        self._routes: dict[str, RouteMeasure] = {}

    def of(self, route: str) -> RouteMeasure:
        """Return where the requests of a route are counted."""
        found = self._routes.get(route)
        if found is None:
            if len(self._routes) >= MOST:
                route = OTHERS
            found = self._routes.setdefault(route, RouteMeasure())
        return found

    def count(self, route: str, status: int, took: float, upstream: float, gateway: float, bytes_in: int, bytes_out: int) -> None:
        """Count a request that is over.

        :param upstream: seconds; 0.0: it was not forwarded.
        """
        self.of(route).count(status, took, upstream, gateway, bytes_in, bytes_out)

    def shown(self) -> list[dict[str, Any]]:
        """Return all rows, sorted by route."""
        return [row.shown(route) for route, row in sorted(self._routes.items())]
