"""What others do outside: an identity provider that publishes keys, issuers of tokens, senders of webhooks.

Written from RFC 7515, 7517 and 7518 and the senders' own documents, with ``cryptography`` and ``hmac`` alone: what the
gateway verifies was not signed by code that it uses.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from standardwebhooks import Webhook

PUBLIC_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Headers = dict[str, str]

_HASHES: dict[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_CURVES: dict[str, tuple[str, ec.EllipticCurve, int]] = {
    "ES256": ("P-256", ec.SECP256R1(), 32),
    "ES384": ("P-384", ec.SECP384R1(), 48),
    "ES512": ("P-521", ec.SECP521R1(), 66),
}


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def private_key(algorithm: str, owner: str = "issuer") -> PrivateKey:
    """Return the key that ``owner`` signs with, always the same; one for all of RS and PS, as at a careless provider."""
    return _key("RSA" if algorithm[:2] in ("RS", "PS") else algorithm, owner)


@functools.cache
def _key(kind: str, _owner: str) -> PrivateKey:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(_CURVES[kind][1]) if kind in _CURVES else ed25519.Ed25519PrivateKey.generate()


def pem(algorithm: str, owner: str = "issuer") -> str:
    return private_key(algorithm, owner).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk(algorithm: str, owner: str = "issuer", **more: str) -> dict[str, str]:
    """Return the public key as a provider publishes it."""
    key = private_key(algorithm, owner)
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        found = {"kty": "RSA", "n": b64url(numbers.n.to_bytes(256, "big")), "e": b64url(numbers.e.to_bytes(3, "big"))}
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        name, _, size = _CURVES[algorithm]
        point = key.public_key().public_numbers()
        found = {"kty": "EC", "crv": name, "x": b64url(point.x.to_bytes(size, "big")), "y": b64url(point.y.to_bytes(size, "big"))}
    else:
        found = {"kty": "OKP", "crv": "Ed25519", "x": b64url(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))}
    return found | more


def token(algorithm: str, key: PrivateKey | bytes, claims: dict[str, Any] | bytes, **head: Any) -> str:
    """Sign a token; ``head`` adds to its head, or replaces what stands there (``alg="none"``, to lie)."""
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"{b64url(json.dumps({'alg': algorithm, 'typ': 'JWT', **head}).encode())}.{b64url(payload)}".encode()
    return f"{signed.decode()}.{b64url(_signature(algorithm, key, signed))}"


def _signature(algorithm: str, key: PrivateKey | bytes, signed: bytes) -> bytes:
    if isinstance(key, bytes):
        return hmac.new(key, signed, f"sha{algorithm[2:]}").digest()
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(signed)
    digest = _HASHES[algorithm[2:]]
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = _CURVES[algorithm][2]
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if algorithm.startswith("PS"):
        return key.sign(signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return key.sign(signed, padding.PKCS1v15(), digest)


class IdentityProvider:
    """Publishes keys at ``/<anything>``; can be switched off (its port refuses) and on again.

    :ivar keys: what it publishes.
    :ivar hits: how often each path was fetched.
    """

    def __init__(self, port: int, *keys: dict[str, str]) -> None:
        self.keys = list(keys)
        self.hits: Counter[str] = Counter()
        self.port = port
        self._server: ThreadingHTTPServer | None = None

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def on(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.hits[self.path] += 1
                body = json.dumps({"keys": provider.keys}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def off(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def standard(secret: str, body: bytes, *, at: float | None = None, identifier: str = "msg_1") -> Headers:
    """Sign as Standard Webhooks 1.0 does, by its own package."""
    moment = datetime.fromtimestamp(int(time.time() if at is None else at), UTC)
    signature = Webhook(secret).sign(identifier, moment, body.decode())
    return {"webhook-id": identifier, "webhook-timestamp": str(int(moment.timestamp())), "webhook-signature": signature}


def github(secret: str, body: bytes) -> Headers:
    return {"X-Hub-Signature-256": f"sha256={_hex(secret, body)}"}


def stripe(secret: str, body: bytes, *, at: float | None = None) -> Headers:
    moment = int(time.time() if at is None else at)
    return {"Stripe-Signature": f"t={moment},v1={_hex(secret, b'%d.%b' % (moment, body))}"}


def slack(secret: str, body: bytes, *, at: float | None = None) -> Headers:
    moment = int(time.time() if at is None else at)
    return {"X-Slack-Request-Timestamp": str(moment), "X-Slack-Signature": f"v0={_hex(secret, b'v0:%d:%b' % (moment, body))}"}


def plain(secret: str, body: bytes, *, at: float | None = None) -> Headers:
    """Sign with the keys of ``hmac`` that are not its defaults: SHA-512, base64, a prefix, a time of its own."""
    moment = int(time.time() if at is None else at)
    digest = hmac.new(secret.encode(), b"%d.%b" % (moment, body), hashlib.sha512).digest()
    return {"X-Sent": str(moment), "X-Signature": f"sha512={base64.b64encode(digest).decode()}"}


def _hex(secret: str, data: bytes) -> str:
    return hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()
