"""The URLs a request may be sent to, as they may stand in a configuration."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from gwproxy.errors import BadRequest
from gwproxy.http.addresses import is_forbidden
from gwproxy.http.hosts import parse_host
from gwproxy.http.paths import canonical

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PRINTABLE = re.compile(r"[!-~]+")
_NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
_DOTTED = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!$)|$)){4}")
_METADATA = {"metadata", "metadata.google.internal", "instance-data"}


def is_url(text: str) -> bool:
    """Whether ``text`` is meant as a URL rather than as the name of an upstream."""
    return "://" in text or "/" in text


@lru_cache(maxsize=4096)  # many routes share an upstream's URL
def url_problem(url: str) -> str | None:
    """Return what is expected of an upstream's URL instead of ``url``; None if it is one.

    ``http`` or ``https``, a host, a port from 1 to 65535, a path. No credentials, query or fragment: they would go to the
    upstream with every request, or nowhere. Not to link-local addresses and cloud metadata services.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        return "a URL such as http://10.0.0.5:8000"
    if scheme[1].lower() not in ("http", "https"):
        return "http:// or https://"
    if not _PRINTABLE.fullmatch(url):
        return "a URL of printable ASCII characters"
    authority, slash, path = url[scheme.end() :].partition("/")
    if "#" in url:
        return "a URL without a fragment"
    if "?" in url:
        return "a URL without a query"
    if "@" in authority:
        return "a URL without credentials; request_transform can set an Authorization header"
    return _authority_problem(authority) or _path_problem(slash + path)


def _authority_problem(authority: str) -> str | None:
    try:
        host, port = parse_host(authority)
    except BadRequest:
        return "a host, and a port from 1 to 65535 if there is one"
    if port is None and authority.endswith(":"):
        return "a port from 1 to 65535 after the colon"
    # The system's resolver reads 0xa9fea9fe and 169.16689662 as addresses too.
    if _NUMERIC.fullmatch(host.rpartition(".")[2]) and not _DOTTED.fullmatch(host):
        return "an IPv4 address as four decimal numbers"
    if is_forbidden(host) or host in _METADATA:
        return "an address that is neither link-local nor a cloud's metadata service"
    return None


def _path_problem(path: str) -> str | None:
    try:
        if path and canonical(path) != path:
            return f"a canonical path: {canonical(path)}"
    except BadRequest as error:
        return f"a path that can be forwarded ({error})"
    return None


def resolve_problem(url: str, resolve: str) -> str | None:
    """Return what is expected of the URL of a target with ``resolve`` instead of ``url``; None if it can be looked up.

    :param resolve: ``a``, ``aaaa``, ``all`` or ``srv``.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host or _DOTTED.fullmatch(host):
        return "a name that DNS can be asked for, or no resolve"
    if resolve != "srv":
        return None
    if parts.port is not None:
        return "no port: DNS tells it of each server of a service"
    if not re.fullmatch(r"_[^.]+\._[^.]+\.[^_.].*", host):
        return "the name of a service, such as http://_http._tcp.users.internal"
    return None


def check_server(text: str) -> None:
    """Check the address of a DNS server.

    :raises ValueError: it is none.
    """
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
    elif ":" in text:
        host, _, port = text.partition(":")
    try:
        ip_address(host)
    except ValueError:
        raise ValueError("an IP address, with a port from 1 to 65535 if there is one") from None
    if port and not 0 < int(port.removeprefix(":")) < 65536:
        raise ValueError("a port from 1 to 65535")
