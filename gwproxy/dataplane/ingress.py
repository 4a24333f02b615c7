"""From a WSGI environ to a :class:`~gwproxy.context.Request`: judged, cleaned and in one form, before any plugin runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from urllib.parse import quote

from gwproxy.errors import BadRequest, HttpError
from gwproxy.http.bodies import RequestBody
from gwproxy.http.forwarding import client_address, client_scheme, is_trusted, request_id, strip_request
from gwproxy.http.headers import Headers
from gwproxy.http.hosts import parse_host
from gwproxy.http.paths import canonical, split_target
from gwproxy.messages import Request

_REFUSED_METHODS = frozenset(("CONNECT", "TRACE"))
# Of a target that was not understood: its query and fragment, and the credentials of its authority.
_NOT_FOR_LOGS = re.compile(r"[?#].*|(?:^|(?<=://))[^/?#]*@", re.DOTALL)


class Ingress:
    """Reads requests.

    :param trusted: networks of proxies whose forwarding headers are believed.
    """

    def __init__(self, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        self._trusted = tuple(trusted)

    def read(self, environ: dict[str, Any]) -> tuple[Request, str, HttpError | None]:
        """Return the request, its id, and why it cannot be routed (None if it can).

        A request that is refused is readable all the same, so that logs can show it.
        """
        method: str = environ["REQUEST_METHOD"]
        fields = environ.get("gwproxy.headers")
        if fields is None:
            fields = _fields_of(environ)
        raw = Headers(fields)
        ident = request_id(raw.get("X-Request-ID"))
        peer: str = environ.get("REMOTE_ADDR") or ""
        request = Request(method, "/", scheme=environ.get("wsgi.url_scheme", "http"), peer=peer, remote_addr=peer)
        try:
            self._fill(request, environ, raw, ident)
        except HttpError as error:
            request.path = request.path if request.path != "/" else _shown(_raw_target(environ))
            return request, ident, error
        return request, ident, None

    def _fill(self, request: Request, environ: dict[str, Any], raw: Headers, ident: str) -> None:
        length = environ.get("CONTENT_LENGTH")
        chunked = bool(environ.get("HTTP_TRANSFER_ENCODING"))
        declared = None if chunked else int(length) if length else 0
        request.body = RequestBody(environ["wsgi.input"], declared)
        stripped = strip_request(raw.items())
        request.headers = stripped.headers
        if is_trusted(request.peer, self._trusted):
            request.forwarded = stripped.forwarded
            request.scheme = client_scheme(request.scheme, stripped.forwarded)
        request.remote_addr = client_address(request.peer, raw.getlist("X-Forwarded-For"), self._trusted)
        request.http_version = environ.get("SERVER_PROTOCOL", "HTTP/1.1")[5:]
        if stripped.upgrade:
            request.upgrade = _upgrade(stripped.upgrade, request.http_version, environ)
        if request.method in _REFUSED_METHODS:
            raise HttpError(f"{request.method} is not proxied", status=405)
        target = split_target(_raw_target(environ))
        if stripped.host is None and request.http_version == "1.1":
            raise BadRequest("no Host")  # RFC 9112 section 3.2: also where the target has an authority
        request.host_header = target.authority or stripped.host or ""
        if request.host_header:
            request.host = parse_host(request.host_header).name
        request.query_string = target.query
        if target.path == "*":
            if request.method != "OPTIONS":
                raise BadRequest("the asterisk form is for OPTIONS")
            request.path = "*"
        else:
            request.path = canonical(target.path)


def _upgrade(protocol: str, version: str, environ: dict[str, Any]) -> str:
    """Return the protocol the client asks to switch to; empty for what may or must be ignored (RFC 9110 section 7.8).

    :raises HttpError: the server in front of the app gives no connection away.
    """
    if version == "1.0" or protocol == "h2c":  # h2c is obsolete (RFC 9113 section 3.1), and some clients always offer it
        return ""
    if "gwproxy.hijack" not in environ:
        raise HttpError("an upgrade, and not under gwproxy.worker.GatewayWorker", status=501)
    return protocol


def _raw_target(environ: dict[str, Any]) -> str:
    """The target as sent; a server that keeps no raw form costs the difference between ``%2F`` and ``/``."""
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if raw:
        return str(raw)
    path = quote(environ.get("PATH_INFO", "/").encode("latin-1"), safe="/!$&'()*+,;=:@~")
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def _fields_of(environ: dict[str, Any]) -> list[tuple[str, str]]:
    """The header fields as PEP 3333 gives them: order, case and repetitions are lost."""
    fields = [(key[5:].replace("_", "-").title(), value) for key, value in environ.items() if key.startswith("HTTP_")]
    for key, name in (("CONTENT_TYPE", "Content-Type"), ("CONTENT_LENGTH", "Content-Length")):
        if environ.get(key):
            fields.append((name, environ[key]))
    return fields


def _shown(target: str) -> str:
    """A refused target in a form that can stand in a log: printable, without what may be a secret."""
    return _NOT_FOR_LOGS.sub("", target)[:200].encode("unicode_escape").decode("ascii")
