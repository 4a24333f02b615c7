"""Keep the keys that an identity provider publishes (RFC 7517): for :mod:`gwproxy.plugins.jwt_auth`.

A set is fetched when it is first needed, again every five minutes, and once more when a token names a key that is not
in it, but never more often than every ten seconds. Fetches run in the background, one at a time; while the provider is
away the last keys stay good.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

import requests
from cryptography.exceptions import UnsupportedAlgorithm
from jwt.exceptions import PyJWTError
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from gwproxy import is_forbidden_address
from gwproxy.plugins.jwt_token import ALGORITHMS, Key, strict_json

log = logging.getLogger("gwproxy.plugins.jwks")

REFRESH = 300.0
"""Seconds after which keys are fetched again, give or take a tenth."""
PAUSE = 10.0
"""Seconds between the beginnings of two fetches while there are keys."""
FIRST_PAUSE = 1.0
"""The same while there are none."""
WAIT = 4.0
"""Seconds a request waits for a fetch: below the default budget of a hook, so that it is answered 503, not 500."""
TIMEOUT = 5.0
"""Seconds to connect, and of silence."""
STUCK = 15.0
"""Seconds after which a fetch that trickles no longer keeps others from starting."""
MAX_BYTES = 1 << 20
MAX_KEYS = 100
MIN_RSA_BITS = 2048

Spawn = Callable[..., object]
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class NoKeysError(Exception):
    """The provider has not answered yet, so that no token can be judged."""


class KeySet:
    """The keys behind one URL: a lookup never waits while a fitting key is there.

    :ivar generation: grows when the keys change; what was concluded from older ones is to be concluded again.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.generation = 0
        self._keys: Mapping[str | None, tuple[Key, ...]] = {}
        self._digest = b""
        self._lock = threading.Lock()  # never held across I/O
        self._running: threading.Event | None = None
        self._started = self._earliest = self._due = 0.0  # of time.monotonic
        self._failing = False

    @classmethod
    def of(cls, url: str) -> KeySet:
        """Return the set of ``url``, the same one as long as anybody holds it: it outlives changes of configuration."""
        with _shared_lock:
            found = _shared.get(url)
            if found is None:
                found = _shared[url] = cls(url)
            return found

    @staticmethod
    def all() -> list[KeySet]:
        """Return every set that somebody holds."""
        with _shared_lock:
            return list(_shared.values())

    def find(self, kid: str | None, algorithm: str, spawn: Spawn) -> Key | None:
        """Return the key that ``kid`` names, if it may be used with ``algorithm``; None if there is none.

        :param kid: None: the only key of the set that may be used with ``algorithm``.
        :param spawn: runs a function in the background.
        :raises NoKeysError: no keys could be fetched yet.
        """
        key = self._pick(kid, algorithm)
        if key is None:
            fetch = self.fetch(spawn)
            if fetch is not None:
                fetch.wait(WAIT)
            if not self._keys:
                raise NoKeysError(self.url)
            return self._pick(kid, algorithm)
        return key

    def keep_fresh(self, spawn: Spawn) -> None:
        """Fetch the keys again in the background if their time has come; does nothing before they were needed."""
        if self._keys and time.monotonic() >= self._due:
            self.fetch(spawn)

    def fetch(self, spawn: Spawn) -> threading.Event | None:
        """Begin to fetch the keys, unless somebody does; None if it is too early to try again.

        :return: set when the fetch has ended, whatever came of it.
        """
        with self._lock:
            now = time.monotonic()
            if self._running is not None and now < self._started + STUCK:
                return self._running
            if now < self._earliest:
                return None
            self._running = done = threading.Event()
            self._started = now
            self._earliest = now + (PAUSE if self._keys else FIRST_PAUSE)
        spawn(self._fetch, done)
        return done

    def _fetch(self, done: threading.Event) -> None:
        try:
            body = _download(self.url)
            self._take(read_keys(body), sha256(body).digest(), done)
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            if not self._failing:  # once a change, not once an attempt
                log.warning("jwks_fetch_failed url=%s keys=%d error=%s", self.url, len(self._keys), error)
            self._failing = True
        finally:
            with self._lock:
                if self._running is done:
                    self._running = None
            done.set()

    def _take(self, keys: Mapping[str | None, tuple[Key, ...]], digest: bytes, done: threading.Event) -> None:
        with self._lock:
            if self._running is not done:
                return  # a later fetch has overtaken this one
            if digest != self._digest:
                self._keys, self._digest = keys, digest
                self.generation += 1
            self._due = time.monotonic() + REFRESH * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load, keeps no secret
        if self._failing:
            log.warning("jwks_fetch_recovered url=%s keys=%d", self.url, len(keys))
        self._failing = False

    def _pick(self, kid: str | None, algorithm: str) -> Key | None:
        if kid is not None:
            fitting = [key for key in self._keys.get(kid, ()) if algorithm in key.algorithms]
        else:
            fitting = [key for keys in self._keys.values() for key in keys if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None


_shared: WeakValueDictionary[str, KeySet] = WeakValueDictionary()
_shared_lock = threading.Lock()


def read_keys(body: bytes) -> Mapping[str | None, tuple[Key, ...]]:
    """Read a JWK set; return its signature keys by ``kid``. Keys that are none, or too weak, or secret, are left out.

    :raises ValueError: it is no JWK set, or has no usable key.
    """
    document = strict_json(body)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise ValueError(f"not a JWK set of at most {MAX_KEYS} keys")
    found: dict[str | None, list[Key]] = {}
    ambiguous: set[str] = set()
    for jwk in listed:
        key = _read_key(jwk) if isinstance(jwk, dict) else None
        if key is None:
            continue
        kid = jwk.get("kid")
        if kid is not None and kid in found:
            ambiguous.add(kid)
        found.setdefault(kid, []).append(key)
    for kid in ambiguous:  # two keys of one name: nobody can say which one was meant
        log.warning("jwks_key_refused kid=%r reason=not unique", kid)
        del found[kid]
    if not found:
        raise ValueError("no usable key in the JWK set")
    return MappingProxyType({kid: tuple(keys) for kid, keys in found.items()})


def _read_key(jwk: dict[str, Any]) -> Key | None:
    """Return the public signature key in ``jwk``; None if it is none or must not be used (R25)."""
    operations = jwk.get("key_ops", ["verify"])
    if jwk.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    if not isinstance(jwk.get("kid"), str | None):
        return None
    if "d" in jwk or jwk.get("kty") == "oct":  # published, it is a secret no more
        log.warning("jwks_key_refused kid=%r reason=secret", jwk.get("kid"))
        return None
    algorithms = _algorithms_of(jwk)
    if not algorithms:
        return None
    algorithm = ALGORITHMS[algorithms[0]]
    try:
        material = algorithm.prepare_key(algorithm.from_jwk(jwk))
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        log.warning("jwks_key_refused kid=%r reason=malformed", jwk.get("kid"))
        return None
    if jwk["kty"] == "RSA" and material.key_size < MIN_RSA_BITS:
        log.warning("jwks_key_refused kid=%r reason=below %d bits", jwk.get("kid"), MIN_RSA_BITS)
        return None
    return Key(material, frozenset(algorithms))


def _algorithms_of(jwk: dict[str, Any]) -> list[str]:
    """Return what a key may be used with: what fits its type, and only its own ``alg`` if it names one."""
    kind, curve = jwk.get("kty"), jwk.get("crv")
    fitting: list[str] = []
    if kind == "RSA":
        fitting = [name for name in ALGORITHMS if name.startswith(("RS", "PS"))]
    elif kind == "EC" and isinstance(curve, str) and curve in _CURVES:
        fitting = [_CURVES[curve]]
    elif kind == "OKP" and curve in ("Ed25519", "Ed448"):
        fitting = ["EdDSA"]
    return [name for name in fitting if jwk.get("alg", name) == name]


def _download(url: str) -> bytes:
    """Fetch ``url``: no redirects, proxies or credentials of the environment, at most :data:`MAX_BYTES`.

    :raises requests.RequestException: it could not be fetched.
    :raises urllib3.exceptions.HTTPError: the answer broke off.
    :raises ValueError: the answer is not a plain 200, or too long, or takes too long.
    """
    deadline = time.monotonic() + STUCK
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", _Adapter())
        session.mount("https://", _Adapter())
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        with session.get(url, headers=headers, timeout=TIMEOUT, allow_redirects=False, stream=True) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            body = bytearray()
            for chunk in response.raw.stream(16_384, decode_content=False):
                body += chunk
                if len(body) > MAX_BYTES or time.monotonic() > deadline:
                    raise ValueError(f"over {MAX_BYTES} bytes, or not here after {STUCK} seconds")
            return bytes(body)


def _check_peer(connection: HTTPConnection) -> None:
    # The peer, not what the name resolved to a moment ago: a second lookup may say something else.
    if connection.sock is not None and is_forbidden_address(connection.sock.getpeername()[0]):
        connection.close()
        raise OSError("a link-local or metadata address")


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _check_peer(self)


class _TLSConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _check_peer(self)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    """Connections that look at whom they reached before they ask for anything."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
