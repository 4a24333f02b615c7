"""The upstreams of a worker: sessions, balancers, breakers. They live beside snapshots and survive a change.

A snapshot refers to a :class:`LiveUpstream`; one whose description did not change is the same object in the next
snapshot, with its connections, its turns and its health.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import gevent

from gwproxy.dataplane.breaker import CircuitBreaker, Probe
from gwproxy.dataplane.concurrency import Places
from gwproxy.dataplane.ejection import Ejections
from gwproxy.dataplane.measures import Measures
from gwproxy.dataplane.members import KnownTargets, Members
from gwproxy.dataplane.names import Names
from gwproxy.dataplane.retry import RetryPolicy
from gwproxy.dataplane.sender import Sender
from gwproxy.dataplane.session import UpstreamSession
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.transport import GatewayAdapter
from gwproxy.model import TLS, Target, Upstream
from gwproxy.tally import Tally


class LiveUpstream:
    """An upstream as a worker knows it.

    :ivar name: the upstream's name, or the URL of a route that names none.
    :ivar described: its model.
    :ivar sender: sends a request by :attr:`session`.
    :ivar pick: chooses a target, as :meth:`gwproxy.dataplane.members.Members.pick`.
    :ivar single: its only target, if there can be no other.
    :ivar sole: the same, if it gets requests. PERF: while it is up, nobody has to :attr:`pick`.
    :ivar ejections: to be told what requests come to; None if nothing follows from it.
    :ivar checked_by: names the upstream and the rules by which its targets are checked, in every worker alike.
    :ivar tended: whether there is something to do for it beside requests.
    :ivar retries: when its requests are sent again.
    :ivar base: what :attr:`gwproxy.context.UpstreamChoice.base` shows before a target is chosen.
    :ivar prefix: what is prepended to a path before a target is chosen: a single target's; with several, each has its own.
    :ivar copies: of mirrored requests that are under way.
    :ivar places: of its requests. One that is described anew begins with all of them, beside what still runs as before.
    """

    def __init__(
        self,
        name: str,
        described: Upstream,
        tally: Tally,
        label: str | None = None,
        transport: type[GatewayAdapter] = GatewayAdapter,
        *,
        known: KnownTargets | None = None,
        names: Names | None = None,
        joining: bool = False,
    ) -> None:
        """Know it; nothing is opened.

        :param tally: where refusals are counted.
        :param label: under which; None: its name.
        :param transport: what its requests are sent by.
        :param known: the worker's targets; None: it shares none.
        :param names: what DNS says; None: nobody asks it.
        :param joining: whether an upstream of that name is served already.
        """
        self.name = name
        self.described = described
        members = self.members = Members(name, described, known or KnownTargets(), names or Names(tally), joining=joining)
        self.pick = members.pick
        self.single = members.single
        self.sole: LiveTarget | None = members.sole
        self.base = self.single.base if self.single else f"{described.targets[0].url.partition('://')[0]}://{name}"
        self.ejections: Ejections | None = None
        if described.ejection is not None:
            ramp = described.slow_start or described.ejection.base_time
            self.ejections = Ejections(name, described.ejection, ramp, lambda: members.seats, tally)
        self.checked_by = f"{name} {_digest(described)}" if described.health is not None else ""
        resolving = any(target.resolve for target in described.targets)
        self.tended = bool(described.health or described.ejection or described.slow_start or resolving)
        self._adapter = transport(tls=described.tls, keepalive=described.keepalive)
        self.session = UpstreamSession(self._adapter)
        self.sender: Sender = self._adapter.sender
        self.copies = 0
        label = name if label is None else label
        self.retries = RetryPolicy(described.retries, tally, label)
        self.breaker = CircuitBreaker(described.breaker) if described.breaker else None
        self.places = Places(name, described.concurrency, tally, label)

    def goes_on(self, before: LiveUpstream) -> None:
        """Take over what was learnt of the same targets under another description: a change must not open what is shut.

        It is copied: ``before`` may serve on, beside this one.
        """
        if {target.url for target in self.described.targets} != {target.url for target in before.described.targets}:
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
        if self.breaker is None or self.breaker.open_until is None:
            self.places.take(client_gone)
            return None
        probe = self.breaker.check()  # first: where nothing may be sent, nobody has to wait for a place
        try:
            self.places.take(client_gone)
        except BaseException:
            self.breaker.withdrawn(probe)
            raise
        return probe

    def is_open(self) -> bool:
        """Whether its circuit lets nothing pass but probes."""
        return self.breaker is not None and self.breaker.open_until is not None

    @property
    def targets(self) -> Sequence[LiveTarget]:
        """All its targets, those that get no request too."""
        return self.members.targets

    def reseat(self) -> None:
        """Take the targets that DNS has now, if it has said anything new; let go of the connections to those that it has no more."""
        if self.members.stale:
            for gone in self.members.reseat():
                self._adapter.forget(gone.origin)

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
    :ivar measures: what their requests' plugins are measured by.
    :ivar known: their targets.
    :ivar names: what DNS says of their names.
    :ivar meet: called before new ones serve: to set the targets' health to what is known of it.
    :ivar transport: what requests are sent by; changing it changes nothing for those that live already.
    """

    def __init__(self, tally: Tally | None = None, transport: type[GatewayAdapter] = GatewayAdapter) -> None:
        self.tally = tally if tally is not None else Tally()
        self.measures = Measures(self.tally)
        self.transport = transport
        self.known = KnownTargets()
        self.names = Names(self.tally)
        self.meet: Callable[[], None] = lambda: None
        self._tended: list[LiveUpstream] | None = None
        self._live: dict[str, list[LiveUpstream]] = {}  # several of one name: of the snapshot before, or of a candidate
        self._direct: dict[str, LiveUpstream] = {}

    def named(self, name: str, described: Upstream) -> LiveUpstream:
        """Return the upstream of that name, a living one if its description is the same."""
        known = self._live.setdefault(name, [])
        for live in known:
            if live.described == described:
                return live
        live = LiveUpstream(name, described, self.tally, transport=self.transport, known=self.known, names=self.names, joining=bool(known))
        if known:
            live.goes_on(known[-1])
        known.append(live)
        self._tended = None
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
        self._tended = None
        self.names.keep((target, live.described.dns) for live in self.tended() for target in live.members.wanted)

    def tended(self) -> list[LiveUpstream]:
        """Return those for which there is something to do beside requests: checks, lookups, shares that grow."""
        if self._tended is None:
            self._tended = [live for live in self if live.tended]
        return self._tended

    def targets_in(self, state: str) -> int:
        """How many targets are in a state."""
        return len({target for live in self.tended() for target in live.targets if target.state == state})

    def prepare(self, patience: float) -> None:
        """Learn what there is to know of targets before requests come: what DNS says of their names, whether they are well.

        :param patience: seconds to wait for DNS at most, for all names together; one that has failed is not waited for.
        """
        waiting = [live for live in self.tended() if live.members.unsettled]
        until = time.monotonic() + patience
        while waiting and (left := until - time.monotonic()) > 0:
            # Of a service, its servers are asked for once they are known; what somebody else asks already is waited for.
            gevent.joinall(self.names.look(), timeout=left)
            waiting = [live for live in waiting if live.members.unsettled]
            if waiting:
                gevent.sleep(0.005)
        for live in self.tended():
            live.reseat()
        self.meet()

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


def _digest(described: Upstream) -> str:
    """Return what stands for the rules of checks."""
    health = described.health.model_dump_json() if described.health is not None else ""
    return hashlib.sha256(f"{health} {described.tls.model_dump_json()}".encode()).hexdigest()[:12]
