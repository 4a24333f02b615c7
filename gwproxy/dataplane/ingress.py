"""From a WSGI environ to a :class:`~gwproxy.context.Request`: judged, cleaned and in one form, before any plugin runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from urllib.parse import quote

from gwproxy.errors import BadRequest, HttpError
from gwproxy.http.bodies import NO_BODY, NoBody, RequestBody
from gwproxy.http.forwarding import Entry, Stripped, client_address, client_scheme, entries_of, is_trusted, request_id, strip_request
from gwproxy.http.headers import Headers
from gwproxy.http.hosts import parse_host
from gwproxy.http.paths import read_target, split_target
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

        :raises BadRequest: not even that.
        """
        known: Stripped | None = environ.get("gwproxy.stripped")  # for all requests that come with the same header
        ident = request_id(environ.get("HTTP_X_REQUEST_ID"))
        raw = environ.get("RAW_URI") or _raw_target(environ)
        peer: str = environ.get("REMOTE_ADDR") or ""
        try:
            stripped = _stripped(environ) if known is None else known
        except BadRequest as error:
            request = _request(environ, peer, Headers(), "/")
            _show(request, raw)
            return request, ident, error.with_traceback(None)  # which would keep all of this, and be kept by it
        forwarded, host, upgrade = stripped.forwarded, stripped.host, stripped.upgrade
        request = _request(environ, peer, stripped.headers if known is None else stripped.copied(), "/")
        if self._trusted and is_trusted(peer, self._trusted):
            request.forwarded = forwarded
            request.scheme = client_scheme(request.scheme, forwarded)
            request.remote_addr = client_address(peer, forwarded.getlist("X-Forwarded-For"), self._trusted)
        elif ":" in peer:
            request.remote_addr = client_address(peer, (), ())
        try:
            _fill(request, environ, raw, host, upgrade)
        except HttpError as error:
            _show(request, raw)
            return request, ident, error.with_traceback(None)
        return request, ident, None


def _stripped(environ: dict[str, Any]) -> Stripped:
    """Sort out the header.

    :raises BadRequest: as :func:`~gwproxy.http.forwarding.strip_request`.
    """
    entries = environ.get("gwproxy.fields")
    return strip_request(_entries_of(environ) if entries is None else entries)


def _request(environ: dict[str, Any], peer: str, headers: Headers, path: str) -> Request:
    method, scheme = environ["REQUEST_METHOD"], environ["wsgi.url_scheme"]
    return Request(method, path, "", headers, scheme=scheme, peer=peer, remote_addr=peer, body=_body_of(environ))


def _fill(request: Request, environ: dict[str, Any], raw: str, host: str | None, upgrade: str) -> None:
    """Read what a request that can be routed must have right."""
    version = environ["SERVER_PROTOCOL"]
    if version != "HTTP/1.1":
        request.http_version = version[5:]
    elif host is None:
        raise BadRequest("no Host")  # RFC 9112 section 3.2: also where the target has an authority
    if upgrade:
        request.upgrade = _upgrade(upgrade, request.http_version, environ)
        if request.body is NO_BODY:
            request.body = NoBody()
    if request.method in _REFUSED_METHODS:
        raise HttpError(f"{request.method} is not proxied", status=405)
    path, query, authority = read_target(raw)
    if authority is not None:
        host = authority
    if host:
        request.host_header = host
        request.host = parse_host(host).name
    request.query_string = query
    if path == "*" and request.method != "OPTIONS":
        raise BadRequest("the asterisk form is for OPTIONS")
    request.path = path


def _body_of(environ: dict[str, Any]) -> RequestBody:
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return RequestBody(environ["wsgi.input"], None)
    declared = environ.get("CONTENT_LENGTH")
    length = int(declared) if declared else 0
    return RequestBody(environ["wsgi.input"], length) if length else NO_BODY


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
    raw = environ.get("REQUEST_URI")
    if raw:
        return str(raw)
    path = quote(environ.get("PATH_INFO", "/").encode("latin-1"), safe="/!$&'()*+,;=:@~")
    query = environ.get("QUERY_STRING", "")
    return f"{path}?{query}" if query else path


def _entries_of(environ: dict[str, Any]) -> list[Entry]:
    """The header fields as PEP 3333 gives them: order, case and repetitions are lost.

    :raises ValueError: a server let pass what is no field.
    """
    fields = [(key[5:].replace("_", "-").title(), value) for key, value in environ.items() if key.startswith("HTTP_")]
    for key, name in (("CONTENT_TYPE", "Content-Type"), ("CONTENT_LENGTH", "Content-Length")):
        if environ.get(key):
            fields.append((name, environ[key]))
    return entries_of(fields)


def _show(request: Request, raw: str) -> None:
    """Give a request that is refused a path and a query for logs, as far as its target was not understood before that."""
    if request.path != "/":
        return
    with contextlib.suppress(BadRequest):
        request.query_string = split_target(raw).query
    request.path = _NOT_FOR_LOGS.sub("", raw)[:200].encode("unicode_escape").decode("ascii")  # without what may be a secret
