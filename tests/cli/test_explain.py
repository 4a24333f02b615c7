from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

import gwproxy
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect
from tests.conftest import Server

Ask = Callable[..., dict[str, Any]]

GONE = "gwproxy: error: the history has no revision 3; 'gwproxy history' lists those that are kept\n"


@pytest.fixture
def ask(cli, config: Path) -> Ask:
    """Asks about the sample configuration, or a text."""

    def run(*argv: str, text: str | None = None) -> dict[str, Any]:
        if text is not None:
            config.write_text(text)
        result = cli("explain", *argv, "--config", config, "--json")
        assert result.status == 0, result.err
        held: dict[str, Any] = json.loads(result.out)
        return held

    return run


def test_the_route_its_parameters_and_where_it_goes(ask: Ask) -> None:
    held = ask("get", "/api/users/7?a=b%20c")
    assert held["request"] == {"method": "GET", "scheme": "http", "host": "localhost", "path": "/api/users/7", "query_string": "a=b%20c"}
    assert (held["status"], held["route"], held["params"]) == (None, "users", {"id": "7"})
    assert held["upstream"] == "users"
    assert held["targets"] == ["http://10.0.0.5:8000/base/api/users/7?a=b%20c", "http://10.0.0.6:8000/api/users/7?a=b%20c"]


def test_why_each_other_route_does_not_match(ask: Ask) -> None:
    assert [(route["id"], route["matched"]) for route in ask("GET", "/api/users/7")["routes"]] == [("users", True), ("health", False)]
    assert ask("DELETE", "/api/users/7")["routes"][0]["reason"] == "method DELETE is not among GET, HEAD, POST"
    assert ask("GET", "/health")["routes"][1]["reason"] == "host localhost is not among api.example.com"
    assert ask("GET", "http://api.example.com/health")["routes"][1]["reason"] == "header x-version is missing"
    assert (
        ask("GET", "http://api.example.com/health", "-H", "X-Version: 1")["routes"][1]["reason"]
        == "header x-version is not the value asked for"
    )


def test_headers_and_the_host_of_the_url_decide(ask: Ask) -> None:
    held = ask("GET", "https://API.example.com.:8443/health", "-H", "x-version:2")
    assert (held["route"], held["request"]["host"], held["request"]["scheme"]) == ("health", "api.example.com", "https")
    assert held["targets"] == ["http://127.0.0.1:9000/status/"]
    assert ask("GET", "http://other/health", "-H", "x-version: 2", "-H", "Host: api.example.com")["route"] == "health"


def test_the_chain_phase_by_phase_with_effective_configurations(ask: Ask) -> None:
    chain = ask("GET", "/api/users/7")["chain"]
    assert list(chain) == list(gwproxy.PHASES)
    assert [[entry["plugin"] for entry in entries] for entries in chain.values()] == [
        [],
        ["jwt_auth"],
        ["rate_limit", "rate_limit"],
        ["access_log"],
        [],
        ["access_log"],
    ]
    (jwt,) = chain["auth"]
    assert (jwt["mode"], jwt["on_error"], jwt["priority"], jwt["config"]["secret"]) == ("shadow", "fail", 200, "***")
    assert [entry["config"]["limit"] for entry in chain["post_auth"]] == [5, 7]
    assert [entry["config"]["window_seconds"] for entry in chain["post_auth"]] == [10, 60]
    assert chain["response"][0]["on_error"] == "ignore"


def test_where_each_setting_comes_from(ask: Ask) -> None:
    chain = ask("GET", "/api/users/7")["chain"]
    (jwt,), (five, seven), (log,) = chain["auth"], chain["post_auth"], chain["response"]
    assert (jwt["source"], log["source"]) == ("route", "global")
    assert {name: jwt["sources"][name] for name in ("priority", "mode", "on_error", "budget")} == {
        **dict.fromkeys(("priority", "on_error", "budget"), "default"),
        "mode": "route",
    }
    assert {name for name, source in five["sources"]["config"].items() if source == "route"} == {"limit", "window_seconds"}
    assert (seven["sources"]["config"]["limit"], seven["sources"]["config"]["window_seconds"]) == ("route", "default")
    assert set(log["sources"]["config"].values()) == {"default"}


def test_a_routes_entry_replaces_a_global_one_as_a_whole_its_settings_too(ask: Ask) -> None:
    text = """{plugins: [{name: rate_limit, priority: 7, budget: 2, config: {limit: 3}}], routes: [
      {path: /own, upstream: 'http://a', plugins: [{name: rate_limit, on_error: ignore, priority: null, config: {window_seconds: 5}}]},
      {path: /global, upstream: 'http://a'}]}"""
    (own,), (inherited,) = (ask("GET", path, text=text)["chain"]["post_auth"] for path in ("/own", "/global"))
    assert (own["priority"], own["budget"], own["config"]["limit"], own["on_error"]) == (300, 5.0, 100, "ignore")
    assert own["sources"] == {
        **{"priority": "default", "mode": "default", "on_error": "route", "budget": "default"},
        "config": {**dict.fromkeys(own["config"], "default"), "window_seconds": "route"},
    }
    assert (inherited["source"], inherited["priority"], inherited["budget"]) == ("global", 7, 2.0)
    assert (inherited["sources"]["priority"], inherited["sources"]["config"]["limit"]) == ("global", "global")


def headers_of(held: dict[str, Any]) -> list[dict[str, Any]]:
    return [{field["name"]: field["value"] for field in sent["headers"]} for sent in held["sent"]]


def test_what_would_be_sent_upstream(ask: Ask) -> None:
    fields = ("-H", "Connection: close, X-Hop", "-H", "X-Hop: 1", "-H", "X-User-Id: root", "-H", "X-Forwarded-For: 6.6.6.6")
    held = ask("GET", "https://api.example.com:8443/health?a=b", "-H", "x-version: 2", "-H", "Authorization: Bearer abc", *fields)
    (sent,) = headers_of(held)
    assert held["sent"][0]["url"] == held["targets"][0] == "http://127.0.0.1:9000/status/?a=b"
    assert sent == {
        "Host": "127.0.0.1:9000",
        "x-version": "2",
        "Authorization": "***",
        "X-Request-ID": None,
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "api.example.com:8443",
        "X-Forwarded-Port": "8443",
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
        "Forwarded": 'for=127.0.0.1;proto=https;host="api.example.com:8443"',
        "Via": "1.1 gwproxy",
    }
    assert held["not_sent"] == ["Connection", "X-Hop", "X-User-Id"]


def test_each_target_has_its_own_host_unless_the_clients_is_preserved(cli, ask: Ask) -> None:
    assert [sent["Host"] for sent in headers_of(ask("GET", "/api/users/7"))] == ["10.0.0.5:8000", "10.0.0.6:8000"]
    text = """{upstreams: {u: {targets: [{url: 'http://a'}, {url: 'http://b'}]}},
      routes: [{path: /, upstream: u, preserve_host: true}]}"""
    assert [sent["Host"] for sent in headers_of(ask("GET", "http://w.example/x", text=text))] == ["w.example", "w.example"]


def test_a_clients_request_id_is_kept(ask: Ask) -> None:
    held = ask("GET", "/api/users/7", "-H", "X-Request-ID: abc")
    assert {sent["X-Request-ID"] for sent in headers_of(held)} == {"abc"}


def test_an_upgrade_is_asked_for(ask: Ask) -> None:
    text = "[{path: /ws, upstream: 'http://a', websocket: true}]"
    (sent,) = headers_of(ask("GET", "/ws", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", text=text))
    assert (sent["Connection"], sent["Upgrade"]) == ("Upgrade", "websocket")


def test_notes_say_what_is_not_the_last_word(ask: Ask) -> None:
    text = """[{path: /, upstream: 'http://a', plugins: [{name: jwt_auth, mode: MODE, config: {secret: %s}}, {name: access_log},
      {name: request_transform, mode: MODE}]}]"""
    text %= "s" * 32
    enforced = ask("GET", "/x", text=text.replace("MODE", "enforce"))["notes"]
    assert "X-User-Id, X-Consumer and X-Consumer-Groups are added after authentication" in enforced
    assert "plugins may change it: jwt_auth, request_transform, access_log" in enforced
    shadow = ask("GET", "/x", text=text.replace("MODE", "shadow"))["notes"]
    assert "plugins may change it: access_log" in shadow
    assert not [note for note in shadow if "authentication" in note]


def test_what_is_refused_sends_nothing(ask: Ask) -> None:
    for argv in (("GET", "/nowhere"), ("GET", "/a%5Cb"), ("GET", "/api/users/7", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket")):
        held = ask(*argv)
        assert (held["sent"], held["not_sent"], held["notes"]) == ([], [], [])


def test_a_disabled_entry_before_another_of_the_same_plugin(ask: Ask) -> None:
    entries = [{"name": "rate_limit", "enabled": False, "config": {"limit": 1}}, {"name": "rate_limit", "config": {"limit": 7}}]
    held = ask("GET", "/a", text=json.dumps([{"path": "/a", "upstream": "http://127.0.0.1:9", "plugins": entries}]))
    assert [step["config"]["limit"] for step in held["chain"]["post_auth"]] == [7]


def test_no_match_is_an_answer(cli, ask: Ask, config: Path) -> None:
    held = ask("GET", "/nowhere")
    assert (held["status"], held["route"], held["targets"], held["upstream"]) == (404, None, [], None)
    assert [phase for phase, entries in held["chain"].items() if entries] == ["response"]
    assert all(route["reason"] for route in held["routes"])
    result = cli("explain", "GET", "/nowhere", "--config", config)
    assert (result.status, result.err) == (0, "")
    assert "no route matches\nanswer: 404 Route not found\n" in result.out


@pytest.mark.parametrize(
    ("method", "url", "status", "reason"),
    [
        ("GET", "/api/../x", 400, "the path has a dot segment"),
        ("GET", "/a%5Cb", 400, "backslash"),
        ("GET", "/ä", 400, "printable ASCII"),
        ("GET", "api/users", 400, "neither a path nor an http URL"),
        ("GET", "http://a b/", 400, "no valid host"),
        ("TRACE", "/api/users/7", 405, "TRACE is not proxied"),
        ("GET", "*", 400, "asterisk"),
    ],
)
def test_what_is_refused_before_it_is_routed(ask: Ask, method: str, url: str, status: int, reason: str) -> None:
    held = ask(method, url)
    assert (held["status"], held["routes"]) == (status, [])
    assert reason in held["reason"]


def test_a_url_that_is_none(cli, config: Path) -> None:
    result = cli("explain", "GET", "http://[::1/", "--config", config)
    assert result.status == 1
    assert "is no URL" in result.err


def test_an_upgrade_that_the_route_does_not_support(ask: Ask) -> None:
    held = ask("GET", "/api/users/7", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket")
    assert (held["status"], held["route"]) == (501, "users")


def test_a_preflight_is_routed_by_the_method_it_asks_for(ask: Ask) -> None:
    preflight = ("OPTIONS", "/api/users/7", "-H", "Origin: https://app")
    assert ask(*preflight, "-H", "Access-Control-Request-Method: POST")["route"] == "users"
    refused = ask(*preflight, "-H", "Access-Control-Request-Method: PUT")
    assert refused["route"] is None
    assert refused["routes"][0]["reason"].startswith("method PUT is not among")
    assert ask(*preflight)["routes"][0]["reason"].startswith("method OPTIONS is not among")


@pytest.mark.parametrize(
    "argv", [("GET", "/api/users/7"), ("DELETE", "/x"), ("OPTIONS", "/api/users/1", "-H", "Access-Control-Request-Method: GET")]
)
def test_the_explanation_and_the_routing_agree(ask: Ask, argv: tuple[str, ...]) -> None:
    held = ask(*argv)
    assert [route["id"] for route in held["routes"] if route["matched"]] == ([held["route"]] if held["route"] else [])


def test_for_people(cli, config: Path) -> None:
    result = cli("explain", "GET", "/api/users/7", "--config", config)
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "GET http://localhost/api/users/7"
    assert lines[1] == "route: users  /api/users/{id}  (host, path, method and headers fit)"
    assert lines[2] == "  id = 7"
    assert lines[4].startswith('  auth       jwt_auth 200 [shadow]  {"secret":"***",')
    assert lines[5] == "               set on the route: mode, config.secret; built-in default: all else"
    assert lines[6].startswith('  post_auth  rate_limit 300  {"limit":5,')
    assert lines[8].startswith('             rate_limit 300  {"limit":7,')
    assert lines[10].startswith("  pre_proxy  access_log 900")
    assert lines[11] == "               listed globally; built-in default: all settings"
    assert "target: one of users's, by round_robin" in lines
    assert lines[-1].split()[:2] == ["health", "=/health"]
    assert "correct-horse" not in result.out


def test_a_single_target(cli, config: Path) -> None:
    out = cli("explain", "GET", "http://api.example.com/health", "-H", "x-version: 2", "--config", config).out
    assert "target:\n  http://127.0.0.1:9000/status/\n" in out
    assert "no route matches" not in out


def test_the_live_configuration(cli, store: redis.Redis) -> None:
    store.set("gw:routes", b'{"routes": [{"path": "/live", "upstream": "http://a"}]}')
    assert "route: live  /live" in cli("explain", "GET", "/live/x").out
    store.set("gw:routes", b'{"routes": 7}')
    result = cli("explain", "GET", "/live/x")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("gw:routes:1:12: routes: found 7")
    store.delete("gw:routes")
    assert "gw:routes is missing or empty" in cli("explain", "GET", "/").err


def test_a_past_revision(cli, store: redis.Redis, server: Server, config: Path) -> None:
    past = ConfigurationStore(connect(server.url, timeout=5))
    for path in (b"/one", b"/two"):
        past.publish(b'[{"path": "%b", "upstream": "http://a"}]' % path, actor="me")
    past.close()
    assert "route: one  /one" in cli("explain", "GET", "/one", "--revision", "1").out
    assert "no route matches" in cli("explain", "GET", "/one", "--revision", "2").out
    missing = cli("explain", "GET", "/one", "--revision", "3")
    assert (missing.status, missing.out, missing.err) == (
        1,
        "",
        GONE,
    )
    assert cli("explain", "GET", "/one", "--revision", "1", "--config", config).status == 2
    assert cli("explain", "GET", "/one", "--revision", "0").status == 2


def test_a_plugin_that_is_not_here_makes_a_live_route_answer_503(cli, store: redis.Redis) -> None:
    store.set("gw:routes", orjson.dumps([{"path": "/a", "upstream": "http://a", "plugins": [{"name": "strange"}, {"name": "cors"}]}]))
    held = json.loads(cli("explain", "GET", "/a", "--json").out)
    assert (held["status"], held["route"], held["targets"]) == (503, "a", ["http://a/a"])
    assert held["reason"] == "plugin strange: not installed"
    assert [entry["plugin"] for entry in held["chain"]["pre_auth"]] == ["cors"]


def test_a_plugin_that_is_not_here_refuses_a_file(cli, config: Path) -> None:
    config.write_text("[{path: /a, upstream: 'http://a', plugins: [{name: strange}]}]")
    result = cli("explain", "GET", "/a", "--config", config)
    assert (result.status, result.out) == (1, "")
    assert "'strange'" in result.err


def test_upstreams_that_only_the_gateways_environment_knows_are_shown_as_references(cli, ask: Ask) -> None:
    text = """{upstreams: {b: {targets: [{url: "${GW_ONE}"}, {url: "${GW_TWO}"}]}},
      routes: [{path: /a, upstream: "${GW_ONE}"}, {path: /b, upstream: b}]}"""
    assert ask("GET", "/a/x", text=text)["targets"] == ["${GW_ONE}/a/x"]
    held = ask("GET", "/b")
    assert held["targets"] == ["${GW_ONE}/b", "${GW_TWO}/b"]
    assert [sent["Host"] for sent in headers_of(held)] == ["(the host of ${GW_ONE})", "(the host of ${GW_TWO})"]
    assert ask("GET", "/a")["upstream"] == "${GW_ONE}"


def test_upstreams_that_are_set_here_are_shown(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GW_ONE", "http://10.0.0.9/base")
    assert ask("GET", "/a", text='[{path: /a, upstream: "${GW_ONE}"}]')["targets"] == ["http://10.0.0.9/base/a"]


def test_the_demo_can_be_explained_without_its_environment(cli) -> None:
    demo = Path(gwproxy.__file__).parent / "demo" / "demo.yaml"
    result = cli("explain", "GET", "/api/admin", "--config", demo)
    assert result.status == 0
    assert "jwt_auth 200  not known here: the environment variable GW_DEMO_JWT_SECRET is not set" in result.out
    assert "${GW_DEMO_ORDERS}/" in result.out
    assert "answer:" not in result.out
    assert "GW_DEMO_JWT_SECRET" in result.err


def test_entries_that_are_not_known_here_stand_at_their_priority(ask: Ask) -> None:
    text = """{plugins: [{name: webhook_signature, config: {scheme: github, secrets: ["${GW_A}"]}, priority: 1}],
      routes: [{path: /a, upstream: 'http://a', plugins: [{name: jwt_auth, config: {secret: "${GW_B}"}}]}]}"""
    auth = ask("GET", "/a", text=text)["chain"]["auth"]
    assert [(entry["plugin"], entry["priority"]) for entry in auth] == [("webhook_signature", 1), ("jwt_auth", 200)]
    assert auth[1]["config"] is None
    assert "GW_B" in auth[1]["unknown"]


def test_many_routes_are_not_all_listed(cli, ask: Ask) -> None:
    text = (
        "["
        + ", ".join(f"{{path: /r{n}, upstream: 'http://a'}}" for n in range(60))
        + ", {path: /r1, methods: [PUT], upstream: 'http://a'}]"
    )
    assert len(ask("GET", "/r1", text=text)["routes"]) == 61
    out = cli("explain", "GET", "/r1", "--config", "-", stdin=text).out
    assert "method GET is not among PUT" in out
    assert out.endswith("and 59 other routes; --json lists all\n")


def test_stdin(cli) -> None:
    assert "route: a  /a" in cli("explain", "GET", "/a", "--config", "-", stdin='[{"path": "/a", "upstream": "http://a"}]').out


SHARED = """
routes:
  - id: shared
    path: /shared
    upstream: old
    split: {weights: {old: 3, new: 1}, sticky: "cookie:side"}
    canary: {upstream: beta, header: X-Canary}
    mirror: {upstream: "http://10.0.0.9", share: 0.5}
  - {id: of-users, path: /of-users, upstream: old, split: {weights: {old: 3, new: 1}, sticky: user}}
upstreams:
  old: {targets: [{url: "http://10.0.0.1/base"}, {url: "http://10.0.0.2"}]}
  new: {targets: [{url: "http://10.0.0.3"}]}
  beta: {targets: [{url: "http://10.0.0.4/b"}]}
"""


@pytest.mark.parametrize(
    ("argv", "ways"),
    [
        (["/shared/x"], [("old", 0.75, "by lot, then by cookie:side"), ("new", 0.25, "by lot, then by cookie:side")]),
        (["/shared/x", "-H", "X-Canary: always"], [("beta", 1, "the canary's: header X-Canary is always")]),
        (["/of-users"], [("old", 0.75, "by user, once one is authenticated"), ("new", 0.25, "by user, once one is authenticated")]),
    ],
)
def test_a_route_with_several_upstreams_says_which_and_why(ask: Ask, argv: list[str], ways: list[Any]) -> None:
    held = ask("GET", *argv, text=SHARED)
    assert [(way["upstream"], way["share"], way["reason"]) for way in held["ways"]] == ways
    assert held["targets"] == [target for way in held["ways"] for target in way["targets"]]


def test_a_client_with_a_cookie_has_its_side_and_targets_have_their_own_paths(ask: Ask) -> None:
    sides = {}
    for number in range(20):
        held = ask("GET", "/shared/x?a=1", "-H", f"Cookie: side={number}", text=SHARED)
        [way] = held["ways"]
        sides[held["upstream"]] = way["targets"], way["reason"]
    assert sides == {
        "old": (["http://10.0.0.1/base/shared/x?a=1", "http://10.0.0.2/shared/x?a=1"], "by cookie:side"),
        "new": (["http://10.0.0.3/shared/x?a=1"], "by cookie:side"),
    }
    assert ask("GET", "/shared", "-H", "X-Canary: always", text=SHARED)["targets"] == ["http://10.0.0.4/b/shared"]


def test_copies_are_told_of(ask: Ask, cli: Any, config: Path) -> None:
    assert ask("GET", "/shared", text=SHARED)["mirror"] == {"upstream": "http://10.0.0.9", "share": 0.5, "max_body": 65536}
    assert ask("GET", "/of-users")["mirror"] is None
    out = cli("explain", "GET", "/shared", "--config", config).out
    assert "target: one of old's, by round_robin  (0.75 of such requests: by lot, then by cookie:side)" in out
    assert "target: new  (0.25 of such requests: by lot, then by cookie:side)\n  http://10.0.0.3/shared\n" in out
    assert "mirror: http://10.0.0.9  (0.5 of such requests, with bodies of at most 65536 bytes)" in out
