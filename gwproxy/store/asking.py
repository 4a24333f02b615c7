"""What everything that asks the store beside requests has in common: a client, a prefix, one kind of failure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import redis
from redis.exceptions import NoScriptError

from gwproxy.errors import StoreUnavailable
from gwproxy.store.connection import STORE_ERRORS, describe
from gwproxy.store.counters import sha1

T = TypeVar("T")


class Asking:
    """Asks one Redis about the keys under one prefix.

    Whatever the store answers amiss, or does not answer, is raised as :class:`~gwproxy.errors.StoreUnavailable`, with a
    message fit for the log.

    :param client: of :func:`~gwproxy.store.connection.connect`; not the one of the request path.
    :param prefix: of every key, with its colon.
    """

    def __init__(self, client: redis.Redis, prefix: str = "gw:") -> None:
        self._client: Any = client  # redis-py's own types admit str where it returns bytes
        self._prefix = prefix

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _ask(self, function: Callable[[], T]) -> T:
        """Return what ``function`` returns, which sends commands."""
        try:
            return function()
        except STORE_ERRORS as error:
            raise StoreUnavailable(describe(error)) from error

    def _now(self) -> str:
        """Return the store's time, ISO 8601, UTC."""
        seconds, microseconds = self._ask(self._client.time)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds).isoformat(timespec="microseconds")[:-6] + "Z"

    def _evaluate(self, script: str, names: tuple[str, ...], *arguments: str | bytes | int) -> Any:
        """Run a Lua script, whose KEYS are those of ``names``, and return its reply."""
        rest = (len(names), *map(self._key, names), *arguments)

        def send() -> Any:
            try:
                return self._client.execute_command("EVALSHA", sha1(script), *rest)
            except NoScriptError:
                return self._client.execute_command("EVAL", script, *rest)

        return self._ask(send)


def text_of(value: bytes) -> str:
    """Return a reply's bytes as text; what is no UTF-8 in them is replaced: anybody may write to the store."""
    return value.decode("utf-8", "replace")
