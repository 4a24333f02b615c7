"""Changes by the API: by the way of ``apply``, on top of what the client has seen, recorded once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import redis

from gwproxy.admin.app import AdminApp
from gwproxy.store.configuration import ConfigurationStore, digest_of
from tests.admin.conftest import DOCUMENT, SECRET, Api, heartbeat

MERGE = {"Content-Type": "application/merge-patch+json"}
NEW = {"path": "/new", "upstream": "http://127.0.0.1:9001"}


@pytest.fixture
def operator(role) -> Api:
    return role("operator")


def written(store: ConfigurationStore) -> Any:
    """What is in the store, secrets and all."""
    data = store.read().data
    assert data is not None
    return orjson.loads(data)


def audited(app: AdminApp) -> list[tuple[str, str, str]]:
    return [(entry.actor, entry.action, entry.outcome) for entry in app.plane.audit.entries()]


# ---- the whole


def test_a_configuration_that_is_got_and_put_back_changes_nothing(operator: Api, store: ConfigurationStore, live: int) -> None:
    got = operator.get("/v1/config")
    answer = operator("PUT", "/v1/config", got.json, headers={"If-Match": got.headers["ETag"]})
    assert answer.status_code == 200
    assert (answer.json["outcome"], answer.json["revision"], answer.json["changes"]) == ("unchanged", live, [])
    assert written(store) == DOCUMENT


def test_D07_secrets_that_were_masked_are_kept_and_never_told(operator: Api, store: ConfigurationStore, live: int) -> None:
    document = operator.json("/v1/config")
    document["routes"].append(NEW)
    answer = operator("PUT", "/v1/config?comment=one+more", document, headers={"If-Match": f'"{live}"'})
    assert (answer.status_code, answer.json["outcome"], answer.json["revision"]) == (200, "applied", live + 1)
    assert answer.headers["ETag"] == f'"{live + 1}"'
    assert [(change["kind"], change["name"], change["action"]) for change in answer.json["changes"]] == [("route", "new", "added")]
    assert written(store)["routes"] == [*DOCUMENT["routes"], NEW]
    assert SECRET not in answer.text
    newest = store.history(1)[0]
    assert (newest.actor, newest.comment) == ("a-operator", "one more")


def test_D09_a_change_to_what_has_changed_meanwhile_is_refused_and_told_who_changed_what(
    operator: Api, app: AdminApp, store: ConfigurationStore, live: int
) -> None:
    document = {**DOCUMENT, "routes": [*DOCUMENT["routes"], NEW]}
    store.publish(orjson.dumps(document), actor="bob", comment="urgent")
    answer = operator("PUT", "/v1/config", DOCUMENT, headers={"If-Match": f'"{live}"'})
    assert answer.status_code == 409
    conflict = answer.json["conflict"]
    assert (conflict["base"], conflict["revision"], conflict["actor"]) == (live, live + 1, "bob")
    assert [(one["actor"], one["comment"], one["summary"]) for one in conflict["since"]] == [("bob", "urgent", "route new added")]
    assert written(store) == document
    assert audited(app) == [("a-operator", "apply", "refused")]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 428),
        ({"If-None-Match": '"1"'}, 428),
        ({"If-Match": "1"}, 400),
        ({"If-Match": 'W/"1"'}, 400),
        ({"If-Match": '"one"'}, 400),
        ({"If-Match": '"99"'}, 409),
        ({"If-None-Match": "*"}, 409),
        ({"If-Match": "*"}, 200),
    ],
    ids=str,
)
def test_D09_what_a_change_is_based_on_has_to_be_said(operator: Api, live: int, fields: dict[str, str], status: int) -> None:
    document = {**DOCUMENT, "routes": [NEW]}
    assert operator("PUT", "/v1/config", document, headers=fields).status_code == status


def test_the_first_configuration(operator: Api, store: ConfigurationStore) -> None:
    answer = operator("PUT", "/v1/config", {"routes": [NEW]}, headers={"If-None-Match": "*"})
    assert (answer.status_code, answer.json["revision"]) == (200, 1)
    assert written(store) == {"routes": [NEW]}


def test_what_is_not_valid_is_refused_with_every_place_and_recorded(operator: Api, app: AdminApp, live: int) -> None:
    body = b'{"routes": [\n {"path": "/a", "upstream": "nowhere"},\n {"path": "/b", "upstream": "http://h", "metods": []}]}'
    answer = operator("PUT", "/v1/config", body, headers={"If-Match": "*"})
    assert answer.status_code == 422
    assert [(p["path"], p["line"]) for p in answer.json["problems"]] == [("routes[0].upstream", 2), ("routes[1].metods", 3)]
    assert audited(app) == [("a-operator", "apply", "refused")]


def test_an_empty_one_has_to_be_meant(operator: Api, live: int) -> None:
    assert operator("PUT", "/v1/config", [], headers={"If-Match": "*"}).status_code == 422
    assert operator("PUT", "/v1/config?allow_empty=true", [], headers={"If-Match": "*"}).status_code == 200


def test_a_mask_where_there_is_nothing_to_keep_is_a_problem(operator: Api, live: int) -> None:
    route = {**NEW, "plugins": [{"name": "jwt_auth", "config": {"secret": "***"}}]}
    answer = operator("PUT", "/v1/routes/new", route)
    assert answer.status_code == 422
    assert answer.json["problems"][0]["path"] == "routes[2].plugins[0].config.secret"
    assert answer.json["problems"][0]["line"] == 0  # of a document that the client has never seen


def test_what_the_workers_cannot_run_is_refused(operator: Api, client: redis.Redis, live: int) -> None:
    heartbeat(client, "a", plugins='{"cors": "1.0", "jwt_auth": "1.0", "request_transform": "1.0"}')
    route = {**NEW, "plugins": [{"name": "rate_limit"}]}
    answer = operator("PUT", "/v1/routes/new", route)
    assert answer.status_code == 422
    assert "rate_limit" in answer.json["problems"][0]["found"]
    document = {"routes": [route]}
    assert operator("POST", "/v1/validate", document).json["valid"] is False


def test_workers_that_do_not_answer_in_time_are_named(operator: Api, client: redis.Redis, live: int) -> None:
    plugins = '{"cors": "1.0", "jwt_auth": "1.0", "request_transform": "1.0"}'
    heartbeat(client, "a", plugins=plugins)
    answer = operator("PUT", "/v1/routes/new?wait=0.2", NEW)
    assert (answer.status_code, answer.json["outcome"]) == (202, "applied")
    rollout = answer.json["rollout"]
    assert rollout["outcome"] == "late"
    assert [(worker["id"], worker["state"]) for worker in rollout["workers"]] == [("a", "waiting")]
    heartbeat(client, "a", plugins=plugins, digest=answer.json["digest"], revision=str(answer.json["revision"]))
    again = operator("PUT", "/v1/routes/new?wait=5", NEW)
    assert (again.status_code, again.json["outcome"], again.json["rollout"]["outcome"]) == (200, "unchanged", "done")


# ---- one thing


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("routes", "health", {"id": "health", "path": "/health", "upstream": "http://127.0.0.1:9002"}),
        ("routes", "new", {"id": "new", **NEW}),
        ("upstreams", "more", {"targets": [{"url": "http://10.0.0.7:8000"}]}),
        ("upstreams", "users", {"targets": [{"url": "http://10.0.0.7:8000"}]}),
        ("consumers", "beta", {"id": "beta", "match": {"user_id": "beta"}}),
    ],
)
def test_one_thing_is_put_and_read(operator: Api, store: ConfigurationStore, live: int, kind: str, name: str, value: Any) -> None:
    answer = operator("PUT", f"/v1/{kind}/{name}", value)
    assert answer.status_code == 200, answer.text
    assert operator.json(f"/v1/{kind}/{name}") == value
    assert operator.json(f"/v1/{kind}")[name] == value
    assert len(answer.json["changes"]) == 1
    assert written(store)["routes"][0] == DOCUMENT["routes"][0]


def test_one_thing_is_patched_null_removes_and_secrets_stay(operator: Api, store: ConfigurationStore, live: int) -> None:
    patch = {"timeout": 5, "methods": ["GET"]}
    assert operator("PATCH", "/v1/routes/users", patch, headers=MERGE).status_code == 200
    assert written(store)["routes"][0] == {**DOCUMENT["routes"][0], **patch}
    masked = operator.json("/v1/routes/users")["plugins"]
    assert operator("PATCH", "/v1/routes/users", {"methods": None, "plugins": masked}, headers=MERGE).status_code == 200
    assert written(store)["routes"][0] == {**DOCUMENT["routes"][0], "timeout": 5}


@pytest.mark.parametrize(
    ("value", "patch", "result"),
    [  # RFC 7396, appendix A, where patch and target are objects
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        (["a"], {"a": 1}, {"a": 1}),
    ],
)
def test_a_merge_patch(value: Any, patch: Any, result: Any) -> None:
    from gwproxy.admin.parts import merged

    assert merged(value, patch) == result


def test_one_thing_is_deleted(operator: Api, store: ConfigurationStore, live: int) -> None:
    assert operator("DELETE", "/v1/routes/health").status_code == 200
    assert operator("DELETE", "/v1/consumers/acme").status_code == 200
    assert written(store) == {**DOCUMENT, "routes": DOCUMENT["routes"][:1], "consumers": []}
    used = operator("DELETE", "/v1/upstreams/users")  # a route still leads there
    assert used.status_code == 422
    assert used.json["problems"][0]["path"] == "routes[0].upstream"


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["routes/nowhere", "upstreams/nowhere", "consumers/nowhere"])
def test_one_thing_that_is_not_there(operator: Api, live: int, method: str, path: str) -> None:
    body, headers = ({}, MERGE) if method == "PATCH" else (None, None)
    answer = operator(method, f"/v1/{path}", body, headers=headers)
    assert (answer.status_code, answer.json["error"]) == (404, f"there is no {path.split('s/')[0]} 'nowhere'")


def test_a_thing_keeps_its_name(operator: Api, live: int) -> None:
    assert operator("PUT", "/v1/routes/new", {"id": "other", **NEW}).json["problems"][0]["path"] == "id"
    assert operator("PATCH", "/v1/consumers/acme", {"id": "other"}, headers=MERGE).status_code == 422


def test_a_plain_array_of_routes_becomes_an_object_where_it_must(operator: Api, store: ConfigurationStore) -> None:
    store.publish(orjson.dumps([NEW]), actor="ann")
    assert operator("PATCH", "/v1/routes/new", {"timeout": 5}, headers=MERGE).status_code == 200
    assert isinstance(written(store), list)
    assert operator("PUT", "/v1/consumers/beta", {"match": {"user_id": "b"}}).status_code == 200
    assert sorted(written(store)) == ["consumers", "routes"]


def test_D09_one_thing_is_changed_on_top_of_what_others_change_unless_a_base_is_named(
    operator: Api, store: ConfigurationStore, live: int
) -> None:
    assert operator("PUT", "/v1/routes/new", NEW).status_code == 200
    stale = operator("PATCH", "/v1/routes/users", {"timeout": 5}, headers={**MERGE, "If-Match": f'"{live}"'})
    assert stale.status_code == 409
    assert stale.json["conflict"]["since"][0]["actor"] == "a-operator"
    assert operator("PATCH", "/v1/routes/users", {"timeout": 5}, headers=MERGE).status_code == 200


def test_D05_csrf_a_patch_wants_its_own_type(operator: Api, live: int) -> None:
    assert operator("PATCH", "/v1/routes/users", {"timeout": 5}).status_code == 415


# ---- back, and what was


def test_a_rollback_is_a_new_revision(operator: Api, store: ConfigurationStore, live: int) -> None:
    operator("PUT", "/v1/routes/new", NEW)
    answer = operator("POST", "/v1/rollback", {"revision": live})
    assert (answer.status_code, answer.json["revision"], answer.json["digest"]) == (200, live + 2, digest_of(orjson.dumps(DOCUMENT)))
    assert store.history(1)[0].comment == f"rollback to revision {live}"
    assert operator("POST", "/v1/rollback", {"revision": 99}).status_code == 404
    assert operator("POST", "/v1/rollback", {"revision": live}, headers={"If-Match": f'"{live}"'}).status_code == 409


def test_diff_with_what_is_live_and_between_revisions(operator: Api, live: int) -> None:
    document = operator.json("/v1/config")
    document["routes"][0]["timeout"] = 7
    answer = operator("POST", "/v1/diff", document)
    assert (answer.json["base"], answer.json["unchanged"]) == (live, False)
    ((changed,),) = [change["fields"] for change in answer.json["changes"]]
    assert changed["after"] == 7
    assert operator("POST", "/v1/diff", operator.json("/v1/config")).json["unchanged"] is True
    operator("PUT", "/v1/routes/new", NEW)
    between = operator.json(f"/v1/diff?before={live}&after={live + 1}")
    assert [(change["name"], change["action"]) for change in between["changes"]] == [("new", "added")]
    assert operator.get(f"/v1/diff?before={live}&after=99").status_code == 404


def test_explain(operator: Api, live: int) -> None:
    told = operator("POST", "/v1/explain", {"url": "/api/users/7"})
    assert told.status_code == 200, told.text
    assert (told.json["route"], told.json["targets"]) == ("users", ["http://10.0.0.5:8000/api/users/7"])
    assert SECRET not in told.text
    assert operator("POST", "/v1/explain", {"url": "/nowhere"}).json["status"] == 404
    asked = {"url": "/new/x", "config": {"routes": [NEW]}, "headers": {"X-Version": "2"}}
    assert operator("POST", "/v1/explain", asked).json["route"] == "new"
    operator("PUT", "/v1/routes/new", NEW)
    assert operator("POST", "/v1/explain", {"url": "/new", "revision": live}).json["route"] is None
    assert operator("POST", "/v1/explain", {"url": "/new", "revision": 99}).status_code == 404
    for wrong in ({"url": "/", "headers": {"a b": "c"}}, {"url": "http://["}, {"url": "/", "config": {}}, {**asked, "revision": 1}):
        assert operator("POST", "/v1/explain", wrong).status_code == 422


# ---- what is recorded


def test_every_change_and_refusal_is_recorded_once_with_who(api: Api, operator: Api, app: AdminApp, live: int) -> None:
    operator("PUT", "/v1/routes/new", NEW)
    operator("PUT", "/v1/routes/new", {"path": 7})
    operator("PUT", "/v1/routes/other", NEW, headers={"If-Match": f'"{live}"'})
    operator("POST", "/v1/rollback", {"revision": live})
    operator("PUT", "/v1/routes/new", b"no JSON")
    operator("POST", "/v1/rollback", b"revision=1", headers={"Content-Type": "application/x-www-form-urlencoded"})
    operator("GET", "/v1/tokens")
    api("POST", "/v1/tokens", {"name": "ci", "role": "viewer"})
    api("DELETE", "/v1/tokens/ci")
    Api(app, "wrong").get("/v1/config")
    assert audited(app) == [
        ("a-operator", "apply", "done"),
        ("a-operator", "apply", "refused"),
        ("a-operator", "apply", "refused"),
        ("a-operator", "rollback", "done"),
        ("a-operator", "PUT /v1/routes/new", "refused"),
        ("a-operator", "POST /v1/rollback", "refused"),
        ("a-operator", "GET /v1/tokens", "refused"),
        ("admin", "token create", "done"),
        ("admin", "token revoke", "done"),
        ("unknown", "authenticate", "refused"),
    ]
    told = api.json("/v1/audit")["entries"]
    assert [entry["outcome"] for entry in told] == [outcome for _, _, outcome in audited(app)]
    assert "the role admin is needed" in told[6]["detail"]
    assert "127.0.0.1" in told[9]["detail"]


def test_D08_guesses_do_not_push_others_out_of_the_audit_stream(app: AdminApp) -> None:
    for number in range(200):
        Api(app, f"wrong-{number}").get("/v1/config")
    assert 1 <= len(audited(app)) <= 3


def test_dry_runs_are_not_recorded(operator: Api, app: AdminApp, live: int) -> None:
    operator("POST", "/v1/validate", {"routes": [{}]})
    operator("POST", "/v1/diff", {"routes": [{}]})
    assert audited(app) == []
