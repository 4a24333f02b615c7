"""Following a change until every live worker runs it, or telling which do not, and why.

The heartbeat is the acknowledgement: a worker writes it at once when what it runs changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gwproxy.controlplane.installed import label
from gwproxy.errors import StoreUnavailable
from gwproxy.store.configuration import ConfigurationStore, Published, Revision, digest_of

LOOK_EVERY = 0.05  # seconds between two looks at the workers that are known
SCAN_EVERY = 0.5  # seconds between two looks for others: that costs a walk through all keys of the store
SILENT = 10  # seconds after which a worker that says nothing counts as gone

Worker = Mapping[str, str]

#: ``done``: runs it; ``waiting``: not yet; ``refused``: it will not; ``gone``: stopped, or silent for ten seconds.
State = Literal["done", "waiting", "refused", "gone"]

#: ``done``: all live workers run it; ``refused``: some will not, all others do; ``late``: some did not answer in time;
#: ``overtaken``: it was replaced meanwhile; ``nobody``: no worker is live.
Outcome = Literal["done", "refused", "late", "overtaken", "nobody"]


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What one worker makes of a revision.

    :ivar revision: that it runs; 0 if none.
    :ivar build_ms: how long it took to make what it runs; None if it does not say.
    :ivar reason: why it does not run it; empty if it does, or does not say.
    """

    id: str
    host: str
    pid: str
    state: State
    revision: int
    build_ms: float | None
    reason: str

    @property
    def label(self) -> str:
        """How people tell workers apart: ``host/pid``."""
        return label({"host": self.host, "pid": self.pid})

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        names = ("id", "host", "state", "revision", "build_ms", "reason")
        return {**{name: getattr(self, name) for name in names}, "pid": int(self.pid) if self.pid.isdecimal() else None}


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a rollout is, or how it ended.

    :ivar outcome: None while it goes on.
    :ivar workers: by host and process; those that are gone last.
    :ivar seconds: since it began.
    :ivar by: what came after, if it was overtaken; None if it was not, or if the configuration was removed.
    :ivar store: why the store could not be asked at the last look; empty if it could.
    """

    revision: int
    digest: str
    workers: tuple[Acknowledgement, ...]
    seconds: float
    outcome: Outcome | None = None
    by: Revision | None = None
    store: str = ""

    def count(self, *states: State) -> int:
        """Return how many workers are in one of these states."""
        return sum(worker.state in states for worker in self.workers)

    @property
    def live(self) -> int:
        """How many workers it concerns now."""
        return self.count("done", "waiting", "refused")

    def reason(self) -> str:
        """Return why it did not come to its end, in a line naming every worker; empty if it did, or goes on."""
        if self.outcome == "overtaken":
            if self.by is None:
                return f"revision {self.revision} was removed from the store before all workers ran it"
            told = f"revision {self.by.revision} by {self.by.actor or 'unknown'} at {self.by.at}"
            return f"revision {self.revision} was replaced by {told} before all workers ran it"
        if self.outcome == "nobody":
            return f"no worker is live, after {self.seconds:.1f} s"
        if self.outcome not in ("refused", "late"):
            return ""
        if self.store and not self.workers:
            return f"the store cannot be asked: {self.store}"
        told = "; ".join(self._told(worker) for worker in self.workers if worker.state in ("refused", "waiting"))
        return f"{told}; the store cannot be asked: {self.store}" if self.store else told

    def _told(self, worker: Acknowledgement) -> str:
        reason = f": {worker.reason}" if worker.reason else ""
        if worker.state == "refused":
            return f"{worker.label} refuses it{reason}"
        return f"{worker.label} did not answer within {self.seconds:.1f} s{reason}"

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        by = None if self.by is None else {"revision": self.by.revision, "actor": self.by.actor, "at": self.by.at}
        return {
            "outcome": self.outcome,
            "revision": self.revision,
            "digest": self.digest,
            "seconds": round(self.seconds, 3),
            "workers": [worker.as_data() for worker in self.workers],
            "by": by,
            "reason": self.reason(),
        }


class Rollout:
    """Follows one revision.

    A worker is waited for as long as its heartbeat lives: a killed one for ten seconds, one that stops in order not at
    all. One that starts meanwhile is waited for as well.

    :param timeout: seconds.
    """

    def __init__(
        self,
        store: ConfigurationStore,
        published: Published,
        *,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._store = store
        self._published = published
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._known: dict[str, Acknowledgement] = {}
        self._mark: str | None = None
        self._scanned = float("-inf")

    def follow(self, tell: Callable[[Standing], object] = lambda standing: None) -> Standing:
        """Wait for its end, and return how it ended; the store being away is waited for, too.

        :param tell: called with how far it is, whenever that changed.
        """
        began = self._clock()
        told: tuple[Acknowledgement, ...] | None = None
        while True:
            standing = self._look(self._clock() - began)
            if standing.outcome is not None:
                return standing
            if standing.workers != told:
                told = standing.workers
                tell(standing)
            self._sleep(LOOK_EVERY)

    def _look(self, seconds: float) -> Standing:
        replaced, by, away = False, None, ""
        try:
            replaced, by = self._overtaken()
            self._see(self._workers())
        except StoreUnavailable as error:
            away = str(error)
        workers = tuple(sorted(self._known.values(), key=lambda worker: (worker.state == "gone", worker.host, worker.pid)))
        standing = Standing(self._published.revision, self._published.digest, workers, seconds, None, by, away)
        return replace(standing, outcome=self._outcome(standing, replaced=replaced))

    def _outcome(self, standing: Standing, *, replaced: bool) -> Outcome | None:
        live, late = standing.live, standing.seconds >= self._timeout
        if standing.store:
            return "late" if late else None
        emptied = replaced and standing.by is None and standing.count("gone")  # of the store: who has no heartbeat may run anything
        if live and live == standing.count("done") and not emptied:
            return "done"  # also if it was replaced a moment ago
        if replaced:
            return "overtaken"
        if live and not standing.count("waiting"):
            return "refused"
        return ("late" if live else "nobody") if late else None

    def _overtaken(self) -> tuple[bool, Revision | None]:
        """Return whether something else is live now, and what."""
        mark = self._store.fingerprint()
        if mark is not None and mark == self._mark:
            return False, None
        latest = self._store.latest()
        if latest.data is not None and self._published.digest == digest_of(latest.data):
            self._mark = mark
            return False, None
        if latest.data is None:
            return True, None
        newest = next(iter(self._store.history(1)), None)
        noted = newest is not None and newest.digest == digest_of(latest.data)
        return True, newest if noted else Revision(latest.revision or self._published.revision + 1, "", "", "external", "", b"")

    def _workers(self) -> Sequence[Worker]:
        now = self._clock()
        if now - self._scanned < SCAN_EVERY and self._known:
            return self._store.heartbeats(self._known)
        self._scanned = now
        return self._store.workers()

    def _see(self, workers: Sequence[Worker]) -> None:
        seen = {worker["id"]: self._acknowledgement(worker) for worker in workers}
        for worker_id, before in self._known.items():
            if worker_id not in seen and before.state != "gone":
                seen[worker_id] = Acknowledgement(
                    before.id, before.host, before.pid, "gone", before.revision, before.build_ms, f"stopped, or silent for {SILENT} s"
                )
        self._known |= seen

    def _acknowledgement(self, worker: Worker) -> Acknowledgement:
        state, reason = self._state(worker), worker.get("error", "")
        revision, build = worker.get("revision", ""), worker.get("build_ms", "")
        return Acknowledgement(
            worker["id"],
            worker.get("host", ""),
            worker.get("pid", ""),
            state,
            int(revision) if revision.isascii() and revision.isdecimal() else 0,
            float(build) if build.replace(".", "", 1).isdecimal() and build.isascii() else None,
            {"done": "", "gone": "is about to stop"}.get(state, reason),
        )

    def _state(self, worker: Worker) -> State:
        state = worker.get("state", "")
        if state == "draining":
            return "gone"
        if worker.get("digest") == self._published.digest and state == "ready":
            return "done"
        return "refused" if worker.get("refused") == self._published.digest else "waiting"
