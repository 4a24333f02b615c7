"""Forwarding: the request to a target, its answer into ``ctx.response``, again where that is safe."""

from __future__ import annotations

from collections.abc import Callable

from gwproxy.context import Context, UpstreamChoice
from gwproxy.dataplane.snapshot import CompiledRoute
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.transport import RawResponse, SizedBody, UpstreamFailed, UpstreamRequest, UpstreamTimedOut
from gwproxy.dataplane.tunnel import Upgraded
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import BadGateway, HttpError
from gwproxy.http.bodies import ResponseBody
from gwproxy.http.forwarding import forwarding_fields, strip_response
from gwproxy.messages import Response
from gwproxy.model import Retries

KEPT = 64 * 1024  # a body of at most this many bytes is kept, to be sent again

#: Without ``retries``: what cannot have been acted upon, once more.
_SAFE = Retries(attempts=2, on=(), methods=())
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE"))
_TROUBLE = frozenset((502, 503, 504))
#: What a plugin may have set but only the transport decides.
_OURS = frozenset(("host", "connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect"))
#: What is sent with a request to upgrade: the one protocol that routes can allow.
_UPGRADE = (("Connection", "Upgrade"), ("Upgrade", "websocket"))

Failure = UpstreamFailed | UpstreamTimedOut


def forward(ctx: Context, compiled: CompiledRoute, upstreams: Upstreams, client_gone: Callable[[], bool] | None = None) -> None:
    """Send the request on and set ``ctx.response`` to the answer, its body still to come.

    :raises BadGateway: refused, reset, unresolvable, not HTTP.
    :raises GatewayTimeout: too slow.
    :raises ServiceUnavailable: no healthy target, circuit open, too many requests at once.
    :raises ClientGone: the client closed while its request was read or while the upstream was thinking.
    """
    choice = ctx.upstream
    assert choice is not None  # noqa: S101 - a matched route has one
    live = compiled.upstream if choice.base == compiled.upstream.base else upstreams.direct(choice.base)
    retries = live.described.retries
    if retries and ctx.request.method in retries.methods and 0 < (ctx.request.body.length or 0) <= KEPT:
        ctx.request.body.read_all(KEPT)  # before it takes a place, which must not wait for a client
    live.admit(client_gone)
    try:
        raw, target = _exchange(ctx, choice, live, client_gone)
        ctx.response = _response(ctx, raw, target, live)
    except BaseException:
        live.places.give_back()
        raise


def _exchange(
    ctx: Context, choice: UpstreamChoice, live: LiveUpstream, client_gone: Callable[[], bool] | None
) -> tuple[RawResponse, LiveTarget]:
    """Make as many attempts as it takes, or as are allowed; return the response and whose it is."""
    path = choice.target
    retries = live.described.retries or _SAFE
    tried: list[LiveTarget] = []
    for attempt in range(1, retries.attempts + 1):
        target = live.pick(ctx, tried)
        tried.append(target)
        if live.single is None:
            choice.base, choice.target = target.base, path if choice.replaced else target.prefix + path
        last = attempt == retries.attempts
        try:
            raw = _send(ctx, live, target, client_gone)
        except (UpstreamFailed, UpstreamTimedOut) as failure:
            if last or not _repeatable(ctx, failure, live.described.retries):
                raise
            continue
        if last or str(raw.status) not in retries.on or not _resendable(ctx, retries):
            return raw, target
        _done(raw, target)
    raise BadGateway("no attempt was left")  # unreachable: the last attempt returns or raises


def _send(ctx: Context, live: LiveUpstream, target: LiveTarget, client_gone: Callable[[], bool] | None) -> RawResponse:
    """One attempt; what becomes of it is told to the breaker."""
    target.active += 1
    try:
        raw = live.session.exchange(_request(ctx, target, client_gone))
    except BaseException as error:
        target.active -= 1
        if isinstance(error, ValueError):  # a line break in a header field, before anything was sent
            raise HttpError(f"a plugin made a request that cannot be sent: {error}") from error
        if live.breaker is not None and isinstance(error, (UpstreamFailed, UpstreamTimedOut)):
            live.breaker.failed()
        raise
    if live.breaker is not None:
        live.breaker.failed() if raw.status in _TROUBLE else live.breaker.succeeded()
    return raw


def _request(ctx: Context, target: LiveTarget, client_gone: Callable[[], bool] | None) -> UpstreamRequest:
    choice, request = ctx.upstream, ctx.request
    assert choice is not None  # noqa: S101 - a matched route has one
    body: bytes | SizedBody | None
    if request.body.length == 0:
        body = None
    elif (kept := request.body.replayable(KEPT)) is not None:
        body = kept
    else:
        body = SizedBody(request.body, request.body.length, request.body.watching)
    fields = _fields(ctx, target)
    if request.upgrade:
        fields += _UPGRADE
    total = choice.timeout.total
    return UpstreamRequest(
        request.method,
        target.origin,
        choice.target.encode("latin-1"),
        fields,
        body,
        timeouts=choice.timeout,
        deadline=ctx.started + total if total is not None else None,
        client_gone=client_gone,
        upgrade=bool(request.upgrade),
    )


def _fields(ctx: Context, target: LiveTarget) -> list[tuple[str, str]]:
    """The header block as the upstream gets it: the client's, then what a proxy adds, then who is calling."""
    request, route = ctx.request, ctx.route
    made = forwarding_fields(
        peer=request.peer,
        client=request.remote_addr,
        scheme=request.scheme,
        host=request.host_header,
        request_id=ctx.request_id,
        version=request.http_version,
        forwarded=request.forwarded,
    )
    if ctx._authenticated:
        made.append(("X-User-Id", ctx.state["user_id"].encode().decode("latin-1")))
        if ctx.consumer is not None:
            made.append(("X-Consumer", ctx.consumer.id))
            if ctx.consumer.groups:
                made.append(("X-Consumer-Groups", ",".join(ctx.consumer.groups)))
    host = request.headers.get("Host")  # only a plugin can have set it
    if host is None:
        host = request.host_header if route is not None and route.preserve_host else target.authority
    replaced = {name.lower() for name, _ in made}
    sent = [(name, value) for key, name, value in request.headers.lower_items() if key not in replaced and key not in _OURS]
    return [("Host", host), *sent, *made]


def _repeatable(ctx: Context, failure: Failure, retries: Retries | None) -> bool:
    """Whether the request may be sent again after ``failure``: never a second time what may have been acted upon."""
    untouched = ctx.request.body.received == 0 or ctx.request.body.replayable(KEPT) is not None
    if failure.phase == "connect":
        return untouched  # nothing was sent to anybody
    bodyless = ctx.request.body.length == 0
    if failure.reused and bodyless and ctx.request.method in _IDEMPOTENT and not ctx.request.upgrade:
        return True
    kind = "timeout" if isinstance(failure, UpstreamTimedOut) else "reset"
    return retries is not None and kind in retries.on and _resendable(ctx, retries)


def _resendable(ctx: Context, retries: Retries) -> bool:
    """Whether the operator calls repeating this safe, and its body is still here. An upgrade is asked for once."""
    if ctx.request.method not in retries.methods or ctx.request.upgrade:
        return False
    return ctx.request.body.length == 0 or ctx.request.body.replayable(KEPT) is not None


def _response(ctx: Context, raw: RawResponse, target: LiveTarget, live: LiveUpstream) -> Response:
    """Make the client's response; closing its body gives everything back, the request's place too."""

    def finished() -> None:
        _done(raw, target)
        live.places.give_back()

    headers, whole = strip_response(raw.fields), raw.whole
    if raw.status == 101:
        body: ResponseBody = _upgraded(raw, target, finished)
    elif whole is not None:
        body = ResponseBody(whole)
    else:
        body = ResponseBody(chunks=raw.stream(KEPT), close=finished, length=raw.length)
    response = Response(raw.status, headers, body, upstream=True)
    if ctx.route is not None:
        response._max_buffer = ctx.route.max_buffer
    if whole is not None:
        finished()
    return response


def _upgraded(raw: RawResponse, target: LiveTarget, finished: Callable[[], None]) -> Upgraded:
    """Take over the connection of a 101.

    :raises BadGateway: it is not to WebSocket that the upstream switches (RFC 9110 section 7.8).
    """
    protocols = {value.lower() for name, value in raw.fields if name.lower() == "upgrade"}
    if protocols != {"websocket"}:
        _done(raw, target)
        raise BadGateway("101 to another protocol than was asked for")
    return Upgraded(raw, finished)


def _done(raw: RawResponse, target: LiveTarget) -> None:
    target.active -= 1
    raw.close()
