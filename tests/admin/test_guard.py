"""Who may ask at all: tokens, roles, hosts, pages, guesses."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import pytest
import redis

from gwproxy.admin import probes
from gwproxy.admin.app import AdminApp
from gwproxy.admin.guard import Guesses, hosts_of
from gwproxy.admin.table import ENDPOINTS
from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings
from tests.admin.conftest import Api
from tests.conftest import Server

VALUES = {"revision": "1"}


def path_of(endpoint) -> str:
    parts = [VALUES.get(part.strip("{}"), "some") if part.startswith("{") else part for part in endpoint.path.split("/")]
    return "/".join(parts)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method}-{endpoint.path}")
@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer ", "Basic YTpi", "the-first-token-of-all"])
def test_D02_nothing_is_told_without_a_token(app: AdminApp, endpoint, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization is not None else {}
    answer = Api(app, None)(endpoint.method, path_of(endpoint), headers=headers)
    assert (answer.status_code, answer.json) == (401, {"error": "Authentication required"})
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("path", ["/openapi.json", "/", "/v1", "/nowhere", "/v1/nowhere", "/metrics"])
def test_D02_not_even_what_there_is(app: AdminApp, path: str) -> None:
    assert Api(app, None).get(path).status_code == 401


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method}-{endpoint.path}")
def test_a_role_below_the_one_that_is_needed_is_refused(role: Callable[..., Api], endpoint) -> None:
    below = {"viewer": None, "operator": "viewer", "admin": "operator"}[endpoint.role]
    if below is not None:
        answer = role(below)(endpoint.method, path_of(endpoint), {} if endpoint.body else None)
        assert answer.status_code == 403
        assert f"the role {endpoint.role} is needed" in answer.json["error"]
    allowed = role(endpoint.role)(endpoint.method, path_of(endpoint), {} if endpoint.body else None)
    assert allowed.status_code not in (401, 403)


def test_a_token_that_is_revoked_opens_nothing_at_once(role: Callable[..., Api], app: AdminApp) -> None:
    viewer = role("viewer")
    assert viewer.get("/v1/workers").status_code == 200
    app.plane.tokens.revoke("a-viewer")
    assert viewer.get("/v1/workers").json == {"error": "Invalid token"}


def test_a_token_that_has_expired_opens_nothing(app: AdminApp, client: redis.Redis) -> None:
    _, secret = app.plane.tokens.create("short", "viewer", by="test", lifetime=3600)
    assert Api(app, secret).get("/v1/workers").status_code == 200
    held = client.hget("gw:tokens", "short")
    assert held is not None
    client.hset("gw:tokens", "short", held.replace(b'"expires":"2', b'"expires":"1'))  # a thousand years ago
    assert Api(app, secret).get("/v1/workers").status_code == 401


def test_the_store_away_is_told_as_such_and_the_first_token_still_known(app: AdminApp, server: Server, settings: Settings) -> None:
    _, secret = app.plane.tokens.create("ci", "viewer", by="test")
    server.kill()
    answer = Api(app, secret).get("/openapi.json")
    assert (answer.status_code, answer.json["error"]) == (503, "the store does not answer")
    assert Api(app, settings.admin_token).get("/openapi.json").status_code == 200
    assert Api(app, settings.admin_token).get("/v1/workers").status_code == 503


# ---- D05: what a browser may be led to send

OWN = "127.0.0.1:8081"


@pytest.mark.parametrize(
    ("bind", "hosts", "allowed"),
    [
        (OWN, "127.0.0.1:8081 localhost:9 [::1]:8081 127.0.0.1 LOCALHOST", True),
        (OWN, "evil.example 192.0.2.1 localhost.evil.example 127.0.0.1.evil.example 127.0.0.2 [::2] a@localhost", False),
        ("10.1.2.3:8081", "10.1.2.3:8081 localhost", True),
        ("10.1.2.3:8081", "10.1.2.4 evil.example", False),
        ("[fd00::7]:8081", "[fd00::7]:8081", True),
        ("0.0.0.0:8081", "192.0.2.1:8081 [2001:db8::1]:8081", True),
        ("0.0.0.0:8081", "evil.example gateway.example.com", False),
        ("unix:/run/admin.sock", "localhost", True),
        ("unix:/run/admin.sock", "192.0.2.1 evil.example", False),
    ],
)
def test_D05_dns_rebinding_a_host_that_is_not_this_listeners(settings: Settings, bind: str, hosts: str, allowed: bool) -> None:
    known = hosts_of(dataclasses.replace(settings, admin_bind=bind))
    assert {host: known.allow(host) for host in hosts.split()} == dict.fromkeys(hosts.split(), allowed)
    assert not known.allow("")


def test_D05_dns_rebinding_is_refused_before_the_token_is_looked_at(api: Api) -> None:
    answer = api.get("/v1/config", headers={"Host": "evil.example"})
    assert answer.status_code == 403
    assert "GWPROXY_ADMIN_HOSTS" in answer.json["error"]


def test_D05_a_further_host_may_be_named(start: Callable[..., AdminApp], settings: Settings) -> None:
    app = start(dataclasses.replace(settings, admin_hosts=("admin.example.com",)))
    assert Api(app, settings.admin_token).get("/v1/workers", headers={"Host": "Admin.Example.com:443"}).status_code == 200
    with pytest.raises(CommandFailed, match="GWPROXY_ADMIN_HOSTS"):
        hosts_of(dataclasses.replace(settings, admin_hosts=("no host",)))


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Origin": "http://[evil"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": f"http://{OWN}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
    ids=str,
)
def test_D05_csrf_a_page_of_another_origin_is_not_answered(api: Api, fields: dict[str, str], status: int) -> None:
    answer = api.get("/v1/workers", headers=fields)
    assert answer.status_code == status
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]


def test_D05_csrf_a_preflight_is_not_answered(api: Api) -> None:
    answer = api("OPTIONS", "/v1/config", headers={"Access-Control-Request-Method": "PUT"})
    assert answer.status_code == 405
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""])
def test_D05_csrf_a_body_that_a_form_can_send_is_not_read(api: Api, kind: str) -> None:
    answer = api("POST", "/v1/validate", b'{"routes": []}', headers={"Content-Type": kind})
    assert answer.status_code == 415


# ---- D04, D08


@pytest.mark.parametrize("field", ["X-Real-IP", "X-Forwarded-For", "Forwarded", "X-Forwarded-Host", "X-Original-URL"])
def test_D04_no_header_makes_anybody_local(app: AdminApp, field: str) -> None:
    answer = Api(app, None).get("/v1/config", headers={field: "127.0.0.1"}, environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert answer.status_code == 401


def test_D08_guesses_are_slowed_down_by_address(app: AdminApp, settings: Settings) -> None:
    def guess(token: str, address: str) -> int:
        return Api(app, token).get("/v1/workers", environ_overrides={"REMOTE_ADDR": address}).status_code

    assert {guess(f"wrong-{number}", "192.0.2.7") for number in range(10)} == {401}
    assert guess("wrong-again", "192.0.2.7") == 429
    assert guess(str(settings.admin_token), "192.0.2.7") == 429  # else guessing would go on
    assert guess(str(settings.admin_token), "192.0.2.8") == 200
    limited = Api(app, "wrong").get("/v1/workers", environ_overrides={"REMOTE_ADDR": "192.0.2.7"})
    assert 1 <= int(limited.headers["Retry-After"]) <= 7


def test_D08_one_attempt_comes_back_in_a_while_and_all_of_them_later() -> None:
    now = 1000.0
    guesses = Guesses(burst=3, every=6.0, clock=lambda: now)
    assert [guesses.wrong("a") for _ in range(3)] == [True, False, True]  # the first, and the one after which it waits
    assert guesses.wait("a") == 6.0
    assert guesses.wait("b") == 0.0
    now += 6.0
    assert guesses.wait("a") == 0.0
    guesses.wrong("a")
    assert guesses.wait("a") == 6.0
    now += 100.0
    assert [guesses.wrong("a") for _ in range(3)] == [True, False, True]


def test_D08_an_ipv6_client_is_its_network_and_what_is_remembered_is_bounded(app: AdminApp) -> None:
    for number in range(10):
        Api(app, "wrong").get("/v1/workers", environ_overrides={"REMOTE_ADDR": f"2001:db8::{number}"})
    answer = Api(app, "wrong").get("/v1/workers", environ_overrides={"REMOTE_ADDR": "2001:db8::ffff"})
    assert answer.status_code == 429
    guesses = Guesses()
    for number in range(5000):
        guesses.wrong(str(number))
    assert len(guesses._full_at) <= 1024


def test_D08_a_missing_token_is_no_guess(app: AdminApp, api: Api) -> None:
    assert {Api(app, None).get("/v1/workers").status_code for _ in range(30)} == {401}
    assert api.get("/v1/workers").status_code == 200


def test_tokens_are_kept_as_hashes_only(app: AdminApp, client: redis.Redis) -> None:
    _, secret = app.plane.tokens.create("ci", "operator", by="ann")
    held = client.hget("gw:tokens", "ci")
    assert held is not None
    assert secret.encode() not in held
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in held


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_token_and_tell_nothing(app: AdminApp, client: redis.Redis, path: str) -> None:
    anonymous = Api(app, None)
    client.hset("gw:worker:a", mapping={"state": "ready", "host": "gw-1", "error": "secret"})
    answer = anonymous.get(path, headers={"Host": "10.9.8.7:8081"})
    assert (answer.status_code, answer.json) == (200, {"status": "ok"})
    assert anonymous("POST", path).status_code == 405
    assert Api(app, None)("HEAD", path).data == b""


def test_readyz_asks_the_store_once_a_second_whoever_asks(app: AdminApp, client: redis.Redis) -> None:
    client.hset("gw:worker:a", mapping={"state": "ready"})
    client.config_resetstat()
    assert {Api(app, None).get("/readyz").status_code for _ in range(50)} == {200}
    asked = client.info("commandstats")["cmdstat_scan"]["calls"]
    assert asked <= 10  # fifty take less than a second here, or some seconds on a busy machine


def test_readyz_wants_the_store_and_a_worker_that_is_ready(
    app: AdminApp, client: redis.Redis, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "KEPT", 0.0)
    anonymous = Api(app, None)
    assert (anonymous.get("/readyz").status_code, anonymous.get("/readyz").json) == (503, {"status": "unavailable"})
    client.hset("gw:worker:a", mapping={"state": "refused"})
    assert anonymous.get("/readyz").status_code == 503
    client.hset("gw:worker:b", mapping={"state": "ready"})
    assert anonymous.get("/readyz").status_code == 200
    server.kill()
    assert anonymous.get("/readyz").status_code == 503
    assert anonymous.get("/healthz").status_code == 200
