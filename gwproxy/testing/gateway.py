"""The gateway in one process, for tests: its own router, chains, forwarding and transport, without workers, Redis or ports."""

from __future__ import annotations

import json as jsonlib
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from gwproxy.agent import WorkerGateway
from gwproxy.app import App
from gwproxy.context import Context
from gwproxy.controlplane.build import Builder
from gwproxy.controlplane.parse import Environment, parse
from gwproxy.controlplane.trial import environ_of
from gwproxy.errors import PluginRefused
from gwproxy.http.headers import Headers
from gwproxy.plugin import Plugin
from gwproxy.registry import Registry
from gwproxy.testing.answer import Answer
from gwproxy.testing.clock import Clock
from gwproxy.testing.store import MemoryStore
from gwproxy.testing.trace import Around, Trace, TracedRegistry, tracing
from gwproxy.testing.upstream import FakeUpstream

#: What a route forwards to that names nothing else: the test's own upstream.
UPSTREAM = "http://upstream.test"

Fields = Mapping[str, str] | Iterable[tuple[str, str]]


class InProcessGateway:
    """Answers requests in the caller's thread, as a worker does.

    Say what it serves with :meth:`use` (plugins on one route for every path) or :meth:`serve` (a whole configuration), then :meth:`get` and
    so on. It differs from a worker in this: there is no parser of bytes before it, budgets of hooks are not enforced, and health checks do
    not run.

    :param plugins: classes or instances, beside the installed ones that a configuration names.

    :ivar upstream: what is behind every host below ``.test``; other hosts are really connected to.
    :ivar clock: the time of the store and of the plugins' modules.
    :ivar store: what plugins have as ``gateway.store``.
    :ivar environ: the variables that a configuration may refer to as ``${NAME}``.
    """

    def __init__(self, *plugins: Plugin | type[Plugin]) -> None:
        self.upstream = FakeUpstream()
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.environ: dict[str, str] = {}
        self.registry = TracedRegistry()
        self.app = App()
        self.app.stand_alone()
        self.app.upstreams.transport = self.upstream.adapter()
        self._builder = Builder(self.registry, self.app.upstreams)
        self._entries: list[dict[str, Any]] = []
        self._revision = 0
        self._greeted: set[str] = set()
        self._remove: Callable[[], object] = lambda: None
        for plugin in plugins:
            self.add(plugin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Say goodbye to the plugins, close all connections, give the real time back."""
        try:
            if self._greeted:
                _notify(self.registry, "worker_stopping")
        finally:
            self.app.stop()
            self.upstream.close()
            self.clock.hide()
            if "worker" in self.__dict__:
                self.worker.close()
            self._remove()

    # ---- what it serves

    def add(self, plugin: Plugin | type[Plugin]) -> Plugin:
        """Let configurations name a plugin that need not be installed; return this gateway's one instance.

        :raises PluginRefused: it does not fit the specifications, as at load.
        """
        instance = plugin() if isinstance(plugin, type) else plugin
        self.registry.add(instance)
        return instance

    def use(self, plugin: Plugin | type[Plugin] | str, config: Mapping[str, Any] | None = None, **entry: Any) -> None:
        """Put a plugin on the one route there is, beside those that are used already.

        :param plugin: a class, an instance, or the name of an installed one.
        :param config: of the entry.
        :param entry: its other keys: ``mode="shadow"``, ``priority=10``.
        :raises ConfigurationRefused: the configuration is not valid; the message says where and why.
        """
        name = plugin if isinstance(plugin, str) else plugin.name
        if not isinstance(plugin, str) and self.registry.find(name) is None:
            self.add(plugin)
        self._load(name)
        self._entries.append({"name": name, "config": dict(config or {}), **entry})
        self.route(plugins=self._entries)

    def route(self, path: str = "/", **fields: Any) -> None:
        """Serve one route: ``gateway.route("/x", strip_path=True, plugins=[...])``.

        :param fields: its other keys; without ``upstream`` it leads to the test's.
        """
        self.serve({"routes": [{"path": path, "upstream": UPSTREAM, **fields}]})

    def serve(self, document: Any, *, lenient: bool = False) -> None:
        """Serve a configuration, an object or an array of routes, as after an ``apply``.

        :param lenient: True: a plugin that is not there makes its routes answer 503. False: it refuses the configuration.
        :raises ConfigurationRefused: it is not valid.
        """
        for name in _names_in(document):
            self._load(name, required=False)
        data = jsonlib.dumps(document).encode()
        environment = Environment(self.environ, lambda name: True)
        parsed = parse(data, file="test.json", plugins=self.registry, environment=environment, lenient=lenient)
        self._revision += 1
        snapshot = self._builder.build(parsed, revision=self._revision, digest=str(self._revision))
        self._greet()
        self.app.gateway.snapshot = snapshot
        _notify(self.registry, "configuration_applied", revision=self._revision, digest=snapshot.digest)

    def _load(self, name: str, *, required: bool = True) -> None:
        if self.registry.find(name) is not None:
            return
        installed = _installed(tuple(sys.path))
        found = installed.registered(name)
        if found is not None:
            self.registry.add(type(found.plugin)(), package=found.package)
        elif required or name in installed.broken:
            raise PluginRefused(name, installed.broken.get(name, "no such plugin is installed"))

    def _greet(self) -> None:
        """Tell plugins that are new here that their worker has started."""
        for registered in self.registry:
            plugin = registered.plugin
            if plugin.name not in self._greeted:
                self._greeted.add(plugin.name)
                self.clock.show(package_of(plugin))
                _notify(Registry.of(plugin), "worker_started", gateway=self.worker)

    @cached_property
    def worker(self) -> WorkerGateway:
        """What plugins get in ``worker_started``."""
        folder = tempfile.mkdtemp(prefix="gwproxy-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return WorkerGateway(self.store, "test-1-0", Path(folder))

    # ---- requests

    def get(self, url: str = "/", **parts: Any) -> Answer:
        """Send a GET request; ``parts`` as of :meth:`request`."""
        return self.request("GET", url, **parts)

    def post(self, url: str = "/", **parts: Any) -> Answer:
        """Send a POST request; ``parts`` as of :meth:`request`."""
        return self.request("POST", url, **parts)

    def request(
        self,
        method: str,
        url: str = "/",
        *,
        headers: Fields = (),
        body: bytes | Iterable[bytes] | None = None,
        json: Any = None,
        query: Mapping[str, str] | None = None,
        client: str = "127.0.0.1",
        around: Around | None = None,
    ) -> Answer:
        """Send a request and read its whole response.

        :param url: a path with its query, as it is sent; or a URL, whose host becomes the Host field.
        :param headers: in this order, repetitions kept.
        :param body: sent with its length; an iterable of pieces is sent chunked.
        :param json: sent as JSON, instead of ``body``, unless it is None.
        :param query: added to ``url``, encoded.
        :param client: the address it comes from.
        :param around: measures what runs of plugins.
        """
        fields = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if json is not None:
            body = jsonlib.dumps(json).encode()
            fields.append(("Content-Type", "application/json"))
        if isinstance(body, bytes):
            fields.append(("Content-Length", str(len(body))))
        elif body is not None:
            fields.append(("Transfer-Encoding", "chunked"))
        if query:
            url = f"{url}?{urlencode(query)}"
        environ = environ_of(method, url, fields, None if body is None else _Incoming(body))
        environ["REMOTE_ADDR"] = client
        before = len(self.upstream.seen)
        with tracing(around) if around is not None else tracing() as trace:
            return self._answer(environ, trace, before)

    def _answer(self, environ: dict[str, Any], trace: Trace, before: int) -> Answer:
        started: list[tuple[int, Headers]] = []
        environ["gwproxy.start_response"] = lambda status, headers: started.append((status, headers))
        others = set(self.app.gateway.in_flight)
        sending = self.app(environ, lambda status, fields: started.append((int(status[:3]), Headers(fields))))
        ctx: Context | None = next(iter(self.app.gateway.in_flight - others), None)
        pieces: list[bytes] = []
        completed = False
        try:
            pieces.extend(filter(None, sending))
            completed = True
        except Exception:  # noqa: S110 - the server would cut the connection; what the client got tells
            pass
        finally:
            close: Callable[[], None] | None = getattr(sending, "close", None)
            if close is not None:
                close()
        status, fields = started[-1]
        route = ctx.route.id if ctx is not None and ctx.route is not None else None
        state = dict(ctx.state) if ctx is not None else {}
        seen = tuple(self.upstream.seen[before:])
        return Answer(status, fields, tuple(pieces), completed, seen, trace, route, state)


class _Incoming:
    """A body as the worker gives it to the app: at most so many bytes a read, empty at the end."""

    def __init__(self, body: bytes | Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter((body,) if isinstance(body, bytes) else body)
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


@lru_cache(maxsize=1)
def _installed(_path: tuple[str, ...]) -> Registry:
    """Load what is installed, once for all tests; what serves are instances of each gateway's own."""
    return Registry.discover()


def _notify(registry: Registry, event: str, **arguments: Any) -> None:
    for plugin, error in registry.notify(event, **arguments):
        error.add_note(f"raised by the plugin {plugin} in {event}; a worker would log it and go on")
        raise error


def _names_in(document: Any) -> Iterator[str]:
    """Yield the plugins that a configuration, which need not be valid, names."""
    document = {"routes": document} if isinstance(document, list) else document
    if not isinstance(document, Mapping):
        return
    routes = document.get("routes")
    holders = [document, *(routes if isinstance(routes, Sequence) else ())]
    for holder in holders:
        entries = holder.get("plugins") if isinstance(holder, Mapping) else None
        for entry in entries if isinstance(entries, Sequence) else ():
            name = entry.get("name") if isinstance(entry, Mapping) else entry
            if isinstance(name, str):
                yield name


def package_of(plugin: Plugin) -> str:
    """Return the package whose modules are a plugin's own."""
    module = type(plugin).__module__
    return "gwproxy.plugins" if module.startswith("gwproxy.") else module.partition(".")[0]
