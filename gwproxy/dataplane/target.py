"""A target as a worker knows it: where it is, what it is doing, and whether it is well."""

from __future__ import annotations

import time
from typing import Literal, cast
from urllib.parse import urlsplit

from mypy_extensions import mypyc_attr

from gwproxy.dataplane.transport import Origin
from gwproxy.model import Health

#: The share of its weight with which a target begins that is new, or back: enough to see how it does.
LEAST_SHARE = 0.1


class Changes:
    """Counts the changes of a worker's targets, so that who has looked at them knows when to look again.

    :ivar count: of those so far.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


@mypyc_attr(allow_interpreted_subclasses=True)
class LiveTarget:
    """One address of an upstream, with this worker's view of it.

    Descriptions of an upstream that judge it alike share it, so that its state survives a change; what each says of its
    weight is in its :class:`~gwproxy.dataplane.balancer.Seat`.

    :ivar url: as configured; of an address that DNS has told, with it instead of the name.
    :ivar name: what stands in the configuration instead of that address; None if the URL itself does.
    :ivar base: scheme, host and port, as in :attr:`gwproxy.context.UpstreamChoice.base`.
    :ivar prefix: the URL's path, prepended to what is forwarded; without a trailing slash.
    :ivar origin: where to connect.
    :ivar authority: what goes into ``Host``.
    :ivar host_line: the same as a line of a head.
    :ivar active: this worker's requests in flight.
    :ivar healthy: whether active checks let it have traffic.
    :ivar up: whether it may have traffic: healthy, and not ejected.
    :ivar reachable: whether the last connect of a request has worked.
    :ivar retry_at: until when it has asked not to be tried again (``Retry-After``), by :func:`time.monotonic`.
    :ivar share: of its weight, from :data:`LEAST_SHARE` to 1, while it comes back.
    :ivar why: what the last check, or the ejection, had to say.
    :ivar since: when ``up`` changed last, in seconds since 1970; 0.0: it never did.
    :ivar check_at: when the next check is due, by the checker's clock; None: it was never looked at.
    :ivar row: failures in a row of requests to it.
    :ivar window_ends: when the window of its error rate does, by the clock of who counts.
    :ivar requests: in that window.
    :ivar failures: of those.
    """

    __slots__ = (
        "_changes",
        "_ejections",
        "_ramp_from",
        "_ramp_over",
        "_returned",
        "_streak",
        "active",
        "authority",
        "base",
        "check_at",
        "ejected_until",
        "failures",
        "healthy",
        "host_line",
        "name",
        "origin",
        "prefix",
        "reachable",
        "requests",
        "retry_at",
        "row",
        "share",
        "since",
        "up",
        "url",
        "why",
        "window_ends",
    )

    def __init__(self, url: str, changes: Changes | None = None, *, name: str | None = None) -> None:
        """Know it; nothing is opened.

        :param changes: where its changes are counted; None: nobody asks.
        :param name: the URL that is configured, where ``url`` has an address that DNS told of it: its host is what the upstream
            is asked as, and whose certificate it has to show.
        """
        parts = urlsplit(url)
        scheme = cast(Literal["http", "https"], parts.scheme)
        default = 443 if scheme == "https" else 80
        self.url = url
        self.name = name
        asked = service_of(name) if name is not None else None
        self.origin = Origin(scheme, parts.hostname or "", parts.port or default, asked.hostname or "" if asked else "")
        self.base = f"{scheme}://{_authority(parts.hostname or '', self.origin.port, default)}"
        named = asked or parts
        self.authority = _authority(named.hostname or "", named.port or default, default)
        self.host_line = f"Host: {self.authority}\r\n".encode("ascii")
        self.prefix = parts.path.rstrip("/")
        self.active = 0
        self._changes = changes if changes is not None else Changes()
        self.healthy = self.up = self.reachable = True
        self.retry_at = 0.0
        self.share = 1.0
        self.why = ""
        self.since = 0.0
        self.check_at: float | None = None
        self.ejected_until: float | None = None
        self.row = 0
        self.window_ends = 0.0
        self.requests = self.failures = 0
        self._streak = 0  # checks in a row that say the opposite of ``healthy``
        self._ejections = 0  # in a row
        self._returned = 0.0
        self._ramp_from: float | None = None
        self._ramp_over = 0.0

    def resembles(self, other: LiveTarget) -> None:
        """Begin in the state of another: the same target, judged by other rules until now."""
        for name in ("healthy", "up", "share", "why", "since", "ejected_until", "_ejections", "_returned", "_ramp_from", "_ramp_over"):
            setattr(self, name, getattr(other, name))

    @property
    def state(self) -> str:
        """``healthy``, ``unhealthy``, ``ejected``, ``returning``, or ``unresolved``: a name without an address."""
        if self.name == self.url:
            return "unresolved"
        if self.up:
            return "returning" if self.share < 1.0 else "healthy"
        return "ejected" if self.healthy else "unhealthy"

    def checked(self, succeeded: bool, health: Health, why: str = "", slow_start: tuple[float, float] | None = None) -> bool:
        """Count the result of a check; return whether it changed :attr:`healthy`.

        :param slow_start: now, and the seconds it takes to come back; None: it is back at once.
        """
        if self.ejected_until is None:
            self.why = why
        if succeeded == self.healthy:
            self._streak = 0
            return False
        self._streak += 1
        if self._streak < (health.unhealthy_after if self.healthy else health.healthy_after):
            return False
        self.judged(succeeded, why, slow_start)
        return True

    def judged(self, healthy: bool, why: str, slow_start: tuple[float, float] | None = None, *, doubtful: int = 0) -> None:
        """Take over what was found out about it: by this worker, or by another.

        :param doubtful: how many checks of its own are already counted against that.
        """
        self.healthy, self._streak = healthy, doubtful
        if self.ejected_until is None:
            self.why = why
        self._settle(slow_start)

    def ejected(self, now: float, base: float, most: float, ramp: float, why: str) -> float:
        """Take it out for a while; return the seconds: ``base`` times the ejections in a row, ``most`` at most.

        :param ramp: seconds it takes to come back then.
        """
        calm = int((now - self._returned) / base) if self._ejections else 0  # each ``base`` without one forgives one
        self._ejections = max(0, self._ejections - calm) + 1
        seconds = min(base * self._ejections, most)
        self.ejected_until, self.why = now + seconds, why
        self.row, self.requests, self.failures, self.window_ends = 0, 0, 0, now
        self._ramp_over = ramp
        self._settle(None)
        return seconds

    def joins(self, now: float, slow_start: float) -> None:
        """Begin with a part of its share, as one that is new among others."""
        self._ramp_from, self._ramp_over, self.share = now, slow_start, LEAST_SHARE
        self._changes.count += 1

    def passed(self, now: float) -> bool:
        """Let time pass: end an ejection that is over, grow the share; return whether it is back from an ejection."""
        back = self.ejected_until is not None and now >= self.ejected_until
        if back:
            self.ejected_until, self._returned = None, now
            self._settle((now, self._ramp_over))
        if self._ramp_from is not None:
            share = (now - self._ramp_from) / self._ramp_over
            self.share = min(1.0, max(LEAST_SHARE, share))
            if share >= 1.0:
                self._ramp_from = None
            self._changes.count += 1
        return back

    def _settle(self, slow_start: tuple[float, float] | None) -> None:
        """See whether it is up now; one that comes back does so by ``slow_start``."""
        up = self.healthy and self.ejected_until is None
        if up == self.up:
            return
        self.up, self.since = up, time.time()
        self._ramp_from, self.share = None, 1.0
        if up and slow_start is not None:
            self.joins(*slow_start)
        self._changes.count += 1


class _Named:
    """The part of a URL that names a service: of ``_http._tcp.users.internal``, ``users.internal``."""

    __slots__ = ("hostname", "port")

    def __init__(self, hostname: str, port: int | None) -> None:
        self.hostname, self.port = hostname, port


def service_of(url: str) -> _Named:
    """Return the host and port that a URL with ``resolve`` is asked as: labels that begin with ``_`` name no host."""
    parts = urlsplit(url)
    labels = (parts.hostname or "").split(".")
    while labels and labels[0].startswith("_"):
        labels.pop(0)
    return _Named(".".join(labels), parts.port)


def _authority(host: str, port: int, default: int) -> str:
    shown = f"[{host}]" if ":" in host else host
    return shown if port == default else f"{shown}:{port}"
