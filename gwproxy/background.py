"""What runs beside requests: in greenlets where the process is gevent's, in threads under any other WSGI server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import gevent
from gevent import monkey

log = logging.getLogger("gwproxy.background")


class Background:
    """Functions that run until they return or their worker stops. What they raise is logged with their name."""

    def __init__(self) -> None:
        self._greenlets: list[gevent.Greenlet] = []

    def run(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` in the background."""
        if monkey.is_module_patched("threading"):
            self._greenlets = [greenlet for greenlet in self._greenlets if not greenlet.dead]
            self._greenlets.append(gevent.spawn(_guarded, function, *args))
        else:  # nobody would switch to a greenlet: what waits here waits for good
            threading.Thread(target=_guarded, args=(function, *args), daemon=True).start()

    def close(self) -> None:
        """Kill what still runs; a thread ends by itself, or with the process."""
        gevent.killall(self._greenlets, block=False)


def _guarded(function: Callable[..., object], *args: Any) -> None:
    try:
        function(*args)
    except gevent.GreenletExit:
        pass  # the worker stops, or the function ends itself
    except BaseException:  # gevent would end the worker with a greenlet that exits or is interrupted
        log.exception("background_failed function=%s", getattr(function, "__qualname__", function))
