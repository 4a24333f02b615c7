"""Published keys, from a real provider on this machine: fetched rarely, kept while it is away (rows J23, J24)."""

from __future__ import annotations

import contextlib
import gc
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import get_default_algorithms

from gwproxy import Context, Headers, Request
from gwproxy.errors import Aborted
from gwproxy.plugins import jwks
from gwproxy.plugins.jwks import KeySet, NoKeysError
from gwproxy.plugins.jwt_auth import JwtAuth, JwtAuthConfig

OLD, NEW = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    return {**get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True), **more}


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


class Provider:
    """An identity provider whose answers the test chooses."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = document(jwk(OLD, kid="old"))
        self.paths: list[str] = []
        self.open = threading.Event()  # answers wait for it
        self.open.set()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.paths.append(self.path)
                provider.open.wait(10)
                self.send_response(provider.status)
                for name, value in {"Content-Length": str(len(provider.body)), **provider.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the gateway has read enough
                    self.wfile.write(provider.body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/keys"

    @property
    def fetches(self) -> int:
        return len(self.paths)

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.server.server_close()


class Clock:
    """The time that key sets see; it stands still unless the test moves it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        clock = self

        class Time:
            monotonic = staticmethod(lambda: clock.now)

        monkeypatch.setattr(jwks, "time", Time)


class Worker:
    """The gateway's background, of threads."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join(10)
            assert not thread.is_alive()


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.join()


@pytest.fixture
def plugin(worker: Worker) -> JwtAuth:
    made = JwtAuth()
    made.worker_started(worker)  # type: ignore[arg-type]
    return made


def config(provider: Provider, **more: Any) -> JwtAuthConfig:
    return JwtAuthConfig.model_validate_json(json.dumps({"jwks_url": provider.url, "algorithms": ["RS256"], **more}))


def token(key: Any, kid: str | None, algorithm: str = "RS256") -> str:
    head = {} if kid is None else {"kid": kid}
    return jwt.encode({"sub": "alice", "exp": int(time.time()) + 60}, key, algorithm, headers=head)


def status(plugin: JwtAuth, configured: JwtAuthConfig, text: str) -> int:
    """Return 200 if the bearer is authenticated, else what the request ends with."""
    ctx = Context(Request("GET", "/", headers=Headers([("Authorization", f"Bearer {text}")])))
    try:
        plugin.auth(ctx, configured)
    except Aborted as aborted:
        return aborted.status
    return 200 if ctx.state.get("user_id") == "alice" else 0


# ---- fetching


def test_keys_are_fetched_when_they_are_first_needed(plugin: JwtAuth, provider: Provider) -> None:
    configured = config(provider)
    assert provider.fetches == 0
    assert status(plugin, configured, token(OLD, "old")) == 200
    assert status(plugin, configured, token(NEW, "old")) == 401
    assert provider.paths == ["/keys"]


def test_keys_are_fetched_when_a_configuration_is_applied(plugin: JwtAuth, provider: Provider, worker: Worker) -> None:
    configured = config(provider)
    plugin.configuration_applied()
    worker.join()
    plugin.configuration_applied()
    assert provider.fetches == 1
    assert status(plugin, configured, token(OLD, "old")) == 200
    assert provider.fetches == 1


def test_requests_that_come_together_wait_for_one_fetch(plugin: JwtAuth, provider: Provider, worker: Worker) -> None:
    provider.open.clear()
    configured, text = config(provider), token(OLD, "old")
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(status, plugin, configured, text) for _ in range(8)]
        while not provider.paths:
            threading.Event().wait(0.001)
        provider.open.set()
        assert [answer.result(10) for answer in answers] == [200] * 8
    assert provider.fetches == 1


def test_a_new_configuration_keeps_the_keys_of_the_same_provider(plugin: JwtAuth, provider: Provider) -> None:
    before = config(provider)
    assert status(plugin, before, token(OLD, "old")) == 200
    after = config(provider, leeway=5)
    del before
    gc.collect()
    assert status(plugin, after, token(OLD, "old")) == 200
    assert provider.fetches == 1


def test_keys_that_no_configuration_names_are_forgotten(provider: Provider) -> None:
    configured = config(provider)
    assert [keys.url for keys in KeySet.all() if keys.url == provider.url] == [provider.url]
    del configured
    gc.collect()
    assert [keys.url for keys in KeySet.all() if keys.url == provider.url] == []


def test_keys_are_fetched_again_in_the_background(plugin: JwtAuth, provider: Provider, clock: Clock, worker: Worker) -> None:
    configured, text = config(provider), token(OLD, "old")
    assert status(plugin, configured, text) == 200
    clock.now += jwks.REFRESH * 0.85
    assert status(plugin, configured, text) == 200
    assert provider.fetches == 1
    clock.now += jwks.REFRESH * 0.3
    provider.open.clear()
    assert status(plugin, configured, text) == 200  # while the provider has not answered
    provider.open.set()
    worker.join()
    assert provider.fetches == 2


def test_a_withdrawn_key_is_refused_although_its_tokens_were_remembered(
    plugin: JwtAuth, provider: Provider, clock: Clock, worker: Worker
) -> None:
    configured, old = config(provider), token(OLD, "old")
    assert status(plugin, configured, old) == 200
    provider.body = document(jwk(NEW, kid="new"))
    clock.now += jwks.REFRESH * 1.2
    provider.open.clear()
    assert status(plugin, configured, old) == 200  # what makes the keys be fetched
    provider.open.set()
    worker.join()
    assert status(plugin, configured, old) == 401
    assert status(plugin, configured, token(NEW, "new")) == 200


def test_J24_a_new_kid_is_fetched_for_once_a_pause(plugin: JwtAuth, provider: Provider, clock: Clock) -> None:
    configured = config(provider)
    assert status(plugin, configured, token(OLD, "old")) == 200
    provider.body = document(jwk(OLD, kid="old"), jwk(NEW, kid="new"))
    assert [status(plugin, configured, token(NEW, "new")) for _ in range(20)] == [401] * 20
    assert provider.fetches == 1  # too early
    clock.now += jwks.PAUSE
    assert status(plugin, configured, token(NEW, "new")) == 200
    assert [status(plugin, configured, token(NEW, f"unknown-{number}")) for number in range(20)] == [401] * 20
    assert provider.fetches == 2
    clock.now += jwks.PAUSE
    assert [status(plugin, configured, token(NEW, f"unknown-{number}")) for number in range(20)] == [401] * 20
    assert provider.fetches == 3


def test_an_algorithm_that_is_not_allowed_asks_nobody(plugin: JwtAuth, provider: Provider) -> None:
    assert status(plugin, config(provider), jwt.encode({}, "x" * 32, "HS256", headers={"kid": "old"})) == 401
    assert provider.fetches == 0


# ---- a provider that is away

AWAY: dict[str, Callable[[Provider], object]] = {
    "error": lambda provider: setattr(provider, "status", 500),
    "redirect": lambda provider: (setattr(provider, "status", 302), provider.headers.update({"Location": "/elsewhere"})),
    "not-json": lambda provider: setattr(provider, "body", b"<html>"),
    "no-keys": lambda provider: setattr(provider, "body", b'{"keys": []}'),
    "list": lambda provider: setattr(provider, "body", b"[]"),
    "too-many": lambda provider: setattr(provider, "body", document(*[jwk(NEW, kid=str(number)) for number in range(101)])),
    "10-MB": lambda provider: setattr(provider, "body", document(jwk(NEW, kid="new")) + b" " * 10_000_000),
    "short": lambda provider: provider.headers.update({"Content-Length": "100000"}),
    "chunks-broken": lambda provider: (provider.headers.update({"Transfer-Encoding": "chunked"}), setattr(provider, "body", b"zz\r\n")),
    "compressed": lambda provider: provider.headers.update({"Content-Encoding": "gzip"}) or setattr(provider, "body", b"\x1f\x8b"),
}


@pytest.mark.parametrize("leave", AWAY.values(), ids=AWAY)
def test_J23_the_last_keys_stay_good(leave: Callable[[Provider], object], plugin: JwtAuth, provider: Provider, clock: Clock) -> None:
    configured = config(provider)
    assert status(plugin, configured, token(OLD, "old")) == 200
    leave(provider)
    clock.now += jwks.REFRESH * 2
    assert status(plugin, configured, token(NEW, "new")) == 401
    assert provider.paths == ["/keys", "/keys"]
    assert status(plugin, configured, token(OLD, "old")) == 200


@pytest.mark.parametrize("leave", AWAY.values(), ids=AWAY)
def test_J23_without_any_keys_no_token_is_judged(
    leave: Callable[[Provider], object], plugin: JwtAuth, provider: Provider, clock: Clock
) -> None:
    leave(provider)
    configured = config(provider)
    assert [status(plugin, configured, token(OLD, "old")) for _ in range(5)] == [503] * 5
    assert provider.fetches == 1
    provider.status, provider.headers, provider.body = 200, {}, document(jwk(OLD, kid="old"))
    clock.now += jwks.FIRST_PAUSE
    assert status(plugin, configured, token(OLD, "old")) == 200


def test_J23_a_provider_that_is_not_there(plugin: JwtAuth, provider: Provider) -> None:
    configured = config(provider)
    provider.close()
    assert status(plugin, configured, token(OLD, "old")) == 503


def test_J23_a_slow_provider_is_waited_for_only_so_long(
    plugin: JwtAuth, provider: Provider, clock: Clock, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "WAIT", 0.05)
    provider.open.clear()
    configured = config(provider)
    assert [status(plugin, configured, token(OLD, "old")) for _ in range(3)] == [503] * 3
    assert len(worker.threads) == 1
    clock.now += jwks.STUCK
    assert status(plugin, configured, token(OLD, "old")) == 503
    assert len(worker.threads) == 2
    provider.open.set()
    worker.join()
    assert status(plugin, configured, token(OLD, "old")) == 200


def test_R40_a_failing_provider_is_logged_once(provider: Provider, clock: Clock, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    keys = KeySet(provider.url)
    provider.status = 500
    for _ in range(3):
        clock.now += jwks.FIRST_PAUSE
        with pytest.raises(NoKeysError):
            keys.find("old", "RS256", worker.spawn)
    provider.status = 200
    clock.now += jwks.FIRST_PAUSE
    assert keys.find("old", "RS256", worker.spawn) is not None
    worker.join()
    assert [record.message.split()[0] for record in caplog.records] == ["jwks_fetch_failed", "jwks_fetch_recovered"]


def test_J23_a_metadata_address_is_refused_when_it_is_reached(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "is_forbidden_address", lambda address: address == "127.0.0.1")
    with pytest.raises(OSError, match="link-local or metadata"):
        jwks._download(provider.url)
    assert provider.fetches == 0


def test_the_environment_does_not_matter(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert jwks._download(provider.url) == provider.body


def test_the_certificate_is_verified(provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    provider.server.socket = tls.wrap_socket(provider.server.socket, server_side=True)
    url = provider.url.replace("http:", "https:")
    with pytest.raises(requests.exceptions.SSLError):
        jwks._download(url)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setattr(requests.adapters, "DEFAULT_CA_BUNDLE_PATH", str(tmp_path / "ca.pem"))
    assert jwks._download(url) == provider.body
    monkeypatch.setattr(jwks, "is_forbidden_address", lambda address: address == "127.0.0.1")
    with pytest.raises(OSError, match="link-local or metadata"):
        jwks._download(url)
    assert provider.fetches == 1


# ---- which key is meant

EC = ec.generate_private_key(ec.SECP256R1())


def test_a_token_without_kid_means_the_only_key_that_fits(plugin: JwtAuth, provider: Provider, clock: Clock) -> None:
    configured = config(provider, algorithms=["RS256", "ES256"])
    provider.body = document(jwk(OLD, kid="old"), jwk(EC))
    assert status(plugin, configured, token(OLD, None)) == 200
    assert status(plugin, configured, token(EC, None, "ES256")) == 200
    provider.body = document(jwk(OLD, kid="old"), jwk(NEW, kid="new"))
    clock.now += jwks.PAUSE
    assert status(plugin, configured, token(NEW, "new")) == 200
    assert status(plugin, configured, jwt.encode({"sub": "alice", "exp": int(time.time()) + 62}, OLD, "RS256")) == 401


def test_J16_a_kid_that_is_a_path_is_only_a_name(plugin: JwtAuth, provider: Provider) -> None:
    configured = config(provider)
    for kid in ("../../dev/null", "' OR 1=1 --", "http://127.0.0.1/", ""):
        assert status(plugin, configured, token(OLD, kid)) == 401
    assert provider.paths == ["/keys"]
