"""A request taken as far as it goes without being sent: read, routed, its chain laid out."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from urllib.parse import urlsplit

from gwproxy.context import Context, UpstreamChoice
from gwproxy.controlplane.build import Builder
from gwproxy.controlplane.chains import Chains, Placed
from gwproxy.controlplane.parse import Environment, Parsed, parse
from gwproxy.controlplane.restoring import restore
from gwproxy.controlplane.sending import Sending, not_sent, notes, sendings
from gwproxy.controlplane.stand_ins import StandIns
from gwproxy.controlplane.text import read
from gwproxy.dataplane.explanation import Explanation
from gwproxy.dataplane.gateway import admit, find_route
from gwproxy.dataplane.ingress import Ingress
from gwproxy.dataplane.snapshot import CompiledRoute, Snapshot
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.errors import CommandFailed, HttpError
from gwproxy.http.bodies import Readable
from gwproxy.http.forwarding import entries_of
from gwproxy.messages import Request
from gwproxy.registry import Registry

Headers = Sequence[tuple[str, str]]
Networks = Sequence[IPv4Network | IPv6Network]


@dataclass(frozen=True, slots=True)
class Destination:
    """An upstream that a request may go to.

    :ivar share: of such requests, 0 to 1.
    :ivar reason: why it, where the route has several; else empty.
    :ivar sendings: what each of its targets would be sent.
    """

    upstream: LiveUpstream
    share: float
    reason: str
    sendings: tuple[Sending, ...]


@dataclass(slots=True)
class Trial:
    """What would become of a request.

    :ivar status: what the gateway itself answers before any plugin runs; None: it goes on to the plugins.
    :ivar reason: why, for :attr:`status`.
    :ivar explanations: of every route, in list order; none if the request could not be read.
    :ivar chain: phase by phase the entries that would run.
    :ivar ways: the upstreams that it may go to, one if that is certain.
    :ivar targets: the URLs one of which it would be sent to, if no plugin changes it.
    :ivar sendings: what each target would be sent; none if :attr:`status` is the answer.
    :ivar not_sent: the client's fields that are for the gateway alone.
    :ivar notes: what of :attr:`sendings` is not the last word.
    """

    request: Request
    status: int | None = None
    reason: str = ""
    explanations: list[Explanation] = field(default_factory=list)
    compiled: CompiledRoute | None = None
    params: dict[str, str] = field(default_factory=dict)
    chain: dict[str, list[Placed]] = field(default_factory=dict)
    ways: list[Destination] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    sendings: list[Sending] = field(default_factory=list)
    not_sent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _ways(ctx: Context, compiled: CompiledRoute) -> Iterator[Destination]:
    traffic, before = compiled.traffic, ctx.upstream
    assert before is not None  # noqa: S101 - the caller has looked
    if traffic is None:
        yield Destination(compiled.upstream, 1.0, "", tuple(sendings(ctx, compiled.upstream)))
        return
    for way in traffic.ways(ctx):
        ctx.upstream = choice = UpstreamChoice(before.base, before.target, before.timeout)
        traffic.lead(choice, way.live)
        yield Destination(*way, tuple(sendings(ctx, way.live)))
    ctx.upstream = before


class Rehearsal:
    """A configuration, built as a worker builds it, to try requests on.

    :param parsed: what could not be resolved for want of environment variables is left open.
    :param written: shows references where something stands in for what they refer to.

    :ivar parsed: with its warnings.
    :ivar snapshot: what a worker would serve by.
    :ivar chains: of its routes.
    """

    def __init__(self, parsed: Parsed, registry: Registry, trusted: Networks, written: Callable[[str], str] = str) -> None:
        self.parsed = parsed
        self.written = written
        self._ingress = Ingress(trusted)
        tree = parsed.tree
        if len(parsed.document.routes) != len(tree if isinstance(tree, list) else tree["routes"]):
            names = "; ".join(f"{problem.path}: {problem.found}" for problem in parsed.warnings)
            raise CommandFailed(f"the routes cannot be known without the environment they are made for: {names}")
        self.snapshot: Snapshot = Builder(registry, Upstreams()).build(parsed, revision=0, digest="")
        self.chains = Chains(parsed, registry, self.snapshot, tree)

    @classmethod
    def of(
        cls,
        data: bytes,
        file: str,
        registry: Registry,
        *,
        trusted: Networks,
        may_reference: Callable[[str], bool],
        lenient: bool,
        variables: Mapping[str, str] = os.environ,
        kept: Any = None,
    ) -> Rehearsal:
        """Read a configuration and build it.

        :param file: what messages call it.
        :param trusted: networks of proxies whose forwarding headers are believed.
        :param may_reference: whether a configuration may refer to a variable of that name.
        :param lenient: True: a plugin that is not installed here makes its routes answer 503. False: it refuses the configuration.
        :param kept: the tree whose secrets are meant where this configuration has masks, as when it is applied; None: there is none.
        :param variables: the environment. Upstreams that it does not know are shown as the references they are.
        :raises ConfigurationRefused: it is not valid.
        :raises CommandFailed: its routes cannot be known without variables that are not set.
        """
        written = read(data, file).tree
        tree = restore(written, kept, registry)[0] if kept is not None else written
        stand_ins = StandIns(tree, variables)
        environment = Environment(stand_ins.variables, may_reference, strict=False)
        parsed = parse(
            data,
            file=file,
            plugins=registry,
            environment=environment,
            lenient=lenient,
            tree=None if tree is written else tree,
        )
        return cls(parsed, registry, trusted, stand_ins.written)

    def try_out(self, method: str, url: str, headers: Headers) -> Trial:
        """Say what would become of a request; nothing is sent.

        :param url: a path, or a URL whose host stands for the Host field unless ``headers`` has one.
        """
        request, ident, refused = self._ingress.read(environ_of(method, url, headers))
        if refused is not None:
            return Trial(request, refused.status, str(refused), chain=self.chains.of(None))
        ctx = Context(request, request_id=ident)
        trial = Trial(request)
        try:
            admit(find_route(self.snapshot, ctx), request)
        except HttpError as error:
            trial.status, trial.reason = error.status, str(error)
        if ctx.route is not None:
            trial.compiled = next(compiled for compiled in self.snapshot.routes if compiled.route is ctx.route)
            trial.params = ctx.params
            if trial.status == 503 and not self.chains.lacks_plugin(trial.compiled):
                trial.status, trial.reason = None, ""  # only this machine lacks a variable; a worker without it would refuse all
        trial.explanations = self._explain(request)
        trial.chain = self.chains.of(trial.compiled)
        if ctx.upstream is not None and trial.compiled is not None:
            trial.ways = list(_ways(ctx, trial.compiled))
            sent = [sending for way in trial.ways for sending in way.sendings]
            trial.targets = [sending.url for sending in sent]
            if trial.status is None:
                trial.sendings, trial.not_sent, trial.notes = sent, not_sent(headers, sent), list(notes(trial.chain))
        return trial

    def as_data(self, trial: Trial) -> dict[str, Any]:
        """Return all there is to say of a trial, as JSON's types, secrets masked."""
        request = trial.request
        upstream = trial.ways[0].upstream if len(trial.ways) == 1 else trial.compiled.upstream if trial.compiled else None
        asked = ("method", "scheme", "host", "path", "query_string")
        return {
            "request": {name: getattr(request, name) for name in asked},
            "status": trial.status,
            "reason": trial.reason or None,
            "route": trial.compiled.route.id if trial.compiled else None,
            "params": trial.params,
            "routes": [{"id": e.route.id, "path": e.route.path, "matched": e.won, "reason": e.reason} for e in trial.explanations],
            "chain": {phase: [self.chains.as_data(placed) for placed in entries] for phase, entries in trial.chain.items()},
            "upstream": self.written(upstream.name) if upstream else None,
            "ways": [
                {
                    "upstream": self.written(way.upstream.name),
                    "share": round(way.share, 6),
                    "reason": way.reason or None,
                    "targets": [self.written(sending.url) for sending in way.sendings],
                }
                for way in trial.ways
            ],
            "mirror": self.mirrored(trial),
            "targets": [self.written(target) for target in trial.targets],
            "sent": [
                {
                    "url": self.written(sending.url),
                    "headers": [{"name": name, "value": value and self.written(value)} for name, value in sending.headers],
                }
                for sending in trial.sendings
            ],
            "not_sent": trial.not_sent,
            "notes": trial.notes,
            "warnings": [asdict(warning) for warning in self.parsed.warnings],
        }

    def mirrored(self, trial: Trial) -> dict[str, Any] | None:
        """Return who gets copies of such requests; None: nobody."""
        mirror = trial.compiled.mirror if trial.compiled is not None else None
        if mirror is None or trial.status is not None:
            return None
        return {"upstream": self.written(mirror.upstream.name), "share": mirror.described.share, "max_body": mirror.described.max_body}

    def _explain(self, request: Request) -> list[Explanation]:
        preflight = request.method == "OPTIONS" and "Origin" in request.headers
        wanted = request.headers.get("Access-Control-Request-Method") if preflight else None
        return self.snapshot.router.explain(
            request.host, request.path, wanted or request.method, request.headers, preflight=wanted is not None
        )


def environ_of(method: str, url: str, headers: Headers, body: Readable | None = None) -> dict[str, Any]:
    """Return the WSGI environ of a request, as the gateway's own worker makes it.

    :param url: an http URL becomes the origin form and a Host field, as clients send it.
    :param body: what follows; ``headers`` say how long it is, or that it is chunked. None: nothing does.
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
        "wsgi.input": io.BytesIO() if body is None else body,
        "gwproxy.fields": entries,
        "CONTENT_LENGTH": _first(fields, "content-length") if body is not None else None,
        "HTTP_TRANSFER_ENCODING": _first(fields, "transfer-encoding") if body is not None else None,
        "HTTP_X_REQUEST_ID": _first(fields, "x-request-id"),
        "gwproxy.hijack": None,  # never called: nothing is sent
    }


def _first(fields: Headers, wanted: str) -> str | None:
    return next((value for name, value in fields if name.lower() == wanted), None)
