"""What each host has found out about targets, for the others: in a hash of Redis, a field a host."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import redis

from gwproxy.store.asking import Asking, text_of

TTL = 60  # seconds after which the hash is gone if no host writes
FRESH = 30.0  # seconds for which a host is believed
MOST = 2000  # targets of a host that are told


class SharedHealth(Asking):
    """The checks of all hosts: told by the worker of each that asks, for those that start and know nothing yet.

    That is all it is for. A target that one host cannot reach may be well for another: no host goes by what others say once
    it has asked for itself.

    :param host: this host, among those that share a store.
    :param wall: seconds since 1970: of two hosts, it may differ by some seconds.
    """

    def __init__(self, client: redis.Redis, prefix: str, host: str, wall: Callable[[], float] = time.time) -> None:
        super().__init__(client, prefix)
        self._hash = self._key("health")
        self._host = host
        self._wall = wall

    def tell(self, healthy: Mapping[str, bool]) -> None:
        """Write what this host says.

        :raises StoreUnavailable: the store did not answer.
        """
        told = orjson.dumps({"at": self._wall(), "targets": dict(list(healthy.items())[:MOST])})

        def send() -> None:
            pipeline = self._client.pipeline(transaction=True)  # never a key without a lifetime
            pipeline.hset(self._hash, self._host, told)
            pipeline.expire(self._hash, TTL)
            pipeline.execute()

        self._ask(send)

    def others(self) -> dict[str, bool]:
        """Return what the other hosts say of targets: that one is not well if none of those that know it says it is.

        What a host that is silent has said is removed.

        :raises StoreUnavailable: the store did not answer.
        """
        found: dict[str, bool] = {}
        silent = []
        hosts: Any = self._ask(lambda: self._client.hgetall(self._hash))
        for name, text in hosts.items():
            if text_of(name) == self._host:
                continue
            said = _said(text)
            if said is None or abs(self._wall() - said[0]) > FRESH:
                silent.append(name)
                continue
            for key, healthy in said[1].items():
                found[key] = found.get(key, False) or healthy is True
        if silent:
            self._ask(lambda: self._client.hdel(self._hash, *silent))
        return found


def _said(text: str | bytes) -> tuple[float, dict[str, Any]] | None:
    """Read a field; None if somebody else wrote it."""
    try:
        said = orjson.loads(text)
        return float(said["at"]), dict(said["targets"])
    except (ValueError, TypeError, KeyError):
        return None
