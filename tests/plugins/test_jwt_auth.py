"""Tokens: whom a good one authenticates, that a bad one is a 401 and nothing else, and what is remembered."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import ValidationError

from gwproxy import Consumer, Context, Headers, Request
from gwproxy.errors import Aborted
from gwproxy.plugin import Entry, bind_entry
from gwproxy.plugins import jwt_auth
from gwproxy.plugins.jwt_auth import JwtAuth, JwtAuthConfig

SECRET = "an example secret of more than 32 bytes"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any, form: serialization.PublicFormat = serialization.PublicFormat.SubjectPublicKeyInfo) -> str:
    encoding = serialization.Encoding.OpenSSH if form is serialization.PublicFormat.OpenSSH else serialization.Encoding.PEM
    text: str = key.public_key().public_bytes(encoding, form).decode()
    return text


def config(**fields: Any) -> JwtAuthConfig:
    if not fields.keys() & {"secret", "public_key", "jwks_url"}:
        fields["secret"] = SECRET
    return JwtAuthConfig.model_validate_json(json.dumps(fields))


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": int(time.time()) + 60, **more}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forge(payload: bytes | dict[str, Any], head: bytes | dict[str, Any] | None = None, secret: str = SECRET) -> str:
    """Sign with HS256 whatever head and payload are given."""
    head = head if head is not None else {"alg": "HS256", "typ": "JWT"}
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (head, payload)]
    return ".".join([*parts, b64(hmac.new(secret.encode(), ".".join(parts).encode(), hashlib.sha256).digest())])


def context(*fields: tuple[str, str], **more: Any) -> Context:
    return Context(Request("GET", "/", headers=Headers(fields)), **more)


def bearing(token: str) -> Context:
    return context(("Authorization", f"Bearer {token}"))


def authenticated(token: str, configured: JwtAuthConfig, plugin: JwtAuth | None = None) -> Context:
    ctx = bearing(token)
    (plugin or JwtAuth()).auth(ctx, configured)
    assert ctx.state["authenticated"] is True
    return ctx


def refused(token: str, configured: JwtAuthConfig, plugin: JwtAuth | None = None) -> None:
    ctx = bearing(token)
    with pytest.raises(Aborted) as aborted:
        (plugin or JwtAuth()).auth(ctx, configured)
    assert (aborted.value.status, aborted.value.body) == (401, {"error": "Invalid token"})
    assert ctx.challenges == ['Bearer error="invalid_token"']
    assert "user_id" not in ctx.state


# ---- who it is


def test_a_good_token_says_who_calls_and_is_forwarded() -> None:
    token = forge(claims(roles=["admin"], org={"id": 7}))
    ctx = authenticated(token, config())
    assert ctx.state["user_id"] == "alice"
    assert ctx.state["claims"]["roles"] == ("admin",)
    assert ctx.request.headers["Authorization"] == f"Bearer {token}"


def test_the_claims_are_read_only_all_the_way_down() -> None:
    found = authenticated(forge(claims(org={"id": 7})), config()).state["claims"]
    with pytest.raises(TypeError):
        found["sub"] = "mallory"
    with pytest.raises(TypeError):
        found["org"]["id"] = 8


def test_the_consumer_is_found_by_the_subject() -> None:
    acme = Consumer(id="acme", match={"user_id": "alice"})
    ctx = context(("Authorization", f"Bearer {forge(claims())}"), consumer_of=lambda state: acme if state["user_id"] == "alice" else None)
    JwtAuth().auth(ctx, config())
    assert ctx.consumer is acme


@pytest.mark.parametrize("value", ["bearer {}", "BEARER {}", "Bearer   {}", "Bearer {} "])
def test_the_scheme_is_compared_without_case(value: str) -> None:
    ctx = context(("Authorization", value.format(forge(claims()))))
    JwtAuth().auth(ctx, config())
    assert ctx.state["user_id"] == "alice"


@pytest.mark.parametrize(
    "fields", [(), (("Authorization", "Basic YTpi"),), (("Authorization", "Bearer"),), (("Authorization", "Bearer "),)]
)
def test_no_token_is_left_to_the_next_plugin(fields: tuple[tuple[str, str], ...]) -> None:
    ctx = context(*fields)
    JwtAuth().auth(ctx, config())
    assert ctx.challenges == ["Bearer"]
    assert ctx.state == {}


def test_another_header_holds_the_bare_token() -> None:
    ctx = context(("X-Token", forge(claims())), ("Authorization", "Basic YTpi"))
    JwtAuth().auth(ctx, config(header_name="x-token"))
    assert ctx.state["user_id"] == "alice"


def test_H11_two_authorization_headers_are_ambiguous() -> None:
    ctx = context(("Authorization", f"Bearer {forge(claims())}"), ("Authorization", "Bearer x"))
    with pytest.raises(Aborted) as aborted:
        JwtAuth().auth(ctx, config())
    assert aborted.value.status == 400


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", RSA_KEY), ("RS512", RSA_KEY), ("PS256", RSA_KEY), ("ES256", EC_KEY), ("EdDSA", ED_KEY)],
    ids=["RS256", "RS512", "PS256", "ES256", "EdDSA"],
)
def test_public_keys_of_every_family(algorithm: str, key: Any) -> None:
    configured = config(public_key=pem(key), algorithms=[algorithm])
    token = jwt.encode(claims(), key, algorithm)
    assert authenticated(token, configured).state["user_id"] == "alice"
    head, payload, signature = token.split(".")
    refused(f"{head}.{payload}.{('A' if signature[0] != 'A' else 'B') + signature[1:]}", configured)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_secrets_of_every_size(algorithm: str) -> None:
    with pytest.warns(jwt.InsecureKeyLengthWarning) if algorithm != "HS256" else contextlib.nullcontext():
        token = jwt.encode(claims(), SECRET, algorithm)
    assert authenticated(token, config(algorithms=["HS256", "HS384", "HS512"])).state["user_id"] == "alice"


# ---- a bad one: every forgery is in test_jwt_token.py


@pytest.mark.parametrize(
    "token",
    [
        forge(claims(), {"alg": "none"}),
        forge(claims(), {"alg": "HS512"}),
        forge(claims(), secret="another secret of more than 32 bytes"),
        forge(claims(exp=1)),
        "x.y.z",
        "\xff",
        "two words",
    ],
    ids=["J01", "not-allowed", "forged", "expired", "malformed", "latin-1", "words"],
)
def test_a_bad_token_ends_the_request(token: str) -> None:
    refused(token, config())


@pytest.mark.parametrize("form", [serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1])
def test_J02_a_public_key_is_no_secret(form: serialization.PublicFormat) -> None:
    refused(forge(claims(), secret=pem(RSA_KEY, form)), config(public_key=pem(RSA_KEY), algorithms=["RS256"]))


def test_issuer_audience_typ_and_leeway_are_what_is_configured() -> None:
    configured = config(issuer="https://id.example/", audience=["api"], typ="application/AT+jwt", leeway=30)
    good = claims(iss="https://id.example/", aud=["x", "api"], exp=int(time.time()) - 10)
    head = {"alg": "HS256", "typ": "at+JWT"}
    assert authenticated(forge(good, head), configured).state["user_id"] == "alice"
    refused(forge(good), configured)
    for wrong in ({"iss": "https://id.example"}, {"aud": "x"}, {"exp": 1}):
        refused(forge({**good, **wrong}, head), configured)


# ---- what is remembered


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr(jwt_auth.time, "time", lambda: self.now)


def test_a_verified_token_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin, configured, token = JwtAuth(), config(), forge(claims())
    first = authenticated(token, configured, plugin).state["claims"]
    monkeypatch.setattr(jwt_auth.Token, "parse", lambda text: pytest.fail("parsed again"))
    assert authenticated(token, configured, plugin).state["claims"] is first


def test_a_remembered_token_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, plugin, configured = Clock(monkeypatch), JwtAuth(), config(leeway=5)
    token = forge({"sub": "alice", "exp": int(clock.now) + 60})
    authenticated(token, configured, plugin)
    clock.now = int(clock.now) + 64.9
    authenticated(token, configured, plugin)
    clock.now = int(clock.now) + 1.0
    refused(token, configured, plugin)
    refused(token, configured, plugin)


def test_another_configuration_does_not_find_it() -> None:
    plugin, token = JwtAuth(), forge(claims())
    authenticated(token, config(), plugin)
    refused(token, config(issuer="https://id.example/"), plugin)
    refused(token, config(secret="another secret of more than 32 bytes"), plugin)


def test_a_refused_token_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, plugin, configured = Clock(monkeypatch), JwtAuth(), config()
    token = forge(claims(nbf=int(clock.now) + 10))
    refused(token, configured, plugin)
    clock.now += 11
    authenticated(token, configured, plugin)


def test_no_token_is_kept_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt_auth, "MAX_VERIFIED", 3)
    plugin, configured = JwtAuth(), config()
    tokens = [forge(claims(jti=str(number))) for number in range(5)]
    for token in tokens:
        authenticated(token, configured, plugin)
    assert len(plugin._verified) == 3
    assert not any(token.encode() in key for token in tokens for key in plugin._verified)
    authenticated(tokens[0], configured, plugin)


def test_X07_tokens_of_interleaved_requests_do_not_mix() -> None:
    plugin, configured = JwtAuth(), config()
    tokens = {f"user-{number}": forge(claims(sub=f"user-{number}")) for number in range(100)}
    for _ in range(2):
        for user, token in tokens.items():
            assert authenticated(token, configured, plugin).state["user_id"] == user


# ---- the configuration


def problem(**fields: Any) -> str:
    with pytest.raises(ValidationError) as refusal:
        JwtAuthConfig.model_validate_json(json.dumps(fields))
    return str(refusal.value)


def test_the_secret_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    assert authenticated(forge(claims()), JwtAuthConfig()).state["user_id"] == "alice"


def test_the_environment_is_read_when_it_is_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", SECRET)
    configured = JwtAuthConfig()
    monkeypatch.delenv("JWT_SECRET")
    assert authenticated(forge(claims()), bind_entry(configured, Entry("users", 0))).state["user_id"] == "alice"


def test_without_any_key_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JWT_SECRET", raising=False)
    assert "a key: secret, public_key or jwks_url, or JWT_SECRET" in problem()
    monkeypatch.setenv("JWT_SECRET", "")
    assert "at least 32 bytes in the environment's JWT_SECRET" in problem()


@pytest.mark.parametrize("secret", ["", "secret", "x" * 31])
def test_J20_G26_a_short_secret_is_refused(secret: str) -> None:
    assert "at least 32 bytes" in problem(secret=secret)


def test_J20_32_bytes_are_enough() -> None:
    secret = "ü" * 16
    assert authenticated(forge(claims(), secret=secret), config(secret=secret)).state["user_id"] == "alice"


def test_the_secret_is_not_shown() -> None:
    configured = config()
    assert SECRET not in f"{configured!r} {configured} {configured.model_dump_json()}"
    assert "short-but-secret" not in problem(secret="short-but-secret")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"secret": SECRET, "public_key": pem(RSA_KEY), "algorithms": ["RS256"]}, "one kind of key, not secret and public_key"),
        ({"secret": SECRET, "jwks_url": "https://id.example/keys"}, "one kind of key, not secret and jwks_url"),
        ({"secret": SECRET, "algorithms": ["HS256", "RS256"]}, "algorithms of one family"),
        ({"secret": SECRET, "algorithms": ["RS256"]}, "a public_key or a jwks_url for RS256"),
        ({"secret": pem(RSA_KEY)}, "that is no public key"),
        ({"public_key": pem(RSA_KEY)}, "algorithms that fit it, such as [RS256], not HS"),
        ({"public_key": pem(RSA_KEY), "algorithms": ["RS256", "PS256"]}, "algorithms of one family"),
        ({"public_key": pem(RSA_KEY), "algorithms": ["ES256"]}, "a key for ES256"),
        ({"public_key": pem(EC_KEY), "algorithms": ["ES384"]}, "a key for ES384"),
        ({"public_key": pem(EC_KEY), "algorithms": ["EdDSA"]}, "a key for EdDSA"),
        ({"public_key": "nonsense", "algorithms": ["RS256"]}, "a public key in PEM form"),
        ({"jwks_url": "https://id.example/keys"}, "never HS keys"),
        ({"jwks_url": "https://id.example/keys", "algorithms": ["RS256", "HS256"]}, "never HS keys"),
        ({"jwks_url": "https://id.example/keys", "algorithms": ["RS256", "PS256"]}, "either RS or PS"),
        ({"secret": SECRET, "algorithms": []}, "at least 1"),
        ({"secret": SECRET, "algorithms": ["none"]}, "Input should be"),
        ({"secret": SECRET, "leeway": 61}, "less than or equal to 60"),
        ({"secret": SECRET, "audience": []}, "at least 1"),
        ({"secret": SECRET, "header_name": "X Token"}, "match pattern"),
        ({"secret": SECRET, "secrets": []}, "Extra inputs"),
    ],
)
def test_G24_what_does_not_fit_together_is_refused(fields: dict[str, Any], text: str) -> None:
    assert text in problem(**fields)


def test_a_weak_or_private_key_is_refused() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    assert "at least 2048 bits" in problem(public_key=pem(weak), algorithms=["RS256"])
    private = RSA_KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    text = problem(public_key=private, algorithms=["RS256"])
    assert "not a private one" in text
    assert private.splitlines()[1] not in text


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://id.example/",
        "https://",
        "https://user:pw@id.example/",
        "https://id.example/#x",
        "https://id.example:0/",
        "https://id.example:99999/",
        "https://id.example/a b",
        "http://169.254.169.254/latest",
        "http://[fe80::1]/keys",
        "http://[::ffff:169.254.169.254]/keys",
        "//id.example/keys",
    ],
)
def test_J23_a_url_that_must_not_be_asked_is_refused(url: str) -> None:
    problem(jwks_url=url, algorithms=["RS256"])


def test_the_configuration_survives_a_round_trip() -> None:
    configured = config(public_key=pem(EC_KEY), algorithms=["ES256"], audience=["a", "b"], requiredClaims=["exp"])
    assert JwtAuthConfig.model_validate_json(configured.model_dump_json()) == configured


@pytest.mark.parametrize(
    "field",
    [
        {"secret": "${JWT_SECRET}"},
        {"public_key": "${GW_PUBLIC_KEY}", "algorithms": ["RS256"]},
        {"jwks_url": "${GW_KEYS}", "algorithms": ["RS256"]},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_a_reference_leaves_unknown_is_told_by_its_field(field: dict[str, Any]) -> None:
    """So that ``check`` warns of a variable that is unset where it runs, and does not refuse the document."""
    with pytest.raises(ValidationError) as refusal:
        JwtAuthConfig.model_validate_json(json.dumps(field))
    assert [error["loc"] for error in refusal.value.errors()] == [(next(iter(field)),)]


def test_a_token_of_nobody_is_refused_whatever_is_required() -> None:
    refused(forge({"exp": claims()["exp"]}), config(required_claims=["exp"]))


def test_a_token_without_end_is_accepted_only_if_the_route_says_so() -> None:
    forever = config(required_claims=[])
    plugin, token = JwtAuth(), forge({"sub": "alice"})
    assert authenticated(token, forever, plugin).state["user_id"] == "alice"
    assert authenticated(token, forever, plugin).state["user_id"] == "alice"
    refused(token, config(), plugin)


def test_a_claim_that_the_route_requires_must_be_there() -> None:
    refused(forge(claims()), config(required_claims=["exp", "tenant"]))
    assert authenticated(forge(claims(tenant="acme")), config(required_claims=["exp", "tenant"])).state["claims"]["tenant"] == "acme"
