"""Forged and malformed tokens: each is a TokenError and nothing else (rows J01 to J21, R24, R26)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.plugins.jwt_token import Expected, Key, Token, TokenError
from tests.plugins.bad_tokens import BAD_HEADS, SECRET, SHAPES, b64, bad_payloads, claims, forge

SHARED = Key(SECRET.encode(), frozenset({"HS256"}))
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ANY = Expected(issuer=None, audiences=frozenset(), required=("exp", "sub"), leeway=0, typ=None)
NOW = int(time.time())


def verified(text: str, expected: Expected = ANY, key: Key = SHARED) -> Mapping[str, Any]:
    return Token.parse(text).verify(key, expected, NOW)


def refused(text: str, expected: Expected = ANY, key: Key = SHARED) -> None:
    with pytest.raises(TokenError):
        verified(text, expected, key)


def test_what_is_refused_below_is_refused_for_its_one_fault() -> None:
    assert verified(forge(claims(nbf=NOW, iat=NOW))) == claims(nbf=NOW, iat=NOW)


@pytest.mark.parametrize("head", BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_bad_head_is_refused(head: bytes | dict[str, Any]) -> None:
    refused(forge(claims(), head))


@pytest.mark.parametrize("payload", bad_payloads(NOW).values(), ids=bad_payloads(NOW))
def test_a_bad_payload_is_refused(payload: bytes | dict[str, Any]) -> None:
    refused(forge(payload))


@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
def test_a_bad_shape_is_refused(change: Callable[[str], str]) -> None:
    refused(change(forge(claims())))


FORMS = [serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1, serialization.PublicFormat.OpenSSH]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("before", ["", "\n"])
def test_J02_a_public_key_is_no_secret(form: serialization.PublicFormat, before: str) -> None:
    encoding = serialization.Encoding.OpenSSH if form is serialization.PublicFormat.OpenSSH else serialization.Encoding.PEM
    secret = before + RSA_KEY.public_key().public_bytes(encoding, form).decode()
    refused(forge(claims(), secret=secret), key=Key(RSA_KEY.public_key(), frozenset({"RS256"})))


@pytest.mark.parametrize("where", [{"jku": "https://evil.example/"}, {"x5u": "https://evil.example/"}, {"jwk": {"kty": "oct", "k": "eA"}}])
def test_J16_where_the_token_says_its_key_is_does_not_matter(where: dict[str, Any]) -> None:
    head = {"alg": "HS256", **where}
    refused(forge(claims(), head, secret="x"))
    assert verified(forge(claims(), head))["sub"] == "alice"


@pytest.mark.parametrize("kid", ["../../dev/null", "' OR 1=1 --", "anything"])
def test_J16_a_kid_is_a_name_and_nothing_else(kid: str) -> None:
    token = Token.parse(forge(claims(), {"alg": "HS256", "kid": kid}))
    assert token.kid == kid
    assert token.verify(SHARED, ANY, NOW)["sub"] == "alice"


@pytest.mark.parametrize("typ", ["JWT", "JOSE", "at+jwt+x", "", None])
def test_J17_another_typ_than_is_pinned_is_refused(typ: str | None) -> None:
    pinned = replace(ANY, typ="at+jwt")
    refused(forge(claims(), {"alg": "HS256", **({} if typ is None else {"typ": typ})}), pinned)
    assert verified(forge(claims(), {"alg": "HS256", "typ": "application/AT+JWT"}), pinned)["sub"] == "alice"


@pytest.mark.parametrize("audience", ["api-internal", "ap", "API", None, {"api": 1}, [], ["x"], ["api", 7], 7, ""])
def test_J18_another_audience_is_refused(audience: Any) -> None:
    refused(forge(claims(aud=audience)), replace(ANY, audiences=frozenset({"api"})))


@pytest.mark.parametrize("audience", ["api", ["x", "api"]])
def test_J18_an_audience_that_is_meant_is_accepted(audience: Any) -> None:
    assert verified(forge(claims(aud=audience)), replace(ANY, audiences=frozenset({"api", "other"})))["sub"] == "alice"


@pytest.mark.parametrize("issuer", ["https://id.example", "https://id.example/x", None, ["https://id.example/"], 7])
def test_J18_another_issuer_is_refused(issuer: Any) -> None:
    pinned = replace(ANY, issuer="https://id.example/")
    refused(forge(claims(iss=issuer)), pinned)
    refused(forge(claims()), pinned)
    assert verified(forge(claims(iss="https://id.example/")), pinned)["sub"] == "alice"


def test_J19_signatures_of_another_form_are_refused() -> None:
    key = Key(EC_KEY.public_key(), frozenset({"ES256"}))
    signed = f"{b64(json.dumps({'alg': 'ES256'}).encode())}.{b64(json.dumps(claims()).encode())}"
    der = EC_KEY.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
    for signature in (bytes(64), der, b"", bytes(63), b"\xff" * 64):
        refused(f"{signed}.{b64(signature)}", key=key)
    assert verified(jwt.encode(claims(), EC_KEY, "ES256"), key=key)["sub"] == "alice"


def test_J19_PS256_is_not_RS256() -> None:
    refused(jwt.encode(claims(), RSA_KEY, "PS256"), key=Key(RSA_KEY.public_key(), frozenset({"RS256"})))


def test_J21_leeway_is_granted_and_no_more() -> None:
    tolerant = replace(ANY, leeway=30.0)
    assert verified(forge(claims(exp=NOW - 29, nbf=NOW + 30, iat=NOW + 30)), tolerant)["sub"] == "alice"
    refused(forge(claims(exp=NOW - 30)), tolerant)
    refused(forge(claims(nbf=NOW + 31)), tolerant)
    refused(forge(claims(iat=NOW + 31)), tolerant)


def test_claims_are_read_only_all_the_way_down() -> None:
    found = verified(forge(claims(org={"ids": [7, {"a": 1}]})))
    assert found["org"]["ids"][0] == 7
    for inner in (found, found["org"], found["org"]["ids"][1]):
        with pytest.raises(TypeError):
            inner["x"] = 1


def outcome(text: str) -> object:
    try:
        return verified(text)["sub"]
    except TokenError:
        return TokenError


PART = st.binary(max_size=60).map(b64) | st.text(max_size=20)


@given(st.text(max_size=200) | st.lists(PART, min_size=3, max_size=3).map(".".join))
def test_R26_no_text_raises_anything_else(text: str) -> None:
    assert outcome(text) is TokenError


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "sub", "iss", "aud", "x"]), JSON))
def test_R26_no_signed_claims_raise_anything_else(payload: dict[str, Any]) -> None:
    assert outcome(forge(payload)) in (TokenError, payload.get("sub"))


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk"]), JSON))
def test_R26_no_head_raises_anything_else(head: dict[str, Any]) -> None:
    assert outcome(forge(claims(), head)) is TokenError or head["alg"] == "HS256"
