"""The store of a test: in memory, on the clock of the test, away when the test says so."""

from __future__ import annotations

from collections import defaultdict

from gwproxy.errors import StoreUnavailable
from gwproxy.ports import Algorithm, Decision
from gwproxy.store.local_counters import LocalCounters
from gwproxy.store.shared import safe_name
from gwproxy.testing.clock import Clock


class MemoryStore:
    """Answers as :class:`gwproxy.Store` says, and as the counters in Redis decide.

    :ivar away: True: every call that asks the store raises ``StoreUnavailable``, as in a worker whose Redis is away.
    :ivar logged: what was logged, by name, oldest first.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counters = LocalCounters(clock=clock.monotonic)
        self._local = LocalCounters(clock=clock.monotonic)
        self._keys: dict[str, tuple[bytes, float]] = {}
        self.away = False
        self.logged: defaultdict[str, list[bytes]] = defaultdict(list)

    def take(self, name: str, *, limit: int, window: float, algorithm: Algorithm = "fixed_window") -> Decision:
        self._ask()
        return self._counters.take(safe_name(name), limit=limit, window=window, algorithm=algorithm)

    def take_locally(self, name: str, *, limit: int, window: float, algorithm: Algorithm = "fixed_window") -> Decision:
        return self._local.take(name, limit=limit, window=window, algorithm=algorithm)

    def claim(self, name: str, *, ttl: float) -> bool:
        if self.get(name) is not None:
            return False
        self.put(name, b"1", ttl=ttl)
        return True

    def get(self, name: str) -> bytes | None:
        self._ask()
        value, expires = self._keys.get(safe_name(name), (b"", 0.0))
        return value if expires > self._clock.monotonic() else None

    def put(self, name: str, value: bytes, *, ttl: float) -> None:
        self._ask()
        if not isinstance(value, bytes):
            raise TypeError(f"a value is bytes, not {type(value).__name__}")
        self._keys[safe_name(name)] = value, self._clock.monotonic() + max(ttl, 0.001)

    def log(self, name: str, entry: bytes, *, keep: int = 10_000) -> None:
        if not self.away:  # else dropped, as when the buffer of a worker is full
            entries = self.logged[name]
            entries.append(entry)
            del entries[:-keep]

    def _ask(self) -> None:
        if self.away:
            raise StoreUnavailable("the test has put it away")
