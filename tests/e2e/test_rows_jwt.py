"""Every bad token through running workers (rows J01 to J21), and providers of keys that misbehave (J23)."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.e2e import signers
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient, head
from tests.e2e.signers import jwk, pem, private_key
from tests.plugins.bad_tokens import BAD_HEADS, SECRET, SHAPES, b64, bad_payloads, claims, forge

pytestmark = pytest.mark.e2e

FOR = {"issuer": "https://id.example/", "audience": ["api"]}
#: What a field line may hold beside ``Authorization: Bearer``.
LONGEST = 8190 - 30


def configs(provider: Provider) -> dict[str, dict[str, Any]]:
    """Return a ``jwt_auth`` configuration by route."""
    published = {"algorithms": ["RS256", "ES256"]}
    return {
        "secret": {"secret": SECRET},
        "typ": {"secret": SECRET, "typ": "at+jwt"},
        "for": {"secret": SECRET, **FOR},
        "rs": {"public_key": pem("RS256"), "algorithms": ["RS256"]},
        "es": {"public_key": pem("ES256"), "algorithms": ["ES256"]},
        "published": {"jwks_url": provider.url("/published"), **published},
        **{name: {"jwks_url": provider.url(f"/{name}"), **published} for name in FAULTS},
    }


def public_bytes() -> dict[str, bytes]:
    """Return the forms in which an RSA key is public, each of which somebody may try as a shared secret."""
    key = private_key("RS256").public_key()
    spki = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return {
        "J02-spki": spki,
        "J02-leading-newline": b"\n" + spki,
        "J02-no-trailing-newline": spki.rstrip(),
        "J02-pkcs1": key.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "J02-ssh": key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "J02-der": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    }


def curve_signatures() -> dict[str, str]:
    """Return tokens for the ES256 key whose signatures have another form than JWS says."""
    key = private_key("ES256")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signed = f"{b64(json.dumps({'alg': 'ES256'}).encode())}.{b64(json.dumps(claims()).encode())}"
    forms = {
        "zeros": bytes(64),
        "der": key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())),
        "empty": b"",
        "short": bytes(63),
        "order": b"\xff" * 64,
        "another-curve": private_key("ES384").sign(signed.encode(), ec.ECDSA(hashes.SHA256())),  # type: ignore[union-attr,call-arg,arg-type]
    }
    return {f"J19-{name}": f"{signed}.{b64(signature)}" for name, signature in forms.items()}


def tokens() -> dict[str, tuple[str, str]]:
    """Return route and token by row, made anew: some are bad by their dates only."""
    made = {row: ("secret", forge(claims(), head)) for row, head in BAD_HEADS.items()}
    made |= {row: ("secret", forge(payload)) for row, payload in bad_payloads(int(time.time())).items()}
    made |= {row: ("secret", change(forge(claims()))) for row, change in SHAPES.items()}
    made |= {row: ("rs", forge(claims(), secret=secret.decode("latin-1"))) for row, secret in public_bytes().items() if row != "J02-der"}
    for row, secret in public_bytes().items():  # and with the algorithm that the route asks for written above it
        made[f"{row}-as-RS256"] = ("rs", lying(secret))
        made[row] = ("rs", signers.token("HS256", secret, claims()))
    made |= {row: ("es", token) for row, token in curve_signatures().items()}
    made["J19-PS256"] = ("rs", signers.token("PS256", private_key("RS256"), claims()))
    made["J19-PS256-as-RS256"] = ("rs", signers.token("PS256", private_key("RS256"), claims(), alg="RS256"))
    for name, typ in {"JWT": "JWT", "JOSE": "JOSE", "more": "at+jwt+x", "empty": ""}.items():
        made[f"J17-{name}"] = ("typ", forge(claims(), {"alg": "HS256", "typ": typ}))
    made["J17-missing"] = ("typ", forge(claims(), {"alg": "HS256"}))
    for name, aud in {"longer": "api-internal", "part": "ap", "case": "API", "object": {"api": 1}, "none": [], "mixed": ["api", 7]}.items():
        made[f"J18-aud-{name}"] = ("for", forge(claims(iss=FOR["issuer"], aud=aud)))
    made["J18-aud-missing"] = ("for", forge(claims(iss=FOR["issuer"])))
    for name, iss in {"part": "https://id.example", "longer": "https://id.example/x", "list": [FOR["issuer"]], "null": None}.items():
        made[f"J18-iss-{name}"] = ("for", forge(claims(iss=iss, aud="api")))
    for name, kid in {"path": "../../dev/null", "sql": "' OR 1=1 --", "url": "http://127.0.0.1/", "int": 7}.items():
        made[f"J16-published-{name}"] = ("published", signers.token("RS256", private_key("RS256"), claims(), kid=kid))
    return {row: found for row, found in made.items() if found[1].isprintable() and found[1].isascii()}  # else it is no field value


def lying(secret: bytes) -> str:
    """Return a token with an HMAC under a head that says RS256."""
    signed = f"{b64(json.dumps({'alg': 'RS256'}).encode())}.{b64(json.dumps(claims()).encode())}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"


class Provider:
    """Publishes good keys below any path; where a fault is switched on, that instead.

    :ivar hits: how often each path was fetched.
    :ivar faulty: paths that misbehave.
    """

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.faulty: set[str] = set()
        self.over = threading.Event()
        self.keys = json.dumps({"keys": [jwk("RS256", kid="first"), jwk("ES256", kid="curve")]}).encode()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.hits[self.path] += 1
                FAULTS[self.path[1:]](self, provider) if self.path in provider.faulty else answer(self, provider.keys)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


def answer(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **fields: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **fields}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


#: What a provider does instead of publishing its keys. The last keys must stay good, nothing must be followed.
FAULTS: dict[str, Callable[[BaseHTTPRequestHandler, Provider], object]] = {
    "slow": lambda handler, provider: provider.over.wait(60),
    "10-MB": lambda handler, provider: answer(handler, provider.keys + b" " * 10_000_000),
    "redirected": lambda handler, provider: answer(handler, b"", 302, Location=provider.url("/elsewhere")),
    "to-metadata": lambda handler, provider: answer(handler, b"", 302, Location="http://169.254.169.254/latest/meta-data/"),
    "failing": lambda handler, provider: answer(handler, provider.keys, 500),
    "page": lambda handler, provider: answer(handler, b"<html>"),
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str, provider: Provider) -> GatewayProcess:
    publish(
        redis_server,
        [
            {"path": f"/{name}", "upstream": echo, "plugins": [{"name": "jwt_auth", "config": config}]}
            for name, config in configs(provider).items()
        ],
    )
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready()


@pytest.mark.parametrize("row", tokens())
def test_a_bad_token_is_refused_and_the_next_good_one_is_not(gateway: GatewayProcess, row: str) -> None:
    path, token = tokens()[row]
    with RawClient(gateway.port) as client:
        answer = client.ask(f"/{path}", f"Authorization: Bearer {token}")
        if len(token) > LONGEST:
            assert answer.status in (401, 431)
            return  # 431 comes from the parser, which closes
        assert (answer.status, answer.json()) == (401, {"error": "Invalid token"})
        assert answer.get("WWW-Authenticate") == 'Bearer error="invalid_token"'
        assert client.ask(f"/{path}", f"Authorization: Bearer {good(path)}").status == 200


def good(path: str) -> str:
    """Return a token that the route accepts."""
    if path in ("rs", "published"):
        return signers.token("RS256", private_key("RS256"), claims(), kid="first")
    if path == "es":
        return signers.token("ES256", private_key("ES256"), claims())
    return forge(claims(**({"iss": FOR["issuer"], "aud": "api"} if path == "for" else {})), {"alg": "HS256", "typ": "at+jwt"})


def test_J11_a_token_of_a_megabyte_ends_at_the_parser(gateway: GatewayProcess) -> None:
    with RawClient(gateway.port) as client:
        with contextlib.suppress(ConnectionError):  # it may answer and close before it has read it all
            client.send(head("/secret", f"Authorization: Bearer {forge(claims(x='x' * 1_000_000))}"))
        answer = client.answer()
    assert (answer.status, answer.json(), answer.closed) == (431, {"error": "Request Header Fields Too Large"}, True)


def test_J23_J24_the_last_keys_stay_good_whatever_the_provider_does(gateway: GatewayProcess, provider: Provider) -> None:
    known = f"Bearer {good('published')}"
    unknown = f"Bearer {signers.token('RS256', private_key('RS256'), claims(), kid='unknown')}"

    def ask(name: str, token: str) -> int:
        return gateway.get(f"/{name}", headers={"Authorization": token}).status_code

    for name in FAULTS:  # by each worker when the configuration was applied
        until(lambda name=name: provider.hits[f"/{name}"] >= gateway.workers, f"every worker to have the keys of {name}")
        assert ask(name, known) == 200
    provider.faulty = {f"/{name}" for name in FAULTS}
    before, began = Counter(provider.hits), time.monotonic()

    def asked_again() -> bool:
        assert {ask(name, unknown) for name in FAULTS if name != "slow"} == {401}
        return all(provider.hits[f"/{name}"] > before[f"/{name}"] for name in FAULTS if name != "slow")

    until(asked_again, "the pause between two fetches to be over")
    assert ask("slow", unknown) == 401  # after its fetch was waited for, or another request's
    assert [ask(name, known) for name in FAULTS for _ in range(4)] == [200] * 4 * len(FAULTS)
    assert provider.hits["/elsewhere"] == 0
    intervals = 1 + int((time.monotonic() - began) / 10)
    assert max(provider.hits[path] - before[path] for path in provider.faulty) <= gateway.workers * intervals
    assert gateway.output().count("jwks_fetch_failed") <= gateway.workers * len(FAULTS)  # once a change, not once an attempt
