"""request_transform, and all built-in plugins on one route: in which order they run, and what each side sees of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import requests

from tests.e2e import signers
from tests.e2e.conftest import GatewayProcess, RedisServer, publish
from tests.e2e.records import entries, entry_of
from tests.e2e.scripted import ScriptedService, Seen

pytestmark = pytest.mark.e2e

SECRET = "a-secret-of-more-than-32-bytes-for-tests"
HOOK_SECRET = "the secret of a sender"
PAGE = "https://app.example.com"
BODY = b'{"email": "john.doe@example.com"}'

#: By phase, in the order in which they run, with their priorities.
ORDER = {
    "pre_auth": [("cors", 100)],
    "auth": [("jwt_auth", 200), ("webhook_signature", 210)],
    "post_auth": [("rate_limit", 300)],
    "pre_proxy": [("request_transform", 400), ("fault_injection", 500), ("pii_log", 890), ("access_log", 900)],
    "post_proxy": [],
    "response": [("cors", 100), ("pii_log", 890), ("access_log", 900)],
}


@pytest.fixture(scope="module")
def service() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.close()


def transform(**config: Any) -> list[dict[str, Any]]:
    return [{"name": "request_transform", "config": config}]


def plugins() -> list[dict[str, Any]]:
    """Return all of them, the last to run first."""
    configs = {
        "access_log": {"log_body": True, "redact": ["email"]},
        "pii_log": {},
        "fault_injection": {"abort": {"share": 0}},
        "request_transform": {"addHeaders": {"X-Team": "core"}, "removeHeaders": ["Cookie"], "rewritePath": "/v2/{id}"},
        "rate_limit": {"limit": 2, "windowSeconds": 3600, "key": "user"},
        "webhook_signature": {"scheme": "github", "secrets": [HOOK_SECRET]},
        "jwt_auth": {"secret": SECRET},
        "cors": {"origins": [PAGE], "expose_headers": ["X-RateLimit-Remaining"]},
    }
    return [{"name": name, "config": config} for name, config in configs.items()]


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService) -> GatewayProcess:
    routes: list[dict[str, Any]] = [
        {"path": "/chain/{id}", "plugins": plugins()},
        {"path": "/transform/nothing", "plugins": transform()},
        {
            "path": "/transform/headers",
            "plugins": transform(add_headers={"X-Set": "new", "X-Word": "é"}, remove_headers=["x-gone", "X-None"]),
        },
        {"path": "/transform/path/{a}/{b}", "plugins": transform(rewrite_path="/v2/{b}/of/{a}")},
        {"path": "/transform/joined/{a}/{b}", "plugins": transform(rewrite_path="/v2/{a}{b}")},
        {"path": "~^/transform/v1/(?P<rest>.+)", "plugins": transform(rewrite_path="/v2/{rest}")},
        {"path": "/transform/prefix", "upstream": f"{service.url}/base", "strip_path": True, "plugins": transform(rewrite_path="/whole")},
        {"path": "~^/transform/absent(?P<id>[0-9])?$", "plugins": transform(rewrite_path="/v2/{id}")},
    ]
    consumers = [{"id": "acme", "groups": ["gold"], "match": {"user_id": "alice"}}]
    publish(redis_server, {"consumers": consumers, "routes": [{"upstream": service.url, **route} for route in routes]})
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready()


def asked(gateway: GatewayProcess, service: ScriptedService, path: str, **headers: str) -> Seen:
    """Send a request; return what the service saw."""
    assert gateway.get(path, headers=headers).text == "ok"
    return service.requests.get(timeout=15)


# ---- request_transform


def test_transform_by_default_changes_nothing(gateway: GatewayProcess, service: ScriptedService) -> None:
    seen = asked(gateway, service, "/transform/nothing?a=1", **{"X-Any": "value"})
    assert (seen.target, seen.get("X-Any")) == ("/transform/nothing?a=1", "value")


def test_headers_are_set_replacing_and_removed_in_any_case(gateway: GatewayProcess, service: ScriptedService) -> None:
    seen = asked(gateway, service, "/transform/headers", **{"x-set": "old", "X-GONE": "1", "X-Stays": "1"})
    assert (seen.all("X-Set"), seen.all("X-Gone"), seen.all("X-Stays")) == (["new"], [], ["1"])
    assert seen.get("X-Word") == "é"


def test_the_path_is_replaced_and_the_query_stays(gateway: GatewayProcess, service: ScriptedService) -> None:
    assert asked(gateway, service, "/transform/path/one/tw%2Fo?x=%20&y").target == "/v2/tw%2Fo/of/one?x=%20&y"
    assert asked(gateway, service, "/transform/v1/users/7%2F/x?q").target == "/v2/users/7%2F/x?q"
    assert asked(gateway, service, "/transform/prefix/more?q").target == "/whole?q"


def test_a_path_that_cannot_be_made_is_no_request(gateway: GatewayProcess, service: ScriptedService) -> None:
    answer = gateway.get("/transform/absent")
    assert (answer.status_code, answer.json()) == (500, {"error": "Internal Server Error"})
    assert "plugin_failed plugin=request_transform" in gateway.output()
    assert asked(gateway, service, "/transform/joined/a/..b").target == "/v2/a..b"
    answer = gateway.get("/transform/joined/%2e/x")
    assert (answer.status_code, answer.json()) == (400, {"error": "Bad Request"})
    assert service.requests.empty()


# ---- all together


def call(gateway: GatewayProcess, ident: str, **headers: str) -> requests.Response:
    return gateway.request(
        "POST", f"/chain/{ident}", data=BODY, headers={"Origin": PAGE, "Content-Type": "application/json", "X-Request-ID": ident, **headers}
    )


def bearer(user: str) -> dict[str, str]:
    claims = {"sub": user, "exp": time.time() + 300}
    return {"Authorization": f"Bearer {signers.token('HS256', SECRET.encode(), claims)}"}


@pytest.fixture
def ident() -> str:
    return f"id-{uuid4().hex}"


@pytest.mark.usefixtures("gateway")
def test_they_run_by_phase_and_priority_whatever_the_list_says(redis_server: RedisServer) -> None:
    command = [sys.executable, "-m", "gwproxy", "explain", "POST", "/chain/7", "--json", "--redis", redis_server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    chain = json.loads(done.stdout)["chain"]
    shown = {phase: [(entry["plugin"], entry["priority"]) for entry in steps] for phase, steps in chain.items()}
    assert {phase: shown.get(phase, []) for phase in ORDER} == ORDER
    assert SECRET not in done.stdout
    assert HOOK_SECRET not in done.stdout


def test_a_preflight_ends_at_cors_and_is_logged(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    headers = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "X-Request-ID": ident}
    answer = gateway.request("OPTIONS", f"/chain/{ident}", headers=headers)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, PAGE)
    assert "X-RateLimit-Limit" not in answer.headers
    entry = entry_of(redis_server, ident)
    assert (entry["method"], entry["status"], entry["user_id"], entry["bytes"]) == ("OPTIONS", 204, None, 0)
    assert service.requests.empty()


def test_who_is_not_known_is_refused_before_anything_is_counted(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    refusals = {"none": {}, "bad": {"Authorization": "Bearer a.b.c"}, "forged": {"X-Hub-Signature-256": "sha256=00"}}
    for name, headers in refusals.items():
        answer = call(gateway, f"{ident}-{name}", **headers)
        assert answer.status_code == 401
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "X-RateLimit-Limit" not in answer.headers
        assert "WWW-Authenticate" in answer.headers
        entry = entry_of(redis_server, f"{ident}-{name}")
        assert (entry["status"], entry["user_id"], entry["consumer"]) == (401, None, None)
    assert service.requests.empty()
    assert not entries(redis_server, f"{ident}-none", "gw:pii_log")  # the body was not read: nobody has seen it


def test_both_sides_of_a_good_request_and_the_one_too_many(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    answers = [call(gateway, f"{ident}{n}", **bearer("alice"), Cookie="session=1", **{"X-User-Id": "root"}) for n in range(3)]
    assert [(a.status_code, a.headers["X-RateLimit-Remaining"]) for a in answers] == [(200, "1"), (200, "0"), (429, "0")]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Access-Control-Expose-Headers"] == "X-RateLimit-Remaining"
        assert answer.headers["Vary"] == "Origin"
    assert 3500 < int(answers[2].headers["Retry-After"]) <= 3600
    assert answers[2].json() == {"error": "Rate limit exceeded"}

    seen = [service.requests.get(timeout=15) for _ in range(2)]
    assert service.requests.empty()
    assert [each.target for each in seen] == [f"/v2/{ident}0", f"/v2/{ident}1"]
    assert (seen[0].get("X-Team"), seen[0].get("Cookie"), seen[0].body) == ("core", None, BODY)
    assert (seen[0].all("X-User-Id"), seen[0].get("X-Consumer"), seen[0].get("X-Consumer-Groups")) == (["alice"], "acme", "gold")

    logged = [entry_of(redis_server, f"{ident}{n}") for n in range(3)]
    assert [entry["status"] for entry in logged] == [200, 200, 429]
    assert {(entry["path"], entry["user_id"], entry["consumer"]) for entry in logged} == {
        (f"/chain/{ident}{n}", "alice", "acme") for n in range(3)
    }
    assert logged[0]["request_body"] == {"email": "***"}
    personal = entry_of(redis_server, f"{ident}0", "gw:pii_log")
    assert (personal["user_id"], personal["fields"][0]["masked"]) == ("alice", "j***@e***.com")


def test_another_user_has_a_limit_of_its_own_and_a_sender_is_one(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    assert call(gateway, ident, **bearer("bob")).headers["X-RateLimit-Remaining"] == "1"
    answer = call(gateway, f"{ident}-hook", **signers.github(HOOK_SECRET, BODY))
    assert (answer.status_code, answer.headers["X-RateLimit-Remaining"]) == (200, "1")
    assert entry_of(redis_server, f"{ident}-hook")["user_id"] == "webhook"
    assert [service.requests.get(timeout=15).get("X-User-Id") for _ in range(2)] == ["bob", "webhook"]


def test_an_upstream_that_fails_is_logged_and_explained_like_any(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    service.on(f"/v2/{ident}", lambda seen: seen.reset())
    answer = call(gateway, ident, **bearer("carol"))
    assert (answer.status_code, answer.json()) == (502, {"error": "Bad Gateway"})
    assert (answer.headers["Access-Control-Allow-Origin"], answer.headers["X-RateLimit-Remaining"]) == (PAGE, "1")
    entry = entry_of(redis_server, ident)
    assert (entry["status"], entry["user_id"], entry["completed"]) == (502, "carol", True)
    assert entry_of(redis_server, ident, "gw:pii_log")["status"] == 502  # the upstream may have read it
    assert service.requests.get(timeout=15).target == f"/v2/{ident}"
