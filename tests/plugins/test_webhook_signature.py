"""Webhooks: whose signature is believed, once, and within its time (rows W01 to W11)."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from standardwebhooks import Webhook

from gwproxy import Context, Headers, PayloadTooLarge, Request, Route, StoreUnavailable
from gwproxy.errors import Aborted
from gwproxy.http.bodies import RequestBody
from gwproxy.plugins import webhook_signature
from gwproxy.plugins.webhook_signature import WebhookSignature, WebhookSignatureConfig

SECRET = "an example secret"
RAW = bytes(range(32))
WHSEC = "whsec_" + base64.b64encode(RAW).decode()
BODY = b'{"event": "paid", "amount": 7}'

Fields = list[tuple[str, str]]


class MemoryStore:
    """Claims as the store keeps them; it can be away."""

    def __init__(self) -> None:
        self.claimed: dict[str, float] = {}
        self.away = False

    def claim(self, name: str, *, ttl: float) -> bool:
        if self.away:
            raise StoreUnavailable("away")
        if name in self.claimed:
            return False
        self.claimed[name] = ttl
        return True


class Worker:
    """A gateway of which only the store matters."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def plugin(store: MemoryStore) -> WebhookSignature:
    made = WebhookSignature()
    made.worker_started(Worker(store))  # type: ignore[arg-type]
    return made


def config(scheme: str, *secrets: str, **fields: Any) -> WebhookSignatureConfig:
    secrets = secrets or (WHSEC if scheme == "standard" else SECRET,)
    return WebhookSignatureConfig.model_validate_json(json.dumps({"scheme": scheme, "secrets": secrets, **fields}))


def now() -> int:
    """The time to sign with: taken when a test signs, since a run takes longer than a signature is good for."""
    return int(time.time())


def mac(content: bytes, secret: bytes = SECRET.encode(), algorithm: str = "sha256") -> str:
    return hmac.new(secret, content, algorithm).hexdigest()


def standard(body: bytes = BODY, identifier: str = "msg_1", at: int | None = None, secret: str = WHSEC) -> Fields:
    """Sign as the reference implementation does."""
    at = now() if at is None else at
    signature = Webhook(secret).sign(identifier, datetime.fromtimestamp(at, UTC), body.decode())
    return [("webhook-id", identifier), ("webhook-timestamp", str(at)), ("webhook-signature", signature)]


def github(body: bytes = BODY, secret: str = SECRET) -> Fields:
    return [("X-Hub-Signature-256", f"sha256={mac(body, secret.encode())}"), ("X-GitHub-Delivery", "72d3162e")]


def stripe(body: bytes = BODY, at: int | None = None, secret: str = SECRET) -> Fields:
    at = now() if at is None else at
    return [("Stripe-Signature", f"t={at},v1={mac(f'{at}.'.encode() + body, secret.encode())},v0=abc")]


def slack(body: bytes = BODY, at: int | None = None, secret: str = SECRET) -> Fields:
    at = now() if at is None else at
    return [("X-Slack-Signature", f"v0={mac(f'v0:{at}:'.encode() + body, secret.encode())}"), ("X-Slack-Request-Timestamp", str(at))]


SENDERS: dict[str, Callable[..., Fields]] = {"standard": standard, "github": github, "stripe": stripe, "slack": slack}
TIMED = [scheme for scheme in SENDERS if scheme != "github"]


def request(fields: Fields, body: bytes = BODY, route: str = "hooks") -> Context:
    length = None if ("Transfer-Encoding", "chunked") in fields else len(body)
    made = Request("POST", "/hooks", headers=Headers(fields), body=RequestBody(BytesIO(body), length))
    return Context(made, Route(id=route, path="/hooks", upstream="http://10.0.0.5"))


def accepted(plugin: WebhookSignature, configured: WebhookSignatureConfig, ctx: Context) -> None:
    plugin.auth(ctx, configured)
    assert ctx.state["user_id"] == configured.user_id


def ended(plugin: WebhookSignature, configured: WebhookSignatureConfig, ctx: Context) -> int:
    """Return the status that the request ends with."""
    with pytest.raises(Aborted) as aborted:
        plugin.auth(ctx, configured)
    assert "user_id" not in ctx.state
    if aborted.value.status == 401:
        assert aborted.value.body == {"error": "Invalid token"}
        assert ctx.challenges == ['Webhook error="invalid_signature"']
    return aborted.value.status


# ---- whose signature is believed


@pytest.mark.parametrize("scheme", SENDERS)
def test_W01_a_signed_delivery_is_accepted_and_forwarded_as_it_is(scheme: str, plugin: WebhookSignature) -> None:
    ctx = request(SENDERS[scheme]())
    accepted(plugin, config(scheme), ctx)
    assert b"".join(ctx.request.body) == BODY


@pytest.mark.parametrize("scheme", SENDERS)
def test_a_changed_body_is_refused(scheme: str, plugin: WebhookSignature, store: MemoryStore) -> None:
    assert ended(plugin, config(scheme), request(SENDERS[scheme](), BODY.replace(b"7", b"9"))) == 401
    assert store.claimed == {}


@pytest.mark.parametrize("scheme", SENDERS)
def test_another_secret_is_refused(scheme: str, plugin: WebhookSignature) -> None:
    other = "whsec_" + base64.b64encode(bytes(32)).decode() if scheme == "standard" else "another example secret"
    assert ended(plugin, config(scheme, other), request(SENDERS[scheme]())) == 401


@pytest.mark.parametrize("scheme", SENDERS)
def test_any_of_several_secrets_may_have_signed(scheme: str, plugin: WebhookSignature) -> None:
    new = "whsec_" + base64.b64encode(bytes(32)).decode() if scheme == "standard" else "another example secret"
    old = WHSEC if scheme == "standard" else SECRET
    accepted(plugin, config(scheme, new, old), request(SENDERS[scheme]()))
    accepted(plugin, config(scheme, old, new), request(SENDERS[scheme](secret=new), route="others"))


@pytest.mark.parametrize("scheme", SENDERS)
def test_no_signature_is_left_to_the_next_plugin(scheme: str, plugin: WebhookSignature) -> None:
    ctx = request([("Authorization", "Bearer x"), ("webhook-id", "msg_1"), ("X-Slack-Request-Timestamp", str(now()))])
    plugin.auth(ctx, config(scheme))
    assert ctx.challenges == ["Webhook"]
    assert ctx.state == {}
    assert ctx.request.body.received == 0


def test_W07_the_old_sha1_header_is_no_signature(plugin: WebhookSignature) -> None:
    ctx = request([("X-Hub-Signature", f"sha1={mac(BODY, algorithm='sha1')}")])
    plugin.auth(ctx, config("github"))
    assert "user_id" not in ctx.state
    assert ended(plugin, config("github"), request([("X-Hub-Signature-256", f"sha1={mac(BODY, algorithm='sha1')}")])) == 401


def test_W01_one_of_several_standard_signatures_is_enough(plugin: WebhookSignature) -> None:
    fields = dict(standard())
    fields["webhook-signature"] = f"v1a,AAAA v1,AAAA junk v1, {fields['webhook-signature']} v2,AAAA"
    accepted(plugin, config("standard"), request(list(fields.items())))


def test_W01_one_of_several_stripe_signatures_is_enough(plugin: WebhookSignature) -> None:
    at = now()
    good = mac(f"{at}.".encode() + BODY)
    accepted(plugin, config("stripe"), request([("Stripe-Signature", f"t={at}, v1={'0' * 64}, v1={good}")]))


def test_a_binary_body_may_be_signed(plugin: WebhookSignature) -> None:
    body, at = bytes(range(256)), now()
    right = base64.b64encode(hmac.new(RAW, f"msg_1.{at}.".encode() + body, hashlib.sha256).digest()).decode()
    fields = [("webhook-id", "msg_1"), ("webhook-timestamp", str(at)), ("webhook-signature", f"v1,{right}")]
    accepted(plugin, config("standard"), request(fields, body))


@pytest.mark.parametrize("extra", [("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")], ids=["gzip", "chunked"])
def test_W08_the_bytes_that_came_are_what_is_verified(extra: tuple[str, str], plugin: WebhookSignature) -> None:
    body = gzip.compress(BODY)
    accepted(plugin, config("github"), request([*github(body), extra], body))


def test_W08_the_limit_comes_first(plugin: WebhookSignature) -> None:
    body = b"x" * ((1 << 20) + 1)
    with pytest.raises(PayloadTooLarge):
        plugin.auth(request(github(body), body), config("github"))


BAD: dict[str, tuple[str, Callable[[], Fields]]] = {
    "W06-id-with-dot": ("standard", lambda: standard(identifier="msg.1")),
    "W06-id-moved": ("standard", lambda: [("webhook-id", f"msg_1.{now()}"), ("webhook-timestamp", "7"), standard()[2]]),
    "id-missing": ("standard", lambda: standard()[1:]),
    "id-empty": ("standard", lambda: [("webhook-id", ""), *standard()[1:]]),
    "id-twice": ("standard", lambda: [("webhook-id", "msg_1"), *standard()]),
    "timestamp-missing": ("standard", lambda: [standard()[0], standard()[2]]),
    "timestamp-text": ("standard", lambda: [standard()[0], ("webhook-timestamp", "now"), standard()[2]]),
    "timestamp-float": ("standard", lambda: [standard()[0], ("webhook-timestamp", f"{now()}.0"), standard()[2]]),
    "timestamp-digits": ("standard", lambda: [standard()[0], ("webhook-timestamp", "²"), standard()[2]]),
    "timestamp-long": ("standard", lambda: [standard()[0], ("webhook-timestamp", "9" * 5000), standard()[2]]),
    "signature-empty": ("standard", lambda: [*standard()[:2], ("webhook-signature", "")]),
    "signature-bare": ("standard", lambda: [*standard()[:2], ("webhook-signature", standard()[2][1].partition(",")[2])]),
    "signature-other-version": ("standard", lambda: [*standard()[:2], ("webhook-signature", standard()[2][1].replace("v1", "v2"))]),
    "signature-latin-1": ("standard", lambda: [*standard()[:2], ("webhook-signature", "v1,\xff")]),
    "signature-unicode": ("standard", lambda: [*standard()[:2], ("webhook-signature", "v1,\xe2\x98\x83")]),
    "signatures-many": ("standard", lambda: [*standard()[:2], ("webhook-signature", " ".join(["v1,AAAA"] * 20 + [standard()[2][1]]))]),
    "signature-twice": ("github", lambda: [github()[0], *github()]),
    "prefix-missing": ("github", lambda: [("X-Hub-Signature-256", mac(BODY))]),
    "hash-short": ("github", lambda: [("X-Hub-Signature-256", f"sha256={mac(BODY)[:32]}")]),
    "hash-spaced": ("github", lambda: [("X-Hub-Signature-256", f"sha256={mac(BODY)[:32]} {mac(BODY)[32:]}")]),
    "stripe-no-time": ("stripe", lambda: [("Stripe-Signature", f"v1={mac(BODY)}")]),
    "stripe-two-times": ("stripe", lambda: [("Stripe-Signature", f"t=7,{stripe()[0][1]}")]),
    "stripe-no-v1": ("stripe", lambda: [("Stripe-Signature", f"t={now()},v0={mac(BODY)}")]),
    "stripe-junk": ("stripe", lambda: [("Stripe-Signature", ",,=,=")]),
    "slack-no-time": ("slack", lambda: slack()[:1]),
    "slack-version": ("slack", lambda: [("X-Slack-Signature", slack()[0][1].replace("v0", "v1")), slack()[1]]),
}


@pytest.mark.parametrize(("scheme", "fields"), BAD.values(), ids=BAD)
def test_a_malformed_delivery_is_refused(scheme: str, fields: Callable[[], Fields], plugin: WebhookSignature) -> None:
    assert ended(plugin, config(scheme), request(fields())) == 401


LATIN_1 = st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0")
HEADER_NAMES = ["webhook-id", "webhook-timestamp", "webhook-signature", "X-Hub-Signature-256", "Stripe-Signature", "X-Slack-Signature"]


@given(
    st.lists(st.tuples(st.sampled_from(HEADER_NAMES), st.text(LATIN_1, max_size=40) | st.builds(lambda: str(now()))), max_size=6),
    st.sampled_from(list(SENDERS)),
)
def test_R26_no_headers_are_anything_but_a_401(fields: Fields, scheme: str) -> None:
    ctx = request(fields)
    with contextlib.suppress(Aborted):
        WebhookSignature().auth(ctx, config(scheme))
    assert ctx._aborted is None or ctx._aborted.status == 401
    assert "user_id" not in ctx.state


# ---- within its time, and once


@pytest.mark.parametrize("scheme", TIMED)
@pytest.mark.parametrize(("away", "status"), [(-290, 200), (290, 200), (-310, 401), (310, 401)])
def test_a_delivery_is_good_for_its_tolerance(scheme: str, away: int, status: int, plugin: WebhookSignature) -> None:
    ctx = request(SENDERS[scheme](at=int(time.time()) + away))
    if status == 200:
        accepted(plugin, config(scheme), ctx)
    else:
        assert ended(plugin, config(scheme), ctx) == status
        assert ctx.request.body.received == 0


@pytest.mark.parametrize(("scheme", "ttl"), [("standard", 600.0), ("stripe", 600.0), ("slack", 600.0), ("github", 86_400.0)])
def test_R27_a_delivery_is_let_through_once(scheme: str, ttl: float, plugin: WebhookSignature, store: MemoryStore) -> None:
    configured, fields = config(scheme), SENDERS[scheme]()
    accepted(plugin, configured, request(fields))
    assert ended(plugin, configured, request(fields)) == 401
    assert list(store.claimed.values()) == [ttl]
    accepted(plugin, configured, request(fields, route="others"))


def test_a_delivery_is_the_same_behind_another_of_its_signatures(plugin: WebhookSignature) -> None:
    new, at = "another example secret", now()
    first, second = (mac(f"{at}.".encode() + BODY, secret.encode()) for secret in (SECRET, new))
    configured = config("stripe", SECRET, new)
    accepted(plugin, configured, request([("Stripe-Signature", f"t={at},v1={first},v1={second}")]))
    assert ended(plugin, configured, request([("Stripe-Signature", f"t={at},v1={second}")])) == 401
    assert ended(plugin, configured, request([("Stripe-Signature", f"v1={first.upper()},t={at}")])) == 401


def test_a_sender_may_try_again(plugin: WebhookSignature) -> None:
    configured = config("standard")
    accepted(plugin, configured, request(standard(at=now() - 20)))
    accepted(plugin, configured, request(standard()))


def test_without_replay_the_store_is_not_asked(plugin: WebhookSignature, store: MemoryStore) -> None:
    store.away = True
    configured, fields = config("github", replay=False), github()
    accepted(plugin, configured, request(fields))
    accepted(plugin, configured, request(fields))


def test_W11_with_the_store_away_nothing_is_let_through(plugin: WebhookSignature, store: MemoryStore) -> None:
    store.away = True
    assert ended(plugin, config("github"), request(github())) == 503
    assert ended(plugin, config("github"), request(github(secret="another example secret"))) == 401


# ---- plain HMAC


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("timestamp", [None, "X-Time"])
def test_plain_hmac_in_every_form(
    algorithm: str, encoding: str, timestamp: str | None, plugin: WebhookSignature, store: MemoryStore
) -> None:
    options: dict[str, Any] = {"header_name": "X-Sig", "algorithm": algorithm, "encoding": encoding, "prefix": "sig="}
    configured = config("hmac", **options, **({"timestamp_header": timestamp} if timestamp else {}))
    at = now()
    content = (f"{at}.".encode() if timestamp else b"") + BODY
    digest = hmac.new(SECRET.encode(), content, algorithm).digest()
    text = digest.hex().upper() if encoding == "hex" else base64.b64encode(digest).decode()
    fields = [("x-sig", f"sig={text}"), *([("x-time", str(at))] if timestamp else [])]
    accepted(plugin, configured, request(fields))
    assert list(store.claimed.values()) == [600.0 if timestamp else 86_400.0]
    assert ended(plugin, configured, request([("X-Sig", text), *fields[1:]])) == 401
    plugin.auth(request(fields[1:]), configured)
    if timestamp:
        assert ended(plugin, configured, request(fields[:1])) == 401
        assert ended(plugin, configured, request([fields[0], ("X-Time", str(at - 1))])) == 401


def test_signatures_are_compared_in_constant_time(plugin: WebhookSignature, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(webhook_signature.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    accepted(plugin, config("github"), request(github()))
    assert compared == [(mac(BODY).encode(), mac(BODY).encode())]


# ---- the configuration


def problem(**fields: Any) -> str:
    with pytest.raises(ValidationError) as refusal:
        WebhookSignatureConfig.model_validate_json(json.dumps(fields))
    return str(refusal.value)


@pytest.mark.parametrize("scheme", ["github", "stripe", "slack"])
@pytest.mark.parametrize("secret", ["", "short", "x" * 15])
def test_W10_G26_a_short_secret_is_refused(scheme: str, secret: str) -> None:
    found = problem(scheme=scheme, secrets=[SECRET, secret])
    assert "secrets.1\n" in found
    assert "at least 16 bytes" in found


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("whsec_", "of 24 to 64 bytes, not of 0"),
        (base64.b64encode(bytes(23)).decode(), "not of 23"),
        (base64.b64encode(bytes(65)).decode(), "not of 65"),
        ("whsec_not base64 at all, not at all!", "base64, with or without"),
        ("whsec_ü", "base64, with or without"),
    ],
)
def test_W10_a_standard_secret_is_base64_of_24_to_64_bytes(secret: str, text: str) -> None:
    assert text in problem(scheme="standard", secrets=[secret])


def test_a_standard_secret_may_leave_out_prefix_and_padding(plugin: WebhookSignature) -> None:
    accepted(plugin, config("standard", WHSEC.removeprefix("whsec_").rstrip("=")), request(standard()))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"secrets": []}, "at least 1 item"),
        ({"secrets": [SECRET] * 11}, "at most 10 items"),
        ({"secrets": [SECRET], "tolerance": 0}, "greater than or equal to 1"),
        ({"secrets": [SECRET], "user_id": "a b"}, "match pattern"),
        ({"secrets": [SECRET], "header_name": "X-Sig"}, "no header_name, which scheme hmac has only"),
        ({"secrets": [SECRET], "encoding": "base64", "prefix": "x"}, "no encoding, prefix, which"),
        ({"secrets": [SECRET], "scheme": "hmac"}, "header_name, with scheme hmac"),
        ({"secrets": [SECRET], "scheme": "sha1"}, "Input should be 'standard'"),
        ({}, "secrets"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], text: str) -> None:
    assert text in problem(**{"scheme": "github", **fields})


def test_secrets_are_not_shown() -> None:
    configured = config("github")
    assert SECRET not in f"{configured!r} {configured} {configured.model_dump_json()}"
    assert "tiny-secret" not in problem(scheme="github", secrets=["tiny-secret"])
