"""Who sends webhooks: webhook_signature, each scheme and key, through running workers (rows W01 to W11)."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import requests

from tests.e2e import signers
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient, chunked, head

pytestmark = pytest.mark.e2e

SHARED = "the-shared-secret-of-the-environment-0123456789"
WHSEC = "whsec_" + base64.b64encode(bytes(range(32))).decode()
NEW, OLD, OTHER = "the new webhook secret", "the old webhook secret", "the secret of somebody else"
BODY = b'{"event": "paid"}'
WEBHOOKS: dict[str, Callable[..., signers.Headers]] = {
    "standard": partial(signers.standard, WHSEC),
    "github": partial(signers.github, NEW),
    "stripe": partial(signers.stripe, NEW),
    "slack": partial(signers.slack, NEW),
    "hmac": partial(signers.plain, NEW),
}
DATED = [name for name in WEBHOOKS if name != "github"]


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
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str) -> GatewayProcess:
    publish(redis_server, [{"upstream": echo, **route} for route in webhook_routes()])
    secrets = {"JWT_SECRET": SHARED, "GW_HOOK_NEW": NEW, "GW_HOOK_OLD": OLD}
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_LOG_LEVEL="debug", **secrets).ready()


def told(answer: requests.Response) -> tuple[int, str, str | None]:
    """Return a refusal's status, text and challenges."""
    return answer.status_code, answer.json().get("error", ""), answer.headers.get("WWW-Authenticate")


def token() -> dict[str, str]:
    return {"Authorization": "Bearer " + signers.token("HS256", SHARED.encode(), {"sub": "alice", "exp": time.time() + 300})}


def attempt(gateway: GatewayProcess, name: str, headers: dict[str, str], body: bytes = BODY) -> requests.Response:
    return gateway.request("POST", f"/hook/{name}", data=body, headers=headers)


def deliver(gateway: GatewayProcess, name: str, headers: dict[str, str], body: bytes = BODY) -> requests.Response:
    """Deliver; on a machine so busy that the store has no time for it (503), again."""
    answers: list[requests.Response] = []

    def judged() -> bool:
        answers.append(attempt(gateway, name, headers, body))
        return answers[-1].status_code != 503

    until(judged, "the store to have time")
    return answers[-1]


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


def test_W01_one_of_several_signatures_is_enough(gateway: GatewayProcess) -> None:
    body = fresh("several")
    standard, stripe = WEBHOOKS["standard"](body), WEBHOOKS["stripe"](body)
    wrong = "v1," + base64.b64encode(bytes(32)).decode()
    standard["webhook-signature"] = f"{wrong} v1a,AAAA {standard['webhook-signature']}"
    stamp, _, signature = stripe["Stripe-Signature"].partition(",")
    stripe["Stripe-Signature"] = f"{stamp},v1={'0' * 64},v0=00,{signature}"
    assert [deliver(gateway, name, headers, body).status_code for name, headers in (("standard", standard), ("stripe", stripe))] == [
        200
    ] * 2


def test_W06_an_id_with_a_dot_is_no_id(gateway: GatewayProcess) -> None:
    """With the id ``a.1`` and the time ``T`` signed, nobody may claim the id ``a`` and another body."""
    body = fresh("dot")
    headers = signers.standard(WHSEC, body, identifier="msg.1")
    assert told(deliver(gateway, "standard", headers, body)) == BAD_SIGNATURE


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
        pytest.param("standard", {"webhook-id": "a.b"}, id="W06-dot-in-the-id"),
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
    answer = deliver(gateway, scheme, headers, body)
    assert told(answer) == BAD_SIGNATURE


def test_W07_a_signature_twice_is_401_and_the_old_sha1_is_none(gateway: GatewayProcess) -> None:
    body = fresh("twice")
    signed = WEBHOOKS["github"](body)["X-Hub-Signature-256"]
    with RawClient(gateway.port) as client:
        answer = client.ask("/hook/github", *[f"X-Hub-Signature-256: {signed}"] * 2, method="POST", body=body)
    assert (answer.status, answer.json()) == (401, {"error": "Invalid token"})
    old = hmac.new(NEW.encode(), body, hashlib.sha1).hexdigest()
    assert told(deliver(gateway, "github", {"X-Hub-Signature": f"sha1={old}"}, body)) == (401, "Authentication required", "Webhook")


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
    lifetimes = sorted(client.ttl(key) for key in client.scan_iter("gw:key:webhook:*"))
    assert lifetimes
    assert 0 < lifetimes[0] <= 600 < 86_000 < lifetimes[-1] <= 86_400  # twice the tolerance; a day where no time is signed


def test_either_of_two_authenticates_and_neither_gets_both_challenges(gateway: GatewayProcess) -> None:
    assert gateway.get("/either", headers=token()).status_code == 200
    body = fresh("either")
    assert gateway.request("POST", "/either", data=body, headers=WEBHOOKS["github"](body)).status_code == 200
    assert told(gateway.get("/either")) == (401, "Authentication required", "Bearer, Webhook")


def test_W11_without_the_store_nothing_passes_unseen(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    assert redis_server.process is not None
    body = fresh("away")
    redis_server.process.signal(signal.SIGSTOP)
    try:
        answer = attempt(gateway, "github", WEBHOOKS["github"](body), body)
        assert (answer.status_code, answer.json(), answer.headers["Retry-After"]) == (503, {"error": "Service Unavailable"}, "1")
        assert attempt(gateway, "again", signers.stripe(NEW, body), body).status_code == 200
        assert attempt(gateway, "github", WEBHOOKS["github"](b"other"), body).status_code == 401
        assert gateway.get("/either", headers=token()).status_code == 200
    finally:
        redis_server.process.signal(signal.SIGCONT)

    def passes() -> bool:
        body = fresh("back")
        return deliver(gateway, "github", WEBHOOKS["github"](body), body).status_code == 200

    until(lambda: all(passes() for _ in range(4)), "every worker to reach the store again")


def test_no_log_holds_a_secret_or_a_signature(gateway: GatewayProcess) -> None:
    body = fresh("secret")
    signed = [(scheme, sent) for scheme, sign in WEBHOOKS.items() for sent in (sign(body), sign(b"not this"))]
    for number, (scheme, headers) in enumerate(signed):
        deliver(gateway, scheme, {**headers, "X-Request-ID": f"leak-{number}"}, body)
    until(lambda: f"webhook_refused request_id=leak-{len(signed) - 1}" in gateway.output(), "the last refusal to be logged")
    signatures = [value[-40:] for _, headers in signed for name, value in headers.items() if "ignature" in name]
    assert "Traceback" not in gateway.output()
    for secret in (WHSEC.removeprefix("whsec_"), NEW, OLD, SHARED, *signatures):
        assert secret not in gateway.output()
