"""The upstreams of a worker: sessions, balancers, breakers. They live beside snapshots and survive a change.

A snapshot refers to a :class:`LiveUpstream`; one whose description did not change is the same object in the next
snapshot, with its connections, its turns and its health.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from gwproxy.context import Context
from gwproxy.dataplane.balancer import balancer_for
from gwproxy.dataplane.breaker import CircuitBreaker, Probe
from gwproxy.dataplane.concurrency import Places
from gwproxy.dataplane.retry import RetryPolicy
from gwproxy.dataplane.session import UpstreamSession
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.transport import GatewayAdapter
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import TLS, Target, Upstream
from gwproxy.tally import Tally


class LiveUpstream:
    """An upstream as a worker knows it.

    :ivar name: the upstream's name, or the URL of a route that names none.
    :ivar described: its model.
    :ivar exchange: sends a request by :attr:`session`.
    :ivar retries: when its requests are sent again.
    :ivar base: what :attr:`gwproxy.context.UpstreamChoice.base` shows before a target is chosen.
    :ivar prefix: what is prepended to a path before a target is chosen: a single target's; with several, each has its own.
    :ivar places: of its requests. One that is described anew begins with all of them, beside what still runs as before.
    """

    def __init__(
        self,
        name: str,
        described: Upstream,
        tally: Tally,
        label: str | None = None,
        transport: type[GatewayAdapter] = GatewayAdapter,
    ) -> None:
        """Know it; nothing is opened.

        :param tally: where refusals are counted.
        :param label: under which; None: its name.
        :param transport: what its requests are sent by.
        """
        self.name = name
        self.described = described
        self.targets = tuple(LiveTarget(target.url, target.weight) for target in described.targets)
        self._weighted = tuple(target for target in self.targets if target.weight)
        self._balance = balancer_for(described, self._weighted or self.targets)
        self.single = self.targets[0] if len(self.targets) == 1 else None
        self.base = self.single.base if self.single else f"{self.targets[0].origin.scheme}://{name}"
        self._adapter = transport(tls=described.tls, keepalive=described.keepalive)
        self.session = UpstreamSession(self._adapter)
        self.exchange = self.session.exchange
        label = name if label is None else label
        self.retries = RetryPolicy(described.retries, tally, label)
        self.breaker = CircuitBreaker(described.breaker) if described.breaker else None
        self.places = Places(name, described.concurrency, tally, label)

    def goes_on(self, before: LiveUpstream) -> None:
        """Take over what was learnt of the same targets under another description: a change must not open what is shut.

        It is copied: ``before`` may serve on, beside this one.
        """
        if {target.url for target in self.targets} != {target.url for target in before.targets}:
            return
        described, label = self.described, self.places.label
        self.retries.goes_on(before.retries, described.retries)
        if described.breaker is not None and before.breaker is not None:
            self.breaker = CircuitBreaker(described.breaker, before=before.breaker)
        self.places = Places(self.name, described.concurrency, self.places.tally, label, before.places)

    def admit(self, client_gone: Callable[[], bool] | None = None) -> Probe | None:
        """Let a request in, once for all its attempts: ``places.give_back()`` ends that. Return what the breaker is to be told.

        :raises ServiceUnavailable: the circuit is open, or there is no place.
        :raises ClientLeft: the client closed while it waited for one.
        """
        if self.breaker is None:
            self.places.take(client_gone)
            return None
        probe = self.breaker.check()  # first: where nothing may be sent, nobody has to wait for a place
        try:
            self.places.take(client_gone)
        except BaseException:
            self.breaker.withdrawn(probe)
            raise
        return probe

    def pick(self, ctx: Context, tried: Collection[LiveTarget] = ()) -> LiveTarget:
        """Choose a target, one that was not tried if there is any.

        :raises ServiceUnavailable: no target is healthy.
        """
        if self.single is not None and self.single.healthy and self.single.weight:
            return self.single
        healthy = [target for target in self._weighted if target.healthy]
        if not healthy:
            raise ServiceUnavailable(f"no healthy target of upstream {self.name}", headers=[("Retry-After", "1")])
        fresh = [target for target in healthy if target not in tried]
        return self._balance(fresh or healthy, ctx)

    @property
    def connections(self) -> int:
        """How many connections to its targets are open or being made, idle ones included."""
        return sum(idle for _, idle in self._adapter.connections()) + sum(target.active for target in self.targets)

    def prune(self) -> None:
        """Close idle connections that are too old or that the upstream has closed."""
        self._adapter.prune()

    def close(self) -> None:
        """Close idle connections; those in use close when they are done."""
        self.session.close()


class Upstreams:
    """All upstreams of this worker, by name and description.

    :ivar tally: where they count what they refuse.
    :ivar transport: what requests are sent by; changing it changes nothing for those that live already.
    """

    def __init__(self, tally: Tally | None = None, transport: type[GatewayAdapter] = GatewayAdapter) -> None:
        self.tally = tally if tally is not None else Tally()
        self.transport = transport
        self._live: dict[str, list[LiveUpstream]] = {}  # several of one name: of the snapshot before, or of a candidate
        self._direct: dict[str, LiveUpstream] = {}

    def named(self, name: str, described: Upstream) -> LiveUpstream:
        """Return the upstream of that name, a living one if its description is the same."""
        known = self._live.setdefault(name, [])
        for live in known:
            if live.described == described:
                return live
        live = LiveUpstream(name, described, self.tally, transport=self.transport)
        if known:
            live.goes_on(known[-1])
        known.append(live)
        return live

    def of_url(self, url: str) -> LiveUpstream:
        """Return the upstream that a route's URL stands for."""
        known = self._live.get(url)
        return known[0] if known else self.named(url, Upstream(targets=(Target(url=url),)))

    def direct(self, base: str) -> LiveUpstream:
        """Return an upstream for a URL that a plugin chose for one request. At most 256 are kept, the newest."""
        live = self._direct.get(base)
        if live is None:
            while len(self._direct) >= 256:
                self._direct.pop(next(iter(self._direct))).close()
            described = Upstream(targets=(Target(url=base),), tls=TLS())
            live = LiveUpstream(base, described, self.tally, label="direct", transport=self.transport)  # a bounded set of labels
            self._direct[base] = live
        return live

    def keep(self, used: Iterable[LiveUpstream]) -> None:
        """Let go of every upstream that is not among ``used``."""
        kept = {id(live) for live in used}
        for name, known in list(self._live.items()):
            for live in known[:]:
                if id(live) not in kept:
                    known.remove(live)
                    live.close()
            if not known:
                del self._live[name]

    def prune(self) -> None:
        """Close idle connections that are past use, of plugins' own upstreams too."""
        for live in [*self, *self._direct.values()]:
            live.prune()

    @property
    def connections(self) -> int:
        """How many connections to upstreams are open, those of plugins' own upstreams too; not those of upstreams let go of."""
        return sum(live.connections for live in [*self, *self._direct.values()])

    def __iter__(self) -> Iterator[LiveUpstream]:
        return iter([live for known in self._live.values() for live in known])
