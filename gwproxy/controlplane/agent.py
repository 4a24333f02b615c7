"""The control plane of one worker: its registry, its store, what it follows, what it reports.

Started in the worker after the fork; every part of it runs in a greenlet of its own and none of them can stop the
worker: what goes wrong is logged and shown in the heartbeat.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent

from gwproxy.controlplane.fleet import Heartbeat, make_worker_id
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.parse import Environment, to_json
from gwproxy.controlplane.sources import FileSource, RedisSource, Source
from gwproxy.controlplane.watch import Standing, Watcher
from gwproxy.dataplane.gateway import Gateway
from gwproxy.errors import ConfigurationRefused, StoreUnavailable
from gwproxy.ports import Store
from gwproxy.registry import Registry
from gwproxy.settings import Settings
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.shared import LocalStore, RedisStore, open_stores

log = logging.getLogger("gwproxy.agent")


class WorkerGateway:
    """The worker as its plugins see it: :class:`gwproxy.ports.Gateway`."""

    def __init__(self, store: Store, worker_id: str, state_dir: Path) -> None:
        self.store = store
        self.worker_id = worker_id
        self.state_dir = str(state_dir)
        self._background: list[gevent.Greenlet] = []

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        """Run ``function`` in a greenlet until it returns or the worker stops."""
        self._background = [greenlet for greenlet in self._background if not greenlet.dead]
        self._background.append(gevent.spawn(_guarded, function, *args))

    def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function`` in the hub's thread pool and wait for it."""
        return gevent.get_hub().threadpool.apply(function, args)

    def close(self) -> None:
        """Kill what still runs in the background."""
        gevent.killall(self._background, block=False)


def _guarded(function: Callable[..., object], *args: Any) -> None:
    try:
        function(*args)
    except Exception:
        log.exception("background_failed function=%s", getattr(function, "__qualname__", function))


class Agent:
    """Everything of a worker that is not a request."""

    def __init__(self, settings: Settings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._greenlets: list[gevent.Greenlet] = []
        self._started = time.time()
        self.registry = Registry()
        self.worker_id = make_worker_id()
        self._ports: WorkerGateway | None = None
        self._watcher: Watcher | None = None
        self._heartbeat: Heartbeat | None = None
        self._stores: Stores | None = None

    def start(self) -> None:
        """Load plugins, then follow the configuration and report, in the background."""
        settings = self._settings
        self.registry = Registry.discover()
        for name, reason in self.registry.broken.items():
            log.error("plugin_refused plugin=%s reason=%s", name, reason)
        self._stores = open_stores(settings.redis_url, settings.prefix)
        self._ports = WorkerGateway(self._stores.shared, self.worker_id, settings.state_dir)
        for plugin, error in self.registry.notify("worker_started", gateway=self._ports):
            log.error("plugin_failed plugin=%s event=worker_started", plugin, exc_info=error)
        self._watcher = self._make_watcher(self._stores)
        if self._stores.configuration is not None:
            self._heartbeat = Heartbeat(
                self._stores.configuration,
                self.worker_id,
                lambda: self._watcher.standing if self._watcher else Standing(),
                self.registry,
                self._gateway.upstreams,
                lambda: self._stores.shared.dropped if self._stores else 0,
                self._started,
            )
            self._run(self._heartbeat.run)
        self._run(self._stores.shared.run)
        self._run(self._seed_and_watch)

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
        for plugin, error in self.registry.notify("worker_stopping"):
            log.error("plugin_failed plugin=%s event=worker_stopping", plugin, exc_info=error)
        if self._ports is not None:
            self._ports.close()
        if self._stores is not None:
            self._stores.shared.close()
        if self._heartbeat is not None:
            self._heartbeat.close()
        gevent.killall(self._greenlets, block=False)

    def _run(self, function: Callable[[], object]) -> None:
        self._greenlets.append(gevent.spawn(_guarded, function))

    def _make_watcher(self, stores: Stores) -> Watcher:
        settings = self._settings
        source: Source
        if stores.configuration is not None:
            source = RedisSource(stores.configuration, settings.prefix)
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
            pause=lambda: gevent.sleep(0),
            in_thread=lambda function: gevent.get_hub().threadpool.apply(function),
            revision_of=stores.configuration.note_external if stores.configuration is not None else None,
            changed=lambda: self._heartbeat.beat_now() if self._heartbeat else None,
        )

    def _seed_and_watch(self) -> None:
        """Seed an empty store from ``GWPROXY_CONFIG``, then follow it."""
        assert self._watcher is not None  # noqa: S101
        if self._settings.config is not None and self._stores is not None and self._stores.configuration is not None:
            try:
                data = to_json(self._settings.config.read_bytes(), str(self._settings.config))
                self._stores.configuration.seed(data, actor="seed")
            except (OSError, ConfigurationRefused, StoreUnavailable) as error:
                log.error("seed_failed file=%s reason=%s", self._settings.config, error)
        self._watcher.run()
