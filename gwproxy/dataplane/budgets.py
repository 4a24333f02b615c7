"""The watchdog of plugin budgets.

A timer a hook would cost more than the hook. Instead the chain notes what runs since when, and this looks at all
requests in flight ten times a second: a hook that waits beyond its budget has :class:`BudgetExceeded` thrown into it.
What never waits (a busy loop) holds the whole worker, this watchdog included: :mod:`gwproxy.dataplane.blocked` is for that.
"""

from __future__ import annotations

import time
from typing import Any

from gevent import get_hub

from gwproxy.context import Context
from gwproxy.dataplane.chain import waited
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.step import Overdue, Step
from gwproxy.errors import BudgetExceeded
from gwproxy.tally import Tally

INTERVAL = 0.1  # seconds: how far beyond its budget a hook may get
FINEST = 0.01  # and how far at least, where budgets are shorter
GRACE = 1.0  # seconds for a hook to clean up, before it is told again


class BudgetWatchdog:
    """Cuts off hooks that run out of their budget; accurate to a tenth of a second, with shorter budgets to half of the shortest.

    :ivar turns: how often it has looked: while this does not grow, the loop of the worker is blocked.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._timer: Any = None
        self._looked = 0.0
        self._interval = INTERVAL
        self.turns = 0

    def start(self) -> None:
        """Start looking; once a worker, in its hub's thread."""
        self._looked = time.monotonic()
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
        self.turns += 1
        now = time.monotonic()
        late, self._looked = now - self._looked - self._interval, now
        self._look_often_enough()
        if late > INTERVAL:
            self._credit(late, now)
        for ctx in [ctx for ctx in map(acting, self._gateway.in_flight) if overdue_by(ctx, now) > 0]:
            if overdue_by(ctx, now) > 0:
                ctx._greenlet.throw(cut_off(ctx, now, self._gateway.tally))  # type: ignore[attr-defined]

    def _look_often_enough(self) -> None:
        """Look twice within the shortest budget that there is, but no more than a hundred times a second."""
        interval = min(INTERVAL, max(FINEST, self._gateway.upstreams.measures.shortest / 2))
        if interval < self._interval and self._timer is not None:
            self._interval = interval
            self._timer.stop()
            self._timer.close()
            self._timer = get_hub().loop.timer(interval, interval)
            self._timer.start(self._look)

    def _credit(self, late: float, now: float) -> None:
        """Give hooks the time for which somebody has blocked the loop: those that wait could not go on."""
        for ctx in map(acting, self._gateway.in_flight):
            if isinstance(ctx._step, Step):
                ctx._step_since = max(ctx._step_since, min(ctx._step_since + late, now - waited(ctx)))


def acting(ctx: Context) -> Context:
    """Return the context in which a hook of this request runs: its own, or the twin of a plugin in shadow mode."""
    return ctx._step if isinstance(ctx._step, Context) else ctx


def overdue_by(ctx: Context, now: float) -> float:
    """Return for how many seconds the hook that runs should have been told to end; 0.0 or less: it need not, or none runs."""
    step, response = ctx._step, ctx.response
    if isinstance(step, Overdue):
        return now - step.again
    if not isinstance(step, Step) or ctx.request.body.waiting_since is not None:
        return 0.0
    if response is not None and response.body.waiting_since is not None:
        return 0.0
    return now - waited(ctx) - ctx._step_since - step.budget


def cut_off(ctx: Context, now: float, tally: Tally) -> BudgetExceeded:
    """Note that the hook that runs is cut off, and return what has to be raised in it."""
    step = ctx._step
    if isinstance(step, Overdue):  # it has swallowed it; counted it was
        step = step.step
    else:
        assert isinstance(step, Step)  # noqa: S101 - it is overdue
        tally.add("budget_exceeded", step.plugin)
    ctx._step = Overdue(step, now + GRACE)
    return BudgetExceeded(f"{step.plugin} in {step.phase}")
