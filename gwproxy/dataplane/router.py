"""Host, path, method and headers to a route. What the rule is stands in docs/routing.md; this is how it is quick."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Generic, TypeVar

from mypy_extensions import mypyc_attr

from gwproxy.dataplane.explanation import Explanation, explain
from gwproxy.dataplane.precedence import Entry, entries_of
from gwproxy.dataplane.regexes import Regexes
from gwproxy.http.headers import Headers
from gwproxy.model import Route

T = TypeVar("T")

_MOST_POPULAR, _LONGEST_POPULAR = 1024, 256  # paths that are remembered with what matches them, and characters of one
_SORTED = 512  # entries that are sorted in one go: half a millisecond


@mypyc_attr(free_list_len=1)
class Match(Generic[T]):
    """The route of a request.

    :ivar entry: what the router was given with the route.
    :ivar params: of a template by name, as they stand in the canonical path; the named groups of a regex.
    :ivar matched: the start of the path that ``strip_path`` removes; empty if the route does not strip.
    """

    __slots__ = ("entry", "matched", "params", "route")

    def __init__(self, entry: T, route: Route, params: dict[str, str], matched: str) -> None:
        self.entry = entry
        self.route = route
        self.params = params
        self.matched = matched


class _Node:
    """A segment of the trie: where the next one leads, and the ranks of the entries that end here."""

    __slots__ = ("literals", "opened", "parameter", "whole")

    def __init__(self) -> None:
        # Made when there is something to put in: most nodes are leaves, and a leaf has one entry of one kind.
        self.literals: dict[str, _Node] | None = None
        self.parameter: _Node | None = None
        self.whole: Sequence[int] = ()  # templates
        self.opened: Sequence[int] = ()  # prefixes

    def step(self, segment: str | None) -> _Node:
        """Return the node that a segment leads to, a new one if need be; None: a parameter."""
        if segment is None:
            node = self.parameter = self.parameter or _Node()
            return node
        if self.literals is None:
            self.literals = {}
        following = self.literals.get(segment)
        if following is None:
            following = self.literals[segment] = _Node()
        return following


class _Bucket:
    """The entries of one host, wildcard, or any host."""

    __slots__ = ("exact", "regexes", "root")

    def __init__(self) -> None:
        self.exact: dict[str, list[int]] = {}
        self.root = _Node()
        self.regexes = Regexes()

    def add(self, entry: Entry[T], rank: int) -> None:
        pattern = entry.pattern
        if pattern.kind == "exact":
            self.exact.setdefault(pattern.text, []).append(rank)
        elif pattern.kind == "regex":
            self.regexes.add(pattern.regex, rank)
        else:
            node = self.root
            for segment in pattern.segments:
                node = node.step(segment)
            if pattern.kind == "template":
                node.whole = _with(node.whole, rank)
            else:
                node.opened = _with(node.opened, rank)

    def dismantle(self) -> Iterator[None]:
        """Free it in steps, yielding after each."""
        nodes = [self.root]
        while nodes:
            node = nodes.pop()
            nodes += (node.literals or {}).values()
            if node.parameter is not None:
                nodes.append(node.parameter)
            node.literals = node.parameter = None
            yield
        while self.exact:
            self.exact.popitem()
            yield

    def collect(self, path: str, segments: list[str], found: list[int]) -> None:
        """Add the ranks of all entries whose path matches. No node is visited twice."""
        if path in self.exact:
            found += self.exact[path]
        if self.regexes.members:
            self.regexes.collect(path, found)
        count = len(segments)
        branches: list[tuple[_Node, int]] = []
        node: _Node | None = self.root
        position = 0
        while node is not None:
            found += node.opened
            following = None
            if position < count:
                segment = segments[position]
                position += 1
                following = node.literals.get(segment) if node.literals is not None else None
                if node.parameter is not None and segment:
                    if following is not None:
                        branches.append((node.parameter, position))
                    else:
                        following = node.parameter
            else:
                found += node.whole
            node = following
            if node is None and branches:
                node, position = branches.pop()


class Router(Generic[T]):
    """Routes by priority, host and the most specific path, passing over routes whose methods or headers do not fit.

    All routes under all their hosts are put in one order when the router is built; a request collects those whose host
    and path match and takes the first that fits. That costs one dict lookup a label of the host (if there are wildcards)
    and a segment of the path, whatever the number of routes, and a check for each route that matches. Regexes cost one
    pass over the path for all of them together. Paths that are asked for often cost one lookup. Never changes once built.
    """

    def __init__(self, entries: Sequence[tuple[Route, T]], previous: Router[T] | None = None) -> None:
        """Build at once.

        :param entries: the routes in list order, each with what :attr:`Match.entry` is to be.
        :raises ValueError: a route's path or host is not valid; the configuration check finds that before.
        """
        self._routes: list[Sequence[Entry[T]]] = []
        self._entries: list[Entry[T]] = []
        self._exact: dict[str, _Bucket] = {}
        self._wildcards: dict[str, _Bucket] = {}  # by suffix, with its dot
        self._any = _Bucket()
        self._depth = 0
        self._popular: dict[tuple[str, str], list[Entry[T]]] = {}
        for _ in self._build(entries, previous):
            pass

    @classmethod
    def building(cls, entries: Sequence[tuple[Route, T]], previous: Router[T] | None = None) -> Iterator[Router[T] | None]:
        """Build in steps: yield None after each route's, and at the end the router.

        Sorting is done in slices, so that nothing takes longer with more routes.

        :param previous: what it keeps of a route that stands at the same place, with the same payload, is used again.
        """
        router = cls(())
        for _ in router._build(entries, previous):
            yield None
        yield router

    def _build(self, entries: Sequence[tuple[Route, T]], previous: Router[T] | None) -> Iterator[None]:
        before = previous._routes if previous is not None else []
        slices: list[list[Entry[T]]] = [[]]
        for order, (route, payload) in enumerate(entries):
            kept = before[order] if order < len(before) else ()
            made = kept if kept and kept[0].payload is payload and kept[0].route is route else tuple(entries_of(route, payload, order))
            self._routes.append(made)
            slices[-1] += made
            if len(slices[-1]) >= _SORTED:
                slices[-1].sort(key=_precedence)
                slices.append([])
            yield
        slices[-1].sort(key=_precedence)
        for rank, entry in enumerate(heapq.merge(*slices, key=_precedence)):
            self._entries.append(entry)
            self._bucket(entry.host).add(entry, rank)
            self._depth = max(self._depth, len(entry.pattern.segments))
            yield
        for bucket in (*self._exact.values(), *self._wildcards.values(), self._any):
            if bucket.regexes.members:
                yield from bucket.regexes.compile()

    def dismantle(self) -> Iterator[None]:
        """Free it in steps, yielding after each: at once, 10,000 routes take 10 ms. Afterwards it matches nothing."""
        while self._routes:
            self._routes.pop()
            yield
        while self._entries:
            self._entries.pop()
            yield
        for bucket in (*self._exact.values(), *self._wildcards.values(), self._any):
            yield from bucket.dismantle()

    def _bucket(self, host: str) -> _Bucket:
        if not host:
            return self._any
        if host.startswith("*."):
            return self._wildcards.setdefault(host[1:], _Bucket())
        return self._exact.setdefault(host, _Bucket())

    def match(self, host: str, path: str, method: str, headers: Headers, *, preflight: bool = False) -> Match[T] | None:
        """Return the route of a request; None if there is none.

        :param host: lower case, without port; empty if the request names none.
        :param path: canonical; ``*``, the target of OPTIONS for the server itself, is no path and matches no route.
        :param method: of a preflight, the method that is asked for.
        :param preflight: True ignores header conditions: a browser sends none of the headers it asks for.
        """
        found = self._popular.get((host, path))
        if found is None:
            found = self._collect(host, path)
            if len(path) <= _LONGEST_POPULAR:
                if len(self._popular) >= _MOST_POPULAR:
                    self._popular = {}
                self._popular[host, path] = found
        for entry in found:
            if (not entry.methods and not entry.headers) or entry.fits(method, headers, preflight):
                return Match(entry.payload, entry.route, {}, "") if entry.plain else _matched(entry, path)
        return None

    def _collect(self, host: str, path: str) -> list[Entry[T]]:
        """Return the entries whose host and path match, the first one first."""
        if path[:1] != "/":
            return []
        found: list[int] = []
        segments = path[1:].split("/", self._depth)
        self._any.collect(path, segments, found)
        if (bucket := self._exact.get(host)) is not None:
            bucket.collect(path, segments, found)
        if self._wildcards:
            dot = host.find(".")
            while dot >= 0:
                if (bucket := self._wildcards.get(host[dot:])) is not None:
                    bucket.collect(path, segments, found)
                dot = host.find(".", dot + 1)
        return [self._entries[rank] for rank in sorted(found)]

    def candidates(self, host: str | None, path: str) -> list[Entry[T]]:
        """Return the entries whose host and path match, the first one first; methods and headers are not looked at.

        For people who ask about requests that are known in part.

        :param host: as for :meth:`match`; None: it is not known, and any will do. Costs a pass over all hosts then.
        """
        if host is not None:
            return self._collect(host, path)
        if path[:1] != "/":
            return []
        found: list[int] = []
        segments = path[1:].split("/", self._depth)
        for bucket in (self._any, *self._exact.values(), *self._wildcards.values()):
            bucket.collect(path, segments, found)
        return [self._entries[rank] for rank in sorted(found)]

    def explain(self, host: str, path: str, method: str, headers: Headers, *, preflight: bool = False) -> list[Explanation]:
        """Say of every route, in list order, why it is taken or not. Costs a pass over all routes: for people.

        Parameters as for :meth:`match`, which takes the same route.
        """
        return explain(self._routes, host, path, method, headers, preflight)


_precedence = attrgetter("precedence")


def _with(ranks: Sequence[int], rank: int) -> Sequence[int]:
    """Return ``ranks`` with one more: a tuple of one, beyond that a list, which grows."""
    if not ranks:
        return (rank,)
    if isinstance(ranks, tuple):
        return [*ranks, rank]
    ranks.append(rank)  # type: ignore[attr-defined]
    return ranks


def _matched(entry: Entry[T], path: str) -> Match[T]:
    pattern, route = entry.pattern, entry.route
    params: dict[str, str] = {}
    matched = ""
    if pattern.parameters:
        segments = path[1:].split("/", len(pattern.segments))
        params = {name: segments[position] for position, name in pattern.parameters}
    elif pattern.regex is not None and (route.strip_path or pattern.regex.groupindex):
        # The set only says that it matches. PERF: 7 us, so only where the extent is asked for.
        found = pattern.regex.match(path)
        params = {name: value for name, value in found.groupdict().items() if value is not None}
    if route.strip_path:
        matched = pattern.take(path) or ""
    return Match(entry.payload, route, params, matched)
