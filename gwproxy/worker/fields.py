"""What the fields of a request's head may say: the rules a gateway adds to those of its parser.

Pure functions on ``(name, value)`` pairs that are grammatically right already. Any parser in front uses them, so that
no request is accepted by one and refused by another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from gwproxy.errors import BadRequest, HttpError

# RFC 3986 section 3.2.2, without what no name on a network has: no user, no list, no escapes.
HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")

# A second line of these would let two readers of one request see different ones.
_SINGLE = frozenset({"CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_AUTHORIZATION", "HTTP_HOST", "HTTP_ORIGIN"})


@lru_cache(maxsize=1024)
def cgi_name(name: str) -> str:
    """Return the WSGI variable of a header: ``X-A`` is ``HTTP_X_A``."""
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_LENGTH", "CONTENT_TYPE") else "HTTP_" + key


def fold(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the WSGI variables of ``pairs``; lines of one name are joined, cookies by ``; ``, others by ``,``.

    :raises BadRequest: a field that may stand once stands twice (H11, C09, N18).
    """
    folded: dict[str, str] = {}
    for name, value in pairs:
        key = cgi_name(name)
        if key not in folded:
            folded[key] = value
        elif key in _SINGLE:
            raise BadRequest(f"{name} twice")
        else:
            folded[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
    return folded


def check(folded: Mapping[str, str], *, http11: bool) -> None:
    """Refuse a head that two readers could understand differently, though it is grammatical.

    :raises BadRequest: ``Host`` is missing (RFC 9112 section 3.2), no host or a list; ``Origin`` is a list.
    :raises HttpError: 501; a transfer coding other than ``chunked`` alone.
    """
    host = folded.get("HTTP_HOST")
    if host is None:
        if http11:
            raise BadRequest("no Host")
    elif not HOST.fullmatch(host):
        raise BadRequest("Host is none")
    origin = folded.get("HTTP_ORIGIN")
    if origin is not None and ("," in origin or " " in origin):
        raise BadRequest("Origin is a list")
    coding = folded.get("HTTP_TRANSFER_ENCODING")
    if coding is not None and coding.lower() != "chunked":
        raise HttpError("transfer coding", status=501)


def wants_close(folded: Mapping[str, str], *, http11: bool) -> bool:
    """Whether the client wants the connection closed after this request (RFC 9112 section 9.3)."""
    options = folded.get("HTTP_CONNECTION")
    if options is None:
        return not http11
    tokens = {token.strip().lower() for token in options.split(",")}
    return "close" in tokens or (not http11 and "keep-alive" not in tokens)
