"""A request taken as far as it goes without being sent: read, routed, its chain laid out."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from urllib.parse import urlsplit

from gwproxy.context import Context
from gwproxy.controlplane.build import Builder
from gwproxy.controlplane.effective import effective
from gwproxy.controlplane.parse import GLOBAL, Parsed
from gwproxy.dataplane.chain import Step
from gwproxy.dataplane.explanation import Explanation
from gwproxy.dataplane.gateway import admit, find_route
from gwproxy.dataplane.ingress import Ingress
from gwproxy.dataplane.snapshot import CompiledRoute, Snapshot
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.errors import CommandFailed, HttpError
from gwproxy.hookspecs import PHASES
from gwproxy.http.forwarding import entries_of
from gwproxy.messages import Request
from gwproxy.model import PluginRef
from gwproxy.registry import Registry

Headers = Sequence[tuple[str, str]]


@dataclass(slots=True)
class Trial:
    """What would become of a request.

    :ivar status: what the gateway itself answers before any plugin runs; None: it goes on to the plugins.
    :ivar reason: why, for :attr:`status`.
    :ivar explanations: of every route, in list order; none if the request could not be read.
    :ivar chain: phase by phase the entries that would run, as JSON's types.
    :ivar targets: the URLs one of which it would be sent to, if no plugin changes it.
    """

    request: Request
    status: int | None = None
    reason: str = ""
    explanations: list[Explanation] = field(default_factory=list)
    compiled: CompiledRoute | None = None
    params: dict[str, str] = field(default_factory=dict)
    chain: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)


class Rehearsal:
    """A configuration, built as a worker builds it, to try requests on.

    :param parsed: what could not be resolved for want of environment variables is left open.
    """

    def __init__(self, parsed: Parsed, registry: Registry, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        written = parsed.masked
        self._written: Mapping[str, Any] = {"routes": written} if isinstance(written, list) else written
        self._parsed = parsed
        self._registry = registry
        self._ingress = Ingress(trusted)
        if len(parsed.document.routes) != len(self._written["routes"]):
            names = "; ".join(f"{problem.path}: {problem.found}" for problem in parsed.warnings)
            raise CommandFailed(f"the routes cannot be known without the environment they are made for: {names}")
        self._snapshot: Snapshot = Builder(registry, Upstreams()).build(parsed, revision=0, digest="")

    def try_out(self, method: str, url: str, headers: Headers) -> Trial:
        """Say what would become of a request; nothing is sent.

        :param url: a path, or a URL whose host stands for the Host field unless ``headers`` has one.
        """
        request, ident, refused = self._ingress.read(environ_of(method, url, headers))
        if refused is not None:
            trial = Trial(request, refused.status, str(refused))
            trial.chain = self._chain(None)
            return trial
        ctx = Context(request, request_id=ident)
        trial = Trial(request)
        try:
            admit(find_route(self._snapshot, ctx), request)
        except HttpError as error:
            trial.status, trial.reason = error.status, str(error)
        if ctx.route is not None:
            trial.compiled = next(compiled for compiled in self._snapshot.routes if compiled.route is ctx.route)
            trial.params = ctx.params
            if trial.status == 503 and not self._missing(trial.compiled):
                trial.status, trial.reason = None, ""  # only this machine lacks a variable; a worker without it would refuse all
        if ctx.upstream is not None and trial.compiled is not None:
            live, path = trial.compiled.upstream, ctx.upstream.target
            trial.targets = [ctx.upstream.url] if live.single else [target.base + target.prefix + path for target in live.targets]
        trial.explanations = self._explain(request)
        trial.chain = self._chain(trial.compiled)
        return trial

    def _explain(self, request: Request) -> list[Explanation]:
        preflight = request.method == "OPTIONS" and "Origin" in request.headers
        wanted = request.headers.get("Access-Control-Request-Method") if preflight else None
        return self._snapshot.router.explain(
            request.host, request.path, wanted or request.method, request.headers, preflight=wanted is not None
        )

    def _chain(self, compiled: CompiledRoute | None) -> dict[str, list[dict[str, Any]]]:
        """Lay out the chain of a route; without a route the global plugins' ``response``."""
        steps = compiled.chain if compiled is not None else {"response": self._snapshot.unmatched["response"]}
        made = {phase: [self._step(step) for step in steps.get(phase, ())] for phase in PHASES}
        for ref, reason in self._open(compiled):
            registered = self._registry.registered(ref.name)
            if registered is None:
                continue  # nothing is known of it; the route answers 503
            priority = ref.priority if ref.priority is not None else registered.plugin.priority
            for phase in registered.hooks:
                if phase in steps:
                    made[phase].append(_entry(ref.name, priority, {"config": None, "unknown": reason}))
        return {phase: sorted(entries, key=lambda entry: int(entry["priority"])) for phase, entries in made.items()}

    def _step(self, step: Step) -> dict[str, Any]:
        entry = step.config.entry
        refs, written = self._owner(entry.route)
        same = [position for position, ref in enumerate(refs) if ref.name == step.plugin]
        shown = effective(step.plugin, step.config, written["plugins"][same[entry.index]].get("config", {}), self._registry)
        mode, on_error = "shadow" if step.shadow else "enforce", "ignore" if step.ignore else "fail"
        return _entry(step.plugin, step.priority, {"mode": mode, "on_error": on_error, "budget": step.budget, "config": shown})

    def _owner(self, ident: str | None) -> tuple[Sequence[PluginRef], Mapping[str, Any]]:
        """Return the plugin entries of a route (None: the global ones), and what holds them, as written."""
        document = self._parsed.document
        if ident is None:
            return document.plugins, self._written
        index = next(i for i, route in enumerate(document.routes) if route.id == ident)
        return document.routes[index].plugins, self._written["routes"][index]

    def _open(self, compiled: CompiledRoute | None) -> Iterator[tuple[PluginRef, str]]:
        """Yield the entries of a route, global ones too, that cannot run here, each with the reason."""
        document, own = self._parsed.document, compiled.route.plugins if compiled is not None else ()
        routes = document.routes
        index = next((i for i, route in enumerate(routes) if compiled is not None and route is compiled.route), None)
        for (owner, position), reason in sorted(self._parsed.unavailable.items()):
            if owner == GLOBAL and document.plugins[position].name not in {ref.name for ref in own}:
                yield document.plugins[position], reason
            elif owner == index:
                yield own[position], reason

    def _missing(self, compiled: CompiledRoute) -> bool:
        return any(self._registry.registered(ref.name) is None for ref, _ in self._open(compiled))


def _entry(plugin: str, priority: int, more: dict[str, Any]) -> dict[str, Any]:
    return {"plugin": plugin, "priority": priority, **more}


def environ_of(method: str, url: str, headers: Headers) -> dict[str, Any]:
    """Return the WSGI environ of a request without a body, as the gateway's own worker makes it.

    :param url: an http URL becomes the origin form and a Host field, as clients send it.
    """
    fields, target, scheme = list(headers), url, "http"
    host = "localhost"
    if url.lower().startswith(("http://", "https://")):
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise CommandFailed(f"{url} is no URL: {error}") from None
        scheme, host = parts.scheme, parts.netloc.rpartition("@")[2]
        target = url[url.index("//") + 2 + len(parts.netloc) :].partition("#")[0]  # a client sends no fragment
        target = target if target.startswith("/") else f"/{target}"
    if not any(name.lower() == "host" for name, _ in fields):
        fields.insert(0, ("Host", host))
    try:
        entries = entries_of(fields)
    except ValueError as error:
        raise CommandFailed(f"no request can have that header: {error}") from None
    return {
        "REQUEST_METHOD": method,
        "RAW_URI": target,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": scheme,
        "wsgi.input": io.BytesIO(),
        "gwproxy.fields": entries,
        "HTTP_X_REQUEST_ID": next((value for name, value in fields if name.lower() == "x-request-id"), None),
        "gwproxy.hijack": None,  # never called: nothing is sent
    }
