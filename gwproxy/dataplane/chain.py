"""The plugin chain: what runs in a phase, and what happens when it misbehaves.

A chain is compiled when a configuration is applied: a tuple of :class:`Step` a phase. Running one costs a loop over
that tuple. Whatever a plugin raises, ``BaseException`` included, is caught here and nowhere else in the data plane: it
ends the plugin's own request, and never lets it go on as if the plugin had agreed.

What runs now is noted in the context: :mod:`gwproxy.dataplane.budgets` cuts off what takes too long, and
:mod:`gwproxy.dataplane.blocked` finds what keeps the worker from all other requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from gevent import GreenletExit, getcurrent

from gwproxy.context import Context, Outcome, Shadowed
from gwproxy.dataplane import frames
from gwproxy.errors import Aborted, BudgetExceeded, ClientGone, HttpError, RequestTimeout, ServiceUnavailable, StoreUnavailable
from gwproxy.messages import Response
from gwproxy.plugin import PluginConfig
from gwproxy.registry import Hook

log = logging.getLogger("gwproxy.chain")


class Step:
    """One hook of one plugin entry, bound to its configuration.

    :ivar call: the hook.
    :ivar config: passed to it.
    :ivar plugin: its name.
    :ivar phase: where it runs.
    :ivar priority: lowest first.
    :ivar budget: seconds it may take.
    :ivar ignore: whether what it raises is only logged.
    :ivar shadow: whether what it does is only recorded.
    """

    __slots__ = ("budget", "call", "config", "ignore", "phase", "plugin", "priority", "shadow")

    def __init__(
        self,
        call: Hook,
        config: PluginConfig,
        *,
        plugin: str,
        phase: str,
        priority: int = 500,
        budget: float = 5.0,
        ignore: bool = False,
        shadow: bool = False,
    ) -> None:
        self.call = call
        self.config = config
        self.plugin = plugin
        self.phase = phase
        self.priority = priority
        self.budget = budget
        self.ignore = ignore
        self.shadow = shadow


Steps = tuple[Step, ...]


class Overdue:
    """What stands in ``ctx._step`` in place of a step that was cut off, until its hook has ended.

    :ivar again: when it is told again, having swallowed it; of :func:`time.monotonic`.
    """

    __slots__ = ("again", "step")

    def __init__(self, step: Step, again: float) -> None:
        self.step = step
        self.again = again


def run(steps: Steps, ctx: Context) -> None:
    """Run a phase before the response.

    :raises Aborted: a plugin ended the request.
    :raises HttpError: a plugin crashed (500), the store it needs is away (503), or the client's body is bad (4xx).
    :raises ClientGone: the client left while a plugin read its body.
    """
    for step in steps:
        if step.shadow:
            _run_shadow(step, ctx)
        else:
            _run(step, ctx)


def run_auth(steps: Steps, ctx: Context) -> None:
    """Run the ``auth`` phase: plugins are asked in turn until one has authenticated.

    If the route has enforcing ones and none did, the answer is 401: no plugin can forget to give it.

    :raises: as :func:`run`; HttpError 401 if nobody was authenticated.
    """
    enforced = False
    for step in steps:
        if step.shadow:
            _run_shadow(step, ctx)
            continue
        enforced = True
        if not ctx._authenticated:
            _run(step, ctx)
    if enforced and not ctx._authenticated:
        raise HttpError("no plugin authenticated the request", status=401)


def run_response(steps: Steps, ctx: Context) -> None:
    """Run the ``response`` phase: every step, each guarded by itself; one that fails replaces what will leave."""
    for step in steps:
        try:
            if step.shadow:
                _run_shadow(step, ctx)
            else:
                _run(step, ctx)
        except Aborted as aborted:
            ctx._aborted = None
            replace(ctx, response_of(aborted))
        except HttpError as error:
            replace(ctx, Response.error(error.status, headers=error.headers))
        except ClientGone:
            pass  # nobody is there to read what will leave; logs still run


def response_of(aborted: Aborted) -> Response:
    """Make the response of an abort; a body that JSON cannot hold is a plugin's fault and gives 500."""
    try:
        if not 200 <= aborted.status <= 599:
            raise ValueError(f"status {aborted.status} is not within 200 and 599")
        return Response.of(aborted.status, aborted.body, aborted.headers)
    except Exception as error:  # of strangers' objects, say in the headers
        log.error("abort_refused reason=%s", error)
        return Response.error(500)


def replace(ctx: Context, response: Response) -> None:
    """Make ``response`` what will leave, giving back what the one before held."""
    before, ctx.response = ctx.response, response
    if isinstance(before, Response):  # plugins may assign anything
        before.body.close()
    if ctx._response_headers is not None:
        response.headers.update(ctx._response_headers)


def waited(ctx: Context) -> float:
    """Return the seconds that plugins of this request have waited for bodies: no budget pays for them."""
    response = ctx.response
    return ctx.request.body.waited if response is None else ctx.request.body.waited + response.body.waited


def finish(ctx: Context, outcome: Outcome) -> None:
    """Call what plugins registered with ``ctx.on_finish``, each guarded by itself and within the budget of its entry."""
    ctx._greenlet = getcurrent()  # a server may close a response elsewhere than it has asked for it
    for number, function in enumerate(ctx.finishers):
        step = ctx._finisher_steps[number] if number < len(ctx._finisher_steps) else None
        _finish(step if isinstance(step, Step) else _NOBODY, ctx, function, outcome)


def thrown(error: BaseException) -> bool:
    """Whether ``error`` is a kill from outside: it came while the greenlet was switched away.

    A plugin may raise ``GreenletExit`` itself. That is a crash like any other; its innermost frame is then the plugin's.
    """
    if not isinstance(error, GreenletExit):
        return False
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "greenlet_primitives" in trace.tb_frame.f_code.co_filename


def _run(step: Step, ctx: Context) -> None:
    response = ctx.response
    waited_for = ctx.request.body.waited  # PERF: as waited(), which costs as much again as all that is done here for a step
    ctx._step_since = monotonic() - (waited_for if response is None else waited_for + response.body.waited)
    ctx._step = step
    try:
        if (returned := frames.hook(step, ctx)) is not None:
            # Its author took it for an answer: going on would be the opposite of what was meant.
            raise TypeError(f"a hook returns None, not {type(returned).__name__}; ctx.abort() ends a request")
        if _was_cut_off(step, ctx):
            raise BudgetExceeded("and swallowed it")  # like an abort, it cannot be undone
    except Aborted:
        raise
    except (ClientGone, RequestTimeout):
        raise  # the connection is beyond use, whatever the plugin's policy
    except BaseException as error:
        ctx._step = None
        if thrown(error):
            raise
        _failed(step, ctx, error)
    finally:
        ctx._step = None
    if ctx._aborted is not None:
        raise ctx._aborted  # the plugin swallowed it; an abort cannot be undone


def _was_cut_off(step: object, ctx: Context) -> bool:
    """Whether a watchdog has put something else in the place of ``step``, which runs.

    A function, so that no type checker takes ``ctx._step`` for what was assigned to it before the hook ran: compiled code
    would refuse what it finds there now.
    """
    return ctx._step is not step


def _finish(step: Step, ctx: Context, function: Callable[[Outcome], object], outcome: Outcome) -> None:
    ctx._step_since = monotonic() - waited(ctx)
    ctx._step = step
    try:
        frames.finisher(step, ctx, function, outcome)
        if _was_cut_off(step, ctx):
            raise BudgetExceeded("and swallowed it")
    except BaseException as error:
        ctx._step = None
        if thrown(error):
            raise
        if isinstance(error, BudgetExceeded):
            log.error("plugin_over_budget plugin=%s phase=on_finish route=%s budget=%s", step.plugin, _route(ctx), step.budget)
        else:
            log.error("on_finish_failed plugin=%s request=%s", step.plugin, ctx.request_id, exc_info=error)
    finally:
        ctx._step = None


_NOBODY = Step(lambda ctx, config: None, PluginConfig(), plugin="unknown", phase="on_finish")


def _route(ctx: Context) -> str | None:
    return ctx.route.id if ctx.route else None


def _failed(step: Step, ctx: Context, error: BaseException) -> None:
    """Log a crash and raise what the client gets, unless the entry says ``on_error: ignore``."""
    route = _route(ctx)
    if isinstance(error, HttpError):
        log.info("plugin_refused plugin=%s phase=%s route=%s status=%d", step.plugin, step.phase, route, error.status)
    elif isinstance(error, StoreUnavailable):
        log.warning("plugin_store_unavailable plugin=%s phase=%s route=%s reason=%s", step.plugin, step.phase, route, error)
    elif isinstance(error, BudgetExceeded):
        log.error("plugin_over_budget plugin=%s phase=%s route=%s budget=%s", step.plugin, step.phase, route, step.budget)
    else:
        log.error("plugin_failed plugin=%s phase=%s route=%s request=%s", step.plugin, step.phase, route, ctx.request_id, exc_info=error)
    if step.ignore:
        return
    if isinstance(error, HttpError):
        raise error
    if isinstance(error, StoreUnavailable):
        raise ServiceUnavailable(f"{step.plugin}: {error}", headers=[("Retry-After", "1")]) from error
    raise HttpError(f"plugin {step.plugin} failed in {step.phase}") from error


def _run_shadow(step: Step, ctx: Context) -> None:
    twin = ctx.shadow()
    before = visible(twin)
    twin._greenlet = ctx._greenlet
    enforcing = Step(step.call, step.config, plugin=step.plugin, phase=step.phase, budget=step.budget)
    ctx._step = twin
    try:
        _run(enforcing, twin)
    except Aborted as aborted:
        _record(ctx, step, "abort", str(aborted.status))
    except (HttpError, BudgetExceeded) as error:
        _record(ctx, step, "error", type(error).__name__)
    else:
        if twin._authenticated:
            _record(ctx, step, "authenticate", "")
        changed = [name for name, value in visible(twin).items() if value != before[name]]
        if changed:
            _record(ctx, step, "change", ", ".join(changed))
    finally:
        ctx._step = None


def visible(ctx: Context) -> dict[str, Any]:
    """Return what a plugin may change, by name, in a form that can be compared."""
    return {
        "request.headers": ctx.request.headers.items(),
        "request.target": (ctx.request.method, ctx.request.path, ctx.request.query_string),
        "upstream": (ctx.upstream.url, ctx.upstream.timeout) if ctx.upstream else None,
        "response.status": ctx.response.status if ctx.response else None,
        "response.headers": ctx.response.headers.items() if ctx.response else None,
        "response.body": ctx.response.body if ctx.response else None,
        "response_headers": ctx.response_headers.items(),
    }


def _record(ctx: Context, step: Step, action: str, detail: str) -> None:
    ctx.shadowed.append(Shadowed(step.plugin, step.phase, action, detail))
    log.info("plugin_shadowed plugin=%s phase=%s action=%s detail=%s request=%s", step.plugin, step.phase, action, detail, ctx.request_id)
