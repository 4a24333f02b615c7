"""How an exchange with an upstream ends early. Each class is the answer to the client; all say how far it came.

::

    Failure                  phase, sent, reused: what a retry is decided on
    ├── UpstreamFailed       502
    ├── UpstreamTimedOut     504
    └── ClientLeft           nobody is waiting any more

:class:`UpstreamBusy` (503) is none of them: no exchange has begun, and there is nothing to try again.
"""

from __future__ import annotations

from typing import Literal

from gwproxy.errors import BadGateway, ClientGone, GatewayError, GatewayTimeout, ServiceUnavailable

Phase = Literal["connect", "send", "head", "body"]


class Failure(GatewayError):
    """The root of the three; catch it to decide on a retry.

    :ivar phase: ``connect`` (no connection yet), ``send`` (the request was being sent), ``head`` (sent; waiting for the
        response's head) or ``body`` (the head has been handed on).
    :ivar sent: whether any byte of the request was sent on the connection.
    :ivar reused: whether the connection had served another request before and died before any byte of a response: the
        upstream may just have closed it. Never of a timeout: that upstream may well be at work.
    """

    def __init__(self, detail: str, *, phase: Phase, sent: bool = False, reused: bool = False) -> None:
        super().__init__(detail)
        self.phase = phase
        self.sent = sent
        self.reused = reused


class UpstreamFailed(Failure, BadGateway):
    """The upstream refused, reset, could not be resolved, is forbidden, or sent what is not HTTP."""


class UpstreamTimedOut(Failure, GatewayTimeout):
    """One of the route's timeouts passed."""


class UpstreamBusy(ServiceUnavailable):
    """As many requests as the upstream may have from this worker are in flight, and the queue is full or stood still."""


class ClientLeft(Failure, ClientGone):
    """The client closed its connection, or sent less body than it declared."""
