"""The watchdog of plugin budgets.

A timer a hook would cost more than the hook. Instead the chain notes what runs since when, and this looks at all
requests in flight ten times a second: a hook that waits beyond its budget has :class:`BudgetExceeded` thrown into it.
It cannot cut off what never waits (a busy loop): that holds the whole worker, the watchdog included.
"""

from __future__ import annotations

import time
from typing import Any

from gevent import get_hub

from gwproxy.context import Context
from gwproxy.dataplane.chain import Step, waited
from gwproxy.dataplane.gateway import Gateway
from gwproxy.errors import BudgetExceeded

INTERVAL = 0.1  # seconds: how far beyond its budget a hook may get


class BudgetWatchdog:
    """Cuts off hooks that run out of their budget; accurate to a tenth of a second."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._timer: Any = None

    def start(self) -> None:
        """Start looking; once a worker, in its hub's thread."""
        self._timer = get_hub().loop.timer(INTERVAL, INTERVAL)
        self._timer.start(self._look)

    def stop(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _look(self) -> None:
        # Runs in the hub, so that a throw switches straight into the hook and comes back here: between the look and
        # the throw nothing else can run, and no hook is hit that has just finished.
        now = time.monotonic()
        for ctx in [ctx for ctx in self._gateway.in_flight if _over(ctx, now)]:
            step = ctx._step
            if isinstance(step, Step):
                ctx._step = None  # once
                ctx._greenlet.throw(BudgetExceeded(f"{step.plugin} in {step.phase}"))  # type: ignore[attr-defined]


def _over(ctx: Context, now: float) -> bool:
    step, response = ctx._step, ctx.response
    if not isinstance(step, Step) or ctx.request.body.waiting_since is not None:
        return False
    if response is not None and response.body.waiting_since is not None:
        return False
    return now - waited(ctx) - ctx._step_since > step.budget
