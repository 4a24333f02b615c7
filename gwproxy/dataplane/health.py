"""Active health checks: each target asked at its interval, taken out after failures, brought back after successes."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import gevent

from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.transport import Failure, UpstreamRequest
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.model import Health, Timeouts

log = logging.getLogger("gwproxy.health")

TICK = 0.1  # seconds between two looks at what is due


class HealthChecks:
    """Checks the targets of every upstream that asks for it, in this worker, beside its requests.

    A target begins healthy: a gateway that has just started does not refuse everything until its first checks are back.
    """

    def __init__(self, upstreams: Upstreams, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstreams = upstreams
        self._clock = clock

    def run(self) -> None:
        """Check for ever."""
        while True:
            self.look()
            gevent.sleep(TICK)

    def look(self) -> list[gevent.Greenlet]:
        """Start the checks that are due; return them."""
        now = self._clock()
        started = []
        for live in self._upstreams:
            health = live.described.health
            if health is None:
                continue
            for target in live.targets:
                if now >= target.check_at:
                    # Jittered, so that the workers of a fleet do not ask all at once.
                    target.check_at = now + health.interval * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
                    started.append(gevent.spawn(self._check, live, target, health))
        return started

    def _check(self, live: LiveUpstream, target: LiveTarget, health: Health) -> None:
        try:
            succeeded, why = ask(live, target, health)
            if target.checked(succeeded, health):
                log.warning("target_changed upstream=%s target=%s healthy=%s why=%s", live.name, target.url, target.healthy, why)
        except Exception:  # of a check, not of a request: the next one is due anyway
            log.exception("check_failed upstream=%s target=%s", live.name, target.url)


def ask(live: LiveUpstream, target: LiveTarget, health: Health) -> tuple[bool, str]:
    """Ask a target; return whether it is well (a status of 200 to 399 in time), and what it said."""
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
    return 200 <= raw.status < 400, f"status {raw.status}"
