from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gwproxy.controlplane import checks
from gwproxy.controlplane.parse import Parsed
from gwproxy.controlplane.urls import is_url, url_problem
from gwproxy.model import Problem, Upstream

Only = Callable[..., Problem]
Refused = Callable[..., tuple[Problem, ...]]
Accepted = Callable[..., Parsed]


def route(**keys: Any) -> dict[str, Any]:
    return {"path": "/a", "upstream": "http://10.0.0.5:8000", **keys}


def document(*routes: dict[str, Any], **keys: Any) -> bytes:
    return orjson.dumps({"routes": routes, **keys}, option=orjson.OPT_INDENT_2)


def upstream(**keys: Any) -> bytes:
    return document(upstreams={"users": {"targets": [{"url": "http://10.0.0.5:8000"}], **keys}})


# ---- routes


def test_G04_ids_are_unique(only: Only) -> None:
    problem = only(document(route(id="x"), route(path="/b"), route(id="x", path="/c")))
    assert (problem.path, problem.found, problem.expected) == (
        "routes[2].id",
        "'x', which is given twice",
        "another id than that of routes[0]",
    )


def test_G04_an_id_is_taken_by_a_route_that_is_refused_too(refused: Refused) -> None:
    found = refused(document(route(id="x", methods=["get"]), route(id="x", path="/b")))
    assert [problem.path for problem in found] == ["routes[0].methods[0]", "routes[1].id"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({}, {"path": "/a/"}),
        ({"path": "/u/{a}"}, {"path": "/u/{b}"}),
        ({"methods": ["GET", "POST"]}, {"methods": ["POST", "GET", "HEAD"]}),
        ({"hosts": ["a.example", "b.example"]}, {"hosts": ["B.example", "a.example"]}),
        ({"headers": {"X-A": "1"}}, {"headers": {"x-a": "1"}}),
        ({"path": "~^/v1"}, {"path": "~^/v1"}),
    ],
)
def test_G05_no_two_routes_match_the_same_with_the_same_priority(only: Only, first: dict[str, Any], second: dict[str, Any]) -> None:
    problem = only(document(route(id="one", **first), route(id="two", **second)))
    assert problem.path == "routes[1]"
    assert problem.found == "a route that matches what routes[0] (one) matches, with the same priority"


@pytest.mark.parametrize(
    "differs", [{"priority": 1}, {"methods": ["GET"]}, {"hosts": ["a.example"]}, {"headers": {"x": "1"}}, {"path": "=/a"}]
)
def test_G05_one_difference_is_enough(accepted: Accepted, differs: dict[str, Any]) -> None:
    assert len(accepted(document(route(), route(**differs))).document.routes) == 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("api", "starts with '/'"),
        ("~(", "RE2"),
        ("~^/(?=x)", "RE2"),
        (r"~^/(a)\1", "RE2"),
        ("/a/{1}", "a parameter"),
        ("/a/{0.__class__}", "a parameter"),
        ("/{a}/{a}", "there twice"),
        ("/a?b", "query"),
        ("/a/../b", "dot segment"),
        ("=a", "after '='"),
    ],
)
def test_G06_G07_G23_paths_are_patterns(only: Only, path: str, expected: str) -> None:
    problem = only(document(route(path=path)))
    assert problem.path == "routes[0].path"
    assert expected in problem.expected


@pytest.mark.parametrize("host", ["a b", "http://a", "a.example:80", "*", "*.*.a", "a.*", "a/b", "-a"])
def test_hosts_are_names(only: Only, host: str) -> None:
    assert only(document(route(hosts=["b.example", host]))).path == "routes[0].hosts[1]"


def test_bad_path_and_hosts_are_reported_together(refused: Refused) -> None:
    found = refused(document(route(path="x", hosts=["a b", "c", "d e"])))
    assert [problem.path for problem in found] == ["routes[0].path", "routes[0].hosts[0]", "routes[0].hosts[2]"]


@pytest.mark.parametrize(
    ("keys", "path", "found"),
    [
        ({"methods": ["GET", "POST", "GET"]}, "methods[2]", "'GET', which is given twice"),
        ({"hosts": ["a.example", "A.example"]}, "hosts[1]", "'a.example', which is given twice"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "headers.x-a", "'x-a', which is given twice"),
        ({"headers": {"a b": "1"}}, 'headers["a b"]', "a condition that no request meets"),
    ],
)
def test_nothing_is_given_twice_or_in_vain(only: Only, keys: dict[str, Any], path: str, found: str) -> None:
    problem = only(document(route(**keys)))
    assert (problem.path, problem.found) == (f"routes[0].{path}", found)


def test_G22_no_line_breaks_in_header_conditions(only: Only) -> None:
    problem = only(document(route(headers={"x": "hunter2\r\ny: z"})))
    assert problem.path == "routes[0].headers.x"
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize("method", ["CONNECT", "TRACE"])
def test_methods_that_are_never_forwarded_are_refused(only: Only, method: str) -> None:
    problem = only(document(route(methods=["GET", method])))
    assert (problem.path, problem.found) == ("routes[0].methods", "what this version does not support")


def test_what_is_not_supported_is_refused_at_its_key(only: Only, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "UNSUPPORTED", ((Upstream, "keepalive", lambda value: not value, "true"),))
    problem = only(upstream(keepalive=False))
    assert (problem.path, problem.expected) == ("upstreams.users.keepalive", "true")


# ---- where routes go


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.5",
        "http://10.0.0.5:8000",
        "https://api.example.com:65535/base/path",
        "HTTP://localhost:1/",
        "http://127.0.0.1:9000",
        "http://[::1]:8000/x",
        "http://my_service:80",
        "http://a/%2F",
        "http://192.168.0.1",
        "http://user-service-2.default.svc.cluster.local",
    ],
)
def test_urls_that_are_fine(url: str, accepted: Accepted) -> None:
    assert url_problem(url) is None
    assert accepted(document(route(upstream=url))).document.routes[0].upstream == url
    assert accepted(document(upstreams={"a": {"targets": [{"url": url}]}})).document.upstreams["a"].targets[0].url == url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://user:hunter2@10.0.0.5", "credentials"),
        ("http://@10.0.0.5", "credentials"),
        ("http://10.0.0.5/?a=hunter2", "query"),
        ("http://10.0.0.5?", "query"),
        ("http://10.0.0.5/#a", "fragment"),
        ("http://10.0.0.5#@evil.example", "fragment"),
        ("file:///etc/passwd", "http:// or https://"),
        ("unix:///run/app.sock", "http:// or https://"),
        ("gopher://10.0.0.5", "http:// or https://"),
        ("ws://10.0.0.5", "http:// or https://"),
        ("//10.0.0.5", "a URL such as"),
        ("/path", "a URL such as"),
        ("http://10.0.0.5:0", "1 to 65535"),
        ("http://10.0.0.5:99999", "1 to 65535"),
        ("http://10.0.0.5:", "1 to 65535"),
        ("http://10.0.0.5:8a", "1 to 65535"),
        ("http://", "a host"),
        ("http:///path", "a host"),
        ("http://a b/", "printable"),
        ("http://a\r\nb/", "printable"),
        ("http://bücher.example", "printable"),
        ("http://[::1", "a host"),
        ("http://169.254.169.254/latest", "metadata"),
        ("http://169.254.0.1", "metadata"),
        ("http://[fe80::1]", "metadata"),
        ("http://[::ffff:169.254.169.254]", "metadata"),
        ("http://[fd00:ec2::254]", "metadata"),
        ("http://metadata.google.internal", "metadata"),
        ("http://metadata.google.internal.", "metadata"),
        ("http://2852039166", "four decimal numbers"),
        ("http://0xA9FEA9FE", "four decimal numbers"),
        ("http://0251.0376.0251.0376", "four decimal numbers"),
        ("http://169.16689662", "four decimal numbers"),
        ("http://a/b/../c", "dot segment"),
        ("http://a//b", "a canonical path: /b"[:16]),
        ("http://a/\\b", "path"),
        ("http://a/%zz", "path"),
    ],
)
def test_G08_G09_G10_G11_urls_that_are_not(url: str, expected: str, only: Only) -> None:
    for data, path in (
        (document(route(upstream=url)), "routes[0].upstream"),
        (document(upstreams={"a": {"targets": [{"url": url}]}}), "upstreams.a.targets[0].url"),
    ):
        problem = only(data)
        assert problem.path == path
        assert expected in problem.expected
        assert "user:hunter2" not in str(problem)


def test_a_name_is_told_from_a_url() -> None:
    assert is_url("http://a")
    assert is_url("/a")
    assert not is_url("users")


@pytest.mark.parametrize(("name", "hint"), [("usrs", "; did you mean 'users'?"), ("zzz", ""), ("localhost:8000", "")])
def test_an_upstream_that_is_not_defined(only: Only, name: str, hint: str) -> None:
    data = orjson.loads(upstream())
    problem = only(document(route(upstream=name), **{"upstreams": data["upstreams"]}))
    assert problem.path == "routes[0].upstream"
    assert problem.expected == f"a URL such as http://10.0.0.5:8000, or the name of a defined upstream{hint}"


def test_an_upstream_with_problems_is_defined_all_the_same(only: Only) -> None:
    problem = only(document(route(upstream="users"), upstreams={"users": {"targets": [{"url": "x:y"}]}}))
    assert problem.path == "upstreams.users.targets[0].url"


# ---- upstreams


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"algorithm": "consistent_hash"}, "upstreams.users"),
        ({"hash_on": "client"}, "upstreams.users.hash_on"),
        ({"algorithm": "consistent_hash", "hash_on": "header:"}, "upstreams.users.hash_on"),
        ({"algorithm": "robin"}, "upstreams.users.algorithm"),
        ({"tls": {"key": "/key.pem"}}, "upstreams.users.tls.key"),
        ({"targets": [{"url": "http://a"}, {"url": "http://a"}]}, "upstreams.users.targets[1].url"),
        ({"targets": [{"url": "http://a", "weight": "2"}]}, "upstreams.users.targets[0].weight"),
        ({"retries": {"on": [418]}}, "upstreams.users.retries.on[0]"),
        ({"hash_balance": 1.25}, "upstreams.users.hash_balance"),
        ({"algorithm": "consistent_hash", "hash_on": "path", "hash_balance": 0.9}, "upstreams.users.hash_balance"),
        ({"health": {"statuses": [600]}}, "upstreams.users.health.statuses[0]"),
        ({"health": {"statuses": []}}, "upstreams.users.health.statuses"),
        ({"health": {"jitter": 1.5}}, "upstreams.users.health.jitter"),
        ({"ejection": {"consecutive_errors": None}}, "upstreams.users.ejection"),
        ({"ejection": {"max_share": 0}}, "upstreams.users.ejection.max_share"),
        ({"when_all_down": "panic"}, "upstreams.users.when_all_down"),
        ({"dns": {"servers": ["10.0.0.2:70000"]}}, "upstreams.users.dns.servers[0]"),
        ({"dns": {"servers": ["10.0.0.999"]}}, "upstreams.users.dns.servers[0]"),
        ({"dns": {"servers": ["ns.internal"]}}, "upstreams.users.dns.servers[0]"),
        ({"dns": {"min_ttl": 10, "max_ttl": 5}}, "upstreams.users.dns.min_ttl"),
        ({"targets": [{"url": "http://10.0.0.1", "resolve": "a"}]}, "upstreams.users.targets[0].url"),
        ({"targets": [{"url": "http://[::1]:80", "resolve": "aaaa"}]}, "upstreams.users.targets[0].url"),
        ({"targets": [{"url": "http://users.internal", "resolve": "srv"}]}, "upstreams.users.targets[0].url"),
        ({"targets": [{"url": "http://_http._tcp.users.internal:80", "resolve": "srv"}]}, "upstreams.users.targets[0].url"),
        ({"targets": [{"url": "http://_http._tcp", "resolve": "srv"}]}, "upstreams.users.targets[0].url"),
        ({"targets": [{"url": "http://users.internal", "resolve": "mx"}]}, "upstreams.users.targets[0].resolve"),
    ],
)
def test_what_an_upstream_contradicts_itself_in(only: Only, keys: dict[str, Any], path: str) -> None:
    assert only(upstream(**keys)).path == path


def test_what_an_upstream_may_ask_for(accepted: Accepted) -> None:
    targets = [
        {"url": "http://users.internal:8000/base", "resolve": "all"},
        {"url": "http://_http._tcp.users.internal", "resolve": "srv"},
    ]
    health = {"statuses": [200, "3xx"], "jitter": 0}
    held = accepted(upstream(targets=targets, health=health, dns={"servers": ["10.0.0.2", "10.0.0.3:5353", "[::1]:53"]})).document
    described = held.upstreams["users"]
    assert [target.resolve for target in described.targets] == ["all", "srv"]
    assert described.health is not None
    assert described.health.statuses == ("200", "3xx")


def test_an_upstream_without_weight_is_a_warning(accepted: Accepted) -> None:
    (warning,) = accepted(upstream(targets=[{"url": "http://a", "weight": 0}])).warnings
    assert warning.path == "upstreams.users.targets"
    assert warning.line > 1


# ---- consumers and global plugins


def test_consumers_differ_in_id_and_match(refused: Refused) -> None:
    consumers = [
        {"id": "a", "match": {"user_id": "1", "iss": "x"}},
        {"id": "a", "match": {"user_id": "2"}},
        {"id": "b", "match": {"iss": "x", "user_id": "1"}},
    ]
    assert [(problem.path, problem.found) for problem in refused(document(consumers=consumers))] == [
        ("consumers[1].id", "'a', which is given twice"),
        ("consumers[2].match", "the same match, which is given twice"),
    ]


def test_a_global_plugin_is_listed_once(only: Only, accepted: Accepted) -> None:
    twice = [{"name": "limit"}, {"name": "limit", "config": {"limit": 1}}]
    assert only(document(plugins=twice)).path == "plugins[1].name"
    assert len(accepted(document(route(plugins=twice))).configs) == 2


# ---- split, canary, mirror

OWN = "http://10.0.0.5:8000"


@pytest.mark.parametrize(
    ("keys", "path", "found", "expected"),
    [
        ({"split": {"weights": {"http://b": 1}}}, "split.weights", "other upstreams only", f"the route's own upstream '{OWN}' among them"),
        ({"split": {"weights": {OWN: 0}}}, "split.weights", "no weight above 0", "one at least"),
        ({"split": {"weights": {OWN: 1, "userz": 1}}}, "split.weights.userz", "'userz'", "did you mean 'users'?"),
        ({"split": {"weights": {OWN: 1, "ftp://b": 1}}}, 'split.weights["ftp://b"]', "'ftp://b'", "http:// or https://"),
        ({"split": {"weights": {OWN: -1}}}, f'split.weights["{OWN}"]', "-1", "0"),
        ({"split": {"weights": {OWN: 1}, "sticky": "cookie:a b"}}, "split.sticky", "'cookie:a b'", ""),
        ({"canary": {"upstream": "users"}}, "canary", "neither a header nor a cookie", "header: NAME or cookie: NAME"),
        ({"canary": {"upstream": "userz", "header": "X-A"}}, "canary.upstream", "'userz'", "did you mean 'users'?"),
        ({"canary": {"upstream": "users", "header": "X A"}}, "canary.header", "'X A'", ""),
        ({"mirror": {"upstream": "http://169.254.169.254"}}, "mirror.upstream", "'http://169.254.169.254'", "neither link-local"),
        ({"mirror": {"upstream": "users", "share": 2}}, "mirror.share", "2", "1"),
    ],
)
def test_other_upstreams_of_a_route(only: Only, keys: dict[str, Any], path: str, found: str, expected: str) -> None:
    problem = only(document(route(**keys), upstreams={"users": {"targets": [{"url": "http://10.0.0.6"}]}}))
    assert (problem.path, problem.found) == (f"routes[0].{path}", found)
    assert expected in problem.expected
    assert problem.line > 0
