"""The heartbeat: what this worker runs, or why not, for everybody who asks."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson

from gwproxy.controlplane.deployed import Deployed
from gwproxy.controlplane.standing import Standing
from gwproxy.dataplane.measures import Measures
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import StoreUnavailable
from gwproxy.process import Identity, is_over, mark_of
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.fleet")

MOST_ROWS = 200  # of each kind that is measured: of plugins that took the most time
INTERVAL = 2.0  # seconds; an entry that is not renewed is gone after ten


def iso(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC; empty for 0.0, never."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if seconds else ""


class Heartbeat:
    """Writes this worker's entry every two seconds, and at once when something changed.

    After the first, so that its successor is known before a worker is known to be dead, it takes away the entries of those
    that its master has seen end, and of those of this machine whose processes are no more. So what is left to expire is
    what hangs or is cut off, and who waits for acknowledgements can tell.

    :param deployed: returns what was pushed and runs, with all plugins.
    :param candidate: returns what to say of the candidate; None if there is none.
    :param answered: returns what to say of the requests that are over, a row a route.
    """

    def __init__(
        self,
        store: ConfigurationStore,
        identity: Identity,
        standing: Callable[[], Standing],
        deployed: Callable[[], Deployed],
        upstreams: Upstreams,
        dropped: Callable[[], int],
        tally: Tally,
        started: float,
        candidate: Callable[[], dict[str, Any] | None] = lambda: None,
        answered: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._store = store
        self._identity = identity
        self._told_of_the_dead = False
        self._standing = standing
        self._upstreams = upstreams
        self._dropped = dropped
        self._tally = tally
        self._candidate = candidate
        self._deployed = deployed
        self._answered = answered
        self._constant = {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "process": mark_of(os.getpid()),
            "started": iso(started),
        }
        self._now = threading.Event()
        self._closed = False

    def beat_now(self) -> None:
        """Write without waiting for the interval."""
        self._now.set()

    def run(self) -> None:
        """Beat until closed; the store being away is nobody's business here."""
        while not self._closed:
            self._now.clear()
            try:
                self._store.heartbeat(self._identity.id, self.fields())
                self._tell_of_the_dead()
            except StoreUnavailable as error:
                log.debug("heartbeat_failed reason=%s", error)
            self._now.wait(INTERVAL * random.uniform(0.8, 1.0))  # noqa: S311 - jitter

    def close(self) -> None:
        """Stop, and take the entry away, so that nobody waits for this worker."""
        self._closed = True
        self._now.set()
        with contextlib.suppress(StoreUnavailable):  # it expires by itself
            self._store.forget(self._identity.id)

    def _tell_of_the_dead(self) -> None:
        """Do so once, as soon as the store can be asked."""
        if self._told_of_the_dead:
            return
        host = self._constant["host"]
        dead = {worker["id"] for worker in self._store.workers() if worker.get("host") == host and is_over(worker.get("process", ""))}
        self._store.forget(*dead.union(self._identity.departed))
        self._told_of_the_dead = True

    def fields(self) -> dict[str, str]:
        """Return the entry as it is written."""
        standing, deployed = self._standing(), self._deployed()
        registry = deployed.registry
        plugins = {registered.plugin.name: registered.plugin.version for registered in registry} | dict.fromkeys(registry.broken, "broken")
        return {
            **self._constant,
            "revision": str(standing.revision),
            "digest": standing.digest,
            "state": standing.state,
            "error": standing.error[:2000],
            "refused": standing.refused,
            "applied_at": iso(standing.applied_at),
            "plugins": orjson.dumps(plugins).decode(),
            "pushed": orjson.dumps(deployed.shown()).decode(),
            "deployment": deployed.digest,
            "deployment_refused": standing.deployment_refused,
            "deployment_error": standing.deployment_error[:2000],
            "build_ms": f"{standing.build_ms:.1f}",
            "candidate": orjson.dumps(self._candidate() or {}).decode(),
            "log_dropped": str(self._dropped()),
            "counters": orjson.dumps(self._tally.shown()).decode(),
            "upstreams": orjson.dumps([_load(live) for live in self._upstreams][:200]).decode(),
            "plugin_measures": orjson.dumps(measured(self._upstreams.measures)).decode(),
            "answered": orjson.dumps(self._answered()).decode(),
            "gauges": orjson.dumps(self._tally.measured()).decode(),
            "targets": orjson.dumps([row for live in self._upstreams for row in shown(live)][:200]).decode(),
        }


def measured(measures: Measures) -> dict[str, list[dict[str, Any]]]:
    """Return what is told of plugins: ``steps`` (a row a plugin, version and phase), ``off`` (entries that are), ``held`` (memory)."""
    rows = measures.rows()
    rows.sort(key=lambda row: row.spent.seconds, reverse=True)
    return {
        "steps": [row.shown() for row in rows[:MOST_ROWS]],
        "off": [breaker.shown() for breaker in measures.off()[:MOST_ROWS]],
        "held": [
            {"plugin": name, "version": version, "bytes": held.bytes, "grown": held.grown, "whole": held.whole}
            for (name, version), held in sorted(measures.held.items())
        ][:MOST_ROWS],
    }


def _load(live: LiveUpstream) -> dict[str, object]:
    places, breaker = live.places, live.breaker
    shown = {
        "upstream": live.name,
        "in_flight": places.in_flight,
        "queued": places.queued,
        "refused": places.refused,
        "limit": places.limit,
        "connections": live.connections,
        "adaptive": places.adaptive is not None,
    }
    return shown if breaker is None else {**shown, "circuit": breaker.state}


def shown(live: LiveUpstream) -> Iterator[dict[str, object]]:
    """Yield what is told of each target of an upstream."""
    weights = {seat.target: seat.weight for seat in live.members.seats}
    for target in live.targets:
        drained = target not in weights and target.state != "unresolved"
        yield {
            "upstream": live.name,
            "url": target.url,
            "name": target.name,
            "healthy": target.up,
            "state": "drained" if drained else target.state,
            "weight": weights.get(target, 0),
            "share": round(target.share, 2),
            "active": target.active,
            "why": target.why[:200],
            "since": iso(target.since),
        }
