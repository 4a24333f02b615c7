"""Authenticate webhooks by their signature: Standard Webhooks, GitHub, Stripe, Slack, or any plain HMAC.

The raw body as it was received is verified, before anything changes it, and forwarded unchanged; at most the route's
``max_buffer`` of it (413 beyond). With ``replay``, a delivery is let through once; that needs the store.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
from functools import cached_property
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, model_validator

from gwproxy import Context, Gateway, Plugin, PluginConfig, StoreUnavailable, hookimpl
from gwproxy.plugins.webhook_schemes import MAX_SIGNATURES, SCHEMES, Delivery, Scheme, SignatureError, plain

log = logging.getLogger("gwproxy.plugins.webhook_signature")

MIN_SECRET = 16
UNDATED = 86_400.0
"""Seconds for which a delivery without a timestamp is remembered."""
_STANDARD_SECRET = range(24, 65)  # bytes, by the specification of Standard Webhooks
_HMAC_ONLY = ("header_name", "algorithm", "encoding", "prefix", "timestamp_header")


def _key_of(secret: SecretStr, scheme: str) -> bytes:
    """Return the bytes that a scheme signs with.

    :raises ValueError: they are too few, or not in the form of the scheme; the message does not hold them.
    """
    text = secret.get_secret_value()
    if scheme != "standard":
        key = text.encode()
        if len(key) < MIN_SECRET:
            raise ValueError(f"a secret of at least {MIN_SECRET} bytes")
        return key
    text = text.removeprefix("whsec_")
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise ValueError("base64, with or without whsec_ before it") from None
    if len(key) not in _STANDARD_SECRET:
        raise ValueError(f"base64 of 24 to 64 bytes, not of {len(key)}")
    return key


def _strong(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    if "scheme" in info.data:
        _key_of(secret, info.data["scheme"])
    return secret


FieldName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]


class WebhookSignatureConfig(PluginConfig):
    """Who signs, and how."""

    scheme: Literal["standard", "github", "stripe", "slack", "hmac"]
    """How the sender signs; `hmac` is told by the five last fields."""
    secrets: Annotated[tuple[Annotated[SecretStr, AfterValidator(_strong)], ...], Field(min_length=1, max_length=10)]
    """The secrets any of which may have signed (several while they change): 16 bytes at least; for `standard`, base64 of 24 to 64 bytes."""
    tolerance: int = Field(default=300, ge=1, le=86_400)
    """Seconds a delivery's timestamp may be away from now, either way. `github` has no timestamp."""
    replay: bool = True
    """Refuse a delivery that was let through before. Needs the store: without it the answer is 503."""
    user_id: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")] = "webhook"
    """Who the sender is then, to consumers, limits, logs and the upstream."""
    header_name: FieldName | None = None
    """For `hmac`, and needed there: where the signature is."""
    algorithm: Literal["sha256", "sha512"] = "sha256"
    """For `hmac`: the hash."""
    encoding: Literal["hex", "base64"] = "hex"
    """For `hmac`: how the signature is written; hex in either case."""
    prefix: Annotated[str, Field(max_length=64, pattern=r"^[!-~]*$")] = ""
    """For `hmac`: what stands before the signature in the header, such as `sha256=`."""
    timestamp_header: FieldName | None = None
    """For `hmac`: where the time of sending is, in seconds since the epoch; then `timestamp.body` is signed. None: the body alone."""

    @model_validator(mode="after")
    def _complete(self) -> WebhookSignatureConfig:
        if self.scheme == "hmac":
            if self.header_name is None:
                raise ValueError("header_name, with scheme hmac: where the signature is")
        elif foreign := [name for name in _HMAC_ONLY if name in self.model_fields_set]:
            raise ValueError(f"no {', '.join(foreign)}, which scheme hmac has only")
        return self

    @cached_property
    def keys(self) -> tuple[hmac.HMAC, ...]:
        """One keyed hash a secret, to be copied."""
        return tuple(hmac.new(_key_of(secret, self.scheme), digestmod=self.algorithm) for secret in self.secrets)

    @cached_property
    def read(self) -> Scheme:
        """Read a delivery's headers."""
        if self.header_name is not None:
            return plain(self.header_name, self.prefix, self.timestamp_header)
        return SCHEMES[self.scheme]

    @cached_property
    def in_base64(self) -> bool:
        """Whether signatures are written in base64; else in hex."""
        return self.scheme == "standard" or self.encoding == "base64"


class WebhookSignature(Plugin):
    """Authenticate the sender of a webhook by the signature of its body, once for each delivery."""

    name = "webhook_signature"
    version = "1.0"
    priority = 210
    config_model = WebhookSignatureConfig

    _gateway: Gateway

    @hookimpl
    def auth(self, ctx: Context, config: WebhookSignatureConfig) -> None:
        """Verify the delivery; one without a signature of this scheme is left to the next plugin."""
        try:
            delivery = config.read(ctx.request.headers)
            if delivery is None:
                ctx.challenge("Webhook")
                return
            _check_time(delivery, config.tolerance)  # before the body is read
            body = ctx.request.get_data()
            _check_signature(delivery, body, config)
            if config.replay and not self._first(ctx, delivery, body, config):
                raise SignatureError("seen before")
        except SignatureError as error:
            log.debug("webhook_refused request_id=%s reason=%s", ctx.request_id, error)
            ctx.challenge('Webhook error="invalid_signature"')
            ctx.abort(401, {"error": "Invalid token"})
        except StoreUnavailable:
            ctx.abort(503, {"error": "Service Unavailable"}, [("Retry-After", "1")])
        ctx.authenticate(config.user_id)

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        """Keep the gateway, for the store that remembers deliveries."""
        self._gateway = gateway

    def _first(self, ctx: Context, delivery: Delivery, body: bytes, config: WebhookSignatureConfig) -> bool:
        """Whether this worker is the first of all to see the delivery on this route.

        :raises StoreUnavailable: nobody can say.
        """
        route = "" if ctx.route is None else ctx.route.id
        # What was signed, not the signature: a header with several can be cut to another one of them. And not the id
        # alone: a sender that tries again after a failure keeps it, and signs a new time.
        seen = hashlib.sha256(f"{len(route)}:{route}:{config.scheme}:".encode() + delivery.prefix)
        seen.update(body)
        ttl = UNDATED if delivery.timestamp is None else 2.0 * config.tolerance
        return self._gateway.store.claim(f"webhook:{seen.hexdigest()}", ttl=ttl)


def _check_time(delivery: Delivery, tolerance: int) -> None:
    if delivery.timestamp is not None and abs(time.time() - delivery.timestamp) > tolerance:
        raise SignatureError("sent too long ago, or not yet")


def _check_signature(delivery: Delivery, body: bytes, config: WebhookSignatureConfig) -> None:
    """Refuse the delivery unless one of its signatures is that of one of the secrets.

    :raises SignatureError: none is.
    """
    if not 0 < len(delivery.signatures) <= MAX_SIGNATURES:
        raise SignatureError(f"{len(delivery.signatures)} signatures")
    offered = [(text if config.in_base64 else text.lower()).encode("latin-1", "replace") for text in delivery.signatures]
    for key in config.keys:
        mac = key.copy()
        mac.update(delivery.prefix)
        mac.update(body)
        right = base64.b64encode(mac.digest()) if config.in_base64 else mac.hexdigest().encode()
        if any(hmac.compare_digest(right, signature) for signature in offered):
            return
    raise SignatureError("no signature fits")
