"""The worker process: accepts connections, serves them in greenlets, and leaves without losing one."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from time import monotonic
from typing import Any

import gevent
from gevent import monkey
from gevent.server import StreamServer
from gevent.socket import socket as GeventSocket  # noqa: N812 - a class
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

from gwproxy.dataplane.listeners import listening_on
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings
from gwproxy.tally import Tally
from gwproxy.worker import logs
from gwproxy.worker.admin_address import admin_addresses
from gwproxy.worker.boots import Boots, delay
from gwproxy.worker.connection import Connection, Service
from gwproxy.worker.environ import listener_environ
from gwproxy.worker.files import raise_file_limit
from gwproxy.worker.memory import MemoryLimit
from gwproxy.worker.preloading import preload
from gwproxy.worker.quick import QuickHeads
from gwproxy.worker.refusals import logger
from gwproxy.worker.request import ParserLimits
from gwproxy.worker.siblings import Siblings
from gwproxy.worker.slots import Slots
from gwproxy.worker.standing import ENDLESS, Standing

#: Seconds between two looks at whether the worker is to stop.
POLL_SECONDS = 0.1
DRAIN_POLL_SECONDS = 0.05
SETTLE_POLL_SECONDS = 0.01

#: Seconds a new worker waits at most for its app to settle before it accepts.
SETTLE_SECONDS = 10.0

#: Seconds of serving after which a worker has started well.
PROVEN_SECONDS = 3.0

#: Seconds the app's ``drain`` and ``stop`` may take.
FAREWELL_SECONDS = 5.0


def check_store(settings: Settings) -> None:
    """Refuse a store that no worker could open, without asking for it: it may be away for now.

    :raises CommandFailed: its URL makes no sense, or does not go with the prefix.
    """
    if settings.redis_url is None:
        return
    from gwproxy.store.connection import check_prefix, connect  # here: it imports ssl, and the patch was checked just now

    check_prefix(settings.redis_url, settings.prefix)
    connect(settings.redis_url).close()


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """Gunicorn's gevent worker with a connection loop of its own.

    An app that has the methods ``start()``, ``drain()`` and ``stop()`` is told: once after the fork, before the first
    connection is accepted; when the worker has stopped accepting; and at its end. What they raise is logged. If it has
    an attribute ``settled``, nothing is accepted before that is true, for 10 seconds at most. If it has an attribute
    ``identity``, that is set to the worker's :class:`~gwproxy.process.Identity` before it is started.

    At ``worker_connections`` connections, idle ones make room for new ones. If none is idle nothing is accepted: further
    ones wait in the kernel's backlog, or are taken by another worker.
    """

    _slots: Slots
    _shared_boots: Boots | None = None
    _siblings = Siblings()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Gunicorn calls this in the master, before the fork."""
        self._standing = Standing()
        super().__init__(*args, **kwargs)
        self._standing.left = min(self.max_requests, ENDLESS)
        preload(getattr(self.app, "app_uri", None))
        self._boots = GatewayWorker._shared_boots = GatewayWorker._shared_boots or Boots()
        self._failed = self._boots.failed(self.age, self.cfg.workers)
        self._token = GatewayWorker._siblings.add(self)

    @property
    def alive(self) -> bool:
        """Whether to go on; gunicorn sets it, in handlers of signals too."""
        return self._standing.alive

    @alive.setter
    def alive(self, value: bool) -> None:
        self._standing.alive = value

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse to start, in the master, what could only fail later (R45).

        :raises RuntimeError: gunicorn prints it as one line and exits 1.
        """
        if cfg.preload_app:
            raise RuntimeError("gwproxy does not run with preload_app: sockets and threads made before the fork die in it")
        if not monkey.is_module_patched("socket"):
            raise RuntimeError("the gunicorn configuration must begin with: from gevent import monkey; monkey.patch_all()")
        if "h2" in cfg.http_protocols:  # it would be offered to clients, and nobody here speaks it
            raise RuntimeError("http_protocols: the gateway speaks HTTP/1.1; for HTTP/2 put a proxy in front (docs/protocols.md)")
        try:
            check_store(Settings.from_environment({**os.environ, **cfg.env}))
            if cfg.is_ssl:
                ssl_context(cfg)
        except CommandFailed as error:
            raise RuntimeError(str(error)) from None
        except OSError as error:
            raise RuntimeError(f"certfile, keyfile or ca_certs: {error}") from None

    def run(self) -> None:
        """Serve until told to stop, then drain."""
        settings = Settings.from_environment()
        logs.configure(settings.log_level, getattr(self.wsgi, "secrets", tuple))
        raise_file_limit(self.worker_connections)
        tally = getattr(self.wsgi, "tally", None) or Tally()
        self._slots = Slots(self.worker_connections, tally, self._standing)
        listening_on([*(sock.getsockname() for sock in self.sockets), *admin_addresses(settings.admin_bind)])
        if not self._wait_after_crashes():
            return
        if hasattr(self.wsgi, "identity"):
            self.wsgi.identity = self._siblings.identity(self._token)
        try:
            self._tell_app("start")
            self._await_app()
            servers = self._listen(settings, tally)
            self._serve(MemoryLimit(settings.max_memory))
            self._drain(servers)
        finally:
            self._tell_app("stop", FAREWELL_SECONDS)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection.

        :param listener: the :class:`Service` and the environment keys of the listener that accepted it.
        """
        service, base = listener
        connection = Connection(service, base, client, addr)
        self._slots.connections.add(connection)
        try:
            connection.serve()
        finally:
            self._slots.connections.discard(connection)

    def _wait_after_crashes(self) -> bool:
        """Wait before starting if the workers before this one did not survive that; False: it is to stop already (V12)."""
        seconds = delay(self._failed)
        if not seconds:
            return True
        logger.error("worker_start_delayed seconds=%.2f failed=%d", seconds, self._failed)
        deadline = monotonic() + seconds
        while self.alive and monotonic() < deadline:
            self.notify()
            gevent.sleep(POLL_SECONDS)
        return self.alive

    def _serve(self, memory: MemoryLimit) -> None:
        """Wait until told to stop, or until there is a reason to."""
        proven = monotonic() + PROVEN_SECONDS
        while self.alive:
            self.notify()
            self._slots.make_room()
            if rss := memory.exceeded():
                self._recycle("memory", "rss", rss)
            gevent.sleep(POLL_SECONDS)
            if monotonic() > proven:
                self._boots.note_served(self.age)
        self._boots.note_served(self.age)  # it was told to stop, and has not died

    def _await_app(self) -> None:
        """Leave connections to other workers, or in the backlog, while the app would only answer that it is not ready.

        Also if the worker is to stop already: what waits in the backlog then may be its to answer.
        """
        deadline = monotonic() + SETTLE_SECONDS
        while not getattr(self.wsgi, "settled", True) and monotonic() < deadline:
            self.notify()
            gevent.sleep(SETTLE_POLL_SECONDS)

    def _listen(self, settings: Settings, tally: Tally) -> list[StreamServer]:
        tally.watch("connections", lambda: len(self._slots.connections))
        limits = ParserLimits.from_config(self.cfg)
        quick: QuickHeads | None = None
        if settings.http_parser == "quick":
            quick = QuickHeads(limits.limit_request_line, limits.limit_request_fields, limits.limit_request_field_size)
        else:
            logger.warning("slower_parser http_parser=%s", settings.http_parser)  # for those who have forgotten it
        service = Service(
            app=self.wsgi,
            settings=settings,
            limits=limits,
            quick=quick,
            keepalive=self.cfg.keepalive,
            tls=ssl_context(self.cfg) if self.cfg.is_ssl else None,
            tls_ragged_eofs=self.cfg.suppress_ragged_eofs,
            standing=self._standing,
            is_crowded=lambda: self._slots.crowded,
            worn_out=self._worn_out,
            tally=tally,
        )
        servers = []
        for sock in self.sockets:
            sock.setblocking(True)
            base = listener_environ(self.cfg, sock.getsockname())
            server = StreamServer(sock, handle=partial(self.handle, (service, base)), spawn=self._slots.pool)
            self._slots.attach(server)
            server.start()
            servers.append(server)
        return servers

    def _worn_out(self) -> None:
        if self.alive:
            self._recycle("max_requests", "requests", self.max_requests - self._standing.left)

    def _recycle(self, reason: str, unit: str, count: int) -> None:
        """Leave, in good order, to be replaced by the master."""
        logger.info("worker_recycled reason=%s %s=%d", reason, unit, count)
        self.alive = False

    # ---- leaving

    def _drain(self, servers: list[StreamServer]) -> None:
        """Accept nothing new, let what is under way finish, close what is idle; at most ``graceful_timeout`` seconds.

        A little less, in fact: the master kills at that time, and ``stop`` is still to be called.
        """
        limit = float(self.cfg.graceful_timeout)
        deadline = monotonic() + limit - min(1.0, limit / 2)
        for server in servers:
            self._stop_listening(server)
        farewell = gevent.spawn(self._tell_app, "drain", FAREWELL_SECONDS)
        while (self._slots.connections or not farewell.ready()) and monotonic() < deadline:
            self._slots.wake_idle()
            self.notify()
            gevent.sleep(DRAIN_POLL_SECONDS)
        if self._slots.connections:
            logger.warning("worker_drain_cut connections=%d", len(self._slots.connections))
            self._slots.pool.kill(block=True, timeout=1)

    def _stop_listening(self, server: StreamServer) -> None:
        """Take what waits in the backlog (if the whole gateway stops, nobody else will), and close the listener.

        In one breath, and by nothing of gevent's: what the kernel accepts between the last look and the close is reset.
        """
        server.stop_accepting()
        listening = server.socket
        family, kind, proto, room = listening.family, listening.type, listening.proto, min(self.cfg.backlog, self._slots.pool.free_count())
        waiting: list[tuple[Any, Any]] = []
        listener = monkey.get_original("socket", "socket")(family, kind, proto, listening.detach())
        listener.setblocking(False)
        with contextlib.suppress(OSError):
            while len(waiting) < room:
                waiting.append(listener.accept())
        listener.close()
        for accepted, address in waiting:
            server.do_handle(GeventSocket(family, kind, proto, fileno=accepted.detach()), address)
        server.close()

    def _tell_app(self, event: str, limit: float | None = None) -> None:
        """Call the app's method named ``event``, if it has one, for at most ``limit`` seconds (None: no limit)."""
        tell = getattr(self.wsgi, event, None)
        if tell is None:
            return
        try:
            with gevent.Timeout(limit):
                tell()
        except BaseException:  # an exit with status 3 or 4 would end the master (R33)
            logger.exception("app_event_failed event=%s", event)
