"""Which of the keys that a provider publishes are used, and for what (row R25)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from gwproxy.plugins.jwks import read_keys

OLD, NEW = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    algorithm = next(name for kind, name in kinds.items() if isinstance(key, kind))
    return {**get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True), **more}


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


UNUSABLE: dict[str, Any] = {
    "encryption": jwk(OLD, kid="x", use="enc"),
    "sign-only": jwk(OLD, kid="x", key_ops=["sign"]),
    "operations-text": jwk(OLD, kid="x", key_ops="verify"),
    "weak": jwk(WEAK, kid="x"),
    "symmetric": {"kty": "oct", "k": "c2VjcmV0", "kid": "x"},
    "private": {**jwk(OLD, kid="x"), "d": "AQAB"},
    "alg-of-another-type": jwk(OLD, kid="x", alg="ES256"),
    "alg-symmetric": jwk(OLD, kid="x", alg="HS256"),
    "alg-encryption": jwk(OLD, kid="x", alg="RSA-OAEP"),
    "alg-list": jwk(OLD, kid="x", alg=["RS256"]),
    "kid-number": jwk(OLD, kid=7),
    "kid-list": jwk(OLD, kid=["x"]),
    "no-type": {"kid": "x"},
    "curve-unknown": {**jwk(EC, kid="x"), "crv": "P-999"},
    "curve-list": {**jwk(EC, kid="x"), "crv": ["P-256"]},
    "point-off-curve": {**jwk(EC, kid="x"), "y": jwk(EC)["x"]},
    "point-short": {**jwk(EC, kid="x"), "x": "AA"},
    "modulus-missing": {"kty": "RSA", "kid": "x", "e": "AQAB"},
    "modulus-number": {"kty": "RSA", "kid": "x", "n": 7, "e": "AQAB"},
    "exponent-even": {**jwk(OLD, kid="x"), "e": "Ag"},
    "text": "x",
}


@pytest.mark.parametrize("key", UNUSABLE.values(), ids=UNUSABLE)
def test_R25_what_is_no_public_signature_key_is_left_out(key: Any) -> None:
    assert list(read_keys(document(key, jwk(NEW, kid="good")))) == ["good"]
    with pytest.raises(ValueError, match="no usable key"):
        read_keys(document(key))


def test_R25_a_kid_that_is_not_unique_names_no_key() -> None:
    assert list(read_keys(document(jwk(OLD, kid="x"), jwk(NEW, kid="x"), jwk(NEW, kid="good")))) == ["good"]


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (jwk(OLD), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (jwk(OLD, alg="RS512", use="sig", key_ops=["verify"]), {"RS512"}),
        (jwk(EC), {"ES256"}),
        (jwk(ED), {"EdDSA"}),
    ],
    ids=["RSA", "RSA-alg", "EC", "Ed25519"],
)
def test_R25_a_key_is_used_with_the_algorithms_of_its_type(key: Any, algorithms: set[str]) -> None:
    assert read_keys(document(key))[None][0].algorithms == algorithms
