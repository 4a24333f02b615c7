"""Who the client is, behind a balancer that speaks the PROXY protocol and behind proxies that are trusted."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import Answer, RawClient, head
from tests.e2e.scripted import ScriptedService, Seen, passed

pytestmark = pytest.mark.e2e

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


def proxy(source: str, *, tlv: bytes = b"") -> bytes:
    """A PROXY v2 header for a TCP client at ``source``."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    packed = socket.inet_pton(family, source)
    addresses = packed + packed + struct.pack(">HH", 40000, 80) + tlv
    return SIGNATURE + bytes([0x21, 0x21 if family == socket.AF_INET6 else 0x11]) + struct.pack(">H", len(addresses)) + addresses


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, path: dict[str, str]
) -> GatewayProcess:
    """A gateway behind a balancer that sends PROXY headers, and behind proxies in 10.0.0.0/8 and on this machine."""
    document = {
        "plugins": [{"name": "access_log"}],
        "routes": [
            {"path": "/", "upstream": service.url},
            {"path": "/limited", "upstream": service.url, "plugins": [{"name": "rate_limit", "config": {"limit": 2}}]},
        ],
    }
    redis_server.client().flushall()  # what the other path has logged and counted
    publish(redis_server, document)
    gateway = start_gateway(
        workers=1,
        GWPROXY_REDIS_URL=redis_server.url,
        GWPROXY_PROXY_PROTOCOL="v2",
        GWPROXY_PROXY_FROM="127.0.0.0/8",
        GWPROXY_TRUSTED_PROXIES="127.0.0.0/8,10.0.0.0/8",
        **path,
    )

    def ready() -> bool:
        with RawClient(gateway.port, LOCAL) as client:
            return client.ask("/.well-known/gwproxy/ready").status == 200

    until(ready, "a ready worker")
    return gateway


def through(gateway: GatewayProcess, service: ScriptedService, preface: bytes, *fields: str) -> Seen:
    with RawClient(gateway.port, preface) as client:
        return passed(service, client, "/h", *fields)


def test_a_trusted_proxy_is_believed(gateway: GatewayProcess, service: ScriptedService) -> None:
    said = ("X-Forwarded-For: 198.51.100.7, 10.0.0.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.example", "Via: 1.1 edge")
    seen = through(gateway, service, proxy("10.0.0.1"), *said, "X-Forwarded-Prefix: /shop")
    assert seen.all("X-Forwarded-For") == ["198.51.100.7, 10.0.0.9, 10.0.0.1"]
    assert (seen.all("X-Real-IP"), seen.all("X-Forwarded-Proto")) == (["198.51.100.7"], ["https"])
    assert (seen.all("X-Forwarded-Host"), seen.all("X-Forwarded-Prefix")) == (["shop.example"], ["/shop"])
    assert seen.all("Via") == ["1.1 edge, 1.1 gwproxy"]
    assert seen.all("Forwarded") == ['for=198.51.100.7;proto=https;host="shop.example", for=10.0.0.1']


def test_R20_the_chain_is_walked_from_the_right(gateway: GatewayProcess, service: ScriptedService) -> None:
    seen = through(gateway, service, proxy("10.0.0.1"), "X-Forwarded-For: 1.1.1.1, 203.0.113.5", "X-Forwarded-For: 10.9.9.9")
    assert seen.all("X-Real-IP") == ["203.0.113.5"]


def test_an_untrusted_client_behind_the_balancer_is_not_believed(gateway: GatewayProcess, service: ScriptedService) -> None:
    seen = through(gateway, service, proxy("198.51.100.7"), "X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https", "Via: 1.1 evil")
    assert seen.all("X-Forwarded-For") == seen.all("X-Real-IP") == ["198.51.100.7"]
    assert (seen.all("X-Forwarded-Proto"), seen.all("Via")) == (["http"], ["1.1 gwproxy"])


@pytest.mark.parametrize(
    ("preface", "address"),
    [
        (proxy("2001:db8::7"), "2001:db8::7"),
        (proxy("::ffff:198.51.100.7"), "198.51.100.7"),
        (proxy("198.51.100.7", tlv=b"\x04\x00\x03abc"), "198.51.100.7"),
        (LOCAL, "127.0.0.1"),
    ],
    ids=["IPv6", "mapped", "with TLV", "LOCAL"],
)
def test_R43_the_address_of_a_proxy_header(gateway: GatewayProcess, service: ScriptedService, preface: bytes, address: str) -> None:
    assert through(gateway, service, preface).all("X-Real-IP") == [address]


@pytest.mark.parametrize(
    "preface",
    [b"", b"PROXY TCP4 198.51.100.7 10.0.0.1 40000 80\r\n", SIGNATURE + b"\x11\x11\x00\x0c" + bytes(12), SIGNATURE + b"\x21\x00\x00\x00"],
    ids=["none", "v1", "version 1", "no address"],
)
def test_R43_a_connection_without_its_header_is_closed(gateway: GatewayProcess, preface: bytes) -> None:
    with RawClient(gateway.port, preface + head("/h")) as client:
        assert client.rest() == b""


def test_the_address_reaches_log_and_limit(gateway: GatewayProcess, service: ScriptedService, redis_server: RedisServer) -> None:
    def ask(source: str, request_id: str) -> Answer:
        with RawClient(gateway.port, proxy(source)) as client:
            return client.ask("/limited", f"X-Request-ID: {request_id}", "X-Forwarded-For: 9.9.9.9")

    assert [ask("198.51.100.7", f"seven-{number}").status for number in range(3)] == [200, 200, 429]
    assert ask("198.51.100.8", "eight").status == 200

    def logged() -> dict[str, str]:
        entries = map(json.loads, redis_server.client().lrange("gw:access_log", 0, -1))  # type: ignore[arg-type]
        return {entry["request_id"]: entry["client_ip"] for entry in entries}

    until(lambda: "eight" in logged(), "the log")
    assert (logged()["seven-0"], logged()["seven-2"], logged()["eight"]) == ("198.51.100.7", "198.51.100.7", "198.51.100.8")
