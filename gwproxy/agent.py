"""The part of a worker that is not a request: its registry, its store, what it follows, what it reports.

Started in the worker after the fork; every part of it runs in a greenlet of its own and none of them can stop the
worker: what goes wrong is logged and shown in the heartbeat.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gevent
from gevent.threadpool import ThreadPool

from gwproxy.background import Background
from gwproxy.controlplane.collection import Collector
from gwproxy.controlplane.deployed import Deployments
from gwproxy.controlplane.events import announce
from gwproxy.controlplane.fleet import Heartbeat
from gwproxy.controlplane.host import HostFiles
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.pace import Pace
from gwproxy.controlplane.parse import Environment, to_json
from gwproxy.controlplane.referee import Referee
from gwproxy.controlplane.retirement import Retirement
from gwproxy.controlplane.shelf import Revoked, Shelf
from gwproxy.controlplane.sources import FileSource, RedisSource, Source
from gwproxy.controlplane.watch import Watcher
from gwproxy.controlplane.weighing import Weighing
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.health import HealthChecks
from gwproxy.dataplane.tending import Tending
from gwproxy.errors import ConfigurationRefused, StoreUnavailable
from gwproxy.ports import Store
from gwproxy.process import Identity, descriptors, make_worker_id, resident
from gwproxy.registry import Registry
from gwproxy.settings import Settings
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore, Retention
from gwproxy.store.connection import connect
from gwproxy.store.deployments import DeploymentStore
from gwproxy.store.health import SharedHealth
from gwproxy.store.redial import Redial
from gwproxy.store.shared import LocalStore, RedisStore

log = logging.getLogger("gwproxy.agent")

STORE_TIMEOUT = 2.0  # seconds for what no request waits for
FAREWELL = 2.0  # seconds a plugin has for its worker_stopping: logs are still to be written after it
SHARE_EVERY = 2.0  # seconds between two looks at what other hosts say of targets
TIDY_EVERY = 15.0  # seconds between two looks for idle upstream connections that are past use


class WorkerGateway:
    """The worker as its plugins see it: :class:`gwproxy.ports.Gateway`."""

    def __init__(self, store: Store, worker_id: str, state_dir: Path) -> None:
        self.store = store
        self.worker_id = worker_id
        self.state_dir = str(state_dir)
        self._background = Background()

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` in the background until it returns or the worker stops."""
        self._background.run(function, *args)

    def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function`` in the hub's thread pool and wait for it."""
        return _in_thread(gevent.get_hub().threadpool, function, args)

    def close(self) -> None:
        """Kill what still runs in the background."""
        self._background.close()


def _in_thread(pool: ThreadPool, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    result, error = pool.apply(_outcome, (function, args))
    if error is not None:
        raise error
    return result


class Disk:
    """Runs what waits for the disk in a thread of its own: those of the hub may all wait for names to be resolved."""

    def __init__(self) -> None:
        self._pool: ThreadPool | None = None

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what ``function`` returns, or raises; always to be called from the same thread."""
        if self._pool is None:  # here: it belongs to the thread that asks
            self._pool = ThreadPool(1)
        return _in_thread(self._pool, function, args)


def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Return what ``function`` returns, or raises: gevent prints what its threads raise, although the caller gets it."""
    try:
        return function(*args), None
    except BaseException as error:
        return None, error


@contextmanager
def _survived(part: str) -> Iterator[None]:
    """Go on without a part of the worker that fails to start: what serves requests does not depend on it (R33)."""
    try:
        yield
    except BaseException:
        log.exception("agent_part_failed part=%s", part)


class Agent:
    """Everything of a worker that is not a request.

    :param identity: which worker this is; None: nobody has said, so it gets a name of its own.
    """

    def __init__(self, settings: Settings, gateway: Gateway, identity: Identity | None = None) -> None:
        self._settings = settings
        self._gateway = gateway
        self._background = Background()
        self._started = time.time()
        self.registry = Registry()
        self._identity = identity or Identity(make_worker_id(os.getpid()))
        self.worker_id = self._identity.id
        self._ports: WorkerGateway | None = None
        self._watcher: Watcher | None = None
        self._heartbeat: Heartbeat | None = None
        self._store: RedisStore | LocalStore = LocalStore()
        self._configurations: ConfigurationStore | None = None
        self._candidates: CandidateStore | None = None
        self._pushed: DeploymentStore | None = None
        self._deployments = Deployments(self.registry, gateway.tally)
        self._retirement: Retirement | None = None
        self._audit: AuditLog | None = None
        self._referee: Referee | None = None
        self._stopping = threading.Event()
        self._shared: SharedHealth | None = None
        self._host: HostFiles | None = None
        self._watch_resources()

    def start(self) -> None:
        """Load plugins, then follow the configuration and report, in the background."""
        with _survived("plugins"):
            self.registry = Registry.discover()
        for name, reason in self.registry.broken.items():
            log.error("plugin_refused plugin=%s reason=%s", name, reason)
        self._open_store()
        with _survived("upstreams"):
            self._tend()  # before anything is served: with what the host knows of targets and names already
        self._ports = WorkerGateway(self._store, self.worker_id, self._settings.state_dir)
        announce(self.registry, self._gateway.tally, "worker_started", gateway=self._ports)
        watcher = self._watcher = self._make_watcher()
        with _survived("retirement"):
            if self._retirement is not None:
                self._run(self._retirement.run)
        with _survived("heartbeat"):
            self._start_heartbeat(watcher)
        with _survived("referee"):
            self._start_referee(watcher)
        self._run(self._seed_and_watch, watcher)
        self._run(self._tidy)
        self._run(Weighing(self._gateway.upstreams.measures, self._stopping.wait).run)

    @property
    def settled(self) -> bool:
        """Whether the first look for a configuration is over, whatever was found."""
        return self._watcher is not None and self._watcher.looked

    def drain(self) -> None:
        """Report that this worker is about to stop."""
        if self._watcher is not None:
            self._watcher.standing.state = "draining"
        if self._heartbeat is not None:
            self._heartbeat.beat_now()

    def stop(self) -> None:
        """Stop following, let plugins say goodbye, write what waits to be logged."""
        if self._watcher is not None:
            self._watcher.close()
        announce(self.registry, self._gateway.tally, "worker_stopping", FAREWELL)
        self._deployments.stop(FAREWELL)
        if self._retirement is not None:
            self._retirement.close()
        if self._ports is not None:
            self._ports.close()
        self._stopping.set()
        if self._referee is not None:
            self._referee.close()
        self._store.close()
        if self._host is not None:
            self._host.close()
        if self._heartbeat is not None:
            self._heartbeat.close()
        self._background.close()

    def _open_store(self) -> None:
        settings = self._settings
        if settings.redis_url is None:
            return
        redial = Redial()
        store = RedisStore.from_url(settings.redis_url, prefix=settings.prefix, redial=redial)
        client = connect(settings.redis_url, timeout=STORE_TIMEOUT, max_connections=4, redial=redial)
        retention = Retention(settings.history_keep, settings.history_days)
        self._store, self._configurations = store, ConfigurationStore(client, settings.prefix, retention)
        place = hashlib.sha256(str(settings.state_dir).encode()).hexdigest()[:6]  # two gateways may run on one machine
        self._shared = SharedHealth(client, settings.prefix, f"{socket.gethostname()}-{place}")
        self._candidates, self._audit = CandidateStore.of(self._configurations), AuditLog(client, settings.prefix)
        self._pushed = DeploymentStore(client, settings.prefix)
        self._run(store.logs.run, self._stopping)
        self._run(store.attend, self._stopping)

    def _tend(self) -> None:
        """Look after the upstreams, together with the other workers of the host."""
        settings, upstreams = self._settings, self._gateway.upstreams
        host = self._host = HostFiles(settings.state_dir, settings.prefix, self._gateway.tally, Disk())
        upstreams.names.saved = host.names()
        checks = HealthChecks(upstreams, host)
        upstreams.meet = checks.meet
        self._run(Tending(upstreams, checks, learned=lambda: host.keep_names(upstreams.names.shown())).run)
        if self._shared is not None:
            self._run(self._share_health, checks, host, self._shared)

    def _share_health(self, checks: HealthChecks, host: HostFiles, shared: SharedHealth) -> None:
        """Tell other hosts of the targets that this one asks, and hear of them what nobody here knows yet."""
        while True:
            if host.leads():
                try:
                    checks.hear(shared.others())
                    shared.tell({key: result.healthy for key, result in checks.results.items()})
                except StoreUnavailable as error:
                    log.debug("health_not_shared reason=%s", error)
            if self._stopping.wait(SHARE_EVERY):
                return

    def _start_heartbeat(self, watcher: Watcher) -> None:
        if self._configurations is None:
            return
        self._heartbeat = Heartbeat(
            self._configurations,
            self._identity,
            lambda: watcher.standing,
            lambda: watcher.deployed,
            self._gateway.upstreams,
            lambda: self._store.dropped,
            self._gateway.tally,
            self._started,
            watcher.beside.shown,
            self._gateway.answered.shown,
        )
        self._run(self._heartbeat.run)

    def _start_referee(self, watcher: Watcher) -> None:
        if self._candidates is not None and self._audit is not None:
            self._referee = Referee(self._candidates, self._audit, self.worker_id, watcher.beside, self._gateway)
            self._run(self._referee.run)

    def _changed(self) -> None:
        """Report at once what the watcher did."""
        if self._heartbeat is not None:
            self._heartbeat.beat_now()
        if self._referee is not None:
            self._referee.wake()

    def _run(self, function: Callable[..., object], *args: Any) -> None:
        self._background.run(function, *args)

    def _make_watcher(self) -> Watcher:
        settings = self._settings
        source: Source
        pace = Pace()
        collector = Collector(lambda: not self._gateway.in_flight)
        with _survived("deployments"):
            self._deployments = self._make_deployments(pace, collector)
        if self._configurations is not None and self._candidates is not None:
            source = RedisSource(self._configurations, self._candidates, settings.prefix, self._pushed)
            self._run(source.listen)
        else:
            source = FileSource(settings.config or Path("gateway.yaml"))
        return Watcher(
            source,
            self._gateway,
            self.registry,
            self._gateway.upstreams,
            Environment(os.environ, settings.may_reference),
            LastGoodFile(settings.state_dir, settings.prefix),
            pause=pace,
            tidy=Pace(),  # of its own: it begins as patiently as the making did
            revision_of=self._configurations.note_external if self._configurations is not None else None,
            changed=self._changed,
            in_thread=Disk(),
            collector=collector,
            deployments=self._deployments,
            last_deployed=LastGoodFile(settings.state_dir, settings.prefix, ".plugins") if self._pushed is not None else None,
        )

    def _make_deployments(self, pace: Pace, collector: Collector) -> Deployments:
        """Return what loads what was pushed; without a store or keys, nothing is."""
        settings, pushed, tally = self._settings, self._pushed, self._gateway.tally
        if pushed is None or not settings.plugin_keys:
            return Deployments(self.registry, tally)
        revoked = Revoked(settings.state_dir, settings.prefix)
        shelf = Shelf(settings.state_dir, settings.plugin_keys, revoked, pushed.wheel, Disk())
        retirement = self._retirement = Retirement(self._gateway, pace)
        tally.watch("wheels_lingering", lambda: retirement.lingering)
        make_port = partial(WorkerGateway, self._store, self.worker_id, settings.state_dir)
        return Deployments(self.registry, tally, shelf=shelf, revoked=revoked, retirement=retirement, port=make_port, collector=collector)

    def _watch_resources(self) -> None:
        """Show with the heartbeat what a worker that leaks would have more and more of."""
        tally, gateway = self._gateway.tally, self._gateway
        tally.watch("rss", resident)
        if descriptors() is not None:
            tally.watch("descriptors", lambda: descriptors() or 0)
        tally.watch("requests", lambda: len(gateway.in_flight))
        tally.watch("upstream_connections", lambda: gateway.upstreams.connections)
        for state in ("unhealthy", "ejected", "unresolved"):
            tally.watch(f"targets_{state}", partial(gateway.upstreams.targets_in, state))

    def _tidy(self) -> None:
        """Close idle upstream connections that are too old, or that the upstream has closed: a quiet route leaves none."""
        while not self._stopping.wait(TIDY_EVERY):
            self._gateway.upstreams.prune()

    def _seed_and_watch(self, watcher: Watcher) -> None:
        """Seed an empty store from ``GWPROXY_CONFIG``, then follow it."""
        file, store = self._settings.config, self._configurations
        if file is not None and store is not None:
            try:
                published = store.seed(to_json(file.read_bytes(), str(file)), actor="seed")
                if published is not None and self._audit is not None:
                    self._audit.note("seed", "apply", "done", f"from {file}", published.revision)
            except (OSError, ConfigurationRefused, StoreUnavailable) as error:
                log.error("seed_failed file=%s reason=%s", file, error)
        watcher.run()
