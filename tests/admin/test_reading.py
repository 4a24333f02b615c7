"""What the API tells of configurations, workers, plugins and health."""

from __future__ import annotations

import json

import orjson
import pytest
import redis

from gwproxy.admin.app import AdminApp
from gwproxy.store.configuration import ConfigurationStore, digest_of
from tests.admin.conftest import DOCUMENT, SECRET, Api, heartbeat

LIVE = orjson.dumps(DOCUMENT)


def test_the_live_configuration_as_it_was_written(api: Api, live: int) -> None:
    answer = api.get("/v1/config")
    assert answer.headers["ETag"] == f'"{live}"'
    assert answer.json["routes"][1] == DOCUMENT["routes"][1]
    assert answer.json["upstreams"] == DOCUMENT["upstreams"]


def test_D07_secrets_are_masked_wherever_a_configuration_is_told(api: Api, live: int) -> None:
    for path in ("/v1/config", f"/v1/revisions/{live}", "/v1/revisions"):
        text = api.get(path).text
        assert SECRET not in text
        assert "hunter2" not in text
    plugins = api.json("/v1/config")["routes"][0]["plugins"]
    assert plugins[0]["config"] == {"secret": "***"}
    assert plugins[1]["config"]["add_headers"] == {"X-Key": "${GW_USERS_KEY:-***}"}


def test_no_configuration(api: Api, client: redis.Redis) -> None:
    assert (api.get("/v1/config").status_code, api.get("/v1/config").json) == (404, {"error": "there is no configuration"})


def test_what_somebody_has_set_has_its_revision_and_what_is_none_is_said_to_be(api: Api, client: redis.Redis, live: int) -> None:
    client.set("gw:routes", b"[]")
    assert api.get("/v1/config").headers["ETag"] == f'"{live + 1}"'
    assert api.json("/v1/revisions")["revisions"][0]["actor"] == "external"
    client.set("gw:routes", b"{nonsense")
    answer = api.get("/v1/config")
    assert answer.status_code == 409
    assert answer.json["problems"]


@pytest.mark.parametrize(
    ("document", "valid"), [({"routes": []}, True), ([], True), (DOCUMENT, True), ({}, False), ({"routes": [{"path": "x"}]}, False)]
)
def test_validate(api: Api, document: object, valid: bool) -> None:
    answer = api("POST", "/v1/validate", document)
    assert answer.status_code == 200
    assert answer.json["valid"] is valid
    assert bool(answer.json["problems"]) is not valid


def test_validate_tells_every_problem_with_its_place(api: Api) -> None:
    text = b'{"routes": [\n  {"path": "x", "upstream": "http://h", "metods": []}, {"path": "/", "upstream": "no"}]}'
    problems = api("POST", "/v1/validate", text).json["problems"]
    assert {problem["path"] for problem in problems} >= {"routes[0].metods", "routes[1].upstream"}
    assert {problem["line"] for problem in problems} == {2}


def test_revisions_newest_first_and_each_by_its_number(api: Api, store: ConfigurationStore, live: int) -> None:
    second = store.publish(b"[]", actor="bob", comment="all gone").revision
    listed = api.json("/v1/revisions")["revisions"]
    assert [(one["revision"], one["actor"], one["comment"]) for one in listed] == [(second, "bob", "all gone"), (live, "ann", "first")]
    assert api.json("/v1/revisions?count=1")["revisions"] == listed[:1]
    one = api.json(f"/v1/revisions/{live}")
    assert one["configuration"]["routes"][1] == DOCUMENT["routes"][1]
    assert one["digest"] == digest_of(LIVE)


@pytest.mark.parametrize("number", ["99", "-1", "x", "1.0", "", "9" * 40, "１"])
def test_a_revision_that_is_not_there(api: Api, live: int, number: str) -> None:
    assert api.get(f"/v1/revisions/{number}").status_code == 404


def test_workers_and_what_they_run(api: Api, client: redis.Redis, live: int) -> None:
    heartbeat(client, "a", digest=digest_of(LIVE), plugins='{"cors": "1.0"}')
    heartbeat(client, "b", state="refused", error="2 problems", plugins='{"tenant": "broken"}')
    found = api.json("/v1/workers")
    assert found["live"] == {"revision": live, "digest": digest_of(LIVE)}
    assert {worker["id"]: worker["error"] for worker in found["workers"]} == {"a": "", "b": "2 problems"}
    assert found["behind"] == ["b"]
    assert found["broken_plugins"] == {"tenant": ["gw-1"]}


def test_health(api: Api, client: redis.Redis, live: int) -> None:
    assert api.json("/v1/health")["status"] == "down"
    targets = [{"upstream": "users", "url": "http://10.0.0.5:8000", "healthy": True, "active": 1}]
    heartbeat(client, "a", digest=digest_of(LIVE), targets=json.dumps(targets))
    assert (found := api.json("/v1/health"))["status"] == "ok", found
    assert found["reasons"] == []
    heartbeat(client, "b", digest=digest_of(LIVE), targets=json.dumps([{**targets[0], "healthy": False}]))
    found = api.json("/v1/health")
    assert found["status"] == "degraded"
    assert found["reasons"] == ["http://10.0.0.5:8000 of users is healthy for 1 of 2 workers"]
    heartbeat(client, "c", state="starting")
    assert "gw-1/7 is starting" in api.json("/v1/health")["reasons"]


def test_plugins_with_their_schemas(api: Api) -> None:
    plugins = {plugin["name"]: plugin for plugin in api.json("/v1/plugins")["plugins"]}
    assert plugins["rate_limit"]["config"]["properties"]["limit"]["default"] == 100
    assert plugins["rate_limit"]["phases"] == ["post_auth"]
    assert api.json("/v1/plugins/cors") == plugins["cors"]
    assert api.get("/v1/plugins/nowhere").status_code == 404


def test_tokens_are_listed_made_and_revoked(api: Api, app: AdminApp) -> None:
    made = api("POST", "/v1/tokens", {"name": "ci", "role": "operator", "expires_in": 3600})
    assert made.status_code == 201
    assert Api(app, made.json["token"]).get("/v1/workers").status_code == 200
    (listed,) = api.json("/v1/tokens")["tokens"]
    assert (listed["name"], listed["role"], listed["created_by"], listed["expired"]) == ("ci", "operator", "admin", False)
    assert "token" not in listed
    assert api("POST", "/v1/tokens", {"name": "ci", "role": "viewer"}).status_code == 409
    assert api("POST", "/v1/tokens", {"name": "admin", "role": "viewer"}).status_code == 409
    assert api("DELETE", "/v1/tokens/ci").status_code == 204
    assert api("DELETE", "/v1/tokens/ci").status_code == 404
    assert Api(app, made.json["token"]).get("/v1/workers").status_code == 401


# ---- what any endpoint does with what it is sent


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        (b"", 400, "an empty document"),
        (b"routes: []", 400, ""),
        (b'{"name": "a", "name": "b", "role": "viewer"}', 400, "name"),
        (b'{"name": NaN, "role": "viewer"}', 400, ""),
        (b"[" * 5000, 400, ""),
        (b"\xff\xfe{}", 400, ""),
        (b"[]", 422, "a list"),
        (b'{"name": "a"}', 422, "nothing"),
        (b'{"name": "a", "role": "root"}', 422, "'root'"),
        (b'{"name": "a", "role": "viewer", "more": 1}', 422, ""),
        (b'{"name": "a", "role": "viewer", "expires_in": "1"}', 422, "'1'"),
        (b'{"name": 7, "role": "viewer"}', 422, "7"),
    ],
)
def test_a_body_that_is_not_what_is_expected_is_refused_with_its_problems(api: Api, body: bytes, status: int, found: str) -> None:
    answer = api("POST", "/v1/tokens", body)
    assert answer.status_code == status, answer.text
    assert any(found in problem["found"] or found in problem["path"] for problem in answer.json["problems"])
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_10_mib_is_not_read(api: Api, declared: bool) -> None:
    size = 10 * 1024 * 1024 + 1
    options = {} if declared else {"environ_overrides": {"REMOTE_ADDR": "", "wsgi.input_terminated": True}}
    answer = api("POST", "/v1/validate", b" " * size, **options)
    assert answer.status_code == 413


def test_a_compressed_body_is_not_read(api: Api) -> None:
    assert api("POST", "/v1/validate", b"{}", headers={"Content-Encoding": "gzip"}).status_code == 415


@pytest.mark.parametrize("query", ["count=0", "count=1001", "count=x", "count=1&count=2", "cuont=1", "count="])
def test_a_query_that_is_not_what_is_expected(api: Api, query: str) -> None:
    answer = api.get(f"/v1/logs?{query}")
    assert answer.status_code == 400
    assert answer.json["problems"][0]["path"] in ("count", "cuont")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/config/", 404), ("GET", "//v1/config", 404), ("GET", "/V1/config", 404), ("POST", "/v1/config", 405), ("GET", "/", 404)],
)
def test_what_is_not_there(api: Api, method: str, path: str, status: int) -> None:
    answer = api(method, path)
    assert answer.status_code == status
    assert answer.json["error"]
    assert (status != 405) or answer.headers["Allow"]


def test_a_failure_of_its_own_is_a_500_without_a_trace(api: Api, app: AdminApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.plane.store, "history", lambda count: 1 / 0)
    answer = api.get("/v1/revisions")
    assert (answer.status_code, answer.json) == (500, {"error": "Internal Server Error"})


def test_nothing_is_for_caches_frames_or_guesses(api: Api) -> None:
    fields = api.get("/v1/workers").headers
    assert fields["Cache-Control"] == "no-store"
    assert fields["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in fields["Content-Security-Policy"]
