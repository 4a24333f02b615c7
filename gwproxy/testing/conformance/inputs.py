"""The requests that a plugin is tried with: one plain, others as clients and upstreams really send them, wrong ones above all."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from gwproxy.plugin import PluginConfig
from gwproxy.testing.upstream import Reply

_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)+")
_KNOWN = ("Authorization", "Cookie", "Accept", "Content-Type", "User-Agent", "Origin")
HUGE = "x" * 60_000
JSON = b'{"id": 7, "name": "Ann", "email": "ann@example.com", "items": [1, 2]}'
OTHER_JSON = b'{"q": [true]}'


OF_JSON = Reply(headers=[("Content-Type", "application/json")], body=JSON)


@dataclass(frozen=True, slots=True)
class Input:
    """A request and what its upstream answers.

    :ivar parts: arguments of :meth:`gwproxy.testing.InProcessGateway.request`.
    :ivar away: whether the store is away.
    """

    name: str
    method: str = "GET"
    url: str = "/x"
    parts: dict[str, Any] = field(default_factory=dict)
    reply: Reply = OF_JSON
    away: bool = False


PLAIN = Input("plain", parts={"headers": [("Host", "acme.example.com"), ("Accept", "*/*"), ("User-Agent", "kit/1.0")]})


def _typed(kind: str, *pieces: bytes) -> Reply:
    return Reply(headers=[("Content-Type", kind)], body=pieces)


def streams() -> Iterator[tuple[str, Input]]:
    """Yield bodies that nobody has to hold back, each with what it is called."""
    events, octets = "text/event-stream", "application/octet-stream"
    yield f"a response of {events}", Input("events", reply=_typed(events, b"data: 1\n\n", b"data: 2\n\n"))
    yield f"a response of {octets}", Input("download", reply=_typed(octets, b"\x00" * 5000, b"\xff" * 5000))
    upload = {"headers": [("Content-Type", octets)], "body": [b"\x00" * 5000, b"\xff" * 5000]}
    yield f"a request of {octets}", Input("upload", "POST", parts=upload)


def bad(names: list[str]) -> Iterator[Input]:
    """Yield requests that a plugin must survive.

    :param names: of header fields that it may look at.
    """
    yield Input("no header", parts={"headers": ()})
    yield Input("huge header", parts={"headers": [("X-Huge", HUGE)]})
    yield Input("no body", "POST")
    yield Input("empty body", "POST", parts={"headers": [("Content-Type", "application/json")], "body": b""})
    for kind, body in (
        ("not UTF-8", b"\xff\xfe{\x80"),
        ("wrong type", b"[1, null]"),
        ("broken JSON", b'{"a": '),
        ("deep JSON", b"[" * 3000),
    ):
        json = [("Content-Type", "application/json")]
        yield Input(f"body: {kind}", "POST", parts={"headers": json, "body": body}, reply=Reply(headers=json, body=body))
    yield Input(
        "form that is none", "POST", parts={"headers": [("Content-Type", "application/x-www-form-urlencoded")], "body": b"%ff=%zz&&="}
    )
    yield Input("chunked", "POST", parts={"headers": [("Content-Type", "application/json")], "body": [JSON[:9], JSON[9:]]})
    yield Input("upgrade", parts={"headers": [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")]})
    yield Input("preflight", "OPTIONS", parts={"headers": [("Origin", "null"), ("Access-Control-Request-Method", "PUT")]})
    yield Input("query that is none", url="/x?%ff=&&=%&a=1&a=2")
    yield Input("no query, long path", url="/x/" + "y" * 4000)
    yield Input("no Content-Type", reply=Reply(body=JSON))
    yield Input("no content", reply=Reply(204))
    yield Input("HEAD", "HEAD")
    yield Input("encoded that is not", reply=Reply(headers=[("Content-Type", "application/json"), ("Content-Encoding", "gzip")], body=JSON))
    yield Input("client of IPv6", parts={"client": "2001:db8::1"})
    yield Input("no route", url="/elsewhere")
    yield Input("the store is away", away=True)
    for name in names:
        values = ("", " ", "\xff\xfe", HUGE, "a=b; =;;", "Bearer", "Bearer \xe9", "1e999", "-1", "{", "%00,;\"'")
        yield from (Input(f"{name}: {value[:12]!a}", parts={"headers": [(name, value)]}) for value in values)
        yield Input(f"{name} twice", parts={"headers": [(name, "a"), (name, "b")]})


def headers_of(package: str, config: PluginConfig) -> list[str]:
    """Return names of header fields that stand in a plugin's code or its configuration, and some that many look at."""
    found = dict.fromkeys(_KNOWN)
    for module in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        for value in list(vars(sys.modules[module]).values()):
            for code in _codes(value, module):
                found.update(dict.fromkeys(text for text in _texts(code) if _HEADER.fullmatch(text)))
    found.update(dict.fromkeys(value for value in config.model_dump().values() if isinstance(value, str) and _HEADER.fullmatch(value)))
    own = ("content-length", "transfer-encoding", "proxy-authorization", "x-request-id")
    return [name for name in found if name.lower() not in own]


def _codes(value: object, module: str) -> Iterator[CodeType]:
    if getattr(value, "__module__", None) != module:
        return
    for item in (value, *(vars(value).values() if isinstance(value, type) else ())):
        code = getattr(item, "__code__", None)
        if isinstance(code, CodeType):
            yield code


def _texts(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str) and len(constant) <= 64:
            yield constant
        elif isinstance(constant, CodeType):
            yield from _texts(constant)
