"""The trace of a request: which plugin ran in which phase, and what it decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from gwproxy.context import Context, Outcome
from gwproxy.dataplane.chain import visible
from gwproxy.errors import Aborted
from gwproxy.plugin import PluginConfig
from gwproxy.registry import Hook, Registered, Registry

#: ``passed``: it changed nothing. ``failed``: it raised, or returned something.
Verdict = Literal["passed", "changed", "authenticated", "aborted", "failed"]


#: Where stands in a trace what a hook has registered with ``ctx.on_finish``.
FINISH = "on_finish"


@dataclass(frozen=True, slots=True)
class Traced:
    """A hook that ran.

    :ivar plugin: its plugin's name.
    :ivar phase: ``on_finish`` for what a hook has registered there.
    :ivar detail: what was changed, the user, the status of the abort, or the error.
    :ivar read: the bodies that it read: ``request``, ``response``.
    :ivar seconds: it took, waiting included.
    :ivar error: what it raised; None unless it failed.
    """

    plugin: str
    phase: str
    verdict: Verdict
    detail: str = ""
    read: tuple[str, ...] = ()
    seconds: float = 0.0
    error: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.plugin} {self.phase}: {self.verdict} {self.detail}".rstrip()


Trace = list[Traced]

#: Within what it returns each hook runs, given plugin and phase: to measure it.
Around = Callable[[str, str], AbstractContextManager[object]]


def _plainly(plugin: str, phase: str) -> AbstractContextManager[object]:
    return nullcontext()


_RUNNING: ContextVar[tuple[Trace, Around] | None] = ContextVar("trace", default=None)


@contextmanager
def tracing(around: Around = _plainly) -> Iterator[Trace]:
    """Trace the requests of this block."""
    trace: Trace = []
    token = _RUNNING.set((trace, around))
    try:
        yield trace
    finally:
        _RUNNING.reset(token)


class TracedRegistry(Registry):
    """A registry whose hooks note what they do, while a request is traced."""

    def registered(self, name: str) -> Registered | None:
        """Return the plugin of that name, its hooks traced."""
        found = super().registered(name)
        if found is None:
            return None
        return replace(found, hooks={phase: _traced(name, phase, hook) for phase, hook in found.hooks.items()})


def _traced(plugin: str, phase: str, hook: Hook) -> Hook:
    def traced(ctx: Context, config: PluginConfig) -> object:
        running = _RUNNING.get()
        if running is None:
            return hook(ctx, config)
        before, bodies, finishers = _changeable(ctx), _bodies(ctx), len(ctx.finishers)
        authenticated = ctx._authenticated
        returned, seconds, error = _run(running, plugin, phase, partial(hook, ctx, config))
        if returned is not None:
            error = TypeError(f"it returned {type(returned).__name__}; a hook returns None")
        verdict, detail = _judged(ctx, before, authenticated, ctx._aborted or error)
        read = tuple(name for name, here in _bodies(ctx).items() if here > bodies.get(name, 0))
        running[0].append(Traced(plugin, phase, verdict, detail, read, seconds, error if verdict == "failed" else None))
        for number in range(finishers, len(ctx.finishers)):
            ctx.finishers[number] = _traced_finisher(plugin, ctx.finishers[number])
        if error is not None and returned is None:
            raise error
        return returned  # which the chain refuses

    return traced


def _traced_finisher(plugin: str, function: Callable[[Outcome], object]) -> Callable[[Outcome], object]:
    def traced(outcome: Outcome) -> None:
        running = _RUNNING.get()
        if running is None:
            function(outcome)
            return
        _, seconds, error = _run(running, plugin, FINISH, partial(function, outcome))
        verdict: Verdict = "passed" if error is None else "failed"
        running[0].append(Traced(plugin, FINISH, verdict, _words(error), (), seconds, error))
        if error is not None:
            raise error

    return traced


def _run(running: tuple[Trace, Around], plugin: str, phase: str, call: Callable[[], object]) -> tuple[object, float, BaseException | None]:
    """Return what ``call`` returns, the seconds it took, and what it raised."""
    returned: object = None
    error: BaseException | None = None
    with running[1](plugin, phase):
        began = time.perf_counter()
        try:
            returned = call()
        except BaseException as raised:
            error = raised
        return returned, time.perf_counter() - began, error


def _changeable(ctx: Context) -> dict[str, object]:
    return {**visible(ctx), **{f"state.{name}": value for name, value in ctx.state.items()}}


def _judged(ctx: Context, before: dict[str, object], authenticated: bool, ended: BaseException | None) -> tuple[Verdict, str]:
    if isinstance(ended, Aborted):
        return "aborted", str(ended.status)
    if ended is not None:
        return "failed", _words(ended)
    if ctx._authenticated and not authenticated:
        return "authenticated", str(ctx.state.get("user_id"))
    changed = [name for name, value in _changeable(ctx).items() if name not in before or value != before[name]]
    return ("changed", ", ".join(changed)) if changed else ("passed", "")


def _words(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"


def _bodies(ctx: Context) -> dict[str, int]:
    """Return how much of each body is here."""
    here = {"request": ctx.request.body.received}
    if ctx.response is not None and ctx.response.upstream:
        body = ctx.response.body
        here["response"] = len(body.data) + body.complete
    return here
