"""What is done for upstreams beside requests, in each worker: checks, lookups, ejections that end, shares that grow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import gevent

from gwproxy.dataplane.health import HealthChecks
from gwproxy.dataplane.upstreams import Upstreams

log = logging.getLogger("gwproxy.tending")

TICK = 0.1  # seconds between two looks at what is due


class Tending:
    """Looks after the upstreams of a worker ten times a second; where nothing is asked for, that costs nothing.

    :param learned: called when DNS has said something new.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        checks: HealthChecks,
        clock: Callable[[], float] = time.monotonic,
        learned: Callable[[], None] = lambda: None,
    ) -> None:
        self._upstreams = upstreams
        self._checks = checks
        self._clock = clock
        self._learned = learned
        self._version = 0

    def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                self.look()
            except Exception:  # whatever it was: targets that nobody looks after would stay out for good
                log.exception("tending_failed")
            gevent.sleep(TICK)

    def look(self) -> list[gevent.Greenlet]:
        """Do what is due; return the checks and lookups that were started."""
        now = self._clock()
        started = self._upstreams.names.look()
        for live in self._upstreams.tended():
            live.reseat()
            for target in live.targets:
                if target.passed(now):
                    log.warning("target_returns upstream=%s target=%s share=%.2f", live.name, target.url, target.share)
        if self._version != self._upstreams.names.version:
            self._version = self._upstreams.names.version
            self._learned()
        return started + self._checks.look()
