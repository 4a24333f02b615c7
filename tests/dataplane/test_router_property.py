"""The router against a matcher that is slow and plain: the sentences of the contract, one after the other."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gwproxy.dataplane.router import Router
from gwproxy.http.headers import Headers
from gwproxy.model import Route

_SEGMENTS = st.sampled_from(["a", "b"])
_REGEXES = ["~^/a", "~/b$", "~^/(?:a|b)/b", "~^/[ab]+/", "~.*b", "~^/$"]


def _join(segments: list[str], end: str) -> str:
    return "/" + "/".join(segments) + end if segments else "/"


_LITERAL = st.builds(_join, st.lists(_SEGMENTS, max_size=3), st.sampled_from(["", "/"]))


@st.composite
def _templates(draw: st.DrawFn) -> str:
    segments = draw(st.lists(st.sampled_from(["a", "b", "{}", "{}"]), min_size=1, max_size=3))
    named = ["{p%s}" % i if s == "{}" else s for i, s in enumerate(segments)]  # noqa: UP031
    return _join(named, draw(st.sampled_from(["", "", "/*", "/"])))


_PATHS = st.one_of(_LITERAL, _LITERAL, _templates(), _templates(), _LITERAL.map("=".__add__), st.sampled_from(_REGEXES))
_ROUTES = st.builds(
    lambda **fields: Route(upstream="http://127.0.0.1:1", **fields),
    id=st.just("r"),
    path=_PATHS,
    hosts=st.sampled_from(
        [(), (), (), ("a.example.org",), ("*.example.org",), ("*.org",), ("*.org", "a.example.org"), ("b.net", "*.example.org")]
    ),
    methods=st.sampled_from([(), (), ("GET",), ("POST",), ("GET", "OPTIONS")]),
    headers=st.sampled_from([{}, {}, {"X-A": "1"}, {"x-a": "2"}, {"x-a": "1", "x-b": "1"}]),
    priority=st.sampled_from([0, 0, 0, 1, -1]),
    strip_path=st.booleans(),
)
_TABLES = st.one_of(
    st.lists(_ROUTES, min_size=2, max_size=10),
    st.lists(_PATHS.map(lambda path: Route(id="r", path=path, upstream="http://127.0.0.1:1")), min_size=2, max_size=10),
)
_REQUESTS = list(
    product(
        ["a.example.org", "c.b.example.org", "b.net", ""],
        ["/", "/a", "/b", "/a/", "/a/a", "/a/b", "/b/a", "/b/b/", "/a/b/a", "/a/b/b", "/b/a/b/", "/c/a", "/a/c/b"],
        ["GET", "HEAD", "POST"],
        [[], [("x-a", "1")], [("X-A", "2"), ("X-A", "1"), ("X-B", "1")]],
        [False, True],
    )
)


def _expression(path: str) -> str:
    """What a route's path matches, as an expression for the standard library."""
    if path.startswith("~"):
        return f"(?:{path[1:]})"
    if path.startswith("="):
        return re.escape(path[1:]) + r"\Z"
    opened = path.endswith("/*")
    if "{" not in path or opened:
        stem = path.removesuffix("/*").rstrip("/")
        return re.sub(r"\\{\w+\\}", "[^/]+", re.escape(stem)) + r"(?=/|\Z)"
    return re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + r"\Z"


def _host_class(route: Route, host: str) -> tuple[int, int] | None:
    """Exact, longer wildcard, any: how well the route's best host fits; None if none does."""
    if not route.hosts:
        return (2, 0)
    fits = [(0, 0) for own in route.hosts if own == host]
    fits += [(1, -len(own)) for own in route.hosts if own.startswith("*.") and host.endswith(own[1:]) and host != own[2:]]
    return min(fits, default=None)


def _path_class(path: str, index: int) -> tuple[int, ...]:
    """Exact path; regex in list order; then by literal segments, then by all segments, template before prefix."""
    if path.startswith("="):
        return (0,)
    if path.startswith("~"):
        return (1, index)
    segments = [segment for segment in path.removesuffix("/*").split("/") if segment]
    literal = [segment for segment in segments if not segment.startswith("{")]
    everything = len(path.split("/")) - 1 if "{" in path and not path.endswith("/*") else len(segments)
    template = "{" in path and not path.endswith("/*")
    return (2, -len(literal), -everything, 0 if template else 1)


def _plain_match(routes: list[Route], host: str, path: str, method: str, headers: list[tuple[str, str]], preflight: bool) -> int | None:
    candidates: list[tuple[Any, ...]] = []
    for index, route in enumerate(routes):
        host_class = _host_class(route, host)
        if host_class is None or re.match(_expression(route.path), path) is None:
            continue
        if route.methods and method not in route.methods and not (method == "HEAD" and "GET" in route.methods):
            continue
        had = {(name.lower(), value) for name, value in headers}
        if not preflight and not {(name.lower(), value) for name, value in route.headers.items()} <= had:
            continue
        order = (-route.priority, host_class, _path_class(route.path, index), -len(route.headers), not route.methods, index)
        candidates.append(order)
    return int(min(candidates)[-1]) if candidates else None


@settings(max_examples=150, deadline=None)
@given(_TABLES, st.integers(0, 10))
def test_takes_the_route_that_the_contract_says(routes: list[Route], offset: int) -> None:
    router = Router([(route, index) for index, route in enumerate(routes)])
    for host, path, method, fields, preflight in _REQUESTS[offset::11]:
        expected = _plain_match(routes, host, path, method, fields, preflight)
        match = router.match(host, path, method, Headers(fields), preflight=preflight)
        assert (match.entry if match else None) == expected
        explained = router.explain(host, path, method, Headers(fields), preflight=preflight)
        assert [index for index, one in enumerate(explained) if one.won] == ([] if expected is None else [expected])
        if match is not None:
            found = re.match(_expression(match.route.path), path)
            assert found is not None
            assert match.matched == (found.group() if match.route.strip_path else "")
            assert all(value and "/" not in value for value in match.params.values())
            assert len(match.params) == match.route.path.count("{")
