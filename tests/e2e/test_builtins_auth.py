"""Who may call: cors, jwt_auth and webhook_signature, each key of theirs, through running workers."""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e import signers
from tests.e2e.conftest import GatewayProcess, RedisServer, free_port, publish, until
from tests.e2e.raw import RawClient, chunked, head
from tests.e2e.signers import PUBLIC_ALGORITHMS, IdentityProvider, jwk, pem, private_key, token

pytestmark = pytest.mark.e2e

PAGE = "https://app.example.com"
GLOBAL_PAGE = "https://everywhere.example.com"
SHARED = "the-shared-secret-of-the-environment-0123456789"
OTHER = "another-secret-that-is-long-enough-for-hs512-tokens-0123456789-0123456789"
WHSEC = "whsec_" + base64.b64encode(bytes(range(32))).decode()
NEW, OLD = "the new webhook secret", "the old webhook secret"
BODY = b'{"event": "paid"}'
WEBHOOKS: dict[str, Callable[..., signers.Headers]] = {
    "standard": partial(signers.standard, WHSEC),
    "github": partial(signers.github, NEW),
    "stripe": partial(signers.stripe, NEW),
    "slack": partial(signers.slack, NEW),
    "hmac": partial(signers.plain, NEW),
}
DATED = [name for name in WEBHOOKS if name != "github"]


def good(**claims: Any) -> dict[str, Any]:
    """Return claims that nobody objects to; a claim given as None is left out."""
    made = {"sub": "alice", "exp": time.time() + 300, **claims}
    return {name: value for name, value in made.items() if value is not None}


def shared(**claims: Any) -> str:
    return token("HS256", SHARED.encode(), good(**claims))


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture(scope="module")
def providers() -> Iterator[dict[str, IdentityProvider]]:
    """Identity providers by what happens to them; ``late`` is not there when the gateway starts."""
    keys = jwk("RS256", kid="first", alg="RS256", use="sig"), jwk("ES256", kid="curve")
    made = {name: IdentityProvider(free_port(), *keys) for name in ("steady", "rotated", "flooded", "away", "late")}
    for name, provider in made.items():
        if name != "late":
            provider.on()
    yield made
    for provider in made.values():
        provider.off()


def cors_routes(echo: str) -> list[dict[str, Any]]:
    listed = {
        "origins": [PAGE, "https://*.example.org"],
        "methods": ["GET", "PATCH"],
        "headers": ["X-Custom"],
        "exposeHeaders": ["X-Total"],
        "allow_credentials": True,
        "maxAge": 600,
    }
    return [
        {"path": "/cors/default", "plugins": [{"name": "cors"}]},
        {"path": "/cors/listed", "methods": ["GET", "PATCH"], "plugins": [{"name": "cors", "config": listed}]},
        {"path": "/cors/private", "plugins": [{"name": "cors", "config": listed}, {"name": "jwt_auth"}]},
        {"path": "/cors/down", "upstream": f"http://127.0.0.1:{free_port()}", "plugins": [{"name": "cors", "config": listed}]},
        {"path": "/cors/slow", "timeout": {"head": 0.2}, "plugins": [{"name": "cors", "config": listed}]},
        {"path": "/cors/none", "plugins": [{"name": "cors", "enabled": False}]},
    ]


def jwt_routes(providers: dict[str, IdentityProvider]) -> list[dict[str, Any]]:
    checked = {
        "secret": OTHER,
        "headerName": "X-Token",
        "algorithms": ["HS384", "HS512"],
        "issuer": "https://id.example.com/",
        "audience": ["orders", "refunds"],
        "leeway": 30,
        "requiredClaims": ["exp", "sub", "tenant"],
        "typ": "at+jwt",
    }
    keyed = {name: {"public_key": pem(name), "algorithms": [name]} for name in PUBLIC_ALGORITHMS}
    published = {name: {"jwks_url": provider.url(f"/{name}"), "algorithms": ["RS256", "ES256"]} for name, provider in providers.items()}
    configs = {
        "default": {},
        "referenced": {"secret": "${GW_OTHER}", "audience": "orders", "required_claims": []},
        "checked": checked,
        **keyed,
        **published,
    }
    return [{"path": f"/jwt/{name}", "plugins": [{"name": "jwt_auth", "config": config}]} for name, config in configs.items()]


def webhook_routes() -> list[dict[str, Any]]:
    how = {"header_name": "X-Signature", "algorithm": "sha512", "encoding": "base64", "prefix": "sha512=", "timestampHeader": "X-Sent"}
    configs: dict[str, dict[str, Any]] = {
        "standard": {"secrets": [WHSEC]},
        "github": {"secrets": [NEW, OLD], "userId": "github"},
        "stripe": {"secrets": ["${GW_HOOK_NEW}", "${GW_HOOK_OLD}"]},
        "slack": {"secrets": [NEW, OLD]},
        "hmac": {"secrets": [NEW, OLD], **how},
    }
    routes = [{"path": f"/hook/{name}", "plugins": [hook(name, config)]} for name, config in configs.items()]
    simple = {"scheme": "hmac", "secrets": [NEW], "header_name": "X-Plain"}
    return [
        *routes,
        {"path": "/hook/again", "plugins": [hook("stripe", {"secrets": [NEW], "replay": False, "tolerance": 3600})]},
        {"path": "/hook/simple", "plugins": [{"name": "webhook_signature", "config": simple}]},
        {"path": "/hook/small", "max_buffer": "1KiB", "plugins": [hook("github", {"secrets": [NEW]})]},
        {"path": "/either", "plugins": [hook("github", {"secrets": [NEW]}), {"name": "jwt_auth"}]},
    ]


def hook(scheme: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"name": "webhook_signature", "config": {"scheme": scheme, **config}}


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str, providers: dict[str, IdentityProvider]
) -> GatewayProcess:
    routes = [
        {"id": str(number), "upstream": echo, **route}
        for number, route in enumerate([*cors_routes(echo), *jwt_routes(providers), *webhook_routes()])
    ]
    document = {
        "plugins": [{"name": "cors", "config": {"origins": [GLOBAL_PAGE]}}],
        "consumers": [{"id": "acme", "groups": ["gold", "eu"], "match": {"user_id": "acme-service"}}],
        "routes": routes,
    }
    publish(redis_server, document)
    secrets = {"JWT_SECRET": SHARED, "GW_OTHER": OTHER, "GW_HOOK_NEW": NEW, "GW_HOOK_OLD": OLD}
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_LOG_LEVEL="debug", **secrets).ready()


def granted(answer: requests.Response) -> dict[str, str]:
    """Return what a response grants, without the common beginning of the names."""
    begin = "Access-Control-"
    return {name.removeprefix(begin): value for name, value in answer.headers.items() if name.startswith(begin)}


def told(answer: requests.Response) -> tuple[int, str, str | None]:
    """Return a refusal's status, text and challenges."""
    return answer.status_code, answer.json().get("error", ""), answer.headers.get("WWW-Authenticate")


def preflight(gateway: GatewayProcess, path: str, origin: str, method: str = "GET", headers: str = "") -> requests.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return gateway.request("OPTIONS", path, headers={name: value for name, value in asked.items() if value})


# ---- cors


def test_cors_by_default_grants_every_origin_and_no_credentials(gateway: GatewayProcess) -> None:
    answer = gateway.get("/cors/default", headers={"Origin": "https://whoever.example"})
    assert granted(answer) == {"Allow-Origin": "*"}
    assert "Vary" not in answer.headers


def test_cors_answers_preflights_itself(gateway: GatewayProcess) -> None:
    answer = preflight(gateway, "/cors/default", "https://whoever.example", "DELETE", "authorization")
    assert (answer.status_code, answer.content) == (204, b"")
    assert granted(answer) == {
        "Allow-Origin": "*",
        "Allow-Methods": "GET, POST, PUT, DELETE",
        "Allow-Headers": "Content-Type, Authorization",
    }


def test_cors_with_every_key_set(gateway: GatewayProcess) -> None:
    answer = gateway.get("/cors/listed", headers={"Origin": PAGE})
    assert answer.json()["target"] == "/cors/listed"
    assert granted(answer) == {"Allow-Origin": PAGE, "Allow-Credentials": "true", "Expose-Headers": "X-Total"}
    answer = preflight(gateway, "/cors/listed", "https://a.b.example.org", "PATCH", "x-custom")
    assert answer.status_code == 204
    assert granted(answer) == {
        "Allow-Origin": "https://a.b.example.org",
        "Allow-Credentials": "true",
        "Allow-Methods": "GET, PATCH",
        "Allow-Headers": "X-Custom",
        "Max-Age": "600",
    }


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "null",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.io",
            "https://evil-app.example.com",
        ),
        *("https://appXexample.com", "https://example.org", "https://evilexample.org", "HTTPS://APP.EXAMPLE.COM"),
    ],
)
def test_C01_C02_another_origin_gets_the_answer_and_no_grant(gateway: GatewayProcess, origin: str) -> None:
    answer = gateway.get("/cors/listed", headers={"Origin": origin})
    assert (answer.status_code, granted(answer), answer.headers["Vary"]) == (200, {}, "Origin")
    answer = preflight(gateway, "/cors/listed", origin)
    assert (answer.status_code, granted(answer), answer.content) == (204, {}, b"")


def test_C04_every_answer_varies_by_origin_and_keeps_what_the_upstream_varies_by(gateway: GatewayProcess) -> None:
    assert gateway.get("/cors/listed").headers["Vary"] == "Origin"
    assert gateway.get("/cors/listed?header=Vary:Accept", headers={"Origin": PAGE}).headers["Vary"] == "Accept, Origin"


def test_C05_the_upstreams_cors_headers_are_replaced(gateway: GatewayProcess) -> None:
    said = (
        "?header=Access-Control-Allow-Origin:https://old.example&header=Access-Control-Allow-Methods:TRACE&header=Access-Control-Max-Age:9"
    )
    assert granted(gateway.get(f"/cors/default{said}", headers={"Origin": PAGE})) == {"Allow-Origin": "*"}
    assert granted(gateway.get(f"/cors/listed{said}", headers={"Origin": "https://evil.example"})) == {}
    untouched = {"Allow-Origin": "https://old.example", "Allow-Methods": "TRACE", "Max-Age": "9"}
    assert granted(gateway.get(f"/cors/none{said}", headers={"Origin": PAGE})) == untouched


@pytest.mark.parametrize(("path", "status"), [("/cors/private", 401), ("/cors/down", 502), ("/cors/slow?wait=0.6", 504)])
def test_C06_refusals_carry_the_grant(gateway: GatewayProcess, path: str, status: int) -> None:
    answer = gateway.get(path, headers={"Origin": PAGE})
    assert (answer.status_code, granted(answer)["Allow-Origin"], answer.headers["Vary"]) == (status, PAGE, "Origin")


def test_a_global_cors_grants_where_no_route_matches_and_on_routes_without_their_own(gateway: GatewayProcess) -> None:
    for path, status in (("/nowhere", 404), ("/jwt/default", 401)):
        answer = gateway.get(path, headers={"Origin": GLOBAL_PAGE})
        assert (answer.status_code, granted(answer)) == (status, {"Allow-Origin": GLOBAL_PAGE})
    assert granted(gateway.get("/cors/listed", headers={"Origin": GLOBAL_PAGE})) == {}
    assert granted(gateway.get("/cors/none", headers={"Origin": GLOBAL_PAGE})) == {}


def test_C07_C08_preflights_need_no_token_and_other_options_do(gateway: GatewayProcess) -> None:
    assert preflight(gateway, "/cors/private", PAGE).status_code == 204
    assert gateway.request("OPTIONS", "/cors/private", headers={"Origin": PAGE}).status_code == 401
    assert gateway.request("OPTIONS", "/cors/default", headers={"Origin": PAGE}).json()["method"] == "OPTIONS"
    for method, headers in (("POST", ""), ("GET", "X-Secret"), ("get", "")):
        answer = preflight(gateway, "/cors/private", PAGE, method, headers)
        assert (answer.status_code, granted(answer)) == (204, {})


def test_C09_C10_two_origins_are_400_and_private_networks_are_never_granted(gateway: GatewayProcess) -> None:
    for fields in ((f"Origin: {PAGE}", "Origin: https://a.example"), (f"Origin: {PAGE}, https://a.example",)):
        with RawClient(gateway.port) as client:
            answer = client.ask("/cors/listed", *fields)
        assert (answer.status, answer.json()) == (400, {"error": "Bad Request"})
        assert answer.get("Access-Control-Allow-Origin") is None
    with RawClient(gateway.port) as client:
        asked = (f"Origin: {PAGE}", "Access-Control-Request-Method: GET", "Access-Control-Request-Private-Network: true")
        answer = client.ask("/cors/listed", *asked, method="OPTIONS")
    assert (answer.status, answer.get("Access-Control-Allow-Private-Network")) == (204, None)


# ---- jwt_auth


def test_a_token_says_who_calls_and_is_forwarded(gateway: GatewayProcess) -> None:
    text = shared(sub="acme-service")
    lies = {"X-User-Id": "root", "X-Consumer": "root", "X-Consumer-Groups": "admins"}
    seen = dict(gateway.get("/jwt/default", headers={**bearer(text), **lies}).json()["headers"])
    assert (seen["X-User-Id"], seen["X-Consumer"], seen["X-Consumer-Groups"]) == ("acme-service", "acme", "gold,eu")
    assert seen["Authorization"] == f"Bearer {text}"
    seen = dict(gateway.get("/cors/default", headers=lies).json()["headers"])
    assert not lies.keys() & seen.keys()


def test_no_token_of_its_kind_is_a_challenge(gateway: GatewayProcess) -> None:
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer "}):
        assert told(gateway.get("/jwt/default", headers=headers)) == (401, "Authentication required", "Bearer")
    with RawClient(gateway.port) as client:
        answer = client.ask("/jwt/default", *[f"Authorization: Bearer {shared()}"] * 2)
    assert (answer.status, answer.json()) == (400, {"error": "Bad Request"})


def bad_tokens() -> dict[str, str]:
    now = time.time()
    first, middle, last = shared().split(".")
    return {
        "expired": shared(exp=now - 1),
        "without exp": shared(exp=None),
        "exp is no number": shared(exp="never"),
        "without sub": shared(sub=None),
        "sub has a line break": shared(sub="alice\r\nX-Admin: 1"),
        "not yet": shared(nbf=now + 60),
        "issued later": shared(iat=now + 60),
        "for an audience": shared(aud="somebody"),
        "another secret": token("HS256", OTHER.encode(), good()),
        "another algorithm": token("HS512", SHARED.encode(), good()),
        "alg none": token("HS256", SHARED.encode(), good(), alg="none").rpartition(".")[0] + ".",
        "alg none, signed": token("HS256", SHARED.encode(), good(), alg="none"),
        "another payload": f"{first}.{signers.b64url(json.dumps(good(sub='root')).encode())}.{last}",
        "without signature": f"{first}.{middle}.",
        "padded": f"{first}.{middle}.{last}=",
        "two parts": f"{first}.{middle}",
        "no token": "abc",
        "a key twice": token("HS256", SHARED.encode(), b'{"sub": "a", "sub": "root", "exp": 9999999999}'),
        "utf-16": token("HS256", SHARED.encode(), json.dumps(good()).encode("utf-16")),
        "crit": token("HS256", SHARED.encode(), good(), crit=["b64"], b64=True),
    }


@pytest.mark.parametrize("kind", bad_tokens())
def test_a_bad_token_is_401_whatever_is_wrong(gateway: GatewayProcess, kind: str) -> None:
    answer = gateway.get("/jwt/default", headers=bearer(bad_tokens()[kind]))
    assert told(answer) == (401, "Invalid token", 'Bearer error="invalid_token"')


@pytest.mark.parametrize("algorithm", PUBLIC_ALGORITHMS)
def test_public_keys_of_each_family_and_no_confusion(gateway: GatewayProcess, algorithm: str) -> None:
    def status(text: str) -> int:
        return gateway.get(f"/jwt/{algorithm}", headers=bearer(text)).status_code

    assert status(token(algorithm, private_key(algorithm), good())) == 200
    assert status(token(algorithm, private_key(algorithm, "thief"), good())) == 401
    for published in (pem(algorithm), pem(algorithm).strip()):  # as if it were a shared secret
        assert status(token("HS256", published.encode(), good())) == 401
        assert status(token("HS256", published.encode(), good(), alg=algorithm)) == 401
    if algorithm[:2] in ("RS", "PS"):  # the same key, the family's neighbour
        other = ("PS" if algorithm[:2] == "RS" else "RS") + algorithm[2:]
        assert status(token(other, private_key(algorithm), good())) == 401
        assert status(token(other, private_key(algorithm), good(), alg=algorithm)) == 401


def test_a_secret_from_the_environment_one_audience_and_no_required_claims(gateway: GatewayProcess) -> None:
    def status(**claims: object) -> int:
        return gateway.get("/jwt/referenced", headers=bearer(token("HS256", OTHER.encode(), good(**claims)))).status_code

    assert [status(aud="orders", exp=None), status(aud=["x", "orders"])] == [200, 200]
    assert [status(), status(aud="order"), status(aud="orders", sub=None)] == [401, 401, 401]


@pytest.mark.parametrize(
    ("status", "changed", "head"),
    [
        (200, {}, {}),
        (200, {"aud": ["other", "refunds"]}, {"typ": "application/AT+JWT"}),
        (200, {"exp": -10}, {}),
        (401, {"exp": -40}, {}),
        (200, {"nbf": 10, "iat": 10}, {}),
        (401, {"nbf": 40}, {}),
        (401, {"iss": "https://id.example.com"}, {}),
        (401, {"iss": None}, {}),
        (401, {"aud": "orders-archive"}, {}),
        (401, {"aud": None}, {}),
        (401, {"tenant": None}, {}),
        (401, {}, {"typ": "JWT"}),
    ],
)
def test_issuer_audience_leeway_required_claims_and_type(
    gateway: GatewayProcess, status: int, changed: dict[str, Any], head: dict[str, str]
) -> None:
    now = time.time()
    moments = {name: now + value for name, value in changed.items() if isinstance(value, int)}
    claims = good(**{"iss": "https://id.example.com/", "aud": "orders", "tenant": "t1", **changed, **moments})
    for algorithm in ("HS384", "HS512"):
        text = token(algorithm, OTHER.encode(), claims, **{"typ": "at+jwt", **head})
        assert gateway.get("/jwt/checked", headers={"X-Token": text}).status_code == status
    assert told(gateway.get("/jwt/checked", headers=bearer(text))) == (401, "Authentication required", "Bearer")


def test_a_verified_token_is_good_until_it_expires_and_no_longer(gateway: GatewayProcess) -> None:
    expires = time.time() + 1.2
    text = shared(exp=expires)

    def refused() -> bool:
        answer = gateway.get("/jwt/default", headers=bearer(text))
        assert answer.status_code == 401 or time.time() < expires + 0.5
        return answer.status_code == 401 and time.time() >= expires

    assert [gateway.get("/jwt/default", headers=bearer(text)).status_code for _ in range(4)] == [200] * 4
    until(refused, "the token to expire")


def published(kid: str | None, algorithm: str = "RS256", owner: str = "issuer", **head: Any) -> dict[str, str]:
    named = {} if kid is None else {"kid": kid}
    return bearer(token(algorithm, private_key(algorithm, owner), good(), **named, **head))


def test_published_keys_are_fetched_once_a_worker_and_found_by_kid(gateway: GatewayProcess, providers: dict[str, IdentityProvider]) -> None:
    path = "/jwt/steady"
    assert gateway.get(path, headers=published("first")).json()["method"] == "GET"
    assert gateway.get(path, headers=published("curve", "ES256")).status_code == 200
    assert gateway.get(path, headers=published(None)).status_code == 200  # one key fits
    assert told(gateway.get(path, headers=published("first", owner="thief"))) == (401, "Invalid token", 'Bearer error="invalid_token"')
    assert [gateway.get(path, headers=published("first")).status_code for _ in range(10)] == [200] * 10
    assert providers["steady"].hits == {"/steady": gateway.workers}
    assert gateway.get(path, headers=published("curve", "ES256", alg="RS256")).status_code == 401
    header = published("first", owner="thief", jku=providers["steady"].url("/thief"), jwk=jwk("RS256", "thief"))
    assert gateway.get(path, headers=header).status_code == 401
    assert "/thief" not in providers["steady"].hits


def test_a_new_key_is_found_when_a_token_names_it(gateway: GatewayProcess, providers: dict[str, IdentityProvider]) -> None:
    provider, path = providers["rotated"], "/jwt/rotated"
    until(lambda: provider.hits["/rotated"] >= gateway.workers, "every worker to have the first keys")
    provider.keys = [jwk("RS256", "successor", kid="second", alg="RS256")]
    headers = published("second", owner="successor")
    until(lambda: gateway.get(path, headers=headers).status_code == 200, "a worker to fetch again")
    # A worker that has not been told of the new key still takes the old one; asked for the new one it learns both.
    until(lambda: [gateway.get(path, headers=headers).status_code for _ in range(8)] == [200] * 8, "every worker to fetch again")
    assert [gateway.get(path, headers=published("first")).status_code for _ in range(8)] == [401] * 8


def test_J24_a_flood_of_unknown_keys_reaches_the_provider_once_a_worker(
    gateway: GatewayProcess, providers: dict[str, IdentityProvider]
) -> None:
    provider, path = providers["flooded"], "/jwt/flooded"
    until(lambda: provider.hits["/flooded"] >= gateway.workers, "every worker to have the first keys")
    before, began = provider.hits["/flooded"], time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: gateway.get(path, headers=published(f"../../{number}", "ES256")), range(100)))
    assert {told(answer)[:2] for answer in answers} == {(401, "Invalid token")}
    intervals = 1 + int((time.monotonic() - began) / 10)
    assert 1 <= provider.hits["/flooded"] - before <= gateway.workers * intervals
    assert gateway.get(path, headers=published("first")).status_code == 200


def test_J23_keys_stay_good_while_the_provider_is_away(gateway: GatewayProcess, providers: dict[str, IdentityProvider]) -> None:
    provider, path = providers["away"], "/jwt/away"
    until(lambda: provider.hits["/away"] >= gateway.workers, "every worker to have the first keys")
    provider.off()
    assert [gateway.get(path, headers=published("unknown")).status_code for _ in range(6)] == [401] * 6
    assert [gateway.get(path, headers=published("first")).status_code for _ in range(6)] == [200] * 6


def test_a_provider_that_is_away_at_start_is_503_until_it_comes(gateway: GatewayProcess, providers: dict[str, IdentityProvider]) -> None:
    answer = gateway.get("/jwt/late", headers=published("first"))
    assert (answer.status_code, answer.json()) == (503, {"error": "Service Unavailable"})
    assert told(gateway.get("/jwt/late"))[:2] == (401, "Authentication required")
    providers["late"].on()
    until(
        lambda: [gateway.get("/jwt/late", headers=published("first")).status_code for _ in range(4)] == [200] * 4, "the keys to be fetched"
    )


# ---- webhook_signature


def deliver(gateway: GatewayProcess, name: str, headers: dict[str, str], body: bytes = BODY) -> requests.Response:
    return gateway.request("POST", f"/hook/{name}", data=body, headers=headers)


def fresh(name: str) -> bytes:
    """Return a body that was not sent before: where no time is signed, a delivery is known by its body alone."""
    return json.dumps({"scheme": name, "n": time.monotonic_ns()}).encode()


BAD_SIGNATURE = (401, "Invalid token", 'Webhook error="invalid_signature"')


@pytest.mark.parametrize("scheme", WEBHOOKS)
def test_W01_a_signed_delivery_passes_once(gateway: GatewayProcess, scheme: str) -> None:
    body = fresh(scheme)
    headers = WEBHOOKS[scheme](body)
    first = deliver(gateway, scheme, headers, body)
    assert (first.status_code, first.json()["body"]) == (200, body.decode())
    assert dict(first.json()["headers"])["X-User-Id"] == ("github" if scheme == "github" else "webhook")
    assert [told(deliver(gateway, scheme, headers, body)) for _ in range(4)] == [BAD_SIGNATURE] * 4
    assert told(deliver(gateway, scheme, {}, body)) == (401, "Authentication required", "Webhook")
    changed = WEBHOOKS[scheme](body + b" ")
    assert told(deliver(gateway, scheme, changed, body)) == BAD_SIGNATURE


@pytest.mark.parametrize("scheme", DATED)
def test_a_delivery_from_long_ago_or_later_is_refused(gateway: GatewayProcess, scheme: str) -> None:
    now = time.time()
    statuses = [deliver(gateway, scheme, WEBHOOKS[scheme](BODY, at=now + away)).status_code for away in (-320, 320, -280, 280)]
    assert statuses == [401, 401, 200, 200]


@pytest.mark.parametrize("scheme", ["github", "stripe", "slack", "hmac"])
def test_the_old_secret_is_good_beside_the_new_one_and_no_other(gateway: GatewayProcess, scheme: str) -> None:
    sign = {"github": signers.github, "stripe": signers.stripe, "slack": signers.slack, "hmac": signers.plain}[scheme]
    bodies = [fresh(scheme) for _ in range(3)]
    statuses = [
        deliver(gateway, scheme, sign(secret, body), body).status_code for secret, body in zip((NEW, OLD, OTHER), bodies, strict=True)
    ]
    assert statuses == [200, 200, 401]


@pytest.mark.parametrize(
    ("scheme", "changes"),
    [
        *((scheme, {"": value}) for scheme in WEBHOOKS for value in ("", "x", ",", "=", "é", "v1,", "a" * 4000)),
        ("standard", {"webhook-id": "a.b"}),
        ("standard", {"webhook-id": ""}),
        ("standard", {"webhook-timestamp": "soon"}),
        ("standard", {"webhook-signature": " ".join(["v1,AAAA"] * 17)}),
        ("slack", {"X-Slack-Request-Timestamp": "-1"}),
        ("slack", {"X-Slack-Signature": "v0="}),
        ("stripe", {"Stripe-Signature": "t=1,t=2,v1=00"}),
        ("stripe", {"Stripe-Signature": "v1=00"}),
        ("github", {"X-Hub-Signature-256": "sha1=00"}),
        ("hmac", {"X-Sent": "1e9"}),
        ("hmac", {"X-Sent": ""}),
    ],
)
def test_every_malformed_signature_is_401(gateway: GatewayProcess, scheme: str, changes: dict[str, str]) -> None:
    body = fresh(scheme)
    headers = WEBHOOKS[scheme](body)
    signature = next(name for name in headers if "ignature" in name)
    headers |= {name or signature: value for name, value in changes.items()}
    answer = deliver(gateway, scheme, {name: value.encode() for name, value in headers.items()}, body)
    assert told(answer) == BAD_SIGNATURE


def test_a_signature_twice_is_401_and_the_old_sha1_is_none(gateway: GatewayProcess) -> None:
    body = fresh("twice")
    signed = WEBHOOKS["github"](body)["X-Hub-Signature-256"]
    with RawClient(gateway.port) as client:
        answer = client.ask("/hook/github", *[f"X-Hub-Signature-256: {signed}"] * 2, method="POST", body=body)
    assert (answer.status, answer.json()) == (401, {"error": "Invalid token"})
    assert told(deliver(gateway, "github", {"X-Hub-Signature": "sha1=00"}, body)) == (401, "Authentication required", "Webhook")


def test_hmac_by_its_defaults_a_tolerance_and_deliveries_that_may_come_again(gateway: GatewayProcess) -> None:
    body = fresh("simple")
    digest = signers.github(NEW, body)["X-Hub-Signature-256"].removeprefix("sha256=")
    assert [deliver(gateway, "simple", {"X-Plain": digest.upper()}, body).status_code for _ in range(2)] == [200, 401]
    again = signers.stripe(NEW, body, at=time.time() - 3500)
    assert [deliver(gateway, "again", again, body).status_code for _ in range(3)] == [200] * 3
    assert deliver(gateway, "again", signers.stripe(NEW, body, at=time.time() - 3700), body).status_code == 401


def test_W08_the_raw_body_is_what_counts(gateway: GatewayProcess) -> None:
    packed = gzip.compress(fresh("packed"))
    answer = deliver(gateway, "github", {**WEBHOOKS["github"](packed), "Content-Encoding": "gzip"}, packed)
    assert answer.json()["body"] == packed.decode("latin-1")
    pieces = fresh("chunked"), b"\x00\xff binary"
    signed = WEBHOOKS["github"](b"".join(pieces))["X-Hub-Signature-256"]
    with RawClient(gateway.port) as client:
        fields = (f"X-Hub-Signature-256: {signed}", "Transfer-Encoding: chunked")
        client.send(head("/hook/github", *fields, method="POST") + chunked(*pieces))
        answer_ = client.answer()
    assert (answer_.status, answer_.json()["body"].encode("latin-1")) == (200, b"".join(pieces))
    large = b"x" * 1025
    assert told(deliver(gateway, "small", WEBHOOKS["github"](large), large)) == (413, "Payload too large", None)


def test_a_delivery_is_known_by_route_and_what_was_signed(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    body = fresh("routes")
    now = time.time()
    assert [deliver(gateway, "standard", WEBHOOKS["standard"](body, at=now + later), body).status_code for later in (0, 1)] == [200, 200]
    assert deliver(gateway, "github", WEBHOOKS["github"](body), body).status_code == 200
    assert gateway.request("POST", "/either", data=body, headers=WEBHOOKS["github"](body)).status_code == 200
    client = redis_server.client()
    lifetimes = sorted(client.ttl(key) for key in client.scan_iter("gw:key:webhook:*"))  # type: ignore[type-var]
    assert lifetimes
    assert 0 < lifetimes[0] <= 600 < 86_000 < lifetimes[-1] <= 86_400  # twice the tolerance; a day where no time is signed


def test_either_of_two_authenticates_and_neither_gets_both_challenges(gateway: GatewayProcess) -> None:
    assert gateway.get("/either", headers=bearer(shared())).status_code == 200
    body = fresh("either")
    assert gateway.request("POST", "/either", data=body, headers=WEBHOOKS["github"](body)).status_code == 200
    assert told(gateway.get("/either")) == (401, "Authentication required", "Bearer, Webhook")


def test_W11_without_the_store_nothing_passes_unseen(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    assert redis_server.process is not None
    body = fresh("away")
    redis_server.process.signal(signal.SIGSTOP)
    try:
        answer = deliver(gateway, "github", WEBHOOKS["github"](body), body)
        assert (answer.status_code, answer.json()) == (503, {"error": "Service Unavailable"})
        assert deliver(gateway, "again", signers.stripe(NEW, body), body).status_code == 200
        assert deliver(gateway, "github", WEBHOOKS["github"](b"other"), body).status_code == 401
        assert gateway.get("/jwt/default", headers=bearer(shared())).status_code == 200
    finally:
        redis_server.process.signal(signal.SIGCONT)

    def passes() -> bool:
        body = fresh("back")
        return deliver(gateway, "github", WEBHOOKS["github"](body), body).status_code == 200

    until(lambda: all(passes() for _ in range(4)), "every worker to reach the store again")


# ---- all of them


def test_what_cannot_be_safe_is_refused_as_configuration(tmp_path: Path) -> None:
    entries: list[tuple[str, dict[str, Any], str]] = [
        ("cors", {"origins": ["*"], "allow_credentials": True}, "no '*' in origins together with allow_credentials"),
        ("cors", {"max_age": 1, "maxAge": 1}, "one of 'max_age' and 'maxAge'"),
        ("jwt_auth", {}, "a key: secret, public_key or jwks_url"),
        ("jwt_auth", {"secret": "short"}, "at least 32 bytes"),
        ("jwt_auth", {"secret": pem("RS256")}, "no public key"),
        ("jwt_auth", {"secret": OTHER, "algorithms": ["none"]}, "'HS256'"),
        ("jwt_auth", {"secret": OTHER, "algorithms": ["HS256", "RS256"]}, "algorithms of one family"),
        ("jwt_auth", {"secret": OTHER, "public_key": pem("RS256"), "algorithms": ["RS256"]}, "one kind of key"),
        ("jwt_auth", {"public_key": pem("RS256")}, "such as [RS256], not HS"),
        ("jwt_auth", {"public_key": pem("RS256"), "algorithms": ["RS256", "PS256"]}, "algorithms of one family"),
        ("jwt_auth", {"public_key": pem("ES256"), "algorithms": ["ES384"]}, "a key for ES384"),
        ("jwt_auth", {"jwks_url": "https://id.example.com/keys"}, "never HS keys"),
        ("jwt_auth", {"jwks_url": "https://id.example.com/keys", "algorithms": ["RS256", "PS256"]}, "either RS or PS"),
        ("jwt_auth", {"jwks_url": "http://169.254.169.254/", "algorithms": ["RS256"]}, "no link-local or metadata address"),
        ("jwt_auth", {"secret": OTHER, "leeway": 61}, "60"),
        ("webhook_signature", {"scheme": "github", "secrets": []}, "at least 1"),
        ("webhook_signature", {"scheme": "github", "secrets": [""]}, "at least 16 bytes"),
        ("webhook_signature", {"scheme": "standard", "secrets": ["whsec_AAAA"]}, "base64 of 24 to 64 bytes"),
        ("webhook_signature", {"scheme": "hmac", "secrets": [NEW]}, "header_name"),
        ("webhook_signature", {"scheme": "slack", "secrets": [NEW], "prefix": "v0="}, "which scheme hmac has only"),
    ]
    routes = [
        {"path": f"/{n}", "upstream": "http://127.0.0.1:9", "plugins": [{"name": name, "config": c}]}
        for n, (name, c, _) in enumerate(entries)
    ]
    file = tmp_path / "gateway.json"
    file.write_text(json.dumps(routes))
    environment = {name: value for name, value in os.environ.items() if name != "JWT_SECRET"}
    command = [sys.executable, "-m", "gwproxy", "check", "--json", str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    problems = {problem["path"].partition(".")[0]: problem["expected"] for problem in json.loads(done.stdout)["problems"]}
    assert len(problems) == len(entries)
    for number, (name, config, expected) in enumerate(entries):
        assert expected in problems[f"routes[{number}]"], (name, config)
    assert not [secret for secret in (OTHER, NEW, "whsec_AAAA") if secret in done.stdout + done.stderr]


def test_no_log_holds_a_secret_or_a_credential(gateway: GatewayProcess) -> None:
    texts = [shared(), shared(exp=1), token("RS256", private_key("RS256", "thief"), good(), kid="first")]
    for path, text in zip(("/jwt/default", "/jwt/default", "/jwt/steady"), texts, strict=True):
        gateway.get(path, headers=bearer(text))
    body = fresh("secret")
    signed = [headers for scheme in WEBHOOKS for headers in (WEBHOOKS[scheme](body), WEBHOOKS[scheme](b"not this"))]
    for number, headers in enumerate(signed):
        deliver(gateway, list(WEBHOOKS)[number // 2], {**headers, "X-Request-ID": f"leak-{number}"}, body)
    until(lambda: "webhook_refused request_id=leak-9" in gateway.output(), "the last refusal to be logged")
    output = gateway.output()
    assert "jwt_refused" in output
    credentials = [part for text in texts for part in text.split(".")[1:]]
    signatures = [
        value.rpartition("=")[2]
        for headers in signed
        for name, value in headers.items()
        if name in ("Stripe-Signature", "X-Slack-Signature")
    ]
    for secret in (SHARED, OTHER, WHSEC.removeprefix("whsec_"), NEW, OLD, *credentials, *signatures):
        assert secret not in output
