from __future__ import annotations

import re

import pytest

from gwproxy.dataplane.patterns import compile_host, compile_pattern, match_key, methods_of
from gwproxy.model import Route


def _key(path: str, **fields: object) -> object:
    return match_key(Route.model_validate({"id": "r", "path": path, "upstream": "http://127.0.0.1:1", **fields}))


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/", "prefix", ""),
        ("/*", "prefix", ""),
        ("/a/b/", "prefix", "/a/b"),
        ("/a/*", "prefix", "/a"),
        ("/a/{x}/*", "prefix", "/a/{}"),
        ("/a/{x}", "template", "/a/{}"),
        ("/a/{x}/", "template", "/a/{}/"),
        ("=/a/", "exact", "/a/"),
        ("=/", "exact", "/"),
        ("~^/a(?P<x>b)", "regex", "^/a(?P<x>b)"),
        ("/caf%C3%A9/a%2Fb", "prefix", "/caf%C3%A9/a%2Fb"),
    ],
)
def test_the_forms_of_a_path(path: str, kind: str, text: str) -> None:
    pattern = compile_pattern(path)
    assert (pattern.kind, pattern.text) == (kind, text)


def test_a_template_knows_where_its_parameters_are() -> None:
    pattern = compile_pattern("/a/{x}/b/{y_2}")
    assert pattern.segments == ("a", None, "b", None)
    assert pattern.parameters == ((1, "x"), (3, "y_2"))
    assert pattern.literals == 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "starts with '/'"),
        ("a", "starts with '/'"),
        ("http://h/a", "starts with '/'"),
        ("=", "after '='"),
        ("=a", "after '='"),
        ("=/a/*", "one path only"),
        ("=/{a}", "one path only"),
        ("=/a//b", "canonical form, in which requests are matched: /a/b"),
        ("~", "a regex after '~'"),
        ("/a//b", "canonical form, in which requests are matched: /a/b"),
        ("/a//", "canonical form, in which requests are matched: /a/"),
        ("/%41/%2f", "canonical form, in which requests are matched: /A/%2f"),
        ("/é b", "canonical form, in which requests are matched: /%C3%A9%20b"),
        ("/a/../b", "dot segment"),
        ("/a/%2e", "dot segment"),
        ("/a%00", "control"),
        ("/a\n", "control"),
        ("/a%5c", "backslash"),
        ("/a\\b", "backslash"),
        ("/100%", "two hex digits"),
        ("/a?b", "query"),
        ("/a#b", "fragment"),
        ("/{a}/{a}", "{a} is there twice"),
        ("/{a", "where {a is"),
        ("/a}", "where a} is"),
        ("/{}", "where {} is"),
        ("/{1a}", "where {1a} is"),
        ("/{a}.json", "where {a}.json is"),
        ("/{a}{b}", "where {a}{b} is"),
        ("/*/a", "only as the whole last segment"),
        ("/a*", "only as the whole last segment"),
        ("/a/*/*", "only as the whole last segment"),
    ],
)
def test_a_path_that_is_none_is_refused_with_what_is_expected(path: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        compile_pattern(path)


@pytest.mark.parametrize("regex", ["(", "[a", r"(a)\1", "(?=a)", "(?!a)", "(?<=a)b", "a{1001}", "a**", r"[\pL]{500}"])
def test_G06_G07_a_regex_that_RE2_does_not_take_is_refused(regex: str) -> None:
    with pytest.raises(ValueError, match="RE2 syntax"):
        compile_pattern(f"~{regex}")


@pytest.mark.parametrize(
    ("path", "given", "taken"),
    [
        ("/", "/a", ""),
        ("/", "/", ""),
        ("/a", "/", None),
        ("/a", "/a/b", "/a"),
        ("/a/{x}/*", "/a/b/c", "/a/b"),
        ("/{x}/*", "/", None),
        ("/{x}", "/", None),
        ("/{x}", "/a", "/a"),
        ("/{x}/", "/a/", "/a/"),
        ("~/a+", "/aab", "/aa"),
        ("~/a", "/b/a", None),
    ],
)
def test_what_a_pattern_takes_of_a_path(path: str, given: str, taken: str | None) -> None:
    assert compile_pattern(path).take(given) == taken


@pytest.mark.parametrize(
    ("text", "host"), [("API.Example.com.", "api.example.com"), ("*.EXAMPLE.org", "*.example.org"), ("[::0:1]", "[::1]")]
)
def test_a_host_is_normalised(text: str, host: str) -> None:
    assert compile_host(text) == host


@pytest.mark.parametrize("text", ["", "*", "*.", "*a.com", "a.*.com", "*.*.com", "http://a", "a/b", "a b", "é.com"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a host name such as"):
        compile_host(text)


@pytest.mark.parametrize("text", ["a.com:80", "a.com:", "*.a.com:80", "[::1]:80"])
def test_a_host_with_a_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="without a port"):
        compile_host(text)


def test_GET_includes_HEAD() -> None:
    route = Route(id="r", path="/", upstream="http://127.0.0.1:1", methods=("GET", "PUT"))
    assert methods_of(route) == {"GET", "HEAD", "PUT"}
    assert methods_of(route.model_copy(update={"methods": ()})) == frozenset()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_key("/a"), _key("/a/")),
        (_key("/a"), _key("/a/*")),
        (_key("/{x}"), _key("/{y}")),
        (_key("/", hosts=("A.com", "b.com")), _key("/", hosts=("b.com.", "a.com"))),
        (_key("/", headers={"X-A": "1"}), _key("/", headers={"x-a": "1"})),
        (_key("/", methods=("GET",)), _key("/", methods=("HEAD", "GET"))),
    ],
)
def test_G05_routes_that_match_the_same_have_one_key(first: object, second: object) -> None:
    assert first == second


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_key("/a"), _key("=/a")),
        (_key("/{x}"), _key("/{x}/*")),
        (_key("/{x}"), _key("/{x}/")),
        (_key("/"), _key("/", hosts=("a.com",))),
        (_key("/", headers={"x-a": "1"}), _key("/", headers={"x-a": "2"})),
        (_key("/", methods=("GET",)), _key("/", methods=("HEAD",))),
        (_key("/", methods=("GET",)), _key("/")),
    ],
)
def test_G05_routes_that_do_not_have_two(first: object, second: object) -> None:
    assert first != second
