"""Authenticate by JSON Web Token: signed with a shared secret, with one public key, or by an identity provider.

The token comes in ``Authorization: Bearer <token>``, or bare in another header, and is forwarded. Who calls is its
``sub``. A missing token leaves the request to the next ``auth`` plugin; a bad one ends it with 401.
"""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.exceptions import InvalidKeyError
from pydantic import Field, PrivateAttr, SecretStr, ValidationInfo, field_validator, model_validator

from gwproxy import Context, Gateway, Plugin, PluginConfig, hookimpl, is_forbidden_address
from gwproxy.plugins.jwks import MIN_RSA_BITS, KeySet, NoKeysError
from gwproxy.plugins.jwt_bearer import Bearer, Known, recall
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

    # Beside their fields, not in one place: what a reference to an unset variable leaves unknown is told by the field.
    @field_validator("secret")
    @classmethod
    def _strong(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            _check_secret(secret.get_secret_value(), "")
        return secret

    @field_validator("public_key")
    @classmethod
    def _fitting(cls, pem: str | None, info: ValidationInfo) -> str | None:
        if pem is not None:
            _public_key(pem, info.data.get("algorithms", ()))
        return pem

    @field_validator("jwks_url")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        _check_url(url)
        return url

    @model_validator(mode="after")
    def _one_key(self) -> JwtAuthConfig:
        given = [name for name in ("secret", "public_key", "jwks_url") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"one kind of key, not {' and '.join(given)}: use two entries")
        families = {_family(name) for name in self.algorithms}
        if self.jwks_url is not None:
            if "HS" in families:
                raise ValueError("algorithms for published keys, such as [RS256]: those are never HS keys")
            if {"RS", "PS"} <= families:
                raise ValueError("either RS or PS algorithms: they use the same keys, and a key belongs to one family")
            self._key_set = KeySet.of(self.jwks_url)
        elif len(families) > 1:
            raise ValueError(f"algorithms of one family, not of {' and '.join(sorted(families))}: a key belongs to one")
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
    def bearer(self) -> Bearer:
        """Where tokens are, and by what they are remembered."""
        return Bearer(self.header_name)

    # Cached, because pydantic's private attributes cost more than a microsecond to read.
    @cached_property
    def key_set(self) -> KeySet | None:
        """The provider's keys; None if there is no ``jwks_url``."""
        return self._key_set

    @cached_property
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
        self._verified: OrderedDict[bytes, Known] = OrderedDict()

    @hookimpl
    def auth(self, ctx: Context, config: JwtAuthConfig) -> None:
        """Find the token, verify it, and say who calls. ``ctx.state["claims"]`` holds its claims, read-only."""
        token = config.bearer.find(ctx)
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
            ctx.abort(503, {"error": "Service Unavailable"}, [("Retry-After", "1")])
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
        digest, generation, keys = config.bearer.digest(text), 0, config.key_set
        if keys is not None:
            keys.keep_fresh(self._gateway.spawn)  # also for a remembered token: its key may have been withdrawn
            generation = keys.generation  # as it is before a fetch is waited for
        claims = recall(self._verified, digest, generation)
        if claims is not None:
            return claims
        now = time.time()
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


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or "@" in parts.netloc or parts.port == 0:
            raise ValueError
    except ValueError:  # urlsplit's own too, on ports and brackets
        raise ValueError("a URL of http:// or https:// with a host, without credentials and fragment") from None
    if any(character <= " " or character > "~" for character in url):
        raise ValueError("a URL without spaces, control characters and characters outside ASCII")
    if is_forbidden_address(parts.hostname):
        raise ValueError("no link-local or metadata address")


def _family(algorithm: str) -> str:
    return algorithm[:2]


def _shared_key(secret: SecretStr | None, algorithms: tuple[str, ...]) -> Key:
    if _family(algorithms[0]) != "HS":
        raise ValueError(f"a public_key or a jwks_url for {', '.join(algorithms)}")
    value = os.environ.get(_ENVIRONMENT) if secret is None else secret.get_secret_value()
    if value is None:
        raise ValueError(
            f"a key: secret, public_key or jwks_url, or {_ENVIRONMENT} in the environment "
            f"(secret: ${{{_ENVIRONMENT}}} leaves it to that of the workers)"
        )
    _check_secret(value, f" in the environment's {_ENVIRONMENT}")
    return Key(value.encode(), frozenset(algorithms))


def _check_secret(value: str, where: str) -> None:
    if len(value.encode()) < MIN_SECRET:
        raise ValueError(f"a secret of at least {MIN_SECRET} bytes{where}")
    try:
        ALGORITHMS["HS256"].prepare_key(value)
    except InvalidKeyError:
        raise ValueError(f"a secret{where} that is no public key, certificate or JWK: those are known to others") from None


def _public_key(pem: str, algorithms: tuple[str, ...]) -> Key:
    if "PRIVATE KEY" in pem:
        raise ValueError("a public key, not a private one: this one was shown, and should be replaced")
    try:
        material = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("a public key in PEM form (-----BEGIN PUBLIC KEY-----)") from None
    if isinstance(material, RSAPublicKey) and material.key_size < MIN_RSA_BITS:
        raise ValueError(f"an RSA key of at least {MIN_RSA_BITS} bits")
    try:
        for name in algorithms:
            if _family(name) == "HS":
                raise ValueError("a public key with algorithms that fit it, such as [RS256], not HS")
            ALGORITHMS[name].prepare_key(material)
    except (InvalidKeyError, TypeError):
        raise ValueError(f"a key for {', '.join(algorithms)}") from None
    return Key(material, frozenset(algorithms))
