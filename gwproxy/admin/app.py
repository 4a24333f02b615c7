"""The admin listener's WSGI application: who may ask, what for, and the answer. Begin at :meth:`AdminApp._answer`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any

from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import IntegerConverter, Map, MapAdapter, Rule
from werkzeug.wrappers import Request

from gwproxy.admin import bodies, token_file
from gwproxy.admin.answers import ALWAYS, Answer, EventStream, Refused, encode, status_line
from gwproxy.admin.endpoints import Call, Endpoint
from gwproxy.admin.guard import Caller, Doorkeeper, check_browser, hosts_of
from gwproxy.admin.openapi import openapi
from gwproxy.admin.plane import Plane
from gwproxy.admin.probes import PROBES
from gwproxy.admin.table import ENDPOINTS
from gwproxy.errors import CommandFailed, ConfigurationRefused, HttpError, StoreUnavailable
from gwproxy.registry import Registry
from gwproxy.settings import Settings
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore, Retention
from gwproxy.store.connection import connect
from gwproxy.store.tokens import TokenStore, covers

log = logging.getLogger("gwproxy.admin")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

STORE_TIMEOUT = 2.0  # seconds
DESCRIPTION = "/openapi.json"

#: What stands for a parameter of a path: a number for a revision, one segment for all others.
_CONVERTERS = {"revision": "number:revision"}


class _Number(IntegerConverter):
    regex = "[0-9]{1,15}"  # the digits of ASCII only


def routes(endpoints: Iterable[Endpoint]) -> Map:
    """Return the map from paths to endpoints: exact, with no slash merged or added."""
    rules = [
        Rule(_rule(endpoint.path), endpoint=endpoint, methods=[endpoint.method], strict_slashes=True, merge_slashes=False)
        for endpoint in endpoints
    ]
    own = Rule(DESCRIPTION, endpoint=None, methods=["GET"], strict_slashes=True, merge_slashes=False)
    return Map([own, *rules], redirect_defaults=False, merge_slashes=False, converters={"number": _Number})


def _rule(path: str) -> str:
    parts = [f"<{_CONVERTERS.get(part[1:-1], part[1:-1])}>" if part.startswith("{") else part for part in path.split("/")]
    return "/".join(parts)


@lru_cache(maxsize=1)
def _routes() -> Map:
    return routes(ENDPOINTS)


@lru_cache(maxsize=1)
def _description() -> bytes:
    """Return the answer to :data:`DESCRIPTION`. Made when somebody asks: it takes longer than all else of a start."""
    return encode(openapi(ENDPOINTS))


class AdminApp:
    """The application of the one process that serves the admin listener; the worker calls :meth:`start` and :meth:`drain`.

    :param settings: None reads the environment when started.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._map = _routes()
        self._started = False

    def start(self) -> None:
        """Load plugins, read the token; the store is asked at the first request.

        :raises CommandFailed: a setting makes no sense.
        """
        settings = self._settings or Settings.from_environment()
        if settings.redis_url is None:
            raise CommandFailed("the admin listener needs a store; name it in GWPROXY_REDIS_URL")
        client = connect(settings.redis_url, timeout=STORE_TIMEOUT, max_connections=32)
        tokens = TokenStore(client, settings.prefix)
        self._hosts = hosts_of(settings)
        store = ConfigurationStore(client, settings.prefix, Retention(settings.history_keep, settings.history_days))
        audit = AuditLog(client, settings.prefix)
        self.plane = Plane(settings, store, CandidateStore.of(store), tokens, audit, Registry.discover())
        self._door = Doorkeeper(token_file.read(settings), tokens, self._note_guess)
        self._started = True

    def drain(self) -> None:
        """Have what goes on for long end."""
        if self._started:
            self.plane.stopping = True

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        if not self._started:  # the worker has logged why
            return _send(start_response, Answer({"error": "Service Unavailable"}, 503), head_only=False)
        request = Request(environ)
        try:
            answer = self._answer(request)
        except HttpError:
            raise  # of the body as it was read: the worker's to answer
        except Refused as refused:
            answer = refused.answer
        except StoreUnavailable as error:
            log.warning("admin_store_away reason=%s", error)
            answer = Refused(503, "the store does not answer", fields=(("Retry-After", "1"),)).answer
        except ConfigurationRefused as refused:
            answer = Refused(422, "the configuration is not valid", problems=refused.problems).answer
        except Exception:
            log.exception("admin_failed method=%s path=%r", request.method, request.path)
            answer = Answer({"error": "Internal Server Error"}, 500)
        if isinstance(answer, EventStream):
            return _stream(start_response, answer, head_only=request.method == "HEAD")
        return _send(start_response, answer, head_only=request.method == "HEAD")

    def _answer(self, request: Request) -> Answer | EventStream:
        """Judge a request from the outside in: the page that sent it, the token, what is asked, the role, the body."""
        probe = PROBES.get(request.path)
        if probe is not None:
            return _probed(request, lambda: probe(self.plane))
        if not self._hosts.allow(request.headers.get("Host", "")):
            raise Refused(403, "no such host here; GWPROXY_ADMIN_HOSTS names those there are beside the listener's own address")
        check_browser(request)
        caller = self._door.admit(request)
        endpoint, path = self._find(request)
        if endpoint is None:
            return Answer(_description())
        self._allow(request, caller, endpoint)
        try:
            call = self._read(request, caller, endpoint, path)
        except Refused as refused:
            if request.method != "GET" and endpoint.role != "viewer":  # who may change something has tried to
                self.plane.record(caller.name, f"{request.method} {request.path[:200]}", "refused", str(refused))
            raise
        return endpoint.function(call)

    def _find(self, request: Request) -> tuple[Endpoint | None, dict[str, Any]]:
        """Return the endpoint (None: the description of all) and the parameters of the path.

        :raises Refused: 404, 405.
        """
        adapter: MapAdapter = self._map.bind("localhost")  # the Host field decides nothing
        try:
            endpoint, path = adapter.match(request.path, request.method)
        except NotFound:
            raise Refused(404, "there is nothing of that name; /openapi.json describes what there is") from None
        except MethodNotAllowed as error:
            allowed = ", ".join(sorted(error.valid_methods or ()))
            raise Refused(405, "Method Not Allowed", fields=(("Allow", allowed),)) from None
        return endpoint, dict(path)

    def _allow(self, request: Request, caller: Caller, endpoint: Endpoint) -> None:
        if covers(caller.role, endpoint.role):
            return
        reason = f"the role {endpoint.role} is needed for this; the token {caller.name!r} has the role {caller.role}"
        self.plane.record(caller.name, f"{request.method} {request.path[:200]}", "refused", reason)
        raise Refused(403, reason)

    def _note_guess(self, client: str) -> None:
        self.plane.record("unknown", "authenticate", "refused", f"a wrong token from {client or 'the UNIX socket'}")

    def _read(self, request: Request, caller: Caller, endpoint: Endpoint, path: dict[str, Any]) -> Call:
        query = bodies.parameters(endpoint.query, request)
        path = {**path, "kind": endpoint.of}
        if endpoint.body is None:
            return Call(request, self.plane, caller, path, query)
        data = bodies.read_body(request, endpoint.media)
        if endpoint.document:
            return Call(request, self.plane, caller, path, query, None, data)
        body = bodies.checked(endpoint.body, bodies.load(data))
        return Call(request, self.plane, caller, path, query, body, data)


def _probed(request: Request, probe: Callable[[], bool]) -> Answer:
    if request.method not in ("GET", "HEAD"):
        raise Refused(405, "Method Not Allowed", fields=(("Allow", "GET, HEAD"),))
    well = probe()
    return Answer({"status": "ok" if well else "unavailable"}, 200 if well else 503)


def _send(start_response: StartResponse, answer: Answer, *, head_only: bool) -> list[bytes]:
    body = b"" if answer.status == 204 else answer.value if isinstance(answer.value, bytes) else encode(answer.value)
    fields = [*ALWAYS, *answer.fields]
    if answer.status != 204:
        fields += [("Content-Type", answer.media), ("Content-Length", str(len(body)))]
    start_response(status_line(answer.status), fields)
    return [b"" if head_only else body]


def _stream(start_response: StartResponse, answer: EventStream, *, head_only: bool) -> Iterator[bytes]:
    start_response("200 OK", [*ALWAYS, ("Content-Type", "text/event-stream"), ("X-Accel-Buffering", "no")])
    return iter(()) if head_only else iter(answer.pieces())
