"""Authenticate by JSON Web Token: signed with a shared secret, with one public key, or by an identity provider.

The token comes in ``Authorization: Bearer <token>``, or bare in another header, and is forwarded. Who calls is its
``sub``. A missing token leaves the request to the next ``auth`` plugin; a bad one ends it with 401.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.exceptions import InvalidKeyError
from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from gwproxy import Context, Gateway, Plugin, PluginConfig, hookimpl, is_forbidden_address
from gwproxy.plugins.jwks import MIN_RSA_BITS, KeySet, NoKeysError
from gwproxy.plugins.jwt_token import ALGORITHMS, AlgorithmName, Expected, Key, Token, TokenError

log = logging.getLogger("gwproxy.plugins.jwt_auth")

MIN_SECRET = 32
MAX_VERIFIED = 10_000
"""Tokens whose verification is remembered in a worker."""
_ENVIRONMENT = "JWT_SECRET"

Text = Annotated[str, Field(min_length=1, max_length=1024)]


class JwtAuthConfig(PluginConfig):
    """Whose tokens are accepted. Exactly one of `secret`, `public_key` and `jwks_url` says with which key."""

    secret: SecretStr | None = None
    """The shared secret of HS algorithms, at least 32 bytes. None, without another key: the environment's `JWT_SECRET`."""
    header_name: Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")] = "Authorization"
    """Where the token is: after `Bearer` in `Authorization`, bare in any other header."""
    algorithms: Annotated[tuple[AlgorithmName, ...], Field(min_length=1, max_length=13)] = ("HS256",)
    """Accepted algorithms, of one family: HS for `secret`; RS, PS, ES or EdDSA for `public_key`; any but HS for `jwks_url`."""
    issuer: Text | None = None
    """What `iss` must be, exactly. None: not checked."""
    audience: Text | Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)] | None = None
    """What `aud` must be or contain, one of these. None: a token that names an audience is refused."""
    public_key: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    """A public key in PEM form; RSA of at least 2048 bits."""
    jwks_url: Text | None = None
    """Where an identity provider publishes its keys, `https://` or `http://`; fetched again every 300 seconds."""
    leeway: float = Field(default=0, ge=0, le=60)
    """Seconds by which the clocks may differ."""
    required_claims: Annotated[tuple[Text, ...], Field(max_length=100)] = ("exp", "sub")
    """Claims that must be there. `sub` must be in any case: it says who calls."""
    typ: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9!#$&^_.+/-]+$")] | None = None
    """What the token's `typ` must be, such as `at+jwt`, in any case, with or without `application/`. None: not checked."""

    _key: Key | None = PrivateAttr(default=None)
    _key_set: KeySet | None = PrivateAttr(default=None)

    @field_validator("jwks_url")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or "@" in parts.netloc or parts.port == 0:
            raise ValueError("a URL of http:// or https:// with a host, without credentials and fragment")
        if any(character <= " " or character > "~" for character in url):
            raise ValueError("a URL has no spaces, control or non-ASCII characters")
        if is_forbidden_address(parts.hostname):
            raise ValueError("link-local and metadata addresses are refused")
        return url

    @model_validator(mode="after")
    def _one_key(self) -> JwtAuthConfig:
        given = [name for name in ("secret", "public_key", "jwks_url") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given: one entry has one kind of key, use two entries")
        families = {_family(name) for name in self.algorithms}
        if self.jwks_url is not None:
            if "HS" in families:
                raise ValueError("published keys are never HS keys: set algorithms, such as [RS256]")
            if {"RS", "PS"} <= families:
                raise ValueError("RS and PS use the same keys, and a key belongs to one family: choose one of them")
            self._key_set = KeySet.of(self.jwks_url)
        elif len(families) > 1:
            raise ValueError(f"algorithms of the families {', '.join(sorted(families))}: a key belongs to one family")
        elif self.public_key is not None:
            self._key = _public_key(self.public_key, self.algorithms)
        else:
            self._key = _shared_key(self.secret, self.algorithms)
        return self

    @cached_property
    def expected(self) -> Expected:
        """What the claims must say."""
        audiences = (self.audience,) if isinstance(self.audience, str) else self.audience or ()
        typ = None if self.typ is None else self.typ.lower().removeprefix("application/")
        return Expected(self.issuer, frozenset(audiences), self.required_claims, self.leeway, typ)

    @cached_property
    def salt(self) -> bytes:
        """Goes into the digests of remembered tokens, so that no other configuration finds them."""
        return os.urandom(16)

    @property
    def generation(self) -> int:
        """Grows when the keys change."""
        return 0 if self._key_set is None else self._key_set.generation

    @property
    def key_set(self) -> KeySet | None:
        """The provider's keys; None if there is no ``jwks_url``."""
        return self._key_set

    @property
    def key(self) -> Key | None:
        """The one key; None if there is a ``jwks_url``."""
        return self._key


class JwtAuth(Plugin):
    """Authenticate the bearer of a valid token; tokens that were verified are remembered until they expire."""

    name = "jwt_auth"
    version = "1.0"
    priority = 200
    config_model = JwtAuthConfig

    _gateway: Gateway

    def __init__(self) -> None:
        # Per worker, not per request: what a token says stays true until it expires. By digest, never by the token.
        self._verified: OrderedDict[bytes, tuple[float, int, Mapping[str, Any]]] = OrderedDict()

    @hookimpl
    def auth(self, ctx: Context, config: JwtAuthConfig) -> None:
        """Find the token, verify it, and say who calls. ``ctx.state["claims"]`` holds its claims, read-only."""
        token = _find_token(ctx, config.header_name)
        if not token:
            ctx.challenge("Bearer")
            return
        try:
            claims = self._claims(token, config)
        except TokenError as error:
            log.debug("jwt_refused request_id=%s reason=%s", ctx.request_id, error)
            ctx.challenge('Bearer error="invalid_token"')
            ctx.abort(401, {"error": "Invalid token"})
        except NoKeysError:
            ctx.abort(503, {"error": "Service Unavailable"})
        ctx.state["claims"] = claims
        ctx.authenticate(claims["sub"])

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        """Keep the gateway, for fetching keys in its background."""
        self._gateway = gateway

    @hookimpl
    def configuration_applied(self) -> None:
        """Fetch keys that are not here yet, before the first token asks for them."""
        for key_set in KeySet.all():
            if key_set.generation == 0:
                key_set.fetch(self._gateway.spawn)

    def _claims(self, text: str, config: JwtAuthConfig) -> Mapping[str, Any]:
        """Return the claims of a good token.

        :raises TokenError: it is not good.
        :raises NoKeysError: it cannot be judged.
        """
        now = time.time()
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32, key=config.salt).digest()
        known = self._verified.get(digest)
        generation = config.generation  # before the key is looked up: it may change while a fetch is waited for
        if known is not None and known[1] == generation:
            if now >= known[0]:
                self._verified.pop(digest, None)
                raise TokenError("expired")
            return known[2]
        token = Token.parse(text)
        claims = token.verify(self._key_for(token, config), config.expected, now)
        self._verified[digest] = (claims.get("exp", float("inf")) + config.leeway, generation, claims)
        if len(self._verified) > MAX_VERIFIED:
            self._verified.popitem(last=False)
        return claims

    def _key_for(self, token: Token, config: JwtAuthConfig) -> Key:
        if token.algorithm not in config.algorithms:  # before the set is asked: it may be fetched again for an unknown key
            raise TokenError("an algorithm that is not allowed")
        keys = config.key_set
        key = config.key if keys is None else keys.find(token.kid, token.algorithm, self._gateway.spawn)
        if key is None:
            raise TokenError("no such key")
        return key


def _find_token(ctx: Context, header_name: str) -> str | None:
    """Return the credential; None or empty if there is none of this kind."""
    values = ctx.request.headers.getlist(header_name)
    if not values:
        return None
    if len(values) > 1:  # the upstream might read the one that was not verified
        ctx.abort(400, {"error": "Bad Request"})
    if header_name.lower() != "authorization":
        return values[0].strip()
    scheme, _, token = values[0].strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _family(algorithm: str) -> str:
    return algorithm[:2]


def _shared_key(secret: SecretStr | None, algorithms: tuple[str, ...]) -> Key:
    source = "secret"
    if secret is None:
        source = f"the environment's {_ENVIRONMENT}"
        value = os.environ.get(_ENVIRONMENT)
        if value is None:
            raise ValueError(f"no key: give secret, public_key or jwks_url, or set {_ENVIRONMENT} in the environment of the workers")
    else:
        value = secret.get_secret_value()
    if {_family(name) for name in algorithms} != {"HS"}:
        raise ValueError(f"{source} is for HS algorithms only; {', '.join(algorithms)} need public_key or jwks_url")
    if len(value.encode()) < MIN_SECRET:
        raise ValueError(f"{source} is shorter than {MIN_SECRET} bytes")
    try:
        return Key(ALGORITHMS[algorithms[0]].prepare_key(value), frozenset(algorithms))
    except InvalidKeyError:
        raise ValueError(f"{source} is a public key, a certificate or a JWK, which is no secret") from None


def _public_key(pem: str, algorithms: tuple[str, ...]) -> Key:
    if "PRIVATE KEY" in pem:
        raise ValueError("public_key holds a private key: it does not belong here, and should be replaced")
    if "HS" in {_family(name) for name in algorithms}:
        raise ValueError("public_key is not for HS algorithms: set algorithms, such as [RS256]")
    try:
        material = load_pem_public_key(pem.encode())
        for name in algorithms:
            ALGORITHMS[name].prepare_key(material)
    except (InvalidKeyError, TypeError):
        raise ValueError(f"public_key is no key for {', '.join(algorithms)}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("public_key is no public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if getattr(material, "key_size", MIN_RSA_BITS) < MIN_RSA_BITS and _family(algorithms[0]) in ("RS", "PS"):
        raise ValueError(f"public_key has fewer than {MIN_RSA_BITS} bits")
    return Key(material, frozenset(algorithms))
