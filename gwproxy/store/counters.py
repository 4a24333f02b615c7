"""Counters shared by all workers: one script, one round trip, the store's own clock."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files

from redis.exceptions import NoScriptError

from gwproxy.ports import Algorithm, Decision
from gwproxy.store.commands import bulk
from gwproxy.store.roundtrips import RoundTrips


def load_script(name: str) -> str:
    """Return the Lua script ``name`` of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def sha1(text: str | bytes) -> str:
    """Return what Redis calls a script by, and what its ``redis.sha1hex`` returns. Not for security."""
    return hashlib.sha1(text.encode() if isinstance(text, str) else text, usedforsecurity=False).hexdigest()


class Counters:
    """Takes from counters in the store: exact across workers, one key a call.

    ``fixed_window``: a window begins with its first request; up to twice the limit can pass around the end of one.
    ``sliding_window``: never more than the limit in any window; a place is given back up to a sixtieth of it late.
    ``token_bucket``: the limit as a burst, then evenly; up to twice the limit in the first window.
    """

    def __init__(self, trips: RoundTrips) -> None:
        self._trips = trips
        self._script = load_script("counters.lua")
        self._sha = sha1(self._script)
        self._before = b"*7\r\n" + bulk("EVALSHA") + bulk(self._sha) + bulk(1)  # the key

    def take(self, key: str, *, limit: int, window: float, algorithm: Algorithm) -> Decision:
        """Take one from the counter ``key``; ``window`` is in seconds.

        :raises StoreUnavailable: the store did not answer.
        """
        arguments, after = _arguments(algorithm, limit, window)
        name = key.encode()
        try:
            pipeline = self._trips.pipeline()
            if pipeline is not None:
                reply = pipeline.ask(self._before + _length(len(name)) + name + after)
            else:
                reply = self._trips.execute("EVALSHA", self._sha, 1, name, *arguments)
        except NoScriptError:  # flushed, restarted, or another master: EVAL runs it and keeps it
            reply = self._trips.execute("EVAL", self._script, 1, name, *arguments)
        allowed, remaining, reset, retry = reply
        return Decision(allowed == 1, arguments[1], remaining, reset / 1000, retry / 1000)


@lru_cache(maxsize=1024)
def _arguments(algorithm: Algorithm, limit: int, window: float) -> tuple[tuple[str, int, int], bytes]:
    """Return what the script is told after the key, also packed, from the key's end on: the same for all requests of one entry."""
    arguments = (algorithm, *bounded(limit, window))
    return arguments, b"\r\n" + b"".join(map(bulk, arguments))


@lru_cache(maxsize=1024)
def _length(length: int) -> bytes:
    """Return what comes before an argument of ``length`` bytes."""
    return b"$%d\r\n" % length


def bounded(limit: int, window: float) -> tuple[int, int]:
    """Return the limit, 1 at least, and the window in microseconds, a millisecond to ten years."""
    return max(1, int(limit)), round(min(max(window, 0.001), 315_360_000.0) * 1_000_000)
