"""What a plugin may ask of the worker it lives in.

A plugin gets a :class:`Gateway` in ``worker_started``. The store behind :attr:`Gateway.store` is shared by all workers
of all gateways of one prefix; every call is one round trip and raises :class:`~gwproxy.errors.StoreUnavailable` within
100 ms when the store does not answer, at once while its breaker is open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol

Algorithm = Literal["fixed_window", "sliding_window", "token_bucket"]


@dataclass(frozen=True, slots=True, init=False)
class Decision:
    """The answer of :meth:`Counters.take`.

    :ivar allowed: whether this request is within the limit; only then was it counted.
    :ivar limit: requests a window.
    :ivar remaining: how many more would be allowed now; 0 at least.
    :ivar reset: seconds until the limit is whole again (a window ends, a bucket is full); 0.0 at least.
    :ivar retry_after: seconds until one more request would be allowed; 0.0 if one would be now.
    """

    allowed: bool
    limit: int
    remaining: int
    reset: float
    retry_after: float

    def __init__(self, allowed: bool, limit: int, remaining: int, reset: float, retry_after: float) -> None:
        # PERF: half of what the one costs that is made for frozen classes, which finds each setter by its name.
        _set_allowed(self, allowed)
        _set_limit(self, limit)
        _set_remaining(self, remaining)
        _set_reset(self, reset)
        _set_retry_after(self, retry_after)


_set_allowed, _set_limit, _set_remaining, _set_reset, _set_retry_after = (vars(Decision)[one.name].__set__ for one in fields(Decision))


class Store(Protocol):
    """Shared counters and keys. Names are put below the gateway's prefix; every key has a lifetime.

    Not for what :meth:`Gateway.in_thread` runs: there it is unavailable.
    """

    def take(self, name: str, *, limit: int, window: float, algorithm: Algorithm = "fixed_window") -> Decision:
        """Take one from the counter ``name``, by the store's own clock, exact across all workers.

        :param name: below ``gw:rl:``; printable, at most 512 characters.
        :param limit: requests a window, 1 or more.
        :param window: seconds.
        :raises StoreUnavailable: the store did not answer.
        """

    def take_locally(self, name: str, *, limit: int, window: float, algorithm: Algorithm = "fixed_window") -> Decision:
        """As :meth:`take`, but in this worker's memory only: what a limit falls back to. Bounded; never raises."""

    def claim(self, name: str, *, ttl: float) -> bool:
        """Claim ``name`` (below ``gw:key:``) for ``ttl`` seconds: True for the first caller, False for all others.

        :raises StoreUnavailable: the store did not answer.
        """

    def get(self, name: str) -> bytes | None:
        """Return what :meth:`put` stored under ``name`` (below ``gw:key:``); None if nothing is there any more.

        :raises StoreUnavailable: the store did not answer.
        """

    def put(self, name: str, value: bytes, *, ttl: float) -> None:
        """Store ``value`` under ``name`` (below ``gw:key:``) for ``ttl`` seconds.

        :raises StoreUnavailable: the store did not answer.
        """

    def log(self, name: str, entry: bytes, *, keep: int = 10_000) -> None:
        """Append ``entry`` to the list ``gw:<name>``, of which the newest ``keep`` are kept.

        Returns at once and never raises: entries wait in a bounded buffer and are written in batches; what had to be
        dropped is counted and shown in the worker's heartbeat.
        """


class Gateway(Protocol):
    """The worker, as a plugin sees it."""

    @property
    def store(self) -> Store:
        """The shared store."""

    @property
    def worker_id(self) -> str:
        """The worker's name, unique among all that run: ``host-pid-random``."""

    @property
    def state_dir(self) -> str:
        """A folder that outlives the worker; owner-readable."""

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` in the background of this worker; it is killed when the worker stops.

        What it raises is logged with the function's name.
        """

    def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function`` in a native thread and wait for it: for what would block the worker (hashing, files)."""
