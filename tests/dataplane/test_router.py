"""The router, first by the examples of docs/routing.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from gwproxy.dataplane.regexes import Regexes
from gwproxy.dataplane.router import Match, Router
from gwproxy.errors import BadRequest
from gwproxy.http.headers import Headers
from gwproxy.http.hosts import parse_host
from gwproxy.http.paths import canonical, strip
from gwproxy.model import Route

_DOC = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
_NONE = Headers()


def _rows(first: str, second: str) -> Iterator[list[str]]:
    """Yield the cells of every row of the documentation's table whose first columns are these."""
    lines = iter(_DOC.splitlines())
    for line in lines:
        if line.startswith(f"| {first} | {second} |"):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    return
                yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def _spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _route(written: str | dict[str, Any], number: int = 0) -> Route:
    fields = yaml.safe_load(written) if isinstance(written, str) and written.startswith("{") else written
    if isinstance(fields, str):
        fields = {"path": fields}
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return Route(**({"id": f"r{number}", "upstream": "http://127.0.0.1:1"} | fields))


def _router(*written: str | dict[str, Any]) -> Router[int]:
    return Router([(_route(one, number), number) for number, one in enumerate(written, start=1)])


def _get(router: Router[int], path: str, host: str = "", method: str = "GET", headers: Headers = _NONE) -> Match[int] | None:
    return router.match(host, path, method, headers)


def _taken(router: Router[int], path: str, **how: Any) -> int | None:
    match = _get(router, path, **how)
    return match.entry if match else None


@pytest.mark.parametrize(
    ("path", "given", "matches"), [(_spans(r[0])[0], s, m) for r in _rows("path", "is") for m in (1, 0) for s in _spans(r[3 - m])]
)
def test_the_documented_paths(path: str, given: str, matches: int) -> None:
    assert (_get(_router(path), given) is not None) == bool(matches)


@pytest.mark.parametrize(("sent", "expected"), [(r[0].strip("`"), r[1].strip("`")) for r in _rows("sent", "canonical")])
def test_the_documented_canonical_forms(sent: str, expected: str) -> None:
    try:
        found = canonical(sent)
    except BadRequest as error:
        found = str(error.status)
    assert found == expected


@pytest.mark.parametrize(("path", "request_path", "forwarded"), [tuple(c.strip("`") for c in r) for r in _rows("path", "request")])
def test_the_documented_stripping(path: str, request_path: str, forwarded: str) -> None:
    match = _get(_router({"path": path, "strip_path": True}), request_path)
    assert match is not None
    assert strip(request_path, match.matched) == forwarded


@pytest.mark.parametrize(
    ("host", "given", "matches"), [(_spans(r[0])[0], s, m) for r in _rows("host", "matches") for m in (1, 0) for s in _spans(r[2 - m])]
)
def test_the_documented_hosts(host: str, given: str, matches: int) -> None:
    router = _router({"path": "/", "hosts": [host]})
    assert (_get(router, "/", host=parse_host(given).name) is not None) == bool(matches)


@pytest.mark.parametrize(("routes", "request_spans", "taken"), [(_spans(r[0]), _spans(r[1]), r[2]) for r in _rows("routes", "request")])
def test_the_documented_precedence(routes: list[str], request_spans: list[str], taken: str) -> None:
    router = _router(*routes)
    method, target = request_spans[0].split()
    parts = urlsplit(target)
    headers = Headers([tuple(field.split(": ")) for field in request_spans[1:]])  # type: ignore[misc]
    wanted = headers.get("Access-Control-Request-Method") if method == "OPTIONS" else None
    match = router.match(parts.netloc, parts.path, wanted or method, headers, preflight=wanted is not None)
    assert str(match.entry if match else "none") == taken
    explained = router.explain(parts.netloc, parts.path, wanted or method, headers, preflight=wanted is not None)
    assert [one.won for one in explained] == [str(number) == taken for number in range(1, len(routes) + 1)]


def test_the_documentation_has_all_its_tables() -> None:
    assert len(list(_rows("routes", "request"))) > 25
    assert len(list(_rows("path", "is"))) > 10
    assert len(list(_rows("sent", "canonical"))) > 10
    assert list(_rows("path", "request"))
    assert list(_rows("host", "matches"))


def test_params_are_as_they_stand_in_the_path() -> None:
    match = _get(_router("/users/{id}/orders/{order_id}/*"), "/users/a%2Fb/orders/7;v=1/items/3")
    assert match is not None
    assert match.params == {"id": "a%2Fb", "order_id": "7;v=1"}


def test_named_groups_of_a_regex_are_params() -> None:
    match = _get(_router("~^/(?P<version>v[0-9]+)/(?P<rest>x)?"), "/v2/users")
    assert match is not None
    assert match.params == {"version": "v2"}


def test_a_route_that_does_not_strip_has_no_matched_part() -> None:
    match = _get(_router("/api"), "/api/users")
    assert match is not None
    assert (match.matched, match.params, match.route.path) == ("", {}, "/api")


def test_a_path_longer_than_any_route_is_not_cut() -> None:
    router = _router("/{a}", "/{a}/{b}")
    assert _taken(router, "/1/2") == 2
    assert _taken(router, "/1/2/3") is None
    assert _taken(_router("/a"), "/a" + "/x" * 4000) == 1


def test_the_more_literal_branch_is_left_where_it_ends() -> None:
    router = _router("/a/{x}/c", "/a/b/d", "/{x}/b/{y}/e")
    assert _taken(router, "/a/b/c") == 1
    assert _taken(router, "/a/b/d/x") == 2
    assert _taken(router, "/a/b/c/e") == 3


def test_of_thousands_of_branches_that_match_the_most_literal_is_found() -> None:
    depth = 12
    paths = ["/" + "/".join(f"{{p{i}}}" if number >> i & 1 else "a" for i in range(depth)) + "/end" for number in range(1 << depth)]
    router = _router(*paths)
    assert _taken(router, "/" + "a/" * depth + "end") == 1
    assert _taken(router, "/" + "a/" * depth + "other") is None


def test_N09_the_asterisk_is_no_path() -> None:
    assert _taken(_router("/", "~.*", "/{x}"), "*", method="OPTIONS") is None


def test_N14_paths_are_compared_with_their_case() -> None:
    assert _taken(_router("/admin"), "/ADMIN") is None


def test_N17_a_regex_that_makes_backtracking_engines_hang_costs_nothing() -> None:
    assert _taken(_router("~^/(a+)+$", "/"), "/" + "a" * 5000 + "!") == 2


def test_N21_override_headers_change_neither_method_nor_path() -> None:
    router = _router({"path": "/a", "methods": ["GET"]}, {"path": "/admin", "methods": ["DELETE"]})
    headers = Headers([("X-HTTP-Method-Override", "DELETE"), ("X-Original-URL", "/admin"), ("X-Rewrite-URL", "/admin")])
    assert _taken(router, "/a", headers=headers) == 1


def test_any_of_several_fields_may_meet_a_condition_and_all_conditions_must() -> None:
    router = _router({"path": "/", "headers": {"X-A": "1", "x-b": "2"}})
    assert _taken(router, "/", headers=Headers([("x-a", "0"), ("x-a", "1"), ("X-B", "2")])) == 1
    assert _taken(router, "/", headers=Headers([("x-a", "1")])) is None
    assert _taken(router, "/", headers=Headers([("x-a", "1, 1"), ("x-b", "2")])) is None


def test_a_request_without_host_takes_routes_for_any_host_only() -> None:
    router = _router({"path": "/", "hosts": ["a.com", "*.com"]}, "/")
    assert _taken(router, "/", host="") == 2


def test_a_route_listed_under_a_host_twice_is_one() -> None:
    router = _router({"path": "/", "hosts": ["A.com", "a.com.", "*.COM"]})
    assert _taken(router, "/", host="a.com") == 1
    assert _taken(router, "/", host="b.com") == 1


def test_more_regexes_than_one_set_holds() -> None:
    router = _router(*(f"~^/s{i}/" for i in range(300)), "~^/s299/x", "/s299")
    assert _taken(router, "/s0/") == 1
    assert _taken(router, "/s299/x") == 300
    assert _taken(router, "/s300/") is None


def test_regexes_too_large_for_one_set_are_parted() -> None:
    router = _router(*(f"~^/s{i}/.*x.{{300}}" for i in range(64)))
    assert _taken(router, "/s63/x" + "y" * 300) == 64
    assert _taken(router, "/s63/x" + "y" * 299) is None


class _OutOfMemory:
    """What RE2::Set does when its states do not fit into its memory: it answers that nothing matches."""

    def Match(self, path: str) -> list[int]:
        return []


def test_a_set_out_of_memory_is_not_believed() -> None:
    regexes = Regexes()
    for rank, route in enumerate(_router("~^/a", "~^/b", "~/a/b")._routes):
        regexes.add(route[0].pattern.regex, rank)
    list(regexes.compile())
    regexes._groups[0]._set = _OutOfMemory()
    found: list[int] = []
    regexes.collect("/a/b", found)
    assert found == [0, 2]


def test_building_in_slices_ends_with_the_same_router() -> None:
    routes = [(_route(f"/s{i}/{{id}}", i), i) for i in range(500)] + [(_route(f"~^/r{i}/", 500 + i), 500 + i) for i in range(200)]
    steps = list(Router.building(routes))
    router = steps[-1]
    assert router is not None
    assert steps[:-1] == [None] * (len(steps) - 1)
    assert len(steps) > 40
    assert [_taken(router, f"/s{i}/x") for i in range(500)] == list(range(500))
    assert _taken(router, "/r199/") == 699


def test_no_routes_match_nothing() -> None:
    assert list(Router.building([]))[-1] is not None
    assert _taken(_router(), "/") is None
    assert _router().explain("", "/", "GET", _NONE) == []


def test_a_route_that_is_not_valid_is_not_built() -> None:
    with pytest.raises(ValueError, match="canonical"):
        _router("/a//b")


@pytest.mark.parametrize(
    ("routes", "request_", "reasons"),
    [
        (["/a"], ("h", "/a", "GET"), ["host, path, method and headers fit"]),
        (["/a", "=/a"], ("h", "/a", "GET"), ["fits, but r2 comes first: an exact path comes before", "and it comes first"]),
        (["/b", "/a"], ("h", "/a", "GET"), ["path /a does not match /b", "fit"]),
        ([{"path": "/", "hosts": ["x.com", "*.y.com"]}], ("y.com", "/", "GET"), ["host y.com is not among x.com, *.y.com"]),
        ([{"path": "/", "hosts": ["x.com"]}], ("", "/", "GET"), ["host (none) is not among x.com"]),
        ([{"path": "/", "methods": ["GET"]}], ("h", "/", "PUT"), ["method PUT is not among GET, HEAD"]),
        ([{"path": "/", "headers": {"X-A": "1"}}], ("h", "/", "GET"), ["header x-a is missing"]),
        (["/", {"path": "/", "priority": 2}], ("h", "/", "GET"), ["r2 comes first: its priority is higher", "it comes first"]),
    ],
)
def test_explains_every_route(routes: list[str | dict[str, Any]], request_: tuple[str, str, str], reasons: list[str]) -> None:
    explained = _router(*routes).explain(*request_, _NONE)
    assert len(explained) == len(reasons)
    for one, reason in zip(explained, reasons, strict=True):
        assert reason in one.reason


def test_an_explanation_shows_no_header_values() -> None:
    (one,) = _router({"path": "/", "headers": {"x-key": "s3cret"}}).explain("h", "/", "GET", Headers([("X-Key", "other")]))
    assert one.reason == "header x-key is not the value asked for"
