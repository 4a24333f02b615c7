"""A target as a worker knows it: where it is, and what it is doing."""

from __future__ import annotations

from typing import Literal, cast
from urllib.parse import urlsplit

from gwproxy.dataplane.transport import Origin
from gwproxy.model import Health


class LiveTarget:
    """One address of an upstream, with this worker's view of it.

    :ivar url: as configured.
    :ivar base: scheme, host and port, as in :attr:`gwproxy.context.UpstreamChoice.base`.
    :ivar prefix: the URL's path, prepended to what is forwarded; without a trailing slash.
    :ivar origin: where to connect.
    :ivar authority: what goes into ``Host``.
    :ivar host_line: the same as a line of a head.
    :ivar active: this worker's requests in flight.
    :ivar current: the running sum of the smooth round robin.
    :ivar healthy: whether active checks let it have traffic.
    :ivar reachable: whether the last connect of a request has worked.
    :ivar retry_at: until when it has asked not to be tried again (``Retry-After``), by :func:`time.monotonic`.
    :ivar check_at: when the next check is due, by the checker's clock.
    """

    __slots__ = (
        "_streak",
        "active",
        "authority",
        "base",
        "check_at",
        "current",
        "healthy",
        "host_line",
        "origin",
        "prefix",
        "reachable",
        "retry_at",
        "url",
        "weight",
    )

    def __init__(self, url: str, weight: int = 1) -> None:
        parts = urlsplit(url)
        scheme = cast(Literal["http", "https"], parts.scheme)
        host = parts.hostname or ""
        default = 443 if scheme == "https" else 80
        self.url = url
        self.weight = weight
        self.origin = Origin(scheme, host, parts.port or default)
        shown = f"[{host}]" if ":" in host else host
        self.authority = shown if self.origin.port == default else f"{shown}:{self.origin.port}"
        self.host_line = f"Host: {self.authority}\r\n".encode("ascii")
        self.base = f"{scheme}://{self.authority}"
        self.prefix = parts.path.rstrip("/")
        self.active = 0
        self.current = 0
        self.healthy = True
        self.reachable = True
        self.retry_at = 0.0
        self.check_at = 0.0
        self._streak = 0  # checks in a row that say the opposite of ``healthy``

    def checked(self, succeeded: bool, health: Health) -> bool:
        """Count the result of a check; return whether it changed :attr:`healthy`."""
        if succeeded == self.healthy:
            self._streak = 0
            return False
        self._streak += 1
        if self._streak < (health.unhealthy_after if self.healthy else health.healthy_after):
            return False
        self.healthy, self._streak = succeeded, 0
        return True
