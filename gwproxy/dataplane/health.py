"""Active health checks: each target asked at its interval, taken out after failures, brought back after successes.

One worker of a host asks, and tells the others: :class:`Host` is how. One whose host's asker is silent asks for itself.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import gevent

from gwproxy.dataplane.statuses import codes
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.transport import Failure, UpstreamRequest
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.model import Health, Timeouts

log = logging.getLogger("gwproxy.health")

TELL_EVERY = 1.0  # seconds between two times that results are told which changed nothing
SILENCE = 1.5  # seconds beyond the interval after which who asks for all counts as silent


class Result(NamedTuple):
    """What a host's checks say of a target.

    :ivar at: when it was asked last, in seconds since 1970.
    :ivar why: what it said.
    """

    healthy: bool
    at: float
    why: str


Results = Mapping[str, Result]


class Host(Protocol):
    """The other workers of this host: :class:`gwproxy.controlplane.host.HostFiles`."""

    def leads(self) -> bool:
        """Return whether it is this worker that asks; try to become the one if nobody is."""

    def tell(self, results: Results) -> None:
        """Let the others know; does not wait for them, and never raises."""

    def told(self) -> Results | None:
        """Return what was told last, if it is news; None: nothing new."""


class Alone:
    """A worker that knows of no other: it asks for itself."""

    def leads(self) -> bool:
        """Say yes."""
        return True

    def tell(self, results: Results) -> None:
        """Do nothing."""

    def told(self) -> None:
        """Know nothing."""


class HealthChecks:
    """Checks the targets of every upstream that asks for it, or takes over what another worker of the host has found.

    A target that nobody knows anything of begins healthy: a gateway that has just started does not refuse everything until its first
    checks are back.

    :param wall: seconds since 1970: what workers of a host, which may be restarted, have in common.

    :ivar results: by :func:`key_of`: this host's, as far as this worker knows.
    :ivar hearsay: whether other hosts say that a target is well, by the same keys: believed until this host knows better.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        host: Host | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._upstreams = upstreams
        self._host: Host = host if host is not None else Alone()
        self._clock = clock
        self._wall = wall
        self.results: dict[str, Result] = {}
        self.hearsay: Mapping[str, bool] = {}
        self._reached: set[str] = set()  # targets that this host has seen well: of them nothing is taken from hearsay
        self._news = False  # results that the others do not have
        self._tell_at = 0.0
        self._led = False

    def look(self) -> list[gevent.Greenlet]:
        """Take over what is told, start the checks that are due, tell what they have found; return those that were started."""
        now, leads = self._clock(), self._host.leads()
        told = self._hear_host(leads)
        started = []
        for live, target, health in self._checked():
            if target.check_at is None:
                self._meet(live, target, health, leads)
            elif told:
                self._adopt(live, target, health)
            if leads and not self._led:
                target.check_at = min(target.check_at or now, now + health.interval)
            if now >= (target.check_at or 0.0):
                target.check_at = now + health.interval * (1 + random.uniform(-health.jitter, health.jitter))  # noqa: S311 - no secret
                started.append(gevent.spawn(self._check, live, target, health))
        self._led = leads
        if leads and self._news and now >= self._tell_at:
            self._tell(now)
        return started

    def meet(self) -> None:
        """Take over what is known of targets that were not looked at yet: before they get a request."""
        leads = self._host.leads()
        told = self._hear_host(leads)
        for live, target, health in self._checked():
            if target.check_at is None:
                self._meet(live, target, health, leads)
            elif told:
                self._adopt(live, target, health)

    def _hear_host(self, leads: bool) -> bool:
        """Read what the host's asker has told, if it is another one; return whether there was news."""
        told = None if leads and self._led else self._host.told()
        if told is None:
            return False
        self.results = dict(told)
        self._reached |= {key for key, result in told.items() if result.healthy}
        return True

    def _checked(self) -> Iterator[tuple[LiveUpstream, LiveTarget, Health]]:
        """Yield every target that is checked."""
        for live in self._upstreams.tended():
            if (health := live.described.health) is not None:
                for target in live.targets:
                    if target.state != "unresolved":
                        yield live, target, health

    def _meet(self, live: LiveUpstream, target: LiveTarget, health: Health, leads: bool) -> None:
        """Begin with a target: in the state that is known of it, by this host or by hearsay."""
        target.check_at = self._clock() + (0.0 if leads else patience(health))
        self._adopt(live, target, health)
        self._believe(live, target, health)

    def _believe(self, live: LiveUpstream, target: LiveTarget, health: Health) -> None:
        key = key_of(live, target)
        if target.healthy and key not in self._reached and self.hearsay.get(key) is False:
            # One success of our own shall do: what others cannot reach may well be reached from here.
            target.judged(False, "other hosts say so", doubtful=health.healthy_after - 1)
            log.warning("target_changed upstream=%s target=%s healthy=False why=hearsay", live.name, target.url)

    def hear(self, hearsay: Mapping[str, bool]) -> None:
        """Take over what other hosts say, also of those targets that were met before and not seen well yet."""
        self.hearsay = hearsay
        for live, target, health in self._checked():
            if target.check_at is not None:
                self._believe(live, target, health)

    def _adopt(self, live: LiveUpstream, target: LiveTarget, health: Health) -> None:
        result = self.results.get(key_of(live, target))
        if result is None or not -SILENCE < self._wall() - result.at < patience(health):
            return  # too old, or of a clock that was set: this worker will find out by itself
        if not self._host.leads():
            target.check_at = self._clock() + patience(health)
        if result.healthy != target.healthy:
            target.judged(result.healthy, result.why, self._ramp(live))
            log.warning("target_changed upstream=%s target=%s healthy=%s why=%s", live.name, target.url, target.healthy, result.why)

    def _check(self, live: LiveUpstream, target: LiveTarget, health: Health) -> None:
        try:
            succeeded, why = ask(live, target, health)
            if succeeded:
                self._reached.add(key_of(live, target))
            changed = target.checked(succeeded, health, why, self._ramp(live))
            self.results[key_of(live, target)] = Result(target.healthy, self._wall(), why)
            self._news = True
            if changed:
                self._tell_at = 0.0
                log.warning("target_changed upstream=%s target=%s healthy=%s why=%s", live.name, target.url, target.healthy, why)
        except Exception:  # of a check, not of a request: the next one is due anyway
            log.exception("check_failed upstream=%s target=%s", live.name, target.url)

    def _ramp(self, live: LiveUpstream) -> tuple[float, float] | None:
        seconds = live.described.slow_start
        return None if seconds is None else (self._clock(), seconds)

    def _tell(self, now: float) -> None:
        """Tell all results; those of targets that are gone are forgotten."""
        known = {key_of(live, target) for live in self._upstreams.tended() if live.described.health for target in live.targets}
        self.results = {key: result for key, result in self.results.items() if key in known}
        self._reached &= known
        self._news, self._tell_at = False, now + TELL_EVERY
        self._host.tell(self.results)


def patience(health: Health) -> float:
    """Return the seconds for which a result may be relied on: the next one should have come by then."""
    return health.interval * (1 + health.jitter) + health.timeout + SILENCE


def key_of(live: LiveUpstream, target: LiveTarget) -> str:
    """Return what names a target and the rules by which it is checked, in every worker alike."""
    return f"{live.checked_by} {target.url}"


def ask(live: LiveUpstream, target: LiveTarget, health: Health) -> tuple[bool, str]:
    """Ask a target; return whether it is well (one of the statuses in time), and what it said."""
    request = UpstreamRequest(
        "GET",
        target.origin,
        (target.prefix + health.path).encode("latin-1"),
        [("Host", target.authority), ("User-Agent", "gwproxy-health")],
        timeouts=Timeouts(connect=health.timeout, head=health.timeout, read=health.timeout, total=health.timeout),
    )
    try:
        raw = live.session.exchange(request)
    except Failure as failure:
        return False, str(failure)
    raw.close()
    return raw.status in codes(health.statuses), f"status {raw.status}"
