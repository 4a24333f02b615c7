"""Forwarding: the request to a target, its answer into ``ctx.response``, again where that is safe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from gwproxy.context import Context, UpstreamChoice
from gwproxy.dataplane.breaker import Probe
from gwproxy.dataplane.mirror import Copy, LiveMirror
from gwproxy.dataplane.retry import KEPT, pause_asked
from gwproxy.dataplane.snapshot import CompiledRoute
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.transport import ClientLeft, RawResponse, SizedBody, UpstreamFailed, UpstreamRequest, UpstreamTimedOut, WholeResponse
from gwproxy.dataplane.tunnel import Upgraded
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import BadGateway, HttpError, ServiceUnavailable
from gwproxy.http.bodies import ResponseBody
from gwproxy.http.forwarding import forwarding_fields, forwarding_lines, id_field, lines_of
from gwproxy.http.headers import Shared, field
from gwproxy.messages import Response

_TROUBLE: Final = frozenset((502, 503, 504))
#: What a plugin may have set but only the transport decides.
_OURS: Final = frozenset(
    ("host", "connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade", "expect", "x-request-id")
)
#: What is sent with a request to upgrade: the one protocol that routes can allow.
_UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
_NOBODY: Final[frozenset[str]] = frozenset()

_monotonic: Final = time.monotonic  # PERF: at hand for compiled code, without a look-up in a module

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
    live: LiveUpstream = compiled.upstream if choice._live is None else choice._live
    if choice.base != live.base:
        live = upstreams.direct(choice.base)
    request = ctx.request
    if request.method in live.retries.keeps and 0 < (request.body.length or 0) <= KEPT:
        request.body.read_all(KEPT)  # before it takes a place, which must not wait for a client
    probe = live.admit(client_gone)
    copy = None
    try:
        if compiled.mirror is not None and not request.upgrade:
            copy = _copy(ctx, choice, live, compiled.mirror)
        raw, target = _timed_exchange(ctx, choice, live, probe, client_gone)
        ctx.response = response = _response(raw, target, live)
        response._max_buffer = compiled.max_buffer
    except BaseException:
        if live.breaker is not None:
            live.breaker.withdrawn(probe)
        live.places.give_back()
        raise
    finally:
        if copy is not None:
            copy.finish(request.body)
    if choice._cookie is not None:  # the client is to stay with the upstream that has answered
        ctx.response.headers.add("Set-Cookie", choice._cookie)


def _copy(ctx: Context, choice: UpstreamChoice, live: LiveUpstream, mirror: LiveMirror) -> Copy | None:
    prefix = live.single.prefix if live.single is not None and not choice.replaced else ""
    path = choice.target[len(prefix) :]
    try:
        return mirror.begin(ctx, choice, path, lambda target: _block(ctx, target))
    except ValueError:  # what cannot be sent; the request itself is answered 500 for it
        return None


def _timed_exchange(
    ctx: Context, choice: UpstreamChoice, live: LiveUpstream, probe: Probe | None, client_gone: Callable[[], bool] | None
) -> tuple[RawResponse | WholeResponse, LiveTarget]:
    """Note what it takes; what a client takes to send its body is not the upstream's."""
    began, waited = _monotonic(), ctx.request.body.waited
    try:
        return _exchange(ctx, choice, live, probe, client_gone)
    finally:
        ctx._upstream_seconds += _monotonic() - began - (ctx.request.body.waited - waited)


def _exchange(
    ctx: Context, choice: UpstreamChoice, live: LiveUpstream, probe: Probe | None, client_gone: Callable[[], bool] | None
) -> tuple[RawResponse | WholeResponse, LiveTarget]:
    """Make as many attempts as it takes, or as are allowed; return the response and whose it is."""
    path, retries = choice.target, live.retries
    if retries.counts and retries.budget is not None:
        retries.budget.requested()
    target = live.sole if live.sole is not None and live.sole.up else live.pick(ctx)
    tried, fresh = [target], False
    while True:
        if live.single is None:
            _aim(choice, target, path)
        try:
            raw = _send(ctx, live, target, probe, client_gone, fresh)
        except (UpstreamFailed, UpstreamTimedOut) as failure:
            fresh = fresh or failure.reused  # where one kept connection had ended, others may have, and attempts are few
            following = _following(ctx, live, tried, failure, client_gone) if retries.repeats(ctx.request, failure) else None
            if following is None:
                raise
        else:
            following = _instead(ctx, live, tried, raw, client_gone) if raw.status in retries.statuses else None
            if following is None:
                return raw, target
            _done(raw, target)
        target = following
        tried.append(target)


def _instead(
    ctx: Context, live: LiveUpstream, tried: list[LiveTarget], raw: RawResponse | WholeResponse, client_gone: Callable[[], bool] | None
) -> LiveTarget | None:
    """Return who is asked because of an answer that nobody should get; None: it is passed on."""
    asked = next((value for key, _, value, _ in raw.fields if key == "retry-after"), None)
    if asked is not None:
        tried[-1].retry_at = time.monotonic() + pause_asked(asked, time.time())
    return _following(ctx, live, tried, None, client_gone) if live.retries.resends(ctx.request) else None


def _following(
    ctx: Context, live: LiveUpstream, tried: list[LiveTarget], failure: Failure | None, client_gone: Callable[[], bool] | None
) -> LiveTarget | None:
    """Return the target of one more attempt, when it is time for that; None: there is none, or no more is allowed.

    Preferred is one that was not tried and can be reached. One that has asked to be left alone is.

    :raises ClientLeft: the client closed meanwhile.
    """
    choice, now = ctx.upstream, time.monotonic()
    assert choice is not None  # noqa: S101 - a matched route has one
    left = ctx.started + choice.timeout.total - now if choice.timeout.total is not None else None
    if (left is not None and left <= 0) or len(tried) >= live.retries.attempts or live.is_open():
        return None
    targets = [seat.target for seat in live.members.seats]
    spared = [target for target in targets if target in tried or target.retry_at > now]
    avoided = [target for target in targets if target in spared or not target.reachable]
    try:
        target = live.pick(ctx, spared if len(avoided) == len(targets) else avoided)
    except ServiceUnavailable:
        return None
    elsewhere = target not in tried and target.reachable
    pause = live.retries.pause(failure, elsewhere, len(tried))
    if target.retry_at > now or (left is not None and pause >= left) or not live.retries.affords(failure, elsewhere):
        return None
    if pause:
        time.sleep(pause)
        if client_gone is not None and client_gone():
            raise ClientLeft("the client closed while a retry waited", phase="connect")
        if live.is_open():  # by what others have met meanwhile
            return None
    return target


def _aim(choice: UpstreamChoice, target: LiveTarget, path: str) -> None:
    choice.base, choice.target = target.base, path if choice.replaced else target.prefix + path


def would_send(ctx: Context, live: LiveUpstream) -> Iterator[UpstreamRequest]:
    """Yield what each target of an upstream would be sent, without sending it; ``ctx.upstream`` says where, until the next.

    For people who ask: nothing of a balancer, a breaker or of places is looked at.
    """
    choice = ctx.upstream
    assert choice is not None  # noqa: S101 - a matched route has one
    path = choice.target
    for target in live.targets:
        if live.single is None:
            _aim(choice, target, path)
        yield _request(ctx, target, None)


def _send(
    ctx: Context, live: LiveUpstream, target: LiveTarget, probe: Probe | None, client_gone: Callable[[], bool] | None, fresh: bool
) -> RawResponse | WholeResponse:
    """One attempt; what becomes of it is told to whoever learns from it."""
    target.active += 1
    began = time.monotonic() if live.places.adaptive is not None else 0.0
    try:
        raw = live.sender.exchange(_request(ctx, target, client_gone, fresh))
    except BaseException as error:
        target.active -= 1
        if isinstance(error, ValueError):  # a line break in a header field, before anything was sent
            raise HttpError(f"a plugin made a request that cannot be sent: {error}") from error
        if isinstance(error, (UpstreamFailed, UpstreamTimedOut)):
            target.reachable = error.phase != "connect"
            live.places.failed()
            if live.breaker is not None:
                live.breaker.failed(probe)
            if live.ejections is not None:
                live.ejections.failed(target, error)
        raise
    if not target.reachable:
        target.reachable = True
    if began:
        if raw.status < 500:
            live.places.answered(time.monotonic() - began)
        elif raw.status in _TROUBLE:
            live.places.failed()
    if live.breaker is not None:
        if raw.status in _TROUBLE:
            live.breaker.failed(probe)
        elif probe is not None:
            live.breaker.succeeded(probe)
    if live.ejections is not None:
        live.ejections.answered(target, raw.status)
    return raw


def _request(ctx: Context, target: LiveTarget, client_gone: Callable[[], bool] | None, fresh: bool = False) -> UpstreamRequest:
    choice, request = ctx.upstream, ctx.request
    assert choice is not None  # noqa: S101 - a matched route has one
    body: bytes | SizedBody | None
    if request.body.length == 0:
        body = None
    elif (kept := request.body.replayable(KEPT)) is not None:
        body = kept
    else:
        body = SizedBody(request.body, request.body.length, request.body.watching)
    block = _block(ctx, target)
    if request.upgrade:
        block += _UPGRADE
    patience = choice.patience()
    total = patience.total
    return UpstreamRequest(
        request.method,
        target.origin,
        choice.target.encode("latin-1"),
        block,
        body,
        timeouts=patience,
        deadline=ctx.started + total if total is not None else None,
        client_gone=client_gone,
        upgrade=bool(request.upgrade),
        fresh=fresh,
    )


def _block(ctx: Context, target: LiveTarget) -> bytes:
    """The header block as the upstream gets it: the client's, then what a proxy adds, then who is calling.

    :raises ValueError: a plugin made something of it that cannot stand in a header.
    """
    request, route = ctx.request, ctx.route
    made, replaced = _made(ctx)
    caller, names = _caller(ctx) if ctx._authenticated else (b"", _NOBODY)
    lines = [b""]
    host: str | None = None
    fields = request.headers.fields()
    shared = request.headers.shared() if names is _NOBODY else None
    if shared is not None:  # PERF: most clients send the same header again and again, and most routes change nothing of it
        lines.append(_left(shared, replaced))
        fields = fields[len(shared.items) :]
    for key, _, value, line in fields:
        if key in _OURS:
            if key == "host" and host is None:  # only a plugin can have set it
                host = value
        elif key not in replaced and key not in names:
            lines.append(line)
    if host is None and route is not None and route.preserve_host:
        host = request.host_header
    lines[0] = target.host_line if host is None else field("Host", host)[3]
    lines += (id_field_of(ctx)[3], made, caller)
    return b"".join(lines)


def _left(shared: Shared, replaced: frozenset[str]) -> bytes:
    """Return the lines of a client's fields that go on, without those that are replaced."""
    left = shared.left
    if left is None or left[0] is not replaced:
        left = shared.left = replaced, b"".join([line for key, _, _, line in shared.items if key not in _OURS and key not in replaced])
    return left[1]


def id_field_of(ctx: Context) -> Any:
    """Return the field ``X-Request-ID`` as both sides get it, a :data:`gwproxy.http.headers.Field`.

    :raises ValueError: a plugin has set an id that cannot stand in a header.
    """
    made = ctx._id_field
    if made is None or made[2] != ctx.request_id:
        made = ctx._id_field = id_field(ctx.request_id)
    return made


def _made(ctx: Context) -> tuple[bytes, frozenset[str]]:
    request = ctx.request
    if not request.forwarded:
        return forwarding_lines(request.peer, request.remote_addr, request.scheme, request.host_header, request.http_version)
    made = forwarding_fields(
        peer=request.peer,
        client=request.remote_addr,
        scheme=request.scheme,
        host=request.host_header,
        request_id="",
        version=request.http_version,
        forwarded=request.forwarded,
    )
    return lines_of(made[1:])


def _caller(ctx: Context) -> tuple[bytes, frozenset[str]]:
    made = [("X-User-Id", ctx.state["user_id"].encode().decode("latin-1"))]
    if ctx.consumer is not None:
        made.append(("X-Consumer", ctx.consumer.id))
        if ctx.consumer.groups:
            made.append(("X-Consumer-Groups", ",".join(ctx.consumer.groups)))
    return lines_of(made)


def _response(raw: RawResponse | WholeResponse, target: LiveTarget, live: LiveUpstream) -> Response:
    """Make the client's response; closing its body gives everything back, the request's place too."""
    whole = raw.whole
    if whole is not None:
        body = ResponseBody(whole)
        _done(raw, target)
        live.places.give_back()
    else:
        assert isinstance(raw, RawResponse)  # noqa: S101 - one in one piece is whole
        body = _coming(raw, target, live)
    return Response(raw.status, raw.headers(), body, upstream=True)


def _coming(raw: RawResponse, target: LiveTarget, live: LiveUpstream) -> ResponseBody:
    def finished() -> None:
        _done(raw, target)
        live.places.give_back()

    if raw.status == 101:
        return _upgraded(raw, target, finished)
    return ResponseBody(chunks=raw.stream(KEPT), close=finished, length=raw.length)


def _upgraded(raw: RawResponse, target: LiveTarget, finished: Callable[[], None]) -> Upgraded:
    """Take over the connection of a 101.

    :raises BadGateway: it is not to WebSocket that the upstream switches (RFC 9110 section 7.8).
    """
    protocols = {value.lower() for key, _, value, _ in raw.hop if key == "upgrade"}
    if protocols != {"websocket"}:
        _done(raw, target)
        raise BadGateway("101 to another protocol than was asked for")
    return Upgraded(raw, finished)


def _done(raw: RawResponse | WholeResponse, target: LiveTarget) -> None:
    target.active -= 1
    raw.close()
