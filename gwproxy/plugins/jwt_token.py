"""Read and verify JSON Web Tokens, strictly: for :mod:`gwproxy.plugins.jwt_auth`.

PyJWT does the cryptography. What stands around it is read here, because its ``decode`` takes what has two readings
(UTF-16 payloads, repeated JSON keys, dates that are strings, ``crit`` extensions nobody asked for), and prepares the key
anew for each token. Everything here raises :class:`TokenError` and nothing else, whatever the token (R26).
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from jwt.algorithms import Algorithm, get_default_algorithms

AlgorithmName = Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]

ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {name: algorithm for name, algorithm in get_default_algorithms().items() if name in AlgorithmName.__args__}  # type: ignore[attr-defined]
)

MAX_TOKEN = 16_384
"""Characters of a token; a header line is shorter than that."""
MAX_DEPTH = 32
"""Arrays and objects within each other, in a payload."""
_LAST_DATE = 253_402_300_799  # 9999-12-31T23:59:59Z; milliseconds where seconds belong are beyond it
_MAX_SUBJECT = 1024  # characters


class TokenError(ValueError):
    """The token is malformed, forged, expired or not meant for this gateway; the message is for the log."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and the only algorithms it may be used with.

    :ivar material: as PyJWT's algorithm has prepared it.
    """

    material: Any = field(repr=False)
    algorithms: frozenset[str]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the claims of a token must say.

    :ivar issuer: the one ``iss``; None: any.
    :ivar audiences: ``aud`` must name one of them; empty: the token may name no audience at all.
    :ivar required: claims that must be there and not null.
    :ivar leeway: seconds by which clocks may differ.
    :ivar typ: the media type in the token's head, lower case, without ``application/``; None: any.
    """

    issuer: str | None
    audiences: frozenset[str]
    required: tuple[str, ...]
    leeway: float
    typ: str | None


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was taken apart; nothing in it is verified yet.

    :ivar kid: which key of a set has signed it; None: it does not say. Where to find keys (``jku``, ``x5u``, ``jwk``,
        ``x5c``) is never read.
    """

    algorithm: str
    kid: str | None
    typ: str | None
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    payload: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Token:
        """Take a compact JWS (RFC 7515 section 7.1) apart.

        :raises TokenError: it is none, or asks for an extension.
        """
        if len(text) > MAX_TOKEN:
            raise TokenError("longer than a token may be")
        parts = text.split(".")
        if len(parts) != 3:
            raise TokenError("not three parts")
        head = strict_json(_decode(parts[0]))
        if not isinstance(head, dict):
            raise TokenError("the head is no object")
        algorithm, kid, typ = head.get("alg"), head.get("kid"), head.get("typ")
        if not isinstance(algorithm, str) or not isinstance(kid, str | None) or not isinstance(typ, str | None):
            raise TokenError("alg, kid and typ are strings")
        if "crit" in head or head.get("b64", True) is not True:
            raise TokenError("extensions of JWS are not supported")
        signed = f"{parts[0]}.{parts[1]}".encode("ascii")
        return cls(algorithm, kid, typ, signed, _decode(parts[2]), _decode(parts[1]))

    def verify(self, key: Key, expected: Expected, now: float) -> Mapping[str, Any]:
        """Check signature and claims; return the claims, deeply read-only.

        :param now: seconds since the epoch.
        :raises TokenError: naming the first thing that is wrong.
        """
        # The key says which algorithm is meant, not the token: RFC 8725 section 3.1.
        if self.algorithm not in key.algorithms:
            raise TokenError("an algorithm that is not allowed for the key")
        if not ALGORITHMS[self.algorithm].verify(self.signed, key.material, self.signature):
            raise TokenError("the signature does not fit")
        if expected.typ is not None and (self.typ or "").lower().removeprefix("application/") != expected.typ:
            raise TokenError("another typ than the route asks for")
        claims = strict_json(self.payload)
        if not isinstance(claims, dict):
            raise TokenError("the payload is no object")
        _check_claims(claims, expected, now)
        frozen: Mapping[str, Any] = _freeze(claims, 0)
        return frozen


def strict_json(data: bytes) -> Any:
    """Parse JSON that has one reading only: UTF-8 without a byte order mark, no repeated keys, no NaN.

    :raises TokenError: it is not such JSON.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except TokenError:
        raise
    except (ValueError, RecursionError):
        raise TokenError("not JSON in UTF-8") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise TokenError("a key is there twice")
    return made


def _refuse_constant(name: str) -> None:
    raise TokenError(f"{name} is not JSON")


def _decode(part: str) -> bytes:
    """Decode base64url without padding; only the one canonical spelling of each value (RFC 4648 section 3.5)."""
    try:
        raw = part.encode("ascii")
        data = urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    except (ValueError, binascii.Error):
        raise TokenError("a part is not base64url") from None
    if urlsafe_b64encode(data).rstrip(b"=") != raw:
        raise TokenError("a part is not canonical base64url")
    return data


def _check_claims(claims: dict[str, Any], expected: Expected, now: float) -> None:
    for name in expected.required:
        if claims.get(name) is None:
            raise TokenError(f"no claim {name}")
    expires, begins, issued = (_date(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is not None and now >= expires + expected.leeway:
        raise TokenError("expired")
    if max(begins or 0, issued or 0) > now + expected.leeway:
        raise TokenError("not valid yet")
    if expected.issuer is not None and claims.get("iss") != expected.issuer:
        raise TokenError("another issuer")
    _check_audience(claims.get("aud"), expected.audiences)
    subject = claims.get("sub")  # needed whatever the route requires: it goes into a header and into logs
    if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_SUBJECT or not subject.isprintable():
        raise TokenError("sub is no printable string")


def _date(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None and name not in claims:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"{name} is no number")
    if not 0 <= value <= _LAST_DATE:  # not of 1e400 either, which JSON reads as infinite
        raise TokenError(f"{name} is no date in seconds")
    return value


def _check_audience(audience: object, allowed: frozenset[str]) -> None:
    named = [audience] if isinstance(audience, str) else audience
    if named is None:
        named = []
    if not isinstance(named, list) or not all(isinstance(item, str) for item in named):
        raise TokenError("aud is neither a string nor a list of strings")
    # A token made for somebody, shown to nobody in particular, must be refused: RFC 7519 section 4.1.3.
    if allowed.isdisjoint(named) if allowed else named:
        raise TokenError("meant for another audience")


def _freeze(value: Any, depth: int) -> Any:
    if not isinstance(value, dict | list):
        return value
    if depth == MAX_DEPTH:
        raise TokenError("nested too deep")
    if isinstance(value, list):
        return tuple(_freeze(item, depth + 1) for item in value)
    return MappingProxyType({name: _freeze(item, depth + 1) for name, item in value.items()})
