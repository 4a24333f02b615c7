"""The targets of an upstream, and which of them is next."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from weakref import WeakValueDictionary

from gwproxy.context import Context
from gwproxy.dataplane.balancer import Balancer, balancer_for
from gwproxy.dataplane.names import Names
from gwproxy.dataplane.seat import Chooser, Seat
from gwproxy.dataplane.target import Changes, LiveTarget
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Target, Upstream


class SharedTarget(LiveTarget):
    """A target that descriptions of an upstream share, and that is forgotten with the last of them.

    A class of its own because compiled ones know no weak references.
    """

    __slots__ = ("__weakref__",)


class KnownTargets:
    """The targets of a worker, so that one that stands in the next configuration too is the same, or begins in its state.

    :ivar changes: of all of them.
    """

    def __init__(self) -> None:
        self.changes = Changes()
        self._alike: WeakValueDictionary[object, SharedTarget] = WeakValueDictionary()
        self._latest: WeakValueDictionary[object, SharedTarget] = WeakValueDictionary()

    def get(self, upstream: str, described: Upstream, url: str, name: str | None = None) -> tuple[LiveTarget, bool]:
        """Return the target of an upstream at ``url``, and whether nothing was known of it.

        It is the one that another description has, if that judges it in the same way; else a new one, in the state of the
        former: what a candidate's checks say, asking another path, is nothing to what serves.
        """
        place = upstream, url, name
        judged = *place, described.health, described.ejection, described.slow_start, described.tls
        known = self._alike.get(judged)
        if known is not None:
            return known, False
        before = self._latest.get(place)
        made = SharedTarget(url, self.changes, name=name)
        if before is not None:
            made.resembles(before)
        self._alike[judged] = self._latest[place] = made
        return made, before is None


class Members:
    """The targets of one description of an upstream: those it lists, and those that DNS has for the names it lists.

    Who gets a request costs a look at whether anything has changed, and the balancer's choice among those that are up.

    :ivar targets: all of them, drained ones too; of a name that nobody has answered yet, one that stands for it.
    :ivar single: the only one there can be, as an address; None if there are several, or may be.
    :ivar sole: the same, if it gets requests.
    """

    def __init__(self, name: str, described: Upstream, known: KnownTargets, names: Names, *, joining: bool = False) -> None:
        """Take what is configured, and what DNS has said so far.

        :param joining: an upstream of that name is served already: who is not known from there is new among others.
        """
        self._name = name
        self._described = described
        self._known = known
        self._names = names
        self._resolving = any(target.resolve for target in described.targets)
        # PERF: most of 10,000 upstreams are a URL, of which there is nothing to know.
        self._stateless = len(described.targets) == 1 and not (self._resolving or described.health or described.ejection)
        self._version = -1
        self._changes = known.changes
        self._seen = -1
        self._joining = joining
        self.targets: Sequence[LiveTarget] = []
        self.seats: Sequence[Seat] = []
        self._up: list[Seat] = []
        self._ready: list[Seat] = []
        self._balance: Balancer
        self._choose: Chooser
        self.reseat()
        self.single = None if len(described.targets) > 1 or self._resolving else self.targets[0]
        self.sole = self.single if described.targets[0].weight else None

    def pick(self, ctx: Context, tried: Collection[LiveTarget] = ()) -> LiveTarget:
        """Choose a target, one that was not tried if there is any.

        :raises ServiceUnavailable: no target is up.
        """
        sole = self.sole
        if sole is not None and sole.up:
            return sole
        if self._seen != self._changes.count:
            self.refresh()
        return self._choose(ctx) if not tried else self._another(tried)(ctx)

    def _another(self, tried: Collection[LiveTarget]) -> Chooser:
        """Return what picks one that was not tried, if there is any."""
        left = [seat for seat in self._ready if seat.target not in tried] or [seat for seat in self._up if seat.target not in tried]
        return self._chooser(left) if left else self._choose

    def _chooser(self, seats: Sequence[Seat]) -> Chooser:
        if len(seats) > 1:
            return self._balance(seats)
        return _only(seats[0].target) if seats else _nobody(self._name)

    def refresh(self) -> None:
        """Look which seats are up, and how much of their share they have."""
        self._seen = self._changes.count
        for seat in self.seats:
            seat.refresh()
        up = [seat for seat in self.seats if seat.target.up]
        if not up and self._described.when_all_down == "try_anyway":
            up = list(self.seats)
        first = min((seat.tier for seat in up), default=0)
        self._up, self._ready = up, [seat for seat in up if seat.tier == first]
        self._choose = self._chooser(self._ready)

    @property
    def stale(self) -> bool:
        """Whether DNS has said something since :meth:`reseat`."""
        return self._resolving and self._version != self._names.version

    def reseat(self, now: Callable[[], float] = time.monotonic) -> list[LiveTarget]:
        """Take what is configured, and what DNS says now; return the targets that are left out from now on.

        They get no request any more; what they have in flight finishes.
        """
        self._version = self._names.version
        before, kept = self.targets, {seat.target: seat for seat in self.seats}
        targets: dict[LiveTarget, Seat | None] = {}
        new = []
        for url, name, weight, tier in self._addresses():
            target, unknown = self._target(url, name)
            if target in targets:
                continue
            seat = kept.get(target)
            if seat is None or (seat.weight, seat.tier) != (weight, tier):
                seat = Seat(target, weight, tier)
            targets[target] = seat if weight else None
            if unknown:
                new.append(target)
        if self._described.slow_start is not None and self._joining:
            for target in new:
                target.joins(now(), self._described.slow_start)
        self.targets = (*targets, *self._stand_ins())
        self.seats = tuple(seat for seat in targets.values() if seat is not None)
        self._joining = self._joining or bool(targets)
        self._balance = balancer_for(self._described, self.seats)
        self._seen = -1
        return [target for target in before if target not in targets]

    def _target(self, url: str, name: str | None) -> tuple[LiveTarget, bool]:
        """Return the target there, and whether it is new."""
        if self._stateless:
            return LiveTarget(url, self._changes), False
        return self._known.get(self._name, self._described, url, name)

    def _stand_ins(self) -> Iterator[LiveTarget]:
        """Yield a target for each name without an address, for people to see."""
        for target in self.wanted:
            if not self._names.addresses(target, self._described.dns):
                stand_in = LiveTarget(target.url, name=target.url)
                stand_in.up = False
                yield stand_in

    def _addresses(self) -> Iterator[tuple[str, str | None, int, int]]:
        """Yield the URL, the name it was found by, the weight and the tier of each target."""
        for target in self._described.targets:
            if target.resolve is None:
                yield target.url, None, target.weight, 0
                continue
            for address in self._names.addresses(target, self._described.dns) or ():
                yield address.url, target.url, address.weight, address.tier

    @property
    def wanted(self) -> Iterator[Target]:
        """The targets that DNS is asked for."""
        return (target for target in self._described.targets if target.resolve)

    @property
    def unsettled(self) -> bool:
        """Whether DNS is still to say something about one of its names: it has neither answered nor failed."""
        return not all(self._names.settled(target, self._described.dns) for target in self.wanted)


def _only(target: LiveTarget) -> Chooser:
    return lambda _ctx: target


def _nobody(upstream: str) -> Chooser:
    def refuse(_ctx: Context) -> LiveTarget:
        raise ServiceUnavailable(f"no healthy target of upstream {upstream}", headers=[("Retry-After", "1")])

    return refuse
