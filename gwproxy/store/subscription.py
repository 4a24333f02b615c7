"""Hearing that something may have changed, on a connection that is known to be alive."""

from __future__ import annotations

import time
from typing import Any

import redis

from gwproxy.errors import StoreUnavailable
from gwproxy.store.connection import STORE_ERRORS, describe

_MOST_DRAINED = 10_000  # messages; a storm that never ends must not keep wait() from returning


class Subscription:
    """Waits for messages on one channel. Connects in the first :meth:`wait`, and again in the next after a failure.

    A message is a hint: its content is ignored, and those that came meanwhile are one. Nothing is assumed delivered
    while there was no connection, so a new one is reported as a hint too.

    :param ping_every: seconds of silence after which the server is asked for a sign of life.
    :param patience: seconds it has for it. A connection whose peer vanished is found after the sum of both.
    """

    def __init__(self, client: redis.Redis, channel: str, *, ping_every: float = 3.0, patience: float = 2.0) -> None:
        self._client: Any = client
        self._channel = channel
        self._ping_every = ping_every
        self._patience = patience
        self._pubsub: Any = None
        self._heard = 0.0
        self._asked: float | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._pubsub is not None

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds. True: read everything (a hint came, or the connection is new). False: silence.

        :raises StoreUnavailable: the connection is lost, or could not be made; pause, then call again.
        """
        try:
            if getattr(self._pubsub, "connection", None) and getattr(self._pubsub.connection, "outdated", False):
                self.close()  # the store refused to write somewhere else: another may be the master now
            if self._pubsub is None:
                self._connect()
                return True
            return self._listen(time.monotonic() + timeout)
        except STORE_ERRORS as error:
            self.close()
            raise StoreUnavailable(describe(error)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back, closed."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            try:
                pubsub.close()
            except STORE_ERRORS:
                return  # it was lost already

    def _connect(self) -> None:
        pubsub = self._client.pubsub()
        self._pubsub = pubsub
        pubsub.subscribe(self._channel)
        until = time.monotonic() + self._patience
        while (message := pubsub.get_message(timeout=max(until - time.monotonic(), 0.0))) is None:
            if time.monotonic() >= until:
                raise redis.TimeoutError("no answer to SUBSCRIBE")
        if message["type"] != "subscribe":
            raise redis.ConnectionError(f"unexpected answer to SUBSCRIBE: {message['type']}")
        self._heard, self._asked = time.monotonic(), None

    def _listen(self, until: float) -> bool:
        while True:
            now = time.monotonic()
            if self._asked is None and now - self._heard >= self._ping_every:
                self._pubsub.ping()
                self._asked = now
            if self._asked is not None and now - self._asked >= self._patience:
                raise redis.TimeoutError(f"no sign of life for {now - self._heard:.1f} s")
            alarm = self._heard + self._ping_every if self._asked is None else self._asked + self._patience
            message = self._pubsub.get_message(timeout=max(min(until, alarm) - now, 0.0))
            if message is not None:
                self._heard, self._asked = time.monotonic(), None
                if message["type"] == "message":
                    self._drain()
                    return True
            if time.monotonic() >= until:
                return False

    def _drain(self) -> None:
        for _ in range(_MOST_DRAINED):
            if self._pubsub.get_message(timeout=0.0) is None:
                return
