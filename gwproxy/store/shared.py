"""The store as plugins see it: :class:`gwproxy.ports.Store`, with Redis and without."""

from __future__ import annotations

import hashlib

import redis

from gwproxy.errors import StoreUnavailable
from gwproxy.ports import Algorithm, Decision
from gwproxy.store.breaker import Breaker, StopEvent
from gwproxy.store.connection import connect
from gwproxy.store.counters import Counters
from gwproxy.store.local_counters import LocalCounters
from gwproxy.store.log_buffer import LogBuffer
from gwproxy.store.redial import Redial
from gwproxy.store.roundtrips import RoundTrips

REQUEST_TIMEOUT = 0.1  # seconds a request waits for the store
LOG_TIMEOUT = 2.0  # seconds for a batch of log entries, which no request waits for
_LONGEST_NAME = 512


def safe_name(name: str) -> str:
    """Return ``name`` as part of a key: itself if it is printable and at most 512 characters, else its SHA-256."""
    if len(name) <= _LONGEST_NAME and name.isprintable():
        return name
    return "sha256:" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


class RedisStore:
    """Counters, keys and logs in Redis; one a worker. Nothing is sent, and nothing runs, before it is used.

    :param client: for requests, see :func:`~gwproxy.store.connection.connect`.
    :param logs: where log entries wait; somebody has to ``run`` it, and should :meth:`attend` the store.
    :param prefix: of every key.
    :param timeout: seconds a call takes at most.
    """

    def __init__(
        self, client: redis.Redis, logs: LogBuffer, *, prefix: str = "gw:", breaker: Breaker | None = None, timeout: float = REQUEST_TIMEOUT
    ) -> None:
        self.client = client
        self.logs = logs
        self.breaker = breaker if breaker is not None else Breaker()
        self._prefix = prefix
        self._trips = RoundTrips(client, self.breaker, timeout)
        self._counters = Counters(self._trips)
        self._local = LocalCounters()

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "gw:", redial: Redial | None = None) -> RedisStore:
        """Make a store for ``url``, with a connection of its own for logs.

        :param redial: shared with the worker's other clients; None: it has one of its own.
        :raises CommandFailed: the URL makes no sense.
        """
        redial = redial or Redial()
        logs = LogBuffer(connect(url, timeout=LOG_TIMEOUT, max_connections=1, redial=redial), prefix)
        # A pool of connections that are half-open would else cost a probe each.
        breaker = Breaker(opened=redial.renew)
        return cls(connect(url, timeout=REQUEST_TIMEOUT, redial=redial), logs, prefix=prefix, breaker=breaker)

    def attend(self, stop: StopEvent) -> None:
        """Look after the breaker until ``stop`` is set: while it is open, ask the store about once a second to write.

        Runs in the background; without it a request has to find out whether the store is back.
        """
        # Not PING: a replica, a full server or one without a disk answers that, and refuses what requests ask for.
        self.breaker.attend(lambda: self._trips.probe("SET", self._key("probe"), b"", "PX", 1000), stop)

    @property
    def dropped(self) -> int:
        """Log entries that were dropped."""
        return self.logs.dropped

    def take(self, name: str, *, limit: int, window: float, algorithm: Algorithm = "fixed_window") -> Decision:
        return self._counters.take(f"{self._prefix}rl:{safe_name(name)}", limit=limit, window=window, algorithm=algorithm)

    def take_locally(self, name: str, *, limit: int, window: float, algorithm: Algorithm = "fixed_window") -> Decision:
        return self._local.take(name, limit=limit, window=window, algorithm=algorithm)

    def claim(self, name: str, *, ttl: float) -> bool:
        return self._trips.execute("SET", self._key(name), b"1", "PX", _milliseconds(ttl), "NX") is not None

    def get(self, name: str) -> bytes | None:
        reply: bytes | None = self._trips.execute("GET", self._key(name))
        return reply if reply is None else bytes(reply)

    def put(self, name: str, value: object, *, ttl: float) -> None:
        if not isinstance(value, bytes):
            raise TypeError(f"a value is bytes, not {type(value).__name__}")  # before it fails a trip that others share
        self._trips.execute("SET", self._key(name), value, "PX", _milliseconds(ttl))

    def log(self, name: str, entry: bytes, *, keep: int = 10_000) -> None:
        self.logs.add(name, entry, keep)

    def close(self) -> None:
        """Write the log entries that wait, and close all connections."""
        self.logs.close()
        self._trips.close()
        self.client.close()

    def _key(self, name: str) -> str:
        return f"{self._prefix}key:{safe_name(name)}"


class LocalStore:
    """What there is without Redis: counters of this worker alone; keys are unavailable, log entries dropped and counted."""

    def __init__(self) -> None:
        self._local = LocalCounters()
        self.dropped = 0

    def take(self, name: str, *, limit: int, window: float, algorithm: Algorithm = "fixed_window") -> Decision:
        """Take from this worker's own counter: with several workers, the limit is one of each."""
        return self._local.take(name, limit=limit, window=window, algorithm=algorithm)

    def take_locally(self, name: str, *, limit: int, window: float, algorithm: Algorithm = "fixed_window") -> Decision:
        """As :meth:`take`, which is no other."""
        return self._local.take(name, limit=limit, window=window, algorithm=algorithm)

    def claim(self, name: str, *, ttl: float) -> bool:
        raise StoreUnavailable("no store is configured")

    def get(self, name: str) -> bytes | None:
        raise StoreUnavailable("no store is configured")

    def put(self, name: str, value: bytes, *, ttl: float) -> None:
        raise StoreUnavailable("no store is configured")

    def log(self, name: str, entry: bytes, *, keep: int = 10_000) -> None:
        self.dropped += 1

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
