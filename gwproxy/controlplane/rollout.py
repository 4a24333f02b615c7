"""Following a change until every live worker runs it, or telling which do not, and why.

The heartbeat is the acknowledgement: a worker writes it at once when what it runs changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gwproxy.controlplane.installed import label
from gwproxy.controlplane.roster import LOOK_EVERY, SILENCE, SILENT, STOPPED, Roster, Worker
from gwproxy.errors import StoreUnavailable
from gwproxy.store.configuration import ConfigurationStore, Published, digest_of

#: What is to be done about workers that are silent.
ADVICE = (
    "a worker that is silent hangs, or is cut off from the store, and may go on with what was live before, or its machine is down: "
    "see to it, then do the same again with --wait"
)

#: ``done``: runs it; ``waiting``: not yet; ``refused``: it will not; ``gone``: it is known to have stopped, or was silent after it ran it.
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
class Replacement:
    """What was made live while something else was followed.

    :ivar at: ISO 8601, UTC.
    """

    revision: int
    actor: str
    at: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a rollout is, or how it ended.

    :ivar outcome: None while it goes on.
    :ivar workers: by host and process; those that are gone last.
    :ivar seconds: since it began.
    :ivar by: what came after, if it was overtaken; None if it was not, or if the configuration was removed.
    :ivar store: why the store could not be asked at the last look; empty if it could.
    :ivar what: what its revision is of, for messages: ``revision``, ``plugins revision``.
    """

    revision: int
    digest: str
    workers: tuple[Acknowledgement, ...]
    seconds: float
    outcome: Outcome | None = None
    by: Replacement | None = None
    store: str = ""
    what: str = "revision"

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
                return f"{self.what} {self.revision} was removed from the store before all workers ran it"
            told = f"{self.what} {self.by.revision} by {self.by.actor or 'unknown'} at {self.by.at}"
            return f"{self.what} {self.revision} was replaced by {told} before all workers ran it"
        if self.outcome == "nobody":
            return f"no worker is live, after {self.seconds:.1f} s"
        if self.outcome not in ("refused", "late"):
            return ""
        if self.store and not self.workers:
            return f"the store cannot be asked: {self.store}"
        parts = [self._told(worker) for worker in self.workers if worker.state in ("refused", "waiting")]
        if any(worker.state == "waiting" and worker.reason == SILENCE for worker in self.workers):
            parts.append(ADVICE)
        if self.store:
            parts.append(f"the store cannot be asked: {self.store}")
        return "; ".join(parts)

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
    """Follows one revision of the configuration.

    Every worker that is there when it begins is waited for, and every one that starts meanwhile, unless it is known to
    have stopped: by itself, or as its successor on the same machine says. One that is silent is not: it may hang, or be
    cut off, and serve what was live before.

    :param timeout: seconds.
    :param known: heartbeats of the workers that were there before it was published.
    """

    #: What a revision is called, and what heartbeats have: the digest that runs, the one that was refused, and why.
    what = "revision"
    fields = ("digest", "refused", "error")

    def __init__(
        self,
        store: ConfigurationStore,
        published: Published,
        *,
        timeout: float = 30.0,
        known: Sequence[Worker] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._store = store
        self._published = published
        self._timeout = timeout
        self._clock = clock
        self._sleep = sleep
        self._roster = Roster(store, known, clock)
        self._workers: tuple[Acknowledgement, ...] = ()
        self._mark: str | None = None

    def follow(self, tell: Callable[[Standing], object] = lambda standing: None) -> Standing:
        """Wait for its end, and return how it ended; the store being away is waited for, too.

        :param tell: called with how far it is, whenever that changed.
        """
        began = self._clock()
        told: tuple[Acknowledgement, ...] | None = None
        while True:
            standing = self._look(self._clock() - began)
            if standing.workers != told:
                told = standing.workers
                tell(standing)
            if standing.outcome is not None:
                return standing
            self._sleep(LOOK_EVERY)

    def _look(self, seconds: float) -> Standing:
        replaced, by, away = False, None, ""
        try:
            replaced, by = self._overtaken()
            found = map(self._acknowledgement, self._roster.look())
            self._workers = tuple(sorted(found, key=lambda worker: (worker.state == "gone", worker.host, worker.pid)))
        except StoreUnavailable as error:
            away = str(error)
        standing = Standing(self._published.revision, self._published.digest, self._workers, seconds, None, by, away, self.what)
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

    def _overtaken(self) -> tuple[bool, Replacement | None]:
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
        if newest is not None and newest.digest == digest_of(latest.data):
            return True, Replacement(newest.revision, newest.actor, newest.at)
        return True, Replacement(latest.revision or self._published.revision + 1, "external", "")

    def _acknowledgement(self, worker: Worker) -> Acknowledgement:
        state, reason = self._state(worker)
        revision, build = self._revision(worker), worker.get("build_ms", "")
        return Acknowledgement(
            worker["id"],
            worker.get("host", ""),
            worker.get("pid", ""),
            state,
            revision,
            float(build) if build.replace(".", "", 1).isdecimal() and build.isascii() else None,
            reason,
        )

    def _state(self, worker: Worker) -> tuple[State, str]:
        """Return what a worker makes of it, and why."""
        running, refused, why = self.fields
        state, error = worker.get("state", ""), worker.get(why, "")
        if state in ("draining", STOPPED):
            return "gone", "has stopped" if state == STOPPED else "is about to stop"
        if self._published.digest and worker.get(refused) == self._published.digest:
            return "refused", error
        runs = worker.get(running) == self._published.digest
        if state == SILENT:
            return ("gone", f"{SILENCE}, after it ran it") if runs else ("waiting", SILENCE)
        return ("done", "") if runs and self._serves(state) else ("waiting", error)

    def _serves(self, state: str) -> bool:
        """Whether a worker in this state serves what it says it runs."""
        return state == "ready"

    def _revision(self, worker: Worker) -> int:
        """Return which revision a worker runs; 0 if none."""
        revision = worker.get("revision", "")
        return int(revision) if revision.isascii() and revision.isdecimal() else 0
