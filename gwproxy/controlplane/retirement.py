"""Wheels that are not deployed any more: they end when the last request that may use them has, and then their code goes."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from gevent import GreenletExit

from gwproxy.context import Context
from gwproxy.controlplane.collection import Remains
from gwproxy.controlplane.events import announce
from gwproxy.dataplane.gateway import Gateway
from gwproxy.ports import Gateway as Port
from gwproxy.registry import Registry
from gwproxy.wheels.deployment import Pinned
from gwproxy.wheels.loading import Loaded

log = logging.getLogger("gwproxy.retirement")

LOOK_EVERY = 0.1  # seconds between two looks whether the last request has ended, while there is something to look for
FAREWELL = 2.0  # seconds a plugin has for its worker_stopping
#: Seconds after which it is tried again to free code that something still refers to; then a whole collection may find it.
AGAIN = (0.5, 2.0, 10.0, 60.0)


@dataclass(slots=True, eq=False)
class Pushed:
    """A wheel that is loaded in this worker, with its plugins.

    :ivar registry: of its plugins alone.
    :ivar key: the id of the key that vouches for it.
    :ivar port: what its plugins see of the worker; what they have spawned ends with it.
    :ivar everywhere: whether a snapshot has had one of its plugins on every route.
    """

    pinned: Pinned
    loaded: Loaded
    registry: Registry
    key: str = ""
    port: Port | None = None
    everywhere: bool = False

    def may_serve(self, ctx: Context) -> bool:
        """Whether a request may have to do with one of its plugins."""
        if self.everywhere or ctx.route is None:
            return self.everywhere
        return any(ref.name in self.pinned.plugins for ref in ctx.route.plugins)

    def close(self) -> None:
        """End what its plugins have in the background."""
        close = getattr(self.port, "close", None)
        if close is not None:
            close()


@dataclass(slots=True, eq=False)
class _Waiting:
    """A wheel and the requests that it waits for."""

    wheel: Pushed
    requests: set[Context]


@dataclass(slots=True, eq=False)
class _Leaving:
    """Code that is to be freed, and when to try next."""

    label: str
    remains: Remains
    due: float
    tries: int = 0


class Retirement:
    """Ends wheels that are not deployed any more: lets requests finish, then the plugins say goodbye, then frees the code.

    :param pause: called between slices of work.

    :ivar lingering: how many wheels' code is still there although it ought to be gone.
    """

    def __init__(
        self,
        gateway: Gateway,
        pause: Callable[[], object] = lambda: None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gateway = gateway
        self._pause = pause
        self._clock = clock
        self._waiting: list[_Waiting] = []
        self._leaving: list[_Leaving] = []
        self._wake = threading.Event()
        self._closed = False
        self.lingering = 0

    @property
    def waiting(self) -> list[Pushed]:
        """The wheels that were not ended yet."""
        return [waiting.wheel for waiting in self._waiting]

    def add(self, wheel: Pushed) -> None:
        """Retire a wheel that nothing is made with any more. Takes no time."""
        requests = {ctx for ctx in self._gateway.in_flight if wheel.may_serve(ctx)}
        self._waiting.append(_Waiting(wheel, requests))
        log.info("plugins_retire wheel=%s requests=%d", wheel.pinned, len(requests))
        self._wake.set()

    def rescue(self, sha256: str) -> Pushed | None:
        """Return a wheel that is wanted again after all; None if it was told to stop: then it is loaded anew."""
        for waiting in self._waiting:
            if waiting.wheel.pinned.sha256 == sha256:
                self._waiting.remove(waiting)
                return waiting.wheel
        return None

    def run(self) -> None:
        """Look after them until closed."""
        while not self._closed:
            try:
                self.step()
            except GreenletExit:
                raise
            except Exception:
                log.exception("retirement_failed")
            if self._waiting or self._leaving:
                time.sleep(LOOK_EVERY)
            else:
                self._wake.wait()
                self._wake.clear()

    def close(self) -> None:
        """Stop."""
        self._closed = True
        self._wake.set()

    def step(self) -> None:
        """Free what was ended before, then end what no request needs any more."""
        now = self._clock()
        for leaving in [leaving for leaving in self._leaving if leaving.due <= now]:
            self._free(leaving, now)
        in_flight = self._gateway.in_flight
        for waiting in list(self._waiting):
            waiting.requests &= in_flight
            if not waiting.requests and waiting in self._waiting:  # it may have been wanted again while another one said goodbye
                self._waiting.remove(waiting)
                self._end(waiting.wheel)

    def _end(self, wheel: Pushed) -> None:
        announce(wheel.registry, self._gateway.tally, "worker_stopping", FAREWELL)
        wheel.close()
        package = wheel.loaded.root
        modules = [module for name, module in list(sys.modules.items()) if name == package or name.startswith(f"{package}.")]
        wheel.loaded.unload()
        classes = [type(registered.plugin) for registered in wheel.registry]
        # Not now: greenlets that it has spawned have been told to end, and have not yet.
        self._leaving.append(_Leaving(str(wheel.pinned), Remains(package, [wheel, *modules, *classes]), self._clock()))
        log.info("plugins_retired wheel=%s", wheel.pinned)

    def _free(self, leaving: _Leaving, now: float) -> None:
        if leaving.remains.collect(self._pause):
            self.lingering -= leaving.tries > 0
            self._leaving.remove(leaving)
        elif leaving.tries == len(AGAIN):
            log.warning("plugin_code_kept wheel=%s reason=%s", leaving.label, "something outside of it still refers to it")
            self._leaving.remove(leaving)
        else:
            self.lingering += leaving.tries == 0
            leaving.due = now + AGAIN[leaving.tries]
            leaving.tries += 1
