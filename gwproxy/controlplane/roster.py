"""Which workers a change concerns while it is followed: those that were there, those that come, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from gwproxy.store.configuration import HEARTBEAT_TTL, ConfigurationStore

LOOK_EVERY = 0.05  # seconds between two looks at the workers that are known
SCAN_EVERY = 0.5  # seconds between two looks for others: that costs a walk through all keys of the store

#: What a roster puts in the place of the state of a worker that has no heartbeat any more: its heartbeat has expired, and
#: it may hang, or be cut off, and serve what it served; or it is known to be no more.
SILENT, STOPPED = "silent", "stopped"

#: Why a silent worker has not answered.
SILENCE = f"silent for {HEARTBEAT_TTL} s"

Worker = Mapping[str, str]


class Roster:
    """The workers, as their heartbeats say; one that has been seen stays.

    :param known: heartbeats of workers that are to be found, though they may be over by now.
    """

    def __init__(self, store: ConfigurationStore, known: Sequence[Worker] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, Worker] = {worker["id"]: worker for worker in known}
        self._scanned = float("-inf")

    def look(self) -> list[Worker]:
        """Return the newest heartbeat of each, those of silent and stopped workers with that as their state.

        :raises StoreUnavailable: the store does not answer.
        """
        seen = {worker["id"]: worker for worker in self._heartbeats()}
        missing = [worker for worker_id, worker in self._known.items() if worker_id not in seen and worker.get("state") != STOPPED]
        departed = self._store.departed(worker["id"] for worker in missing)
        stopped = departed | {worker["id"] for worker in missing if worker.get("state") == "draining"}
        if stopped:  # those that took their places have spoken before
            seen = {worker["id"]: worker for worker in self._store.workers()}
        for worker in missing:
            self._known[worker["id"]] = {**worker, "state": STOPPED if worker["id"] in stopped else SILENT}
        self._known |= seen
        return list(self._known.values())

    def _heartbeats(self) -> list[dict[str, str]]:
        now = self._clock()
        if now - self._scanned < SCAN_EVERY and self._known:
            return self._store.heartbeats(self._known)
        self._scanned = now
        return self._store.workers()
