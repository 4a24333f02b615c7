"""How long a request's greenlet has waited: what tells a hook that computes from one that others are served beside.

gevent calls ``switch_out`` of a greenlet before it waits, and ``switch`` or ``throw`` to wake it. Noting the time there costs
half a microsecond a wait, so greenlets do it while hooks run: not while an upstream or the client is waited for.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from gevent import Greenlet


class Serving(Greenlet):  # type: ignore[misc]
    """A greenlet that serves a connection."""


class Timed(Greenlet):  # type: ignore[misc]
    """One that runs hooks.

    :ivar waited: seconds in which it was not what ran, since it is this; it only grows.
    """

    waited = 0.0
    _left = 0.0  # when it began to wait; 0.0: it does not

    def switch_out(self) -> None:
        """Note that it is about to wait."""
        self._left = monotonic()

    def switch(self, *args: Any) -> Any:
        """Wake it."""
        if self._left:
            self.waited += monotonic() - self._left
            self._left = 0.0
        return Greenlet.switch(self, *args)

    def throw(self, *args: Any) -> Any:
        """Wake it by an exception."""
        if self._left:
            self.waited += monotonic() - self._left
            self._left = 0.0
        return Greenlet.throw(self, *args)


def timed(greenlet: object) -> Timed | None:
    """Return the greenlet as one that notes its waits from now on; None if it is not a worker's own: nobody knows then."""
    kind = type(greenlet)
    if kind is Timed:
        return greenlet  # type: ignore[return-value]
    if kind is Serving:
        # The same object under another class of the same layout: who holds it, or its methods, need not know.
        greenlet.__class__ = Timed
        return greenlet  # type: ignore[return-value]
    return None


def untimed(greenlet: Timed | None) -> None:
    """Let a greenlet of :func:`timed` note no waits until it is given there again: no hook runs, and none will for a while."""
    if greenlet is not None:
        greenlet.__class__ = Serving
