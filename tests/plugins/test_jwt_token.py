"""Forged and malformed tokens: each is a TokenError and nothing else (rows J01 to J21, R24, R26)."""

from __future__ import annotations

import base64
import hashlib
import hmac
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

SECRET = "an example secret of more than 32 bytes"
SHARED = Key(SECRET.encode(), frozenset({"HS256"}))
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ANY = Expected(issuer=None, audiences=frozenset(), required=("exp", "sub"), leeway=0, typ=None)
NOW = int(time.time())
FUTURE = 4_102_444_800  # the year 2100


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**more: Any) -> dict[str, Any]:
    return {"sub": "alice", "exp": FUTURE, **more}


def forge(payload: bytes | dict[str, Any], head: bytes | dict[str, Any] | None = None, secret: str = SECRET) -> str:
    """Sign with HS256 whatever head and payload are given."""
    head = head if head is not None else {"alg": "HS256", "typ": "JWT"}
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (head, payload)]
    return ".".join([*parts, b64(hmac.new(secret.encode(), ".".join(parts).encode(), hashlib.sha256).digest())])


def verified(text: str, expected: Expected = ANY, key: Key = SHARED) -> Mapping[str, Any]:
    return Token.parse(text).verify(key, expected, NOW)


def refused(text: str, expected: Expected = ANY, key: Key = SHARED) -> None:
    with pytest.raises(TokenError):
        verified(text, expected, key)


def test_what_is_refused_below_is_refused_for_its_one_fault() -> None:
    assert verified(forge(claims(nbf=NOW, iat=NOW))) == claims(nbf=NOW, iat=NOW)


BAD_HEADS: dict[str, bytes | dict[str, Any]] = {
    "J01-none": {"alg": "none"},
    "J01-None": {"alg": "None"},
    "J01-nOnE": {"alg": "nOnE"},
    "J01-empty": {"alg": ""},
    "J01-missing": {"typ": "JWT"},
    "J01-list": {"alg": ["HS256"]},
    "J01-hs256": {"alg": "hs256"},
    "J01-not-allowed": {"alg": "HS512"},
    "J13-crit-unknown": {"alg": "HS256", "crit": ["x"], "x": 1},
    "J13-crit-empty": {"alg": "HS256", "crit": []},
    "J13-crit-exp": {"alg": "HS256", "crit": ["exp"], "exp": 1},
    "J13-b64-false": {"alg": "HS256", "crit": ["b64"], "b64": False},
    "J13-b64-false-alone": {"alg": "HS256", "b64": False},
    "J14-crit-b64-true": {"alg": "HS256", "crit": ["b64"], "b64": True},
    "J16-kid-int": {"alg": "HS256", "kid": 7},
    "J16-kid-object": {"alg": "HS256", "kid": {}},
    "typ-int": {"alg": "HS256", "typ": 1},
    "R24-alg-twice": b'{"alg":"none","alg":"HS256"}',
    "R24-head-bom": b'\xef\xbb\xbf{"alg":"HS256"}',
    "R24-head-utf16": '{"alg":"HS256"}'.encode("utf-16"),
    "head-list": b'["HS256"]',
    "head-text": b"HS256",
    "head-empty": b"",
    "J12-head-deep": b'{"alg":"HS256","x":' + b"[" * 3000 + b"]" * 3000 + b"}",
}


@pytest.mark.parametrize("head", BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_bad_head_is_refused(head: bytes | dict[str, Any]) -> None:
    refused(forge(claims(), head))


BAD_PAYLOADS: dict[str, bytes | dict[str, Any]] = {
    "J04-no-exp": {"sub": "alice"},
    "J05-exp-null": {"sub": "alice", "exp": None},
    "J05-exp-list": {"sub": "alice", "exp": [NOW + 60]},
    "J05-exp-NaN": b'{"sub":"alice","exp":NaN}',
    "J05-exp-Infinity": b'{"sub":"alice","exp":Infinity}',
    "J05-exp-1e400": b'{"sub":"alice","exp":1e400}',
    "J05-exp-5000-digits": b'{"sub":"alice","exp":' + b"9" * 5000 + b"}",
    "J05-exp-4000-digits": b'{"sub":"alice","exp":' + b"9" * 4000 + b"}",
    "J05-exp-true": {"sub": "alice", "exp": True},
    "J05-exp-negative": {"sub": "alice", "exp": -1},
    "J05-exp-string": {"sub": "alice", "exp": str(NOW + 60)},
    "J05-exp-milliseconds": {"sub": "alice", "exp": (NOW + 60) * 1000},
    "J09-utf16": json.dumps(claims()).encode("utf-16"),
    "J09-utf16-without-bom": json.dumps(claims()).encode("utf-16-le"),
    "J09-utf32": json.dumps(claims()).encode("utf-32"),
    "J09-bom": b"\xef\xbb\xbf" + json.dumps(claims()).encode(),
    "J09-latin-1": f'{{"sub":"J\xf6rg","exp":{NOW + 60}}}'.encode("latin-1"),
    "J12-100k-deep": b'{"sub":"alice","exp":4102444800,"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "J12-too-deep": b'{"sub":"alice","exp":4102444800,"x":' + b"[" * 40 + b"]" * 40 + b"}",
    "J21-exp-past": {"sub": "alice", "exp": NOW - 1},
    "J21-exp-now": {"sub": "alice", "exp": NOW},
    "J21-nbf-future": claims(nbf=NOW + 30),
    "J21-iat-future": claims(iat=NOW + 30),
    "iat-string": claims(iat="now"),
    "nbf-true": claims(nbf=True),
    "R24-sub-twice": b'{"sub":"alice","sub":"mallory","exp":4102444800}',
    "R24-nested-twice": b'{"sub":"alice","exp":4102444800,"x":{"a":1,"a":2}}',
    "sub-missing": {"exp": NOW + 60},
    "sub-empty": claims(sub=""),
    "sub-int": claims(sub=7),
    "sub-line-break": claims(sub="alice\r\nX-Admin: 1"),
    "sub-surrogate": claims(sub="\ud800"),
    "sub-long": claims(sub="a" * 2000),
    "aud-unexpected": claims(aud="somebody-else"),
    "payload-list": b"[]",
    "payload-text": b"alice",
    "payload-empty": b"",
    "payload-trailing": json.dumps(claims()).encode() + b"{}",
}


@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_a_bad_payload_is_refused(payload: bytes | dict[str, Any]) -> None:
    refused(forge(payload))


def with_bits(token: str) -> str:
    """Set one of the bits that the last character of the signature does not use."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) | 1]


SHAPES: dict[str, Callable[[str], str]] = {
    "J01-unsigned": lambda token: token.rpartition(".")[0] + ".",
    "another-secret": lambda token: forge(claims(), secret="another secret of more than 32 bytes"),
    "two-parts": lambda token: token.rpartition(".")[0],
    "four-parts": lambda token: token + ".x",
    "five-parts": lambda token: token + ".x.y",
    "dots": lambda token: "..",
    "R24-padded": lambda token: token + "=",
    "R24-spare-bits": with_bits,
    "R24-line-break": lambda token: token.replace(".", ".\n", 1),
    "R24-standard-alphabet": lambda token: (
        forge(b'{"sub":"\xc3\xbf\xc3\xbf\xc3\xbf","exp":4102444800}').replace("_", "/").replace("-", "+")
    ),
    "R24-junk": lambda token: token.replace(".", ".!", 1),
    "spaces": lambda token: token.replace(".", " .", 1),
    "latin-1": lambda token: token + "\xff",
    "null": lambda token: token + "\0",
    "J11-one-megabyte": lambda token: forge(claims(x="x" * 1_000_000)),
}


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
