"""The composition root: the one module that knows every part. WSGI in, WSGI out.

Importing and constructing start nothing: :meth:`App.start` does, in the worker, after the fork.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson

from gwproxy.agent import Agent
from gwproxy.context import Context, Outcome
from gwproxy.dataplane import chain
from gwproxy.dataplane.blocked import LoopWatchdog
from gwproxy.dataplane.budgets import BudgetWatchdog
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.ingress import Ingress
from gwproxy.dataplane.requests_transport import RequestsAdapter
from gwproxy.dataplane.tunnel import Tunnel, Upgraded, switching_head
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.errors import HttpError
from gwproxy.process import Identity, compiled
from gwproxy.settings import Settings

log = logging.getLogger("gwproxy.app")
_monotonic: Final = time.monotonic  # PERF: at hand for compiled code, without a look-up in a module

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

OWN = "/.well-known/gwproxy/"
LIVE = f"{OWN}live"
READY = f"{OWN}ready"

_REASONS = {status: f"{status} {HTTPStatus(status).phrase}" for status in map(int, HTTPStatus) if status >= 200}


class App:
    """The WSGI application of one worker.

    Under gunicorn with ``gwproxy.worker.GatewayWorker`` the worker calls :meth:`start`, :meth:`drain` and :meth:`stop`.
    Under another WSGI server the first request starts it.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Take the settings; None reads the environment when started."""
        self._settings = settings
        self._started = False
        self._draining = False
        self.upstreams = Upstreams()
        self.gateway = Gateway(self.upstreams)
        self.tally = self.gateway.tally  # the worker counts there, too
        self._budgets = BudgetWatchdog(self.gateway)
        self._loop_watchdog = LoopWatchdog(self._budgets, self.tally)
        self.agent: Agent | None = None
        self.identity: Identity | None = None  # the worker sets it; another WSGI server does not
        self._ingress = Ingress(())

    def start(self) -> None:
        """Load plugins, begin to follow the configuration, answer requests. Does not wait for a first configuration."""
        if self._started:
            return
        self._started = True
        settings = self._settings or Settings.from_environment()
        self._ingress = Ingress(settings.trusted_proxies)
        self.gateway.max_in_flight = settings.max_in_flight
        if settings.transport == "requests":
            self.upstreams.transport = RequestsAdapter
            log.warning("slower_transport transport=requests")  # for those who have forgotten it
        log.info("app_started compiled=%s", "yes" if compiled() else "no")
        self._budgets.start()
        self._loop_watchdog.start()
        self.agent = Agent(settings, self.gateway, self.identity)
        self.agent.start()

    def stand_alone(self) -> None:
        """Answer requests by what is assigned to ``gateway.snapshot``, instead of :meth:`start`.

        Nothing is read from the environment, followed, reported or watched: for tests in one process.
        """
        self._started = True

    def drain(self) -> None:
        """Say that this worker is about to stop: not ready any more, still serving."""
        self._draining = True
        self.gateway.drain()
        if self.agent is not None:
            self.agent.drain()

    def stop(self) -> None:
        """Stop following the configuration, flush what waits to be logged, close connections."""
        try:
            if self.agent is not None:
                self.agent.stop()
        finally:
            self._loop_watchdog.stop()
            self._budgets.stop()
            self.upstreams.keep(())

    @property
    def ready(self) -> bool:
        """Whether requests are served by a configuration, and will be for a while."""
        return self.gateway.snapshot is not None and not self._draining

    def secrets(self) -> Sequence[str]:
        """Return what no log may hold, the longest first."""
        snapshot, beside = self.gateway.snapshot, self.gateway.beside
        served = snapshot.secrets if snapshot is not None else ()
        if beside is None:
            return served
        return list(heapq.merge(served, beside.secrets, key=len, reverse=True))

    @property
    def settled(self) -> bool:
        """Whether the first look for a configuration is over: before, a request could only be told to come back."""
        return self.agent is not None and self.agent.settled

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        if not self._started:
            self._start_late(environ)
        try:
            request, request_id, error = self._ingress.read(environ)
        except HttpError as refused:  # nothing of it can be trusted far enough to show it to plugins
            return _plain(start_response, refused.status, {"error": refused.text})
        if error is not None:
            ctx = self.gateway.refuse(request, request_id, error)
        elif request.path.startswith(OWN):  # the canonical path: whatever its spelling, no route and no upstream gets it
            return self._health(request.path, request.method, start_response)
        elif self.gateway.overloaded:
            ctx = self.gateway.shed(request, request_id)
        else:
            ctx = self.gateway.serve(request, request_id, environ.get("gwproxy.client_gone"), environ.get("gwproxy.started"))
        response = ctx.response
        assert response is not None  # noqa: S101 - serve() and refuse() set it
        if response.status == 101 and isinstance(response.body, Upgraded):
            return Tunnelling(ctx, self.gateway, response.body, environ["gwproxy.hijack"])
        start_checked = environ.get("gwproxy.start_response")
        if start_checked is not None:
            start_checked(response.status, response.headers)
        else:
            start_response(_REASONS.get(response.status) or f"{response.status} Unknown", response.headers.items())
        return Sending(ctx, self.gateway)

    def _health(self, path: str, method: str, start_response: StartResponse) -> Iterable[bytes]:
        if method not in ("GET", "HEAD"):
            return _plain(start_response, 405, {"error": "Method Not Allowed"})
        if path == LIVE:
            return _plain(start_response, 200, {"status": "live"})
        if path == READY:
            state = "draining" if self._draining else "ready" if self.ready else "starting"
            return _plain(start_response, 200 if self.ready else 503, {"status": state})
        return _plain(start_response, 404, {"error": "Route not found"})

    def _start_late(self, environ: Environ) -> None:
        log.warning(
            "unsupported_server software=%s lost=%s",
            environ.get("SERVER_SOFTWARE", "unknown"),
            "raw target, header order, client timeouts, drain, WebSocket; use gunicorn with gwproxy.worker.GatewayWorker",
        )
        self.start()


class Sending:
    """A response on its way out: counts what leaves and says at the end how it went.

    :ivar whole: the body, if it is all here: a server that knows of it sends it with the head, and calls :meth:`sent`.
    """

    __slots__ = ("_completed", "_ctx", "_gateway", "_sent", "whole")

    def __init__(self, ctx: Context, gateway: Gateway) -> None:
        self._ctx: Context | None = ctx
        self._gateway = gateway
        self._sent = 0
        self._completed = False
        response = ctx.response
        assert response is not None  # noqa: S101
        body = response.body
        self.whole = None if not body.complete else body.data if ctx.request.method != "HEAD" else b""

    def sent(self, size: int) -> None:
        """Note that everything was sent, ``size`` bytes of body."""
        self._sent, self._completed = size, True

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body; what the upstream does wrong on the way is raised, so that the server cuts the connection."""
        assert self._ctx is not None and self._ctx.response is not None  # noqa: S101, PT018
        response, head_only = self._ctx.response, self._ctx.request.method == "HEAD"
        if not head_only:
            if not response.body.complete and not response.body.data:
                yield b""  # the head leaves now: the body may be long in coming
            for chunk in response.body:
                yield chunk
                self._sent += len(chunk)  # the server asks for the next one when this one is out
        self._completed = True

    def close(self) -> None:
        """Give everything back and call what plugins registered with ``ctx.on_finish``. Once."""
        ctx, self._ctx = self._ctx, None
        if ctx is None:
            return
        response = ctx.response
        assert response is not None  # noqa: S101
        try:
            response.body.close()
            took, status, received = _monotonic() - ctx.started, response.status, ctx.request.body.received
            self._gateway.count(ctx, status, took, received, self._sent)
            if ctx._finishers:
                chain.finish(ctx, Outcome(status, received, self._sent, took, self._completed))
        finally:
            self._gateway.in_flight.discard(ctx)  # only now: what finishers take counts against budgets


class Tunnelling(Sending):
    """An upgraded connection: given over to a tunnel until that is over."""

    __slots__ = ("_body", "_hijack")

    def __init__(self, ctx: Context, gateway: Gateway, body: Upgraded, hijack: Callable[[], tuple[Any, bytes]]) -> None:
        super().__init__(ctx, gateway)
        self.whole = None
        self._body = body
        self._hijack = hijack

    def __iter__(self) -> Iterator[bytes]:
        """Yield nothing: the server writes to this connection no more."""
        ctx = self._ctx
        assert ctx is not None and ctx.response is not None and ctx.upstream is not None  # noqa: S101, PT018 - there was a 101
        head = switching_head(ctx.response.headers)
        client, early = self._hijack()
        timeout = ctx.upstream.timeout
        deadline = ctx.started + timeout.total if timeout.total is not None else None
        tunnel = Tunnel(client, early, self._body, idle=timeout.read, deadline=deadline)
        try:
            self._gateway.carry(tunnel, head)
        finally:
            self._sent, self._completed = tunnel.bytes_out, tunnel.completed
            ctx.request.body.received = tunnel.bytes_in  # an upgrade has no body: it is what followed instead
        if tunnel.reason:
            log.debug("tunnel_ended request=%s reason=%s", ctx.request_id, tunnel.reason)
        yield from ()


def _plain(start_response: StartResponse, status: int, body: dict[str, str]) -> Iterable[bytes]:
    data = orjson.dumps(body)
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data))), ("Cache-Control", "no-store")]
    start_response(_REASONS[status], headers)
    return [data]


def create_app(settings: Settings | None = None) -> App:
    """Return a new application; nothing is started.

    :param settings: None reads the environment when it is started.
    """
    return App(settings)
