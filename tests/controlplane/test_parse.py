from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gwproxy.controlplane import checks
from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.parse import MAX_ROUTES, Parsed, parse, to_json
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Problem
from gwproxy.registry import Registry

Only = Callable[..., Problem]
Refused = Callable[..., tuple[Problem, ...]]
Accepted = Callable[..., Parsed]

CONTRACT = """
routes:
- id: users
  path: /api/users
  methods: [GET, POST]
  hosts: [api.example.com, "*.example.org"]
  headers: {x-version: "2"}
  priority: 0
  upstream: http://10.0.0.5:8000
  strip_path: false
  preserve_host: false
  timeout: 30
  max_body: null
  max_buffer: 1MiB
  websocket: false
  plugins:
    - {name: limit, config: {limit: 100, window_seconds: 60}}
- {path: /u, upstream: users}
upstreams:
  users:
    targets: [{url: "http://10.0.0.5:8000", weight: 2}, {url: "http://10.0.0.6:8000"}]
    algorithm: round_robin
    retries: {attempts: 2, on: [connect, reset, 502, 503], methods: [GET, HEAD, OPTIONS]}
    health: {path: /healthz, interval: 5, timeout: 1, healthy_after: 2, unhealthy_after: 3}
    breaker: {failures: 5, window: 10, open_for: 10}
    keepalive: true
    tls: {verify: true, ca: /ca.pem, cert: /cert.pem, key: /key.pem}
consumers:
  - {id: acme, groups: [gold], match: {user_id: "acme-service"}}
plugins:
  - {name: login, config: {secret: long enough}}
"""


def route(**keys: Any) -> dict[str, Any]:
    return {"path": "/a", "upstream": "http://10.0.0.5:8000", **keys}


def document(*routes: dict[str, Any], **keys: Any) -> bytes:
    return orjson.dumps({"routes": routes, **keys}, option=orjson.OPT_INDENT_2)


# ---- what is valid


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything the contract knows pass, whatever this version supports of it."""
    monkeypatch.setattr(checks, "UNSUPPORTED", ())


@pytest.mark.usefixtures("complete")
def test_the_contracts_example_is_valid(accepted: Accepted) -> None:
    parsed = accepted(CONTRACT)
    first, second = parsed.document.routes
    assert (first.id, first.timeout.read, first.timeout.head, first.max_buffer) == ("users", 30.0, 30.0, 1 << 20)
    assert second.id == "u"
    assert parsed.document.upstreams["users"].retries is not None
    assert parsed.document.upstreams["users"].retries.on == ("connect", "reset", "502", "503")
    assert parsed.document.consumers[0].match == {"user_id": "acme-service"}
    assert parsed.configs.keys() == {(-1, 0), (0, 0)}
    assert parsed.warnings == ()


@pytest.mark.parametrize("text", ["[]", "routes: []", '{"routes": []}', "- {path: /a, upstream: 'http://a'}"])
def test_G14_both_forms_and_no_routes_are_valid(accepted: Accepted, text: str) -> None:
    assert len(accepted(text).document.routes) == text.count("path")


@pytest.mark.usefixtures("complete")
def test_the_same_document_in_json_gives_the_same(accepted: Accepted) -> None:
    assert accepted(to_json(CONTRACT.encode(), "g.yaml"), file="gw:routes").document == accepted(CONTRACT).document


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["/api/users", "/api/users/", "/api/users/{id}"], ["api-users", "api-users-2", "api-users-id"]),
        (["/", "=/"], ["root", "root-2"]),
        (["~^/v[0-9]+/", "=/health", "/a/{b}/*"], ["v-0-9", "health", "a-b"]),
        (["/API/v1.2"], ["API-v1-2"]),
        (["/" + "x" * 300], ["x" * 100]),
    ],
)
def test_ids_are_made_of_paths(accepted: Accepted, paths: list[str], ids: list[str]) -> None:
    routes = [route(path=path, priority=index) for index, path in enumerate(paths)]
    assert [made.id for made in accepted(document(*routes)).document.routes] == ids


def test_made_ids_keep_clear_of_given_ones(accepted: Accepted) -> None:
    routes = [route(path="/x"), route(path="/x/", priority=1), route(path="/y", id="x"), route(path="/z", id="x-2")]
    assert [made.id for made in accepted(document(*routes)).document.routes] == ["x-3", "x-4", "x", "x-2"]


# ---- what is not, and where


@pytest.mark.parametrize(
    ("text", "line", "column", "path", "found", "expected"),
    [
        ("5", 1, 1, "", "5", "an array of routes, or an object with 'routes'"),
        ("upstreams: {}", 1, 1, "", "nothing", "the key 'routes'"),
        ("routes: {}", 1, 9, "routes", "an object", "a list"),
        ("routes: []\nupstreams: []", 2, 12, "upstreams", "a list", "an object"),
        ("routes: []\nplugins:\n", 2, 9, "plugins", "null", "a list, or no such key"),
        ("routes: []\nrotes: []", 2, 1, "rotes", "the unknown key 'rotes'", "did you mean 'routes'?"),
        ("- 5", 1, 3, "routes[0]", "5", "an object"),
        ("- path: /a\n", 1, 3, "routes[0]", "nothing", "the key 'upstream', which is required"),
        ("- {path: /a, upstream: x}", 1, 24, "routes[0].upstream", "'x'", "the name of a defined upstream"),
        ("- {path: 5, upstream: 'http://a'}", 1, 10, "routes[0].path", "5", 'a string (in quotes: "5")'),
        ("routes: []\nupstreams: {a: {}}", 2, 16, "upstreams.a", "nothing", "the key 'targets', which is required"),
        ("routes: []\nupstreams: {a: {targets: []}}", 2, 26, "upstreams.a.targets", "a list", "at least 1 item(s)"),
        (
            "routes: []\nupstreams: {a b: {targets: [{url: 'http://a'}]}}",
            2,
            13,
            'upstreams["a b"]',
            "the name 'a b'",
            "letters, digits, '.', '_', ':' and '-'",
        ),
        ("routes: []\nconsumers: [{id: a}]", 2, 13, "consumers[0]", "nothing", "the key 'match'"),
        ("routes: []\nplugins: [{name: limit, budget: 0}]", 2, 33, "plugins[0].budget", "0", "a number above 0"),
        ("routes: []\nplugins: [{config: {}}]", 2, 11, "plugins[0]", "nothing", "the key 'name'"),
        ("routes: []\nplugins: [{name: login}]", 2, 11, "plugins[0].config", "nothing", "the key 'secret'"),
    ],
)
def test_each_problem_has_its_place(only: Only, text: str, line: int, column: int, path: str, found: str, expected: str) -> None:
    problem = only(text)
    assert (problem.line, problem.column, problem.path, problem.found) == (line, column, path, found)
    assert expected in problem.expected


@pytest.mark.parametrize(
    ("keys", "path", "found", "expected"),
    [
        ({"metods": ["GET"]}, "metods", "the unknown key 'metods'", "did you mean 'methods'?"),
        ({"stripPath": True}, "stripPath", "the unknown key 'stripPath'", "did you mean 'strip_path'?"),
        ({"methods": ["get"]}, "methods[0]", "'get'", "a method in upper case"),
        ({"methods": "GET"}, "methods", "'GET'", "a list"),
        ({"priority": 1.5}, "priority", "1.5", "a whole number"),
        ({"priority": True}, "priority", "true", "a whole number"),
        ({"strip_path": "yes"}, "strip_path", "'yes'", "true or false"),
        ({"headers": {"x-version": 2}}, "headers.x-version", "2", 'in quotes: "2"'),
        ({"max_body": "10 apples"}, "max_body", "'10 apples'", "a size is a number of bytes"),
        ({"max_body": -1}, "max_body", "-1", "a number of at least 0"),
        ({"id": "a b"}, "id", "'a b'", "letters, digits"),
        ({"plugins": {}}, "plugins", "an object", "a list"),
        ({"plugins": [5]}, "plugins[0]", "5", "an object"),
        ({"plugins": [{"name": "limit", "config": 5}]}, "plugins[0].config", "5", "an object"),
        ({"plugins": [{"name": "limit", "on_error": "fial"}]}, "plugins[0].on_error", "'fial'", "did you mean 'fail'?"),
        ({"timeout": {"raed": 1}}, "timeout.raed", "the unknown key 'raed'", "did you mean 'read'?"),
        ({"upstream": "x" * 2000}, "upstream", f"'{'x' * 78}…", "at most 1024 character(s)"),
    ],
)
def test_G01_G02_keys_and_types(only: Only, keys: dict[str, Any], path: str, found: str, expected: str) -> None:
    problem = only(document(route(**keys)))
    assert (problem.path, problem.found) == (f"routes[0].{path}", found)
    assert expected in problem.expected
    assert problem.line > 1


@pytest.mark.parametrize("value", [0, -1, 1_000_000_000, "30"])
@pytest.mark.parametrize("shape", [lambda value: value, lambda value: {"read": value}])
def test_G13_timeouts_are_seconds_above_0(only: Only, value: Any, shape: Callable[[Any], Any]) -> None:
    assert only(document(route(timeout=shape(value)))).path.startswith("routes[0].timeout")


def test_G13_a_timeout_is_a_finite_number(only: Only) -> None:
    assert only('[{"path": "/a", "upstream": "http://a", "timeout": NaN}]').found == "NaN"
    assert only("[{path: /a, upstream: 'http://a', timeout: .nan}]").found == ".nan"


def test_G15_too_many_routes(only: Only) -> None:
    problem = only(b"[" + b",".join([b"0"] * (MAX_ROUTES + 1)) + b"]")
    assert (problem.path, problem.found) == ("routes", f"{MAX_ROUTES + 1} routes")


def test_every_problem_is_reported_at_once_by_line(refused: Refused) -> None:
    text = """
plugins: [{name: limt}]
routes:
  - path: a
    upstream: http://u:hunter2@a
  - path: /b
    timeout: -1
    upstream: nowhere
    plugins:
      - {name: limit, config: {limit: abc, lmit: 1}}
      - {name: login, config: {secret: short}, mode: shadw}
consumers: [{id: "", match: {}}]
"""
    assert [(problem.line, problem.path) for problem in refused(text)] == [
        (2, "plugins[0].name"),
        (4, "routes[0].path"),
        (5, "routes[0].upstream"),
        (7, "routes[1].timeout"),
        (10, "routes[1].plugins[0].config.limit"),
        (10, "routes[1].plugins[0].config.lmit"),
        (11, "routes[1].plugins[1].config.secret"),
        (11, "routes[1].plugins[1].mode"),
        (12, "consumers[0].id"),
        (12, "consumers[0].match"),
    ]


def test_G28_one_bad_route_of_1000_refuses_them_all(only: Only) -> None:
    routes = [route(path=f"/r{index}") for index in range(1000)]
    routes[501]["upstream"] = "ftp://a"
    assert only(document(*routes)).path == "routes[501].upstream"


def test_an_object_form_and_an_array_have_the_same_paths(only: Only) -> None:
    text = b'[\n{"path": "/a", "upstream": "http://a", "priority": "1"}]'
    problem = only(text)
    assert (problem.path, problem.line, problem.column) == ("routes[0].priority", 2, 52)


@pytest.mark.usefixtures("complete")
def test_nothing_shows_a_secret_by_accident(accepted: Accepted) -> None:
    assert "long enough" not in repr(accepted(CONTRACT))


# ---- anything at all

KEYS = [
    "routes",
    "upstreams",
    "consumers",
    "plugins",
    "path",
    "upstream",
    "name",
    "config",
    "enabled",
    "id",
    "match",
    "targets",
    "url",
    "secret",
]
STRINGS = ["/a", "http://a", "limit", "login", "${GW_LIMIT}", "${X", "${Y}"]
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(STRINGS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(tree=TREES, lenient=st.booleans(), strict=st.booleans())
def test_arbitrary_trees_are_accepted_or_refused(plugins: Registry, tree: object, lenient: bool, strict: bool) -> None:
    environment = Environment({"GW_LIMIT": "5"}, lambda name: True, strict)
    try:
        data = orjson.dumps({"routes": [tree], "upstreams": {"a": tree}, "consumers": [tree], "plugins": [tree]})
    except TypeError:  # an integer that JSON texts may hold and orjson does not write
        return
    try:
        parse(data, file="x", plugins=plugins, environment=environment, lenient=lenient)
    except ConfigurationRefused as error:
        refused = error
    else:
        return
    assert refused.problems
    assert all(problem.found and problem.expected and problem.line for problem in refused.problems)


def test_a_mask_is_no_secret(refused: Any, accepted: Any) -> None:
    text = "- path: /a\n  upstream: http://a\n  plugins: [{name: login, config: {secret: '***'}}]\n"
    assert [(p.line, p.path, p.found) for p in refused(text) if "export" in p.expected] == [
        (3, "routes[0].plugins[0].config.secret", "***")
    ]
    login = {"name": "login", "config": {"secret": "correct-horse"}}
    route = {"path": "/a", "upstream": "http://a", "headers": {"x-note": "***"}, "plugins": [login]}
    good = orjson.dumps([route])
    first = accepted(good)
    assert accepted(good, previous=first).document.routes[0] is first.document.routes[0]
