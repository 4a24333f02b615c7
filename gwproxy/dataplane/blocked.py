"""The watchdog of the loop: who keeps a worker from all its other requests, and an end to it.

All requests of a worker share one loop: a hook that computes, or waits without gevent's knowledge, holds them all, and
every watchdog inside the loop with them. This one is a native thread. It wakes ten times a second, and costs a request
nothing. If the loop has not come round it looks at what the main thread is doing:

* who holds the loop for 0.4 seconds is named in the log, counted, and named again with the total when it is over;
* a hook beyond its budget is cut off. The thread sends the main thread a signal, whose handler runs between two
  instructions of whatever runs there, finds the very call on the stack below it, and raises :class:`BudgetExceeded`: in
  that hook, in no other, and not once it has returned.

What does not come back to Python cannot be cut off: that is what gunicorn's ``timeout`` is for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from dataclasses import dataclass
from types import FrameType

from gevent import monkey

from gwproxy.context import Context
from gwproxy.dataplane.budgets import INTERVAL, BudgetWatchdog, cut_off, overdue_by
from gwproxy.dataplane.frames import FINISH_CODE, HOOK_CODES
from gwproxy.dataplane.measures import StepMeasure
from gwproxy.dataplane.step import Step
from gwproxy.errors import BudgetExceeded
from gwproxy.registry import EVENT_CODE, Deadline
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.blocked")

#: Ignored by default, so that one that comes too late does no harm; gunicorn and gevent use others.
SIGNAL = signal.SIGURG
SUSPICIOUS = 0.15  # seconds without a turn of the loop, after which it is looked who runs
BLOCKED = 0.35  # and after which the loop is called blocked; with an interval of 0.1, at 0.4
PATIENCE = 1.0  # seconds a hook may be inside what all requests share, before it is cut off there, too

#: Modules that hold what all requests share, locks above all: an exception between any two instructions could leave it broken.
_SHARED = ("gevent", "gwproxy", "importlib", "logging", "threading")
_NOT_SHARED = ("gwproxy.plugins.", "gwproxy.registry")
#: Modules that lead from a call to the plugin's own code: they make arguments fit, or import it.
_LEADING = ("gwproxy.registry", "gwproxy.wheels.", "importlib")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a plugin that is on the main thread's stack.

    :ivar frame: which calls it: one frame, one call.
    :ivar ctx: None for an event of the worker's life.
    :ivar measure: where it is counted; None for such an event.
    """

    frame: FrameType
    plugin: str
    phase: str
    ctx: Context | None = None
    measure: StepMeasure | None = None

    @property
    def route(self) -> str | None:
        """The route of its request."""
        return self.ctx.route.id if self.ctx is not None and self.ctx.route is not None else None


class LoopWatchdog:
    """Names what blocks the loop of this worker, and cuts off hooks that run beyond their budget.

    :param budgets: its counter says whether the loop comes round.
    :param tally: counts ``loop_blocked`` by plugin (``gateway`` if none was running).
    """

    def __init__(self, budgets: BudgetWatchdog, tally: Tally) -> None:
        self._budgets = budgets
        self._tally = tally
        self._thread = 0  # the one that is watched
        self._stopped = False
        self._target: Call | None = None  # of the signal that is under way
        self._turns = 0
        self._since = self._looked = self._computed = self._held = 0.0
        self._candidate: Call | None = None
        self._reported = ""

    def start(self) -> None:
        """Watch the thread that calls this. Does nothing where no loop runs: threads do not keep each other waiting."""
        if not monkey.is_module_patched("threading"):
            return
        self._thread = monkey.get_original("_thread", "get_ident")()
        try:
            if signal.getsignal(SIGNAL) not in (signal.SIG_DFL, signal.SIG_IGN):
                raise ValueError(f"{SIGNAL.name} has a handler already")
            signal.signal(SIGNAL, self._interrupt)
        except ValueError as error:  # also: this is not the main thread
            log.warning("hooks_not_interruptible reason=%s", error)
        self._since = self._looked = time.monotonic()
        try:
            monkey.get_original("_thread", "start_new_thread")(self._watch, ())
        except RuntimeError as error:  # no more threads for this user: not a reason to serve nobody
            log.error("loop_watchdog_failed reason=%s", error)

    def stop(self) -> None:
        """Stop watching, and give the signal back."""
        self._stopped = True
        if signal.getsignal(SIGNAL) == self._interrupt:
            signal.signal(SIGNAL, signal.SIG_DFL)

    # ---- in the native thread

    def _watch(self) -> None:
        sleep = monkey.get_original("time", "sleep")
        while not self._stopped:
            sleep(INTERVAL)
            try:
                self._look(time.monotonic())
            except Exception as error:  # the next look may be luckier
                _write(logging.ERROR, "loop_watchdog_failed reason=%r", error)

    def _look(self, now: float) -> None:
        held = self._passed(now)
        if self._budgets.turns != self._turns:
            if self._reported:
                _write(logging.WARNING, "worker_unblocked %s seconds=%.1f", self._reported, now - self._since)
            self._turns, self._since, self._held, self._reported = self._budgets.turns, now, 0.0, ""
            self._candidate = self._target = None
            return
        first, self._held = self._held < SUSPICIOUS, self._held + held
        if self._held < SUSPICIOUS:
            return
        top = sys._current_frames().get(self._thread)
        call = _find_call(top)
        if first:
            self._candidate = call
        elif self._candidate is not None and (call is None or call.frame is not self._candidate.frame):
            self._candidate = None  # no single call holds it
        if call is not None and _due(call, now) > 0 and signal.getsignal(SIGNAL) == self._interrupt:
            self._target = call
            signal.pthread_kill(self._thread, SIGNAL)
        if self._held >= BLOCKED and not self._reported and top is not None:
            self._report(self._candidate, top, now)

    def _passed(self, now: float) -> float:
        """Return for how many seconds since the last look the main thread has had its chance to come round.

        A process that was stopped, or got no processor, has blocked nobody. One that computed has, also if that kept this
        thread from looking.
        """
        gap, self._looked = now - self._looked, now
        computed, before = time.process_time(), self._computed
        self._computed = computed
        return min(gap, max(INTERVAL, computed - before))

    def _report(self, call: Call | None, top: FrameType, now: float) -> None:
        if call is None and self._turns == 0:
            return  # it has not begun to turn: the worker imports what it needs
        plugin = call.plugin if call is not None else "gateway"
        self._reported = f"plugin={plugin} phase={call.phase if call else None} route={call.route if call else None}"
        self._tally.add("loop_blocked", plugin)  # no other thread adds under this name
        own = _own_frame(call, top) if call is not None else top
        where = _place(own) + (f" in={_place(top)}" if own is not top else "")
        if call is not None and call.measure is not None:
            call.measure.held(f"{_place(own)} on {call.route}")
        _write(logging.WARNING, "worker_blocked %s seconds=%.1f where=%s", self._reported, now - self._since, where)

    # ---- in the main thread

    def _interrupt(self, _number: int, frame: FrameType | None) -> None:
        """Raise in the call that is meant, if it is still what runs here; else do nothing."""
        call, self._target = self._target, None
        if call is None or frame is None or frame is call.frame:  # the hook has not begun, or has returned
            return
        now, shared = time.monotonic(), False
        here: FrameType | None = frame
        while here is not None and here is not call.frame:
            shared = shared or _is_shared(here)
            here = here.f_back
        if here is None:  # it has ended, or waits while another greenlet runs
            return
        due = _due(call, now)
        if due > (PATIENCE if shared else 0):
            raise cut_off(call.ctx, now, self._tally) if call.ctx is not None else _cut_off_event(call, now)


def _find_call(top: FrameType | None) -> Call | None:
    """Return the innermost call of a plugin on a stack; None if there is none."""
    frame = top
    while frame is not None:
        if frame.f_code in HOOK_CODES:
            names = frame.f_locals
            step, ctx = names["step"], names["ctx"]
            assert isinstance(step, Step)  # noqa: S101
            measure = step.finishing if frame.f_code is FINISH_CODE else step.measure
            return Call(frame, step.plugin, measure.of[2], ctx, measure)
        if frame.f_code is EVENT_CODE:
            names = frame.f_locals
            return Call(frame, names["plugin"], names["event"])
        frame = frame.f_back
    return None


def _own_frame(call: Call, top: FrameType) -> FrameType:
    """Return the innermost frame of the plugin's own code: a line of a library says little of who has called it, and why."""
    frames = []
    frame: FrameType | None = top
    while frame is not None and frame is not call.frame:
        frames.append(frame)
        frame = frame.f_back
    while frames and _module(frames[-1]).startswith(_LEADING):
        frames.pop()
    if not frames:
        return top
    owner = _module(frames[-1])
    package = owner if owner.startswith("gwproxy.plugins.") else owner.partition(".")[0]
    return next(frame for frame in frames if f"{_module(frame)}.".startswith(f"{package}."))


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _due(call: Call, now: float) -> float:
    """Return for how many seconds the call should have been told to end; 0.0 or less: it need not."""
    if call.ctx is not None:
        return overdue_by(call.ctx, now)
    deadline: Deadline = call.frame.f_locals["deadline"]
    return now - deadline.at


def _cut_off_event(call: Call, now: float) -> BudgetExceeded:
    call.frame.f_locals["deadline"].at = now + PATIENCE
    return BudgetExceeded(f"{call.plugin} in {call.phase}")


def _is_shared(frame: FrameType) -> bool:
    name = _module(frame)
    return name.partition(".")[0] in _SHARED and not name.startswith(_NOT_SHARED)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _write(level: int, message: str, *values: object) -> None:
    """Log from the native thread, past the locks of the handlers.

    They are gevent's: one that a greenlet of the blocked loop holds would not be given back to a thread in time.
    """
    if level < log.getEffectiveLevel():  # not isEnabledFor(), which may take a lock
        return
    record = log.makeRecord(log.name, level, __file__, 0, message, values, None)
    logger: logging.Logger | None = log
    while logger is not None:
        for handler in logger.handlers:
            with contextlib.suppress(Exception):  # a disk that is full, a reader that has gone: not the end of this thread
                _hand_over(handler, record)
        logger = logger.parent if logger.propagate else None


def _hand_over(handler: logging.Handler, record: logging.LogRecord) -> None:
    if record.levelno < handler.level:
        return
    try:
        handle = handler.stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        handler.handle(record)  # no file: its own way, which may have to wait
        return
    os.write(handle, (handler.format(record) + "\n").encode(errors="replace"))
