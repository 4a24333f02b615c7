"""The one canonical path: matched, shown to plugins, logged and forwarded.

Two spellings of a path that an upstream may take for one must not take two routes (RFC 3986 section 6.2.2). What has
an equivalent plain spelling is rewritten to it; what upstreams are known to read differently is refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from gwproxy.errors import BadRequest

_TARGET = re.compile(r"[!\"$-~]+")  # printable ASCII but '#': RFC 9112 section 3.2 has no fragment in a target
_ABSOLUTE = re.compile(r"https?://([^/?]*)([^?]*)\??(.*)", re.IGNORECASE)

_REFUSED = r"\x00-\x20\x7f-\U0010ffff?#\\"
# A path that is canonical already, and the most paths are. Segments with a leading dot and escapes take the long way.
_ORDINARY = re.compile(rf"/(?:[^./%{_REFUSED}][^/%{_REFUSED}]*+(?:/|\Z))*")
_NEVER = re.compile(rf"[{_REFUSED}]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_SLASHES = re.compile(r"//+")
# %2F parts segments here: what decodes it sees a dot segment. So does ';': Tomcat drops parameters before it resolves.
_DOT_SEGMENT = re.compile(r"(?:/|%2F)\.\.?(?=/|%2F|;|%3B|\Z)", re.IGNORECASE)

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986 section 2.3
_FORBIDDEN = frozenset((*range(0x20), 0x7F, 0x5C))


class Target(NamedTuple):
    """The parts of a request target, as sent.

    :ivar path: not canonical yet; ``*`` for the asterisk form, which only OPTIONS may have.
    :ivar query: without its ``?``. No query and an empty one are the same.
    :ivar authority: of the absolute form; it replaces the Host field (RFC 9112 section 3.2.2). None for the other forms.
    """

    path: str
    query: str
    authority: str | None = None


def split_target(raw: str) -> Target:
    """Split a request target: origin form, absolute form or ``*`` (RFC 9112 section 3.2).

    :param raw: as sent, latin-1 decoded.
    :raises BadRequest: it has another form, a fragment, credentials, or a byte outside printable ASCII.
    """
    if _TARGET.fullmatch(raw) is None:
        raise BadRequest("the target is empty, or has a fragment or a byte outside printable ASCII")
    if raw[0] == "/":
        path, _, query = raw.partition("?")
        return Target(path, query)
    if raw == "*":
        return Target(raw, "")
    match = _ABSOLUTE.fullmatch(raw)
    if match is None:
        raise BadRequest("the target is neither a path nor an http URL")
    authority, path, query = match.groups()
    if not authority or "@" in authority:
        raise BadRequest("the target's URL has no host, or has credentials")
    return Target(path or "/", query, authority)


@lru_cache(maxsize=4096)
def read_target(raw: str) -> Target:
    """Split a request target, and bring its path into the canonical form; popular ones are remembered.

    :raises BadRequest: as :func:`split_target` and :func:`canonical`.
    """
    target = split_target(raw)
    return target if target.path == "*" else Target(canonical(target.path), target.query, target.authority)


def canonical(path: str) -> str:
    """Return the canonical form of ``path``; that of a canonical path is itself.

    Escaped unreserved characters are decoded, once; several slashes become one; every other escape stays as sent, the
    case of its digits included. What is double-encoded stays: ``%252e`` is the text ``%2e``. Dot segments are ``.`` and
    ``..`` also as ``%2e``, beside an encoded slash (``..%2f``), and with parameters (``..;x``).

    :raises BadRequest: it does not start with ``/``, or has a dot segment, a backslash (``%5C`` too), a control
        character (raw or escaped), a space, ``?``, ``#``, a byte from 0x80 up, or a ``%`` without two hex digits.
    """
    if _ORDINARY.fullmatch(path) is not None:
        return path
    if path[:1] != "/":
        raise BadRequest("the path does not start with a slash")
    if _NEVER.search(path) is not None:
        raise BadRequest("the path has a backslash, or a character that must be escaped")
    path = _SLASHES.sub("/", _ESCAPE.sub(_decode, path))
    if _DOT_SEGMENT.search(path) is not None:
        raise BadRequest("the path has a dot segment")
    return path


def _decode(escape: re.Match[str]) -> str:
    digits = escape[1]
    if digits is None:
        raise BadRequest("the path has a '%' without two hex digits")
    code = int(digits, 16)
    if code in _FORBIDDEN:
        raise BadRequest("the path has an escaped control character or backslash")
    return chr(code) if code in _UNRESERVED else escape[0]


def strip(path: str, matched: str) -> str:
    """Return ``path`` without ``matched``, the part of it that a route's pattern took; ``/`` if nothing is left.

    The rest is judged anew: a regex may end inside a segment, and ``/v1..`` less ``/v1`` would be ``/..``.

    :raises BadRequest: the rest is not a path that :func:`canonical` accepts.
    """
    return canonical("/" + path[len(matched) :])
