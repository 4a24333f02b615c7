"""What a route's ``path`` and ``hosts`` mean: parsed and judged once, when a configuration is checked or built."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote

import re2

from gwproxy.errors import BadRequest
from gwproxy.http.hosts import parse_host
from gwproxy.http.paths import canonical
from gwproxy.model import Route

Kind = Literal["exact", "regex", "template", "prefix"]

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_CANONICAL = re.compile(r"(?:/(?:[A-Za-z0-9_-]+|\{[A-Za-z_][A-Za-z0-9_]*\}))*/?")  # for certain; others may be, too
_PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F))
_REGEX_MEMORY = 1 << 20  # bytes that RE2 may use for one compiled regex


@dataclass(frozen=True, slots=True)
class Pattern:
    """A route's path, parsed.

    :ivar kind: ``template`` matches whole paths, ``prefix`` whole segments at the start, with parameters or without.
    :ivar text: normalised: patterns of equal text and kind match the same paths. No trailing slash on a prefix (that of
        ``/`` is empty), ``{}`` for each parameter.
    :ivar segments: of a template or a prefix; None for a parameter. Empty for the others.
    :ivar parameters: position in ``segments`` and name of each parameter.
    :ivar regex: of kind ``regex``; anchored at the start by how it is used.
    """

    kind: Kind
    text: str
    segments: tuple[str | None, ...] = ()
    parameters: tuple[tuple[int, str], ...] = ()
    regex: Any = field(default=None, compare=False)

    @property
    def names(self) -> frozenset[str]:
        """The names that ``ctx.params`` may have; of a regex, those of groups that took part in the match."""
        return frozenset(self.regex.groupindex if self.regex is not None else (name for _, name in self.parameters))

    @property
    def literals(self) -> int:
        """How many segments are given literally."""
        return sum(1 for segment in self.segments if segment)

    def take(self, path: str) -> str | None:
        """Return the part of a canonical path that this matches, from its start; None if it does not match.

        This is one pattern's answer; the router finds the one among many by an index, not by asking each.
        """
        if path[:1] != "/":  # OPTIONS *
            return None
        if self.kind == "exact":
            return path if path == self.text else None
        if self.kind == "regex":
            found = self.regex.match(path)
            return None if found is None else str(found.group())
        given = path[1:].split("/") if path != "/" or self.kind == "template" else []
        count = len(self.segments)
        if len(given) < count or (self.kind == "template" and len(given) != count):
            return None
        if any(have != want if want is not None else not have for have, want in zip(given, self.segments, strict=False)):
            return None
        return "".join("/" + segment for segment in given[:count])


@lru_cache(maxsize=16_384)  # the check of a configuration, the router and the next configuration ask for the same
def compile_pattern(path: str) -> Pattern:
    """Parse a route's ``path``: a prefix, ``=/exact``, a ``/template/{name}``, or a ``~regex`` (RE2).

    :raises ValueError: it is none of these; the message says what is expected instead.
    """
    if path.startswith("~"):
        return Pattern("regex", path[1:], regex=_regex(path[1:]))
    if path.startswith("="):
        return Pattern("exact", _exact(path[1:]))
    if not path.startswith("/"):
        raise ValueError("a path that starts with '/' (a prefix or template), '=/' (exact) or '~' (a regex)")
    body, opened = (path[:-2], True) if path.endswith("/*") else (path, False)
    kind: Kind = "template" if "{" in path and not opened else "prefix"
    _check_canonical(body or "/")
    if kind == "prefix":
        body = body.rstrip("/")
    segments: list[str | None] = []
    parameters: dict[str, int] = {}
    for position, segment in enumerate(body.split("/")[1:]):
        name = _parameter(segment)
        if name in parameters:
            raise ValueError(f"parameters of different names; {{{name}}} is there twice")
        if name is not None:
            parameters[name] = position
        segments.append(segment if name is None else None)
    text = "".join("/" + ("{}" if segment is None else segment) for segment in segments)
    return Pattern(kind, text, tuple(segments), tuple((position, name) for name, position in parameters.items()))


def _regex(text: str) -> Any:
    options = re2.Options()
    options.max_mem = _REGEX_MEMORY
    options.log_errors = False
    if not text:
        raise ValueError("a regex after '~'")
    try:
        return re2.compile(text, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"a regex in RE2 syntax, which has no lookaround and no backreferences ({reason})") from None


def _exact(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("a path after '=', with its '/'")
    if path.endswith("/*") or "{" in path or "}" in path:
        raise ValueError("a path without '{', '}' and '/*' after '=', which matches one path only; leave out the '='")
    _check_canonical(path)
    return path


def _check_canonical(path: str) -> None:
    if _CANONICAL.fullmatch(path):  # PERF: 0.3 us instead of 10, for nearly all
        return
    if "?" in path or "#" in path:
        raise ValueError("a path alone; query and fragment are not matched")
    try:
        plain = canonical(quote(path, safe=_PRINTABLE))
    except BadRequest as error:
        raise ValueError(f"a path that requests can have ({error})") from None
    if plain != path:
        raise ValueError(f"the canonical form, in which requests are matched: {plain}")


def _parameter(segment: str) -> str | None:
    """Return the name if the segment is a parameter, None if it is literal."""
    if "*" in segment:
        raise ValueError("'*' only as the whole last segment; elsewhere a parameter such as {name}, or a regex after '~'")
    if "{" not in segment and "}" not in segment:
        return None
    match = _PARAMETER.fullmatch(segment)
    if match is None:
        raise ValueError(f"a parameter that takes a whole segment, such as {{name}}, where {segment} is")
    return match[1]


def compile_host(text: str) -> str:
    """Return the normalised form of an entry of ``hosts``: a name, an address, or ``*.`` and a name.

    :raises ValueError: it is none of these, or has a port.
    """
    wildcard, name = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    try:
        host = parse_host(name)
    except BadRequest:
        raise ValueError("a host name such as api.example.com, or *.example.com for all below it") from None
    if host.port is not None or name.endswith(":"):
        raise ValueError("a host without a port; the port of a request does not matter")
    return wildcard + host.name


def methods_of(route: Route) -> frozenset[str]:
    """Return the methods a route serves; empty: all. GET includes HEAD."""
    return _methods_of(route.methods) if route.methods else _EVERY_METHOD


_EVERY_METHOD: frozenset[str] = frozenset()
_NO_CONDITIONS: frozenset[Any] = frozenset()


@lru_cache(maxsize=256)  # so many routes share so few sets
def _methods_of(methods: tuple[str, ...]) -> frozenset[str]:
    return frozenset(methods) | ({"HEAD"} if "GET" in methods else frozenset())


def match_key(route: Route) -> Hashable:
    """Return what two routes share exactly if they match the same requests.

    With the same ``priority`` too, only their order in the list tells them apart: a mistake in a configuration.

    :raises ValueError: the route's path or one of its hosts is not valid.
    """
    pattern = compile_pattern(route.path)
    headers = frozenset((name.lower(), value) for name, value in route.headers.items()) if route.headers else _NO_CONDITIONS
    hosts = frozenset(map(compile_host, route.hosts)) if route.hosts else _NO_CONDITIONS
    return pattern.kind, pattern.text, hosts, headers, methods_of(route)
