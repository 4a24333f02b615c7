"""Forwarding: the request to a target, its answer into ``ctx.response``, again where that is safe."""

from __future__ import annotations

from collections.abc import Callable

from gwproxy.context import Context, Response
from gwproxy.dataplane.snapshot import CompiledRoute
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.transport import RawResponse, SizedBody, UpstreamFailed, UpstreamRequest, UpstreamTimedOut
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import BadGateway
from gwproxy.http.bodies import ResponseBody
from gwproxy.http.forwarding import forwarding_fields, strip_response
from gwproxy.model import Retries

KEPT = 64 * 1024  # a body of at most this many bytes is kept, to be sent again

#: Without ``retries``: what cannot have been acted upon, once more.
_SAFE = Retries(attempts=2, on=(), methods=())
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_TROUBLE = frozenset((502, 503, 504))

Failure = UpstreamFailed | UpstreamTimedOut


def forward(ctx: Context, compiled: CompiledRoute, upstreams: Upstreams, client_gone: Callable[[], bool] | None = None) -> None:
    """Send the request on and set ``ctx.response`` to the answer, its body still to come.

    :raises BadGateway: refused, reset, unresolvable, not HTTP.
    :raises GatewayTimeout: too slow.
    :raises ServiceUnavailable: no healthy target, circuit open, no connection free.
    :raises ClientGone: the client closed while its request was read or while the upstream was thinking.
    """
    choice = ctx.upstream
    assert choice is not None  # noqa: S101 - a matched route has one
    live = compiled.upstream if choice.base == compiled.upstream.base else upstreams.direct(choice.base)
    path = choice.target
    retries = live.described.retries or _SAFE
    if live.described.retries and ctx.request.method in retries.methods and 0 < (ctx.request.body.length or 0) <= KEPT:
        ctx.request.body.read_all(KEPT)
    tried: list[LiveTarget] = []
    for attempt in range(1, retries.attempts + 1):
        if live.breaker is not None:
            live.breaker.check()
        target = live.pick(ctx, tried)
        tried.append(target)
        if live.single is None:
            choice.base, choice.target = target.base, target.prefix + path
        last = attempt == retries.attempts
        try:
            raw = _send(ctx, live, target, client_gone)
        except (UpstreamFailed, UpstreamTimedOut) as failure:
            if last or not _repeatable(ctx, failure, live.described.retries):
                raise
            continue
        if last or str(raw.status) not in retries.on or not _resendable(ctx, retries):
            ctx.response = _response(ctx, raw, target)
            return
        _done(raw, target)
    raise BadGateway("no attempt was left")  # unreachable: the last attempt returns or raises


def _send(ctx: Context, live: LiveUpstream, target: LiveTarget, client_gone: Callable[[], bool] | None) -> RawResponse:
    """One attempt; what becomes of it is told to the breaker."""
    request = _request(ctx, target, client_gone)
    target.active += 1
    try:
        raw = live.session.exchange(request)
    except BaseException as error:
        target.active -= 1
        if live.breaker is not None and isinstance(error, (UpstreamFailed, UpstreamTimedOut)):
            live.breaker.failed()
        raise
    if live.breaker is not None:
        live.breaker.failed() if raw.status in _TROUBLE else live.breaker.succeeded()
    return raw


def _request(ctx: Context, target: LiveTarget, client_gone: Callable[[], bool] | None) -> UpstreamRequest:
    choice, request, route = ctx.upstream, ctx.request, ctx.route
    assert choice is not None  # noqa: S101
    assert route is not None  # noqa: S101
    host = request.host_header if route.preserve_host else target.authority
    body: None | bytes | SizedBody
    if request.body.length == 0:
        body = None
    elif (kept := request.body.replayable(KEPT)) is not None:
        body = kept
    else:
        body = SizedBody(request.body, request.body.length)
    total = choice.timeout.total
    return UpstreamRequest(
        method=request.method,
        origin=target.origin,
        target=choice.target.encode("latin-1"),
        fields=forwarding_fields(ctx, host),
        body=body,
        timeouts=choice.timeout,
        deadline=ctx.started + total if total is not None else None,
        client_gone=client_gone,
    )


def _repeatable(ctx: Context, failure: Failure, retries: Retries | None) -> bool:
    """Whether the request may be sent again after ``failure``: never a second time what may have been acted upon."""
    untouched = ctx.request.body.received == 0 or ctx.request.body.replayable(KEPT) is not None
    if failure.phase == "connect":
        return untouched  # nothing was sent to anybody
    bodyless = ctx.request.body.length == 0
    if failure.reused and bodyless and ctx.request.method in _IDEMPOTENT:
        return True
    kind = "timeout" if isinstance(failure, UpstreamTimedOut) else "reset"
    return retries is not None and kind in retries.on and _resendable(ctx, retries)


def _resendable(ctx: Context, retries: Retries) -> bool:
    """Whether the operator calls repeating this safe, and its body is still here."""
    if ctx.request.method not in retries.methods:
        return False
    return ctx.request.body.length == 0 or ctx.request.body.replayable(KEPT) is not None


def _response(ctx: Context, raw: RawResponse, target: LiveTarget) -> Response:
    headers = strip_response(raw.fields)
    body = ResponseBody(chunks=raw.stream(KEPT), close=lambda: _done(raw, target), length=raw.length)
    response = Response(raw.status, headers, body, upstream=True)
    if ctx.route is not None:
        response._max_buffer = ctx.route.max_buffer
    return response


def _done(raw: RawResponse, target: LiveTarget) -> None:
    target.active -= 1
    raw.close()
