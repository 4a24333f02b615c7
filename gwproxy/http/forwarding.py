"""What of a message goes on and what does not: hop-by-hop fields, identity, and the fields a proxy adds.

Every request passes :func:`strip_request` before any plugin sees it, every response :func:`strip_response`.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from mypy_extensions import mypyc_attr

from gwproxy.errors import BadRequest
from gwproxy.http.headers import Field, Headers, Shared, carried, field
from gwproxy.http.hosts import parse_host

# RFC 9110 section 7.6.1, RFC 9113 section 8.2.2, and what was never a request field but a variable (httpoxy).
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
# Fields that are for the last recipient or that proxies rely on: naming them in Connection does not remove them.
_PROTECTED = frozenset(
    (
        *("accept", "authorization", "cache-control", "content-encoding", "content-length", "content-range", "content-type"),
        *("cookie", "date", "etag", "forwarded", "host", "if-match", "if-none-match", "location", "origin", "range", "set-cookie"),
        *("traceparent", "tracestate", "vary", "via", "www-authenticate", "x-real-ip", "x-request-id"),
    )
)
_DROP, _ASIDE, _LOOK, _TRACE, _ONCE, _JOIN = range(1, 7)
_KINDS = {
    **dict.fromkeys(_HOP_BY_HOP, _DROP),
    **dict.fromkeys(("content-length", "x-consumer", "x-user-id"), _DROP),
    **dict.fromkeys(("forwarded", "via", "x-real-ip"), _ASIDE),
    **dict.fromkeys(("connection", "host", "upgrade"), _LOOK),
    **dict.fromkeys(("authorization", "origin"), _ONCE),
    **dict.fromkeys(("traceparent", "tracestate"), _TRACE),
    "cookie": _JOIN,
    # The most frequent others, so that they cost one lookup.
    **dict.fromkeys(("accept", "accept-encoding", "accept-language", "content-type", "referer", "user-agent", "x-request-id"), 0),
}
_MADE = frozenset(("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"))
_IDENTITY = ("x-consumer-", "x-user-")
_NO_OPTIONS: Final[frozenset[str]] = frozenset()
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
# An element of X-Forwarded-For: an IPv4 address, an IPv6 address with or without brackets; a port where it is clear.
_VERSION_6 = r"([0-9A-Fa-f]*:[0-9A-Fa-f:.]*)(?:%[0-9A-Za-z_.-]+)?"
_ELEMENT = re.compile(rf"[ \t]*(?:([0-9.]+)(?::[0-9]{{1,5}})?|\[{_VERSION_6}\](?::[0-9]{{1,5}})?|{_VERSION_6})[ \t]*")
_ids: Final[list[str]] = []  # PERF: made ahead, 256 at a time: 0.1 us each, against 0.5
os.register_at_fork(after_in_child=_ids.clear)  # else two processes would give the same
_DEEPEST = 32  # elements of a chain that are looked at
_LONGEST = 80  # characters of an element


@mypyc_attr(acyclic=True)
class Stripped:
    """A request's fields, sorted out by :func:`strip_request`.

    :ivar headers: what plugins see and upstreams get.
    :ivar forwarded: ``X-Forwarded-*``, ``Forwarded``, ``X-Real-IP`` and ``Via`` as sent: for a trusted peer only.
    :ivar host: the Host field as sent; None if there is none.
    :ivar upgrade: the protocol asked for, lower case: ``websocket`` if it is among several; empty: none.
    """

    __slots__ = ("_shared", "forwarded", "headers", "host", "upgrade")

    def __init__(self, headers: Headers, forwarded: Headers, host: str | None, upgrade: str) -> None:
        self.headers = headers
        self.forwarded = forwarded
        self.host = host
        self.upgrade = upgrade
        self._shared: Shared | None = None

    def copied(self) -> Headers:
        """Return the headers for one more request that has them."""
        shared = self._shared
        if shared is None:
            shared = self._shared = Shared(self.headers.fields())
        return Headers.sharing(shared)


_NONE_ASIDE: Final = Headers()  # never changed: nobody but the gateway sees what is put aside

#: A request's field, and what becomes of it: :func:`kind_of` of its name.
Entry = tuple[Field, int]


def kind_of(key: str) -> int:
    """Return what becomes of a request's field of that name (in lower case); 0: it goes on to the upstream."""
    kind = _KINDS.get(key)
    return _unlisted(key) if kind is None else kind


def entries_of(pairs: Iterable[tuple[str, str]]) -> list[Entry]:
    """Return the entries of ``(name, value)`` pairs.

    :raises ValueError: one of them is no header field.
    """
    made = [carried(name, value) for name, value in pairs]
    return [(one, kind_of(one[0])) for one in made]


def strip_request(entries: Iterable[Entry]) -> Stripped:
    """Keep of a request's fields what is for the upstream, and put aside what is for the gateway.

    Removed: hop-by-hop fields, those that Connection names (but none that are end-to-end by nature), Host and
    Content-Length (the gateway frames anew), identity (``X-User-Id``, ``X-User-*``, ``X-Consumer``, ``X-Consumer-*``),
    names with ``_`` (upstreams take them for their twins with ``-``), and a malformed or repeated ``traceparent``.
    Cookie fields are joined into one (RFC 9113 section 8.2.3).

    :raises BadRequest: Host, Authorization or Origin is there twice, or an Origin is a list.
    """
    kept: list[Any] = []  # of Field. PERF: Any, so that compiled code passes on what it has instead of making it anew
    aside: list[Any] = []
    looked: dict[str, str] = {}
    traced = False
    one: Any
    for one, kind in entries:
        if kind == 0:
            kept.append(one)
        elif kind == _LOOK:
            key = one[0]
            looked[key] = one[2] if key not in looked else _repeated(looked[key], key, one[2])
        elif kind == _ASIDE:
            aside.append(one)
        elif kind == _TRACE:
            traced = True
            kept.append(one)
        elif kind >= _ONCE and not _merged(kept, one):
            kept.append(one)
    options = _options(looked["connection"]) if "connection" in looked else _NO_OPTIONS
    if options:
        kept = [one for one in kept if one[0] not in options]
    headers = Headers.adopt(kept)
    if traced:
        _check_trace(headers)
    upgrade = _protocol(looked.get("upgrade", "")) if "upgrade" in options else ""
    return Stripped(headers, Headers.adopt(aside) if aside else _NONE_ASIDE, looked.get("host"), upgrade)


def _unlisted(key: str) -> int:
    if "_" in key or key.startswith(_IDENTITY):
        return _DROP
    return _ASIDE if key.startswith("x-forwarded-") else 0


def _repeated(before: str, key: str, value: str) -> str:
    """Return the joined value of a field that has been there before."""
    if key == "host":
        raise BadRequest("several Host fields")
    return f"{before}, {value}"


def _merged(kept: list[Field], one: Field) -> bool:
    """Whether the field went into an earlier one; raise if it must not be there twice."""
    key, value = one[0], one[2]
    if key == "origin" and "," in value:
        raise BadRequest("several origins")
    for index, earlier in enumerate(kept):
        if earlier[0] == key:
            if key != "cookie":
                raise BadRequest(f"several {earlier[1]} fields")
            kept[index] = carried(earlier[1], f"{earlier[2]}; {value}")
            return True
    return False


def _options(value: str) -> frozenset[str]:
    """Return the names in a Connection field that it may remove, and ``upgrade``."""
    if not value or value == "keep-alive":
        return _NO_OPTIONS
    names = (name.strip(" \t") for name in value.lower().split(","))
    return frozenset(name for name in names if name not in _PROTECTED and not name.startswith("x-forwarded-"))


def _protocol(value: str) -> str:
    offered = [protocol.strip(" \t") for protocol in value.lower().split(",")]
    return "websocket" if "websocket" in offered else offered[0]


def _check_trace(headers: Headers) -> None:
    """Drop a trace context that is not one (W3C Trace Context section 3.2); none is invented instead."""
    found = headers.getlist("traceparent")
    match = _TRACEPARENT.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or (match[1] is not None and found[0].startswith("00")):
        headers.remove("traceparent")
        headers.remove("tracestate")


def is_hop_by_hop(key: str) -> bool:
    """Whether a field of that name, in lower case, is for the next hop only."""
    return key in _HOP_BY_HOP


def without_nominated(fields: list[Field], connection: str) -> list[Field]:
    """Return a response's end-to-end fields without those that its ``Connection`` names, lower case, joined by commas."""
    options = _options(connection)
    return [one for one in fields if one[0] not in options] if options else fields


def request_id(value: str | None) -> str:
    """Return the client's request id if it is 1 to 128 characters of ``A-Za-z0-9._:+/=-``, else a new one: 32 hex digits."""
    if value is not None and _REQUEST_ID.fullmatch(value) is not None:
        return value
    try:
        return _ids.pop()
    except IndexError:
        made = random.randbytes(16 * 256).hex()  # noqa: S311 - unique, not secret; seeded anew after a fork
        _ids.extend([made[start : start + 32] for start in range(32, len(made), 32)])
        return made[:32]


def id_field(ident: str) -> Field:
    """Return the field ``X-Request-ID``.

    :raises ValueError: the id cannot stand in a header.
    """
    if not (ident.isascii() and ident.isprintable()):
        raise ValueError("a request id that cannot stand in a header")
    return ("x-request-id", "X-Request-ID", ident, b"X-Request-ID: " + ident.encode() + b"\r\n")


def client_scheme(scheme: str, forwarded: Headers | None) -> str:
    """Return the scheme the client used.

    :param scheme: of the connection.
    :param forwarded: of a trusted peer, whose last ``X-Forwarded-Proto`` is believed if it is ``http`` or ``https``.
    """
    said = forwarded.get("x-forwarded-proto") if forwarded else None
    if said is None:
        return scheme
    last = said.rpartition(",")[2].strip(" \t").lower()
    return last if last in ("http", "https") else scheme


@lru_cache(maxsize=4096)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, without port and zone; IPv4 in IPv6 (``::ffff:192.0.2.1``) is IPv4. None: it is none."""
    match = _ELEMENT.fullmatch(text)
    if match is None:
        return None
    try:
        address = ip_address(match[1] or match[2] or match[3])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_trusted(peer: str, trusted: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether ``peer`` is an address in one of the networks; a peer without an address is in none."""
    if not trusted:
        return False
    address = _address(peer)
    return address is not None and any(address in network for network in trusted)


def client_address(peer: str, forwarded_for: Sequence[str], trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """Return the client's address: the first, from the right of the chain, that is no trusted proxy's.

    If all are trusted it is the leftmost. Elements left of the client's are what the client says; they are not looked
    at. An element that is no address, or 32 without the client among them, makes the whole header unbelieved.

    :param peer: the other end of the connection, or what the PROXY protocol says; empty if there is no address.
    :param forwarded_for: the values of ``X-Forwarded-For``, in order.
    :return: ``peer`` if it is not trusted or the header is not believed. Without port and zone, IPv6 compressed.
    """
    if not trusted or not is_trusted(peer, trusted):
        return peer if ":" not in peer else str(_address(peer) or peer)
    client = str(_address(peer))
    if not forwarded_for:
        return client
    believed = client
    for element in reversed(",".join(forwarded_for).rsplit(",", _DEEPEST - 1)):
        address = _address(element) if len(element) <= _LONGEST else None
        if address is None:
            return client
        believed = str(address)
        if not any(address in network for network in trusted):
            break
    return believed


def forwarding_fields(
    *, peer: str, client: str, scheme: str, host: str, request_id: str, version: str = "1.1", forwarded: Headers | None = None
) -> list[tuple[str, str]]:
    """Return the fields that tell an upstream who asked, for what, and through whom. They replace same-named ones.

    A trusted peer's chain of addresses is continued, unless it was not believed; its ``X-Forwarded-Host`` and what else
    it has of ``X-Forwarded-*`` are kept. ``Forwarded`` (RFC 7239) is made anew, from client and peer: a proxy that
    knows only ``X-Forwarded-For`` lets a client's own pass.

    :param peer: as for :func:`client_address`.
    :param client: what :func:`client_address` said.
    :param scheme: what :func:`client_scheme` said.
    :param host: the client's valid Host, with port; empty if there is none.
    :param version: of HTTP, as the client spoke it.
    :param forwarded: :attr:`Stripped.forwarded` of a trusted peer; None for any other.
    """
    if ":" in peer:
        peer = str(_address(peer) or peer)
    chain, via = peer, f"{version} gwproxy"
    fields = [("X-Request-ID", request_id), ("X-Forwarded-Proto", scheme)]
    if forwarded:
        if client != peer:
            chain = ", ".join([*forwarded.getlist("x-forwarded-for"), peer])
        via = ", ".join([*forwarded.getlist("via"), via])
        host = _said_host(forwarded) or host
        fields += [(name, value) for key, name, value in forwarded.lower_items() if key not in _MADE]
    element = f"for={_node(client)};proto={scheme}"
    if host:
        fields.append(("X-Forwarded-Host", host))
        element += f';host="{host}"'
        if not forwarded or "x-forwarded-port" not in forwarded:
            fields.append(("X-Forwarded-Port", str(parse_host(host).port or (443 if scheme == "https" else 80))))
    if client:
        fields += (("X-Forwarded-For", chain), ("X-Real-IP", client))
    if client != peer:
        element = f"{element}, for={_node(peer)}"
    fields += (("Forwarded", element), ("Via", via))
    return fields


@lru_cache(maxsize=4096)
def forwarding_lines(peer: str, client: str, scheme: str, host: str, version: str) -> tuple[bytes, frozenset[str]]:
    """Return the lines of :func:`forwarding_fields` but ``X-Request-ID``, and the names they replace, in lower case.

    For clients that no trusted peer speaks for: what is said of them is the same for each of their requests.
    """
    made = forwarding_fields(peer=peer, client=client, scheme=scheme, host=host, request_id="", version=version)
    return lines_of(made[1:])


def lines_of(made: Sequence[tuple[str, str]]) -> tuple[bytes, frozenset[str]]:
    """Return the lines of some fields, and their names in lower case.

    :raises ValueError: one of them cannot stand in a header.
    """
    fields = [field(name, value) for name, value in made]
    return b"".join([one[3] for one in fields]), frozenset([one[0] for one in fields])


def _said_host(forwarded: Headers) -> str | None:
    """Return the host that a trusted peer says the client asked for; None if it says none, or nonsense."""
    said = (forwarded.get("x-forwarded-host") or "").rpartition(",")[2].strip(" \t")
    try:
        parse_host(said)
    except BadRequest:
        return None
    return said


def _node(address: str) -> str:
    """Write an address as RFC 7239 section 6 does."""
    if ":" in address:
        return f'"[{address}]"'
    return address or "unknown"
