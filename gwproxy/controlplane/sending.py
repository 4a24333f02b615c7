"""What an upstream would be sent of a request, as far as that is known before any plugin runs; nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gwproxy.context import Context
from gwproxy.controlplane.chains import Placed
from gwproxy.controlplane.masking import MASK
from gwproxy.controlplane.shape import is_secret
from gwproxy.dataplane.forward import would_send
from gwproxy.dataplane.upstreams import LiveUpstream

_BEFORE = ("pre_auth", "auth", "post_auth", "pre_proxy")


@dataclass(frozen=True, slots=True)
class Sending:
    """A request to one target.

    :ivar headers: name and value, in order, as the gateway's own code makes them, secrets masked; a value is None where each
        request gets another one. What frames the body is not among them.
    """

    url: str
    headers: Sequence[tuple[str, str | None]]


def sendings(ctx: Context, live: LiveUpstream) -> list[Sending]:
    """Return what each of an upstream's targets would be sent."""
    given = ctx.request.headers.get("x-request-id")
    made = []
    for request in would_send(ctx, live):
        headers: list[tuple[str, str | None]] = []
        for name, value in request.fields:
            if name.lower() == "x-request-id":
                headers.append((name, value if value == given else None))
            else:
                headers.append((name, MASK if is_secret(name, ()) else value))
        assert ctx.upstream is not None  # noqa: S101 - it was just sent to
        made.append(Sending(ctx.upstream.url, headers))
    return made


def not_sent(fields: Sequence[tuple[str, str]], sent: Sequence[Sending]) -> list[str]:
    """Return the names of those of a client's fields that no upstream gets under that name."""
    names = {name.lower() for sending in sent for name, _ in sending.headers}
    return list(dict.fromkeys(name for name, _ in fields if name.lower() not in names))


def notes(chain: Mapping[str, Sequence[Placed]]) -> Iterator[str]:
    """Say what of :func:`sendings` is not the last word."""
    yield "the client is taken to be at 127.0.0.1"
    enforced = {phase: [placed.ref.name for placed in chain[phase] if placed.ref.mode == "enforce"] for phase in _BEFORE}
    if enforced["auth"]:
        yield "X-User-Id, X-Consumer and X-Consumer-Groups are added after authentication"
    if names := dict.fromkeys(name for phase in _BEFORE for name in enforced[phase]):
        yield f"plugins may change it: {', '.join(names)}"
