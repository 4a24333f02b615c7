"""What ``gwproxy run`` says once it serves: what, where, and what to do next; or what it waits for."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from gwproxy.cli.output import counted
from gwproxy.errors import StoreUnavailable
from gwproxy.store.configuration import ConfigurationStore

PATIENCE = 3.0  # seconds until it is said what is waited for
_SLOWER = 1.0  # seconds between two looks from then on


@dataclass(frozen=True, slots=True)
class Listening:
    """What gunicorn has opened.

    :ivar urls: of its listeners, e.g. ``http://127.0.0.1:8080``.
    :ivar workers: how many processes it keeps.
    """

    urls: tuple[str, ...]
    workers: int

    @property
    def bind(self) -> str:
        """The first listener's address, e.g. ``127.0.0.1:8080``."""
        return self.urls[0].removeprefix("http://").removeprefix("https://") if self.urls else ""


class Announcement:
    """Watches the heartbeats of this gateway's workers until one serves. One look costs a few commands to the store.

    Heartbeats, not the health path: the listener may want TLS or a PROXY header, and a worker says why it does not serve.

    :param prefix: of the keys, for what is said.
    :param since: ISO 8601, UTC; older workers are not of this gateway.
    :param ready: called once, when a worker serves.
    """

    def __init__(
        self,
        store: ConfigurationStore,
        prefix: str,
        listening: Listening,
        since: str,
        say: Callable[[str], None],
        ready: Callable[[], None],
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._listening = listening
        self._since = since
        self._say = say
        self._ready = ready
        self._began = self._looked = time.monotonic()
        self._told = ""
        self.over = False

    def look(self) -> None:
        """Say what is new since the last look; does nothing once it has said that a worker serves."""
        now = time.monotonic()
        patient = now - self._began < PATIENCE
        if self.over or (not patient and now - self._looked < _SLOWER):
            return
        self._looked = now
        try:
            workers = [worker for worker in self._store.workers() if self._ours(worker)]
            if any(worker.get("state") == "ready" for worker in workers):
                self.over = True
                self._say(f"ready: {self._served()}")
                self._ready()
                return
        except StoreUnavailable as error:
            if not patient:
                self._tell(f"waiting for the store: {error}; what was served last is served meanwhile")
            return
        refused = next((worker.get("error", "") for worker in workers if worker.get("state") == "refused"), None)
        if refused is not None:
            self._tell(f"the workers refuse the configuration: {refused}")
        elif not patient:
            self._tell(f"waiting for a configuration: SET {self._prefix}routes in the store, or name a file: gwproxy run gateway.yaml")

    def _ours(self, worker: Mapping[str, str]) -> bool:
        return worker.get("host") == socket.gethostname() and worker.get("started", "") >= self._since

    def _served(self) -> str:
        live = self._store.read()
        routes = f"{_routes(live.data)} (revision {live.revision})"
        return f"{', '.join(self._listening.urls)} serves {routes}, {counted(self._listening.workers, 'worker')}"

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._say(text)


def _routes(data: bytes | None) -> str:
    try:
        tree = orjson.loads(data or b"[]")
    except orjson.JSONDecodeError:
        tree = None
    routes = tree.get("routes") if isinstance(tree, dict) else tree
    return counted(len(routes), "route") if isinstance(routes, list) else "what was valid last"


def reachable(url: str) -> str:
    """Return a listener's URL as a client of this machine may ask it: a wildcard address is none to connect to."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
