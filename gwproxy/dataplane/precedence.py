"""Which of several routes that match comes first: one total order, known before any request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

from gwproxy.dataplane.patterns import Pattern, compile_host, compile_pattern, methods_of
from gwproxy.http.headers import Headers
from gwproxy.model import Route

T = TypeVar("T")

_PATH_CLASS = {"exact": 0, "regex": 1, "template": 2, "prefix": 2}


class Precedence(NamedTuple):
    """The criteria, the first one first. Of two the lesser tuple wins."""

    priority: int
    host: int
    wildcard: int
    path: int
    regex_order: int
    literal_segments: int
    segments: int
    template: int
    header_conditions: int
    methods: int
    order: int


class Entry(Generic[T]):
    """A route under one of its hosts.

    :ivar host: normalised, ``*.`` and a name for a wildcard; empty: any.
    :ivar payload: what the router was given with the route.
    :ivar plain: whether nothing has to be read of a path that matches: neither parameters nor what is stripped of it.
    """

    __slots__ = ("headers", "host", "methods", "pattern", "payload", "plain", "precedence", "route")

    def __init__(self, route: Route, payload: T, host: str, pattern: Pattern, order: int) -> None:
        self.route = route
        self.payload = payload
        self.host = host
        self.pattern = pattern
        self.methods = methods_of(route)
        self.headers = tuple((name.lower(), value) for name, value in route.headers.items()) if route.headers else ()
        self.plain = not (route.strip_path or pattern.parameters or pattern.regex is not None)
        wildcard = host.startswith("*.")
        self.precedence = Precedence(
            priority=-route.priority,
            host=1 if wildcard else 0 if host else 2,
            wildcard=-len(host) if wildcard else 0,
            path=_PATH_CLASS[pattern.kind],
            regex_order=order if pattern.kind == "regex" else 0,
            literal_segments=-pattern.literals,
            segments=-len(pattern.segments),
            template=1 if pattern.kind == "prefix" else 0,
            header_conditions=-len(self.headers),
            methods=0 if self.methods else 1,
            order=order,
        )

    def takes_host(self, host: str) -> bool:
        """Whether a request for ``host`` is within this entry's host; a wildcard takes one label or more."""
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        return not self.host or host == self.host

    def fits(self, method: str, headers: Headers, preflight: bool) -> bool:
        """Whether method and headers fit. A header condition holds if one field of that name has exactly that value."""
        if self.methods and method not in self.methods:
            return False
        if not self.headers or preflight:
            return True
        return all(value in headers.getlist(name) for name, value in self.headers)


def entries_of(route: Route, payload: T, order: int) -> Iterator[Entry[T]]:
    """Yield an entry for each host of a route, one if it has none.

    :param order: of the route in the list.
    :raises ValueError: path or a host is not valid; the configuration check finds that before.
    """
    pattern = compile_pattern(route.path)
    for host in dict.fromkeys(map(compile_host, route.hosts)) if route.hosts else ("",):
        yield Entry(route, payload, host, pattern, order)
