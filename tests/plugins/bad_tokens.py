"""Tokens that must be refused, each for its one fault: by row, for tests of the verifier and of running workers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

SECRET = "an example secret of more than 32 bytes"
FUTURE = 4_102_444_800  # the year 2100


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**more: Any) -> dict[str, Any]:
    """Return claims that nobody objects to."""
    return {"sub": "alice", "exp": FUTURE, **more}


def forge(payload: bytes | dict[str, Any], head: bytes | dict[str, Any] | None = None, secret: str = SECRET) -> str:
    """Sign with HS256 whatever head and payload are given."""
    head = head if head is not None else {"alg": "HS256", "typ": "JWT"}
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (head, payload)]
    return ".".join([*parts, b64(hmac.new(secret.encode(), ".".join(parts).encode(), hashlib.sha256).digest())])


BAD_HEADS: dict[str, bytes | dict[str, Any]] = {
    "J01-none": {"alg": "none"},
    "J01-None": {"alg": "None"},
    "J01-NONE": {"alg": "NONE"},
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


def bad_payloads(now: int) -> dict[str, bytes | dict[str, Any]]:
    """Return signed payloads that are refused at ``now`` (seconds since 1970), by row and what is wrong with them."""
    return {
        "J04-no-exp": {"sub": "alice"},
        "J05-exp-null": {"sub": "alice", "exp": None},
        "J05-exp-list": {"sub": "alice", "exp": [now + 60]},
        "J05-exp-NaN": b'{"sub":"alice","exp":NaN}',
        "J05-exp-Infinity": b'{"sub":"alice","exp":Infinity}',
        "J05-exp-1e400": b'{"sub":"alice","exp":1e400}',
        "J05-exp-5000-digits": b'{"sub":"alice","exp":' + b"9" * 5000 + b"}",
        "J05-exp-4000-digits": b'{"sub":"alice","exp":' + b"9" * 4000 + b"}",
        "J05-exp-true": {"sub": "alice", "exp": True},
        "J05-exp-negative": {"sub": "alice", "exp": -1},
        "J05-exp-string": {"sub": "alice", "exp": str(now + 60)},
        "J05-exp-milliseconds": {"sub": "alice", "exp": (now + 60) * 1000},
        "J09-utf16": json.dumps(claims()).encode("utf-16"),
        "J09-utf16-without-bom": json.dumps(claims()).encode("utf-16-le"),
        "J09-utf32": json.dumps(claims()).encode("utf-32"),
        "J09-bom": b"\xef\xbb\xbf" + json.dumps(claims()).encode(),
        "J09-latin-1": f'{{"sub":"J\xf6rg","exp":{now + 60}}}'.encode("latin-1"),
        "J12-100k-deep": b'{"sub":"alice","exp":4102444800,"x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        "J12-never-closed": b'{"sub":"alice","exp":4102444800,"x":' + b"[" * 5500,
        "J12-too-deep": b'{"sub":"alice","exp":4102444800,"x":' + b"[" * 40 + b"]" * 40 + b"}",
        "J21-exp-past": {"sub": "alice", "exp": now - 1},
        "J21-exp-now": {"sub": "alice", "exp": now},
        "J21-nbf-future": claims(nbf=now + 30),
        "J21-iat-future": claims(iat=now + 30),
        "iat-string": claims(iat="now"),
        "nbf-true": claims(nbf=True),
        "R24-sub-twice": b'{"sub":"alice","sub":"mallory","exp":4102444800}',
        "R24-nested-twice": b'{"sub":"alice","exp":4102444800,"x":{"a":1,"a":2}}',
        "sub-missing": {"exp": now + 60},
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
