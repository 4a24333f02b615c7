"""The heartbeat: what this worker runs, or why not, for everybody who asks."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from gwproxy.controlplane.watch import Standing
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import StoreUnavailable
from gwproxy.registry import Registry
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.fleet")

INTERVAL = 2.0  # seconds; an entry that is not renewed is gone after ten


def make_worker_id() -> str:
    """Return a name no other worker has."""
    return f"{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"


def iso(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC; empty for 0.0, never."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if seconds else ""


class Heartbeat:
    """Writes this worker's entry every two seconds, and at once when something changed.

    :param candidate: returns what to say of the candidate; None if there is none.
    """

    def __init__(
        self,
        store: ConfigurationStore,
        worker_id: str,
        standing: Callable[[], Standing],
        registry: Registry,
        upstreams: Upstreams,
        dropped: Callable[[], int],
        tally: Tally,
        started: float,
        candidate: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._store = store
        self._worker_id = worker_id
        self._standing = standing
        self._upstreams = upstreams
        self._dropped = dropped
        self._tally = tally
        self._candidate = candidate
        self._constant = {
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "started": iso(started),
            "plugins": orjson.dumps(
                {**{r.plugin.name: r.plugin.version for r in registry}, **dict.fromkeys(registry.broken, "broken")}
            ).decode(),
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
                self._store.heartbeat(self._worker_id, self.fields())
            except StoreUnavailable as error:
                log.debug("heartbeat_failed reason=%s", error)
            self._now.wait(INTERVAL * random.uniform(0.8, 1.0))  # noqa: S311 - jitter

    def close(self) -> None:
        """Stop, and take the entry away."""
        self._closed = True
        self._now.set()
        with contextlib.suppress(StoreUnavailable):  # it expires by itself
            self._store.forget(self._worker_id)

    def fields(self) -> dict[str, str]:
        """Return the entry as it is written."""
        standing = self._standing()
        return {
            **self._constant,
            "revision": str(standing.revision),
            "digest": standing.digest,
            "state": standing.state,
            "error": standing.error[:2000],
            "refused": standing.refused,
            "applied_at": iso(standing.applied_at),
            "build_ms": f"{standing.build_ms:.1f}",
            "candidate": orjson.dumps(self._candidate() or {}).decode(),
            "log_dropped": str(self._dropped()),
            "counters": orjson.dumps(self._tally.shown()).decode(),
            "upstreams": orjson.dumps([_load(live) for live in self._upstreams][:200]).decode(),
            "gauges": orjson.dumps(self._tally.measured()).decode(),
            "targets": orjson.dumps([_shown(live.name, target) for live in self._upstreams for target in live.targets][:200]).decode(),
        }


def _load(live: LiveUpstream) -> dict[str, object]:
    places = live.places
    return {"upstream": live.name, "in_flight": places.in_flight, "queued": places.queued, "refused": places.refused}


def _shown(upstream: str, target: object) -> dict[str, object]:
    return {"upstream": upstream, **{name: getattr(target, name) for name in ("url", "healthy", "active")}}
