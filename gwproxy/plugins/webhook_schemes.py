"""How senders sign webhooks: for :mod:`gwproxy.plugins.webhook_signature`.

A scheme reads the headers of a delivery and says what must have been signed, and which signatures are offered for it.
Nothing here knows a secret. A new sender is a new function in :data:`SCHEMES`.

The ``standardwebhooks`` package is not used for its scheme: its tolerance is fixed, it needs bodies that are UTF-8, and
it raises ValueError on a signature without a comma.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gwproxy import Headers

MAX_SIGNATURES = 16
"""Signatures one delivery may offer; senders send one for each secret in use."""
_SECONDS = re.compile(r"[0-9]{1,12}")
_ID = re.compile(r"[!-\-/-~]{1,256}")  # visible, without the dot: it separates what is signed


class SignatureError(ValueError):
    """A delivery's signature headers are malformed, or its signature is no good; the message is for the log."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one delivery claims.

    :ivar prefix: signed before the body.
    :ivar timestamp: when it was sent, in seconds since the epoch; None: the scheme does not say.
    :ivar signatures: the texts of which one must be right.
    """

    prefix: bytes
    timestamp: int | None
    signatures: tuple[str, ...]


Scheme = Callable[[Headers], Delivery | None]
"""Returns None if there is no signature of this kind; raises :class:`SignatureError` if it is malformed."""


def one(headers: Headers, name: str) -> str | None:
    """Return the value of ``name``; None if it is not there.

    :raises SignatureError: it is there more than once.
    """
    values = headers.getlist(name)
    if len(values) > 1:
        raise SignatureError(f"{name} is there twice")
    return values[0].strip() if values else None


def seconds(headers: Headers, name: str) -> int:
    """Return the time in the header ``name``, in seconds since the epoch.

    :raises SignatureError: it is missing, or not digits.
    """
    return _seconds(one(headers, name) or "")


def _seconds(text: str) -> int:
    if not _SECONDS.fullmatch(text):
        raise SignatureError("no timestamp in whole seconds")
    return int(text)


def _standard(headers: Headers) -> Delivery | None:
    """Read Standard Webhooks 1.0: ``id.timestamp.body``; signatures are ``v1,<base64>``, separated by spaces."""
    offered = one(headers, "webhook-signature")
    if offered is None:
        return None
    identifier = one(headers, "webhook-id") or ""
    if not _ID.fullmatch(identifier):
        raise SignatureError("webhook-id is missing, or holds what it must not")
    timestamp = seconds(headers, "webhook-timestamp")
    parts = [part.partition(",") for part in offered.split(" ")]
    signatures = tuple(signature for version, _, signature in parts if version == "v1")
    return Delivery(f"{identifier}.{timestamp}.".encode(), timestamp, signatures)


def _github(headers: Headers) -> Delivery | None:
    """Read GitHub's: the body alone; ``X-Hub-Signature`` with its SHA-1 is not looked at."""
    offered = one(headers, "X-Hub-Signature-256")
    if offered is None:
        return None
    if not offered.startswith("sha256="):
        raise SignatureError("X-Hub-Signature-256 does not begin with sha256=")
    return Delivery(b"", None, (offered.removeprefix("sha256="),))


def _stripe(headers: Headers) -> Delivery | None:
    """Read Stripe's: ``timestamp.body``; ``t=<timestamp>,v1=<hex>``, several ``v1`` while secrets change."""
    offered = one(headers, "Stripe-Signature")
    if offered is None:
        return None
    parts = [part.strip().partition("=") for part in offered.split(",")]
    times = [value for key, _, value in parts if key == "t"]
    if len(times) != 1:
        raise SignatureError("Stripe-Signature does not have one t")
    timestamp = _seconds(times[0])
    return Delivery(f"{times[0]}.".encode(), timestamp, tuple(value for key, _, value in parts if key == "v1"))


def _slack(headers: Headers) -> Delivery | None:
    """Read Slack's: ``v0:timestamp:body``; ``v0=<hex>``."""
    offered = one(headers, "X-Slack-Signature")
    if offered is None:
        return None
    if not offered.startswith("v0="):
        raise SignatureError("X-Slack-Signature does not begin with v0=")
    timestamp = seconds(headers, "X-Slack-Request-Timestamp")
    return Delivery(f"v0:{timestamp}:".encode(), timestamp, (offered.removeprefix("v0="),))


def plain(header_name: str, prefix: str, timestamp_header: str | None) -> Scheme:
    """Make the scheme ``hmac``: one signature after ``prefix``, over the body or, with a timestamp, ``timestamp.body``."""

    def read(headers: Headers) -> Delivery | None:
        offered = one(headers, header_name)
        if offered is None:
            return None
        if not offered.startswith(prefix):
            raise SignatureError(f"{header_name} does not begin with the prefix")
        signature = offered.removeprefix(prefix)
        if timestamp_header is None:
            return Delivery(b"", None, (signature,))
        text = one(headers, timestamp_header) or ""
        return Delivery(f"{text}.".encode("latin-1", "replace"), _seconds(text), (signature,))

    return read


SCHEMES: Mapping[str, Scheme] = MappingProxyType({"standard": _standard, "github": _github, "stripe": _stripe, "slack": _slack})
"""The schemes of known senders, by name."""
