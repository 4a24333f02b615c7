"""The plugin chain: what runs in a phase, and what happens when it misbehaves.

A chain is compiled when a configuration is applied: a tuple of steps a phase. Running one costs a loop over
that tuple. Whatever a plugin raises, ``BaseException`` included, is caught here and nowhere else in the data plane: it
ends the plugin's own request, and never lets it go on as if the plugin had agreed.

What runs now is noted in the context: :mod:`gwproxy.dataplane.budgets` cuts off what takes too long, and
:mod:`gwproxy.dataplane.blocked` finds what keeps the worker from all other requests. What has run is measured, and what fails or
overruns again and again is switched off (:mod:`gwproxy.dataplane.entry_breaker`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from gevent import GreenletExit, getcurrent

from gwproxy.context import Context, Outcome, Shadowed
from gwproxy.dataplane import frames
from gwproxy.dataplane.entry_breaker import EntryBreaker
from gwproxy.dataplane.measures import FINISH, StepMeasure
from gwproxy.dataplane.step import Step, Steps
from gwproxy.dataplane.waits import timed as as_timed
from gwproxy.dataplane.waits import untimed
from gwproxy.errors import Aborted, BudgetExceeded, ClientGone, HttpError, RequestTimeout, ServiceUnavailable, StoreUnavailable
from gwproxy.messages import Response
from gwproxy.plugin import PluginConfig

log = logging.getLogger("gwproxy.chain")

# PERF: at hand for compiled code, without a look-up by name.
_now: Final = monotonic
_hook: Final = frames.hook
_finisher: Final = frames.finisher


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
    enforced = vouched = False
    off: Step | None = None
    watched: Step | None = None
    for step in steps:
        if step.shadow:
            watched = step
            vouched = _run_shadow(step, ctx) or vouched
            continue
        enforced = True
        if ctx._authenticated:
            continue
        if not _run(step, ctx):
            off = step
        elif _is_known(ctx):
            step.measure.decided("authenticated")
    if ctx._authenticated:
        return
    if off is not None:  # not 401: nobody has looked at the credential that it is for
        raise _switched_off(off)
    if enforced:
        raise HttpError("no plugin authenticated the request", status=401)
    if watched is not None and not vouched and not _would_end(ctx):  # each has left it to the others
        watched.measure.ended(401, True)
        _record(ctx, watched, "abort", "401")


def _is_known(ctx: Context) -> bool:
    """Whether somebody is authenticated: a function for the same reason as :func:`_was_cut_off`."""
    return ctx._authenticated


def _would_end(ctx: Context) -> bool:
    """Whether something in shadow mode would have ended the request in ``auth`` already."""
    return any(one.phase == "auth" and one.action in ("abort", "error") for one in ctx.shadowed)


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
    if ctx._greenlet is not (greenlet := getcurrent()):  # a server may close a response elsewhere than it has asked for it
        ctx._greenlet, ctx._timed = greenlet, None
    elif ctx._timed is not None:
        as_timed(greenlet)
    for number, function in enumerate(ctx.finishers):
        step = ctx._finisher_steps[number] if number < len(ctx._finisher_steps) else None
        _finish(step if isinstance(step, Step) else _NOBODY, ctx, function, outcome)
    ctx._finishers = None  # most refer to the context: it is freed now, and not by a collection
    untimed(ctx._timed)


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


def _run(step: Step, ctx: Context) -> bool:
    """Run a hook; return whether it ran: False if its entry is switched off and the request goes on without it."""
    breaker = step.breaker
    if breaker is not None and breaker.off_until and not _tries(breaker, step, ctx):
        return False
    timed, failed = ctx._timed, False
    waits = 0.0 if timed is None else timed.waited
    response = ctx.response
    waited_for = ctx.request.body.waited  # PERF: as waited(), which costs as much again as all that is done here for a step
    began = _now()
    ctx._step_since = began - (waited_for if response is None else waited_for + response.body.waited)
    ctx._step = step
    try:
        if (returned := _hook(step, ctx, step.call, step.config)) is not None:
            # Its author took it for an answer: going on would be the opposite of what was meant.
            raise TypeError(f"a hook returns None, not {type(returned).__name__}; ctx.abort() ends a request")
        if _was_cut_off(step, ctx):
            raise BudgetExceeded("and swallowed it")  # like an abort, it cannot be undone
    except Aborted as aborted:
        ctx._aborted = aborted
    except (ClientGone, RequestTimeout):
        raise  # the connection is beyond use, whatever the plugin's policy
    except BaseException as error:
        ctx._step = None
        if thrown(error):
            raise
        failed = True
        _failed(step, ctx, error, 0.0 if timed is None else _now() - began - timed.waited + waits)
    finally:
        ctx._step = None
        waits = 0.0 if timed is None else timed.waited - waits
        spent = _now() - began - waits
        step.measure.took(spent, waits)
    if not failed:
        if spent > step.budget and timed is not None:
            _ran_over(step, ctx, spent)
        elif breaker is not None and breaker.off_until:
            breaker.succeeded(step.phase, ctx._ticket)
    if ctx._aborted is not None:  # also if the plugin swallowed it: an abort cannot be undone
        step.measure.ended(ctx._aborted.status, step.twin)
        raise ctx._aborted
    return True


def _tries(breaker: EntryBreaker, step: Step, ctx: Context) -> bool:
    """Whether a request runs a hook although its entry is switched off, to see whether it is well again.

    :raises HttpError: 503: it does not, and must not go on without it.
    """
    if ticket := breaker.lets(ctx._ticket):
        ctx._ticket = ticket
        return True
    step.measure.decided("skipped")
    if step.on_error == "fail" and not step.twin:
        raise _switched_off(step)
    return False


def _switched_off(step: Step) -> HttpError:
    assert step.breaker is not None  # noqa: S101 - it is what has switched it off
    why = f"plugin {step.plugin} is switched off in {step.phase}"
    return ServiceUnavailable(why, headers=[("Retry-After", str(step.breaker.retry_after))])


def _ran_over(step: Step, ctx: Context, spent: float, phase: str = "") -> None:
    """Note a hook that was longer on the processor than it may take, and has ended by itself: all others had to wait for it."""
    measure = step.finishing if phase else step.measure
    measure.overran("ran")
    phase, route = phase or step.phase, _route(ctx)
    log.warning("plugin_ran_over plugin=%s phase=%s route=%s budget=%s seconds=%.3f", step.plugin, phase, route, step.budget, spent)
    if step.breaker is not None:
        step.breaker.failed(phase, "over_budget", ctx._ticket)


def _was_cut_off(step: object, ctx: Context) -> bool:
    """Whether a watchdog has put something else in the place of ``step``, which runs.

    A function, so that no type checker takes ``ctx._step`` for what was assigned to it before the hook ran: compiled code
    would refuse what it finds there now.
    """
    return ctx._step is not step


def _finish(step: Step, ctx: Context, function: Callable[[Outcome], object], outcome: Outcome) -> None:
    timed, breaker, failed = ctx._timed, step.breaker, False
    waits = 0.0 if timed is None else timed.waited
    began = _now()
    ctx._step_since = began - waited(ctx)
    ctx._step = step
    try:
        _finisher(step, ctx, function, outcome)
        if _was_cut_off(step, ctx):
            raise BudgetExceeded("and swallowed it")
    except BaseException as error:
        ctx._step = None
        if thrown(error):
            raise
        failed = True
        if isinstance(error, BudgetExceeded):
            log.error("plugin_over_budget plugin=%s phase=on_finish route=%s budget=%s", step.plugin, _route(ctx), step.budget)
        else:
            log.error("on_finish_failed plugin=%s request=%s", step.plugin, ctx.request_id, exc_info=error)
        _count_beside(ctx)
        _count_failure(step, step.finishing, FINISH, ctx, error, 0.0 if timed is None else _now() - began - timed.waited + waits)
    finally:
        ctx._step = None
        waits = 0.0 if timed is None else timed.waited - waits
        spent = _now() - began - waits
        step.finishing.took(spent, waits)
    if failed:
        return
    if spent > step.budget and timed is not None:
        _ran_over(step, ctx, spent, FINISH)
    elif breaker is not None and breaker.off_until:
        breaker.succeeded(FINISH, ctx._ticket)


def _count_failure(step: Step, measure: StepMeasure, phase: str, ctx: Context, error: BaseException, spent: float) -> None:
    """Count what a hook has raised, and let it be switched off for that: if it kept others waiting, else if its entry says so.

    :param spent: seconds in which it ran; 0.0 if that is not known.
    """
    ran = spent > step.budget
    if isinstance(error, HttpError):
        if not step.twin:
            measure.ended(error.status, False)
    else:
        late = isinstance(error, BudgetExceeded)
        measure.failed("store_away" if isinstance(error, StoreUnavailable) else "over_budget" if late else "raised")
        if late or ran:
            measure.overran("ran" if ran else "waited")
    faulty = step.on_error == "disable" and not isinstance(error, (HttpError, StoreUnavailable))
    if step.breaker is not None and (ran or faulty):
        step.breaker.failed(phase, "over_budget" if ran or isinstance(error, BudgetExceeded) else "raised", ctx._ticket)


_NOBODY = Step(lambda ctx, config: None, PluginConfig(), plugin="unknown", phase="on_finish")


def _route(ctx: Context) -> str | None:
    return ctx.route.id if ctx.route else None


def _failed(step: Step, ctx: Context, error: BaseException, spent: float) -> None:
    """Log and count a crash, and raise what the client gets, unless the entry tolerates it."""
    _count_failure(step, step.measure, step.phase, ctx, error, spent)
    route = _route(ctx)
    if isinstance(error, HttpError):
        log.info("plugin_refused plugin=%s phase=%s route=%s status=%d", step.plugin, step.phase, route, error.status)
    elif isinstance(error, StoreUnavailable):
        log.warning("plugin_store_unavailable plugin=%s phase=%s route=%s reason=%s", step.plugin, step.phase, route, error)
    elif isinstance(error, BudgetExceeded):
        log.error("plugin_over_budget plugin=%s phase=%s route=%s budget=%s", step.plugin, step.phase, route, step.budget)
    else:
        log.error("plugin_failed plugin=%s phase=%s route=%s request=%s", step.plugin, step.phase, route, ctx.request_id, exc_info=error)
    if step.tolerated and not step.twin:
        _count_beside(ctx)
        return
    if isinstance(error, HttpError):
        raise error
    if isinstance(error, StoreUnavailable):
        raise ServiceUnavailable(f"{step.plugin}: {error}", headers=[("Retry-After", "1")]) from error
    raise HttpError(f"plugin {step.plugin} failed in {step.phase}") from error


def _count_beside(ctx: Context) -> None:
    """Count on the request's side of a canary, once, that it goes on although a hook has failed."""
    if (side := ctx._side) is not None:
        ctx._side = None
        side.failures += 1


def _run_shadow(step: Step, ctx: Context) -> bool:
    """Run a hook on a twin of the context, and record what it would have done; return whether it would have authenticated."""
    assert step.enforced is not None  # noqa: S101 - it is in shadow mode
    twin = ctx.shadow()
    before = visible(twin)
    twin._greenlet, twin._timed, twin._ticket = ctx._greenlet, ctx._timed, ctx._ticket
    ctx._step = twin
    try:
        _run(step.enforced, twin)
    except Aborted as aborted:
        _record(ctx, step, "abort", str(aborted.status))
    except (HttpError, BudgetExceeded) as error:
        _record(ctx, step, "error", type(error).__name__)
        if not step.tolerated:
            step.measure.ended(error.status if isinstance(error, HttpError) else 500, True)
    else:
        if twin._authenticated:
            step.measure.decided("would_authenticate")
            _record(ctx, step, "authenticate", "")
        changed = [name for name, value in visible(twin).items() if value != before[name]]
        if changed:
            step.measure.decided("would_change")
            _record(ctx, step, "change", ", ".join(changed))
    finally:
        ctx._step = None
        ctx._ticket = twin._ticket
    return twin._authenticated


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
    log.info(
        "plugin_shadowed plugin=%s phase=%s action=%s detail=%s route=%s request=%s",
        step.plugin,
        step.phase,
        action,
        detail,
        _route(ctx),
        ctx.request_id,
    )
