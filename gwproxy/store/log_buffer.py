"""Log entries on their way to the store: kept in a bounded buffer, written in batches, off the request path."""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import redis
from redis.exceptions import ResponseError

from gwproxy.errors import StoreUnavailable
from gwproxy.store.commands import Argument, exchange, pack
from gwproxy.store.connection import STORE_ERRORS, describe, is_cluster, refuses_all

log = logging.getLogger(__name__)

INTERVAL = 0.1  # seconds an entry waits at most, with the store at hand
EAGER = 500  # entries that are written without waiting for the interval
MOST_ENTRIES = 10_000  # that wait, unless told otherwise
MOST_BYTES = 16 << 20  # likewise
BATCH_ENTRIES = 500
BATCH_BYTES = 256 * 1024  # a batch must pass within the client's timeout
LONGEST_PAUSE = 5.0  # seconds between tries while the store is away


class StopEvent(Protocol):
    """What ends :meth:`LogBuffer.run`: a ``threading.Event``, or gevent's."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float) -> object:
        """Wait until set, or ``timeout`` seconds."""


def native_lock() -> Any:
    """Return a lock for what waits for nothing: gevent's takes longer to take than all that is done under this one."""
    monkey = sys.modules.get("gevent.monkey")
    return threading.Lock() if monkey is None else monkey.get_original("_thread", "allocate_lock")()


class LogBuffer:
    """Appends entries to lists in the store, in order, each list trimmed to its newest.

    While the store is away entries wait. A full buffer drops its oldest entry for a new one, as the list itself would,
    and counts it. A batch whose reply was lost is written again: no entry is lost, some may be there twice.

    :param client: with a timeout that fits a batch of 256 KiB; not the one of the request path.
    :param prefix: of the lists' names.
    :param most_entries: waiting at once, all lists together.
    :param most_bytes: likewise.
    """

    def __init__(self, client: redis.Redis, prefix: str = "gw:", *, most_entries: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES) -> None:
        self._client = client
        self._prefix = prefix
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._waiting: deque[tuple[str, bytes, int]] = deque()
        self._batch: list[tuple[str, bytes, int]] = []  # being written: not dropped, its outcome may be unknown
        self._bytes = 0
        self._lock = native_lock()
        # PERF: where nothing can be raised in between, called as they are: half of what "with" costs.
        self._enter: Callable[[], object] = self._lock.acquire
        self._leave: Callable[[], object] = self._lock.release
        self._writing = threading.Lock()
        self._full_enough = threading.Event()
        self._refused: set[str] = set()
        self.dropped = 0

    @property
    def pending(self) -> int:
        """Entries that are not known to be written."""
        return len(self._waiting) + len(self._batch)

    def add(self, list_name: str, entry: bytes, keep: int = 10_000) -> None:
        """Take ``entry`` for the list ``list_name``, of which the newest ``keep`` stay. Never blocks, never raises."""
        waiting, size = self._waiting, len(entry)
        self._enter()
        if size > self._most_bytes:
            self.dropped += 1
            self._leave()
            return
        waiting.append((list_name, entry, keep))
        self._bytes += size
        count = len(waiting)
        if self._bytes > self._most_bytes or count + len(self._batch) > self._most_entries:
            self._shorten()
        self._leave()
        if count == EAGER:  # once: the event costs more than all the rest
            self._full_enough.set()

    def _shorten(self) -> None:
        """Drop the oldest until what waits is within its bounds. Called with the lock."""
        while self._waiting and (self.pending > self._most_entries or self._bytes > self._most_bytes):
            self._bytes -= len(self._waiting.popleft()[1])
            self.dropped += 1

    def flush(self) -> int:
        """Write all that waits now; return how many entries were written.

        :raises StoreUnavailable: the store did not answer; what is not known to be written stays.
        """
        written = 0
        with self._writing:
            self._full_enough.clear()
            remaining = self.pending  # what comes meanwhile is for the next time, or this would not end
            while remaining > 0 and self._take_batch():
                remaining -= len(self._batch)
                written += self._write_batch()
        return written

    def run(self, stop: StopEvent) -> None:
        """Flush until ``stop`` is set; never raises. While the store is away, try less and less often, with jitter."""
        failures = 0
        while not stop.is_set():
            try:
                self.flush()
            except Exception as error:
                # Also what nobody thought of: a worker whose log loop has died loses its logs silently.
                failures += 1
                if failures == 1:
                    log.warning("log_store_away reason=%r pending=%d", describe(error), self.pending)
                stop.wait(random.uniform(0.5, 1.0) * min(INTERVAL * 2**failures, LONGEST_PAUSE))  # noqa: S311
                continue
            if failures:
                log.info("log_store_back dropped=%d", self.dropped)
            failures = 0
            if len(self._waiting) < EAGER:
                self._full_enough.wait(INTERVAL)

    def close(self) -> None:
        """Write what waits, once; what cannot be written is counted as dropped."""
        try:
            self.flush()
        except StoreUnavailable as error:
            log.warning("log_entries_lost count=%d reason=%r", self.pending, describe(error))
        with self._lock:
            self.dropped += self.pending
            self._waiting.clear()
            self._batch = []
            self._bytes = 0

    def _take_batch(self) -> bool:
        with self._lock:
            size = sum(len(entry) for _, entry, _ in self._batch)
            while self._waiting and len(self._batch) < BATCH_ENTRIES and size < BATCH_BYTES:
                self._batch.append(self._waiting.popleft())
                size += len(self._batch[-1][1])
        return bool(self._batch)

    def _write_batch(self) -> int:
        """Write the batch in one round trip; lists that were written, or cannot be, leave it."""
        lists: dict[str, list[bytes]] = {}
        keeps: dict[str, int] = {}
        for name, entry, keep in self._batch:
            lists.setdefault(name, []).append(entry)
            keeps[name] = keep
        try:
            replies = self._append(lists, keeps)
        except STORE_ERRORS as error:
            raise StoreUnavailable(describe(error)) from error
        return self._settle(lists, replies[::2])

    def _append(self, lists: dict[str, list[bytes]], keeps: dict[str, int]) -> list[object]:
        """Send two commands a list; return the replies, error replies among them."""
        commands: list[tuple[Argument, ...]] = []
        for name, entries in lists.items():
            commands.append(("RPUSH", self._prefix + name, *entries))
            commands.append(("LTRIM", self._prefix + name, -keeps[name], -1))
        if not is_cluster(self._client):
            # PERF: 1 µs an entry less than redis-py's own packing.
            return exchange(self._client, b"".join([pack(*command) for command in commands]), len(commands))
        pipeline: Any = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[object] = pipeline.execute(raise_on_error=False)
        return replies

    def _settle(self, lists: dict[str, list[bytes]], replies: list[object]) -> int:
        written, away = 0, ""
        for (name, entries), reply in zip(lists.items(), replies, strict=True):
            if isinstance(reply, Exception) and (not isinstance(reply, ResponseError) or refuses_all(reply)):
                away = describe(reply)  # it will take them later
                continue
            if isinstance(reply, Exception):
                self.dropped += len(entries)  # the key is no list: it never will
                if name not in self._refused:
                    self._refused.add(name)
                    log.error("log_list_refused list=%s reason=%r", name, describe(reply))
            else:
                written += len(entries)
            with self._lock:
                self._bytes -= sum(map(len, entries))
                self._batch = [item for item in self._batch if item[0] != name]
        if away:
            raise StoreUnavailable(away)
        return written
