"""What the two sides of a canary have answered, of all workers together: rates and percentiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gwproxy.dataplane.canary import BOUNDS

LIVE, CANDIDATE = "live", "candidate"

#: What is told in percent of the requests. ``errors``: requests that failed, or a hook of which did.
RATES = ("errors", "5xx", "4xx")

_BUCKETS = len(BOUNDS) + 1


@dataclass(frozen=True, slots=True)
class Numbers:
    """What one side has answered.

    :ivar latencies: requests by :data:`~gwproxy.dataplane.canary.BOUNDS`.
    :ivar failures: requests that went on although a hook had failed.
    """

    requests: int
    client_errors: int
    server_errors: int
    latencies: tuple[int, ...]
    failures: int = 0

    @classmethod
    def of(cls, counts: Mapping[str, int], side: str) -> Numbers:
        """Read them from what workers have counted, by names such as ``live:5xx``."""
        requests, clients, servers, failures = (counts.get(f"{side}:{name}", 0) for name in ("requests", "4xx", "5xx", "failures"))
        return cls(requests, clients, servers, tuple(counts.get(f"{side}:b{bucket}", 0) for bucket in range(_BUCKETS)), failures)

    def count(self, kind: str) -> int:
        """Return how many of one of :data:`RATES` there were."""
        errors = min(self.requests, self.server_errors + self.failures)
        return {"errors": errors, "5xx": self.server_errors, "4xx": self.client_errors}[kind]

    def rate(self, kind: str) -> float:
        """Return the share of one of :data:`RATES` in percent; 0.0 without requests."""
        return 100 * self.count(kind) / self.requests if self.requests else 0.0

    def percentile(self, percent: float) -> float | None:
        """Return the latency in seconds that so many percent of the requests stay below; None without any.

        It is right to a tenth, and never beyond the highest bound (about 110 s).
        """
        wanted = sum(self.latencies) * percent / 100
        below = 0
        for bucket, count in enumerate(self.latencies):
            if count and below + count >= wanted:
                low, high = BOUNDS[bucket - 1] if bucket else 0.0, BOUNDS[min(bucket, len(BOUNDS) - 1)]
                return low + (high - low) * (wanted - below) / count
            below += count
        return None

    def shown(self) -> dict[str, Any]:
        """Return them for JSON: rates in percent, latencies in milliseconds."""
        found: dict[str, Any] = {"requests": self.requests} | {kind: self.count(kind) for kind in reversed(RATES)}
        found |= {f"{kind}_percent": round(self.rate(kind), 3) for kind in reversed(RATES)}
        for percent in (50, 90, 99):
            latency = self.percentile(percent)
            found[f"p{percent}_ms"] = round(latency * 1000, 1) if latency is not None else None
        return found
