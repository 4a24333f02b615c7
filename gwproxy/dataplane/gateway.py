"""The life of a request.

``Gateway.serve`` is the whole of it, on one screen; all else is reachable from there by name.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from gevent import getcurrent

from gwproxy.context import Context, UpstreamChoice
from gwproxy.dataplane import chain
from gwproxy.dataplane.answered import UNMATCHED, Answered
from gwproxy.dataplane.canary import Canary
from gwproxy.dataplane.failures import UpstreamBusy
from gwproxy.dataplane.forward import forward, id_field_of
from gwproxy.dataplane.snapshot import EMPTY_CHAIN, Chain, CompiledRoute, Snapshot
from gwproxy.dataplane.throttle import Throttle
from gwproxy.dataplane.tunnel import Tunnel, Upgraded
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.dataplane.waits import timed, untimed
from gwproxy.errors import Aborted, ClientGone, HttpError, RouteNotFound, ServiceUnavailable
from gwproxy.http.paths import strip
from gwproxy.messages import Request, Response
from gwproxy.model import Route

log = logging.getLogger("gwproxy.gateway")

_LEAVING = "going away"
# PERF: at hand for compiled code, without a look-up in a module.
_current: Final = getcurrent
_monotonic: Final = time.monotonic
_BODYLESS: Final = frozenset((204, 304))
_SEALED: Final = frozenset(("content-length", "x-request-id"))


class Gateway:
    """Serves requests by the snapshot that is current when they come.

    :ivar snapshot: what new requests are served by; None until there is a configuration. Swapping is one assignment.
    :ivar beside: what was built beside it; None if there is nothing. It serves only as far as :attr:`canary` says.
    :ivar canary: serves a share of the requests by :attr:`beside`; None: the snapshot serves all.
    :ivar in_flight: the contexts of all requests that have not finished.
    :ivar tunnels: those that are open.
    :ivar tally: what this worker has counted.
    :ivar answered: what it has answered.
    :ivar max_in_flight: beyond so many requests at once, further ones are :meth:`shed`; 0: no bound.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self.upstreams = upstreams
        self.snapshot: Snapshot | None = None
        self.beside: Snapshot | None = None
        self.canary: Canary | None = None
        self.in_flight: set[Context] = set()
        self.tunnels: set[Tunnel] = set()
        self.tally = upstreams.tally
        self.answered = Answered()
        self.max_in_flight = 0
        self._draining = False
        self._shedding = Throttle()

    def serve(
        self, request: Request, request_id: str, client_gone: Callable[[], bool] | None = None, started: float | None = None
    ) -> Context:
        """Take a request through its phases; ``ctx.response`` is what leaves. Raises nothing a client or a plugin could cause.

        :param client_gone: says whether the client has closed; None if that cannot be told.
        :param started: when its head was complete, by ``time.monotonic``; None: now.
        """
        ctx = self._begin(request, request_id, started)
        snapshot = self.snapshot if self.canary is None else self.canary.begin(ctx, self.snapshot)
        steps = snapshot.unmatched if snapshot is not None else EMPTY_CHAIN
        try:
            if snapshot is None:
                raise ServiceUnavailable("no configuration yet", headers=[("Retry-After", "1")])
            compiled = find_route(snapshot, ctx)
            steps = compiled.chain
            admit(compiled, request)
            if steps is EMPTY_CHAIN:
                if compiled.traffic is not None:
                    compiled.traffic.choose(ctx)
                forward(ctx, compiled, self.upstreams, client_gone)
                ctx._forwarded = ctx.response
            else:
                ctx._timed = timed(ctx._greenlet)
                chain.run(steps["pre_auth"], ctx)
                chain.run_auth(steps["auth"], ctx)
                chain.run(steps["post_auth"], ctx)
                if compiled.traffic is not None:  # not before: it may depend on who is calling
                    compiled.traffic.choose(ctx)
                chain.run(steps["pre_proxy"], ctx)
                untimed(ctx._timed)
                forward(ctx, compiled, self.upstreams, client_gone)
                ctx._forwarded = ctx.response
                if steps["post_proxy"]:
                    ctx._timed = timed(ctx._greenlet)
                    chain.run(steps["post_proxy"], ctx)
                assert ctx.response is not None  # noqa: S101 - forward has set it; a plugin that removed it is answered 500
                if ctx._response_headers is not None:
                    ctx.response.headers.update(ctx._response_headers)
        except (Aborted, Exception) as error:
            chain.replace(ctx, _answer(ctx, error))
        except BaseException:  # the greenlet is killed
            self._abandon(ctx)
            raise
        return self._finish(ctx, steps)

    @property
    def overloaded(self) -> bool:
        """Whether as many requests are in flight as may be."""
        return 0 < self.max_in_flight <= len(self.in_flight)

    def shed(self, request: Request, request_id: str) -> Context:
        """Answer 503 without looking at the request; the global ``response`` plugins see it."""
        self.tally.add("shed")
        if (suppressed := self._shedding.due()) is not None:
            log.warning("request_shed in_flight=%d suppressed=%d", len(self.in_flight), suppressed)
        return self._reply(request, request_id, Response.error(503, headers=[("Retry-After", "1")]))

    def refuse(self, request: Request, request_id: str, error: HttpError) -> Context:
        """Answer a request that could not be read far enough to be routed; the global ``response`` plugins see it."""
        _log_refusal(None, request_id, error)
        return self._reply(request, request_id, Response.error(error.status, headers=error.headers))

    def _reply(self, request: Request, request_id: str, response: Response) -> Context:
        """Let a response leave that no route has made."""
        snapshot = self.snapshot if self.canary is None else self.canary.snapshot_for(request, self.snapshot)
        ctx = self._begin(request, request_id)
        chain.replace(ctx, response)
        return self._finish(ctx, snapshot.unmatched if snapshot is not None else EMPTY_CHAIN)

    def _abandon(self, ctx: Context) -> None:
        """Give back what a request holds whose greenlet is killed before anything of its response could leave."""
        self.in_flight.discard(ctx)
        for response in (ctx._forwarded, ctx.response):
            if isinstance(response, Response):  # plugins may assign anything
                response.body.close()

    def _begin(self, request: Request, request_id: str, started: float | None = None) -> Context:
        ctx = Context(request, request_id=request_id, started=started)
        ctx._greenlet = _current()
        self.in_flight.add(ctx)
        return ctx

    def _finish(self, ctx: Context, steps: Chain) -> Context:
        """Run the ``response`` phase, and make sure that there is something which can leave."""
        if steps is not EMPTY_CHAIN:
            ctx._timed = timed(ctx._greenlet)
            try:
                chain.run_response(steps["response"], ctx)
            except BaseException:  # as above
                self._abandon(ctx)
                raise
            untimed(ctx._timed)
        if not _may_leave(ctx.response):
            log.error("response_retracted reason=%s request=%s", "a plugin left what is no response, or no final status", ctx.request_id)
            chain.replace(ctx, Response.error(500))
        forwarded, leaving = ctx._forwarded, ctx.response
        if forwarded is not None and leaving is not None and leaving.body is not forwarded.body:
            forwarded.body.close()  # a plugin has put another response in its place
        _seal(ctx)
        ctx._own_seconds = _monotonic() - ctx.started - ctx._upstream_seconds - ctx.request.body.waited
        return ctx

    def count(self, ctx: Context, status: int, took: float, received: int, sent: int) -> None:
        """Count a request that is over.

        :param took: seconds.
        """
        compiled: CompiledRoute | None = ctx._compiled
        measure = compiled.measure if compiled is not None else None
        if measure is None:
            measure = self.answered.of(ctx.route.id if ctx.route is not None else UNMATCHED)
            if compiled is not None:
                compiled.measure = measure
        measure.count(status, took, ctx._upstream_seconds, ctx._own_seconds, received, sent)

    def carry(self, tunnel: Tunnel, head: bytes) -> None:
        """Run a tunnel until it is over. One that opens while the worker drains is closed at once: clients connect anew.

        :param head: of the 101 that the client gets first.
        """
        self.tunnels.add(tunnel)
        if self._draining:
            tunnel.end(_LEAVING)
        try:
            tunnel.run(head)
        finally:
            self.tunnels.discard(tunnel)

    def drain(self) -> None:
        """Say goodbye in every tunnel; requests go on being served."""
        self._draining = True
        for tunnel in self.tunnels:
            tunnel.end(_LEAVING)


def find_route(snapshot: Snapshot, ctx: Context) -> CompiledRoute:
    """Find the route and bind the context to it.

    :raises RouteNotFound: none matches.
    """
    request = ctx.request
    wanted = request.headers.get("Access-Control-Request-Method") if request.method == "OPTIONS" and "Origin" in request.headers else None
    match = snapshot.router.match(request.host, request.path, wanted or request.method, request.headers, preflight=wanted is not None)
    if match is None:
        raise RouteNotFound()
    compiled = match.entry
    ctx.route, ctx.params, ctx._compiled = match.route, match.params, compiled
    ctx._consumer_of = snapshot.consumers.find
    request._max_buffer = compiled.max_buffer
    path = strip(request.path, match.matched) if compiled.strip_path else request.path
    if request.query_string:
        path = f"{path}?{request.query_string}"
    single = compiled.upstream.single
    target = single.prefix + path if single is not None and single.prefix else path
    ctx.upstream = UpstreamChoice(compiled.upstream.base, target, compiled.timeout, compiled.patience)
    return compiled


def admit(compiled: CompiledRoute, request: Request) -> None:
    """Refuse what the route cannot serve.

    :raises HttpError: 413, 501 or 503.
    """
    if compiled.unavailable is not None:
        raise ServiceUnavailable(compiled.unavailable)
    if request.upgrade:
        _check_upgrade(request, compiled.route)
    if compiled.max_body is not None:
        request.body.restrict(compiled.max_body)


def _check_upgrade(request: Request, route: Route) -> None:
    """Refuse an upgrade that the route does not support, or that is none (RFC 6455 section 4.1)."""
    if request.upgrade != "websocket" or not route.websocket:
        raise HttpError("an upgrade this route does not support", status=501)
    if request.method != "GET" or request.body.length != 0:
        raise HttpError("an upgrade by another request than GET without a body", status=501)


def _answer(ctx: Context, error: BaseException) -> Response:
    """Return what the client gets for what has ended its request."""
    if isinstance(error, Aborted):
        ctx._aborted = None
        return chain.response_of(error)
    if isinstance(error, HttpError):
        _log_refusal(ctx.route, ctx.request_id, error)
        return Response.error(error.status, headers=error.headers)
    if isinstance(error, ClientGone):
        log.info("client_gone request=%s detail=%s", ctx.request_id, error)
        return Response.error(400)
    # A hook that returned may still have left the context in any state: no upstream, headers that are none.
    log.error("request_failed route=%s request=%s", ctx.route.id if ctx.route else None, ctx.request_id, exc_info=error)
    return Response.error(500)


def _may_leave(response: object) -> bool:
    """Whether this is a response with a final status; plugins may assign anything."""
    if not isinstance(response, Response) or not isinstance(response.status, int):
        return False
    return 200 <= response.status <= 599 or (response.status == 101 and isinstance(response.body, Upgraded))


def _seal(ctx: Context) -> None:
    """Bring the response into the form in which it leaves: late headers, challenges, length."""
    response = ctx.response
    assert response is not None  # noqa: S101 - every way through serve() has set it
    headers = response.headers
    if ctx._response_headers is not None:
        headers.update(ctx._response_headers)
    if response.status == 401 and not response.upstream and "WWW-Authenticate" not in headers:
        for challenge in ctx.challenges or ("Bearer",):
            headers.add("WWW-Authenticate", challenge)
    declared, times, named = "", 0, False
    fields, shared = headers.fields(), headers.shared()
    if shared is not None:
        declared, times, named = shared.length, shared.lengths, shared.identified
        fields = fields[len(shared.items) :]
    for key, _, value, _ in fields:
        if key in _SEALED:
            if key == "content-length":
                declared, times = value, times + 1
            else:
                named = True
    if not named:
        headers.append(id_field_of(ctx))
    if response.status in _BODYLESS or (response.upstream and ctx.request.method == "HEAD"):
        return
    length = response.body.length
    if length is None:
        if times:
            headers.remove("Content-Length")
    elif times != 1 or declared != str(length):
        headers["Content-Length"] = str(length)


def _log_refusal(route: Route | None, request_id: str, error: HttpError) -> None:
    """Log why the gateway itself refused; what can come in floods only at debug level: a client's own fault, and overload."""
    grave = error.status in (500, 502, 503, 504) and not isinstance(error, UpstreamBusy)  # whose places have a line a second
    ident = route.id if route is not None else None
    log.log(
        logging.WARNING if grave else logging.DEBUG,
        "request_refused status=%d route=%s request=%s detail=%s",
        error.status,
        ident,
        request_id,
        error,
    )
