"""Who is calling: jwt_auth, each key of it, with keys of every family and published ones, through running workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.e2e import signers
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient
from tests.e2e.signers import PUBLIC_ALGORITHMS, IdentityProvider, jwk, pem, private_key, token
from tests.e2e.witness import install
from tests.ports import free_port

pytestmark = pytest.mark.e2e

SHARED = "the-shared-secret-of-the-environment-0123456789"
OTHER = "another-secret-that-is-long-enough-for-hs512-tokens-0123456789-0123456789"


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


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    echo: str,
    providers: dict[str, IdentityProvider],
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    document = {
        "plugins": [{"name": "stranger_witness"}],
        "consumers": [{"id": "acme", "groups": ["gold", "eu"], "match": {"user_id": "acme-service"}}],
        "routes": [{"upstream": echo, **route} for route in [{"path": "/open"}, *jwt_routes(providers)]],
    }
    publish(redis_server, document)
    settings = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_LOG_LEVEL": "debug", "PYTHONPATH": install(tmp_path_factory.mktemp("site"))}
    return start_gateway(JWT_SECRET=SHARED, GW_OTHER=OTHER, **settings).ready()


def told(answer: requests.Response) -> tuple[int, str, str | None]:
    """Return a refusal's status, text and challenges."""
    return answer.status_code, answer.json().get("error", ""), answer.headers.get("WWW-Authenticate")


def test_a_token_says_who_calls_and_is_forwarded(gateway: GatewayProcess) -> None:
    text = shared(sub="acme-service")
    lies = {"X-User-Id": "root", "X-Consumer": "root", "X-Consumer-Groups": "admins"}
    seen = dict(gateway.get("/jwt/default", headers={**bearer(text), **lies}).json()["headers"])
    assert (seen["X-User-Id"], seen["X-Consumer"], seen["X-Consumer-Groups"]) == ("acme-service", "acme", "gold,eu")
    assert seen["Authorization"] == f"Bearer {text}"
    seen = dict(gateway.get("/open", headers=lies).json()["headers"])
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
    until(lambda: providers["steady"].hits["/steady"] >= gateway.workers, "every worker to have the keys")
    assert providers["steady"].hits == {"/steady": gateway.workers}
    assert gateway.get(path, headers=published("curve", "ES256", alg="RS256")).status_code == 401
    header = published("first", owner="thief", jku=providers["steady"].url("/thief"), jwk=jwk("RS256", "thief"))
    assert gateway.get(path, headers=header).status_code == 401
    assert "/thief" not in providers["steady"].hits


def test_a_new_key_is_found_when_a_token_names_it(gateway: GatewayProcess, providers: dict[str, IdentityProvider]) -> None:
    provider, path = providers["rotated"], "/jwt/rotated"
    until(lambda: provider.hits["/rotated"] >= gateway.workers, "every worker to have the first keys")
    provider.keys = [jwk("RS256", "successor", kid="second", alg="RS256")]
    learned: set[str] = set()

    def everywhere() -> bool:
        answer = gateway.get(path, headers=published("second", owner="successor"))
        if answer.status_code == 200:
            learned.add(answer.headers["X-Worker"])
        return len(learned) == gateway.workers

    until(everywhere, "every worker to be asked for the new key, and to fetch again")
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
    assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (503, {"error": "Service Unavailable"}, "1")
    assert told(gateway.get("/jwt/late"))[:2] == (401, "Authentication required")
    providers["late"].on()
    until(
        lambda: [gateway.get("/jwt/late", headers=published("first")).status_code for _ in range(4)] == [200] * 4, "the keys to be fetched"
    )


def test_no_log_holds_a_secret_or_a_credential(gateway: GatewayProcess) -> None:
    texts = [shared(), token("RS256", private_key("RS256", "thief"), good(), kid="first"), shared(exp=1)]
    for number, (path, text) in enumerate(zip(("/jwt/default", "/jwt/steady", "/jwt/default"), texts, strict=True)):
        gateway.get(path, headers={**bearer(text), "X-Request-ID": f"leak-{number}"})
    until(lambda: "jwt_refused request_id=leak-2" in gateway.output(), "the last refusal to be logged")
    assert "Traceback" not in gateway.output()
    for secret in (SHARED, OTHER, *(part for text in texts for part in text.split(".")[1:])):
        assert secret not in gateway.output()
