"""A route as it is served: what a request asks of it is there already, in the form in which it is used.

By itself, because setup.py compiles it: what a request reads of a model, or of a class that is not compiled, costs a look-up by
name each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from gwproxy.context import Patience
from gwproxy.dataplane.answered import RouteMeasure
from gwproxy.dataplane.mirror import LiveMirror
from gwproxy.dataplane.split import Traffic
from gwproxy.dataplane.step import Steps
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.hookspecs import PHASES
from gwproxy.model import Route

Chain = Mapping[str, Steps]

#: No plugin in any phase.
EMPTY_CHAIN: Final[Chain] = MappingProxyType(dict.fromkeys(PHASES, ()))


class CompiledRoute:
    """A route, ready to serve.

    :ivar chain: the steps of each phase.
    :ivar upstream: where it goes.
    :ivar unavailable: why it answers 503 (a plugin that is not there); None if it serves.
    :ivar secrets: of its plugins' configurations.
    :ivar traffic: which of several upstreams a request goes to; None: to ``upstream``.
    :ivar mirror: who gets copies; None: nobody.
    :ivar timeout: the route's, as are ``max_body``, ``max_buffer`` and ``strip_path``.
    :ivar patience: what ``timeout`` says.
    :ivar measure: where its requests are counted; None: there was none yet.
    """

    __slots__ = (
        "chain",
        "max_body",
        "max_buffer",
        "measure",
        "mirror",
        "patience",
        "route",
        "secrets",
        "strip_path",
        "timeout",
        "traffic",
        "unavailable",
        "upstream",
    )

    def __init__(
        self,
        route: Route,
        chain: Chain,
        upstream: LiveUpstream,
        unavailable: str | None = None,
        secrets: frozenset[str] = frozenset(),
        traffic: Traffic | None = None,
        mirror: LiveMirror | None = None,
    ) -> None:
        self.route = route
        self.chain = chain
        self.upstream = upstream
        self.unavailable = unavailable
        self.secrets = secrets
        self.traffic = traffic
        self.mirror = mirror
        self.timeout = route.timeout
        self.patience = Patience(route.timeout)
        self.max_body: int | None = route.max_body
        self.max_buffer: int = route.max_buffer
        self.strip_path: bool = route.strip_path
        self.measure: RouteMeasure | None = None

    def with_others(self, *, traffic: Traffic | None, mirror: LiveMirror | None) -> CompiledRoute:
        """Return the same with other upstreams than its own."""
        return CompiledRoute(self.route, self.chain, self.upstream, self.unavailable, self.secrets, traffic, mirror)

    def upstreams(self) -> Iterator[LiveUpstream]:
        """Yield all that it refers to, with repetitions."""
        yield self.upstream
        if self.traffic is not None:
            yield from self.traffic.upstreams()
        if self.mirror is not None:
            yield self.mirror.upstream
