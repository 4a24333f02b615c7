"""A target as a worker knows it: where it is, and what it is doing."""

from __future__ import annotations

from typing import Literal, cast
from urllib.parse import urlsplit

from gwproxy.dataplane.transport import Origin


class LiveTarget:
    """One address of an upstream, with this worker's view of it.

    :ivar url: as configured.
    :ivar base: scheme, host and port, as in :attr:`gwproxy.context.UpstreamChoice.base`.
    :ivar prefix: the URL's path, prepended to what is forwarded; without a trailing slash.
    :ivar origin: where to connect.
    :ivar authority: what goes into ``Host``.
    :ivar active: this worker's requests in flight.
    :ivar current: the running sum of the smooth round robin.
    :ivar healthy: whether active checks let it have traffic.
    """

    __slots__ = ("active", "authority", "base", "current", "healthy", "origin", "prefix", "url", "weight")

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
        self.base = f"{scheme}://{self.authority}"
        self.prefix = parts.path.rstrip("/")
        self.active = 0
        self.current = 0
        self.healthy = True
