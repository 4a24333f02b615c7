"""Where a request must never be sent, found out when the connection is made (rows G11, G12); and a flood of bad ones (S09)."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient
from tests.e2e.scripted import ScriptedService
from tests.ports import free_port

pytestmark = pytest.mark.e2e

FORBIDDEN = "169.254.169.254"


class NameServer:
    """Answers every question for an IPv4 address, over UDP.

    :ivar addresses: by name, all of them.
    :ivar asked: how often a name was asked for.
    """

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._socket.recvfrom(512)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            name = ".".join(label.decode() for label in re.findall(rb"[\x01-\x3f]([a-z0-9-]+)", query[12 : end - 5]))
            wanted = self.addresses.get(name, []) if query[end - 4 : end - 2] == b"\0\1" else []
            self.asked += bool(wanted)
            answers = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(address) for address in wanted)
            head = query[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, len(wanted), 0, 0)
            self._socket.sendto(head + query[12:end] + answers, peer)


@pytest.fixture(scope="module")
def names() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.close()


def named(name: str, service: ScriptedService) -> dict[str, Any]:
    return {"targets": [{"url": f"http://{name}.example:{service.port}"}], "keepalive": False}


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, names: NameServer
) -> GatewayProcess:
    upstreams = {name: named(name, service) for name in ("moves", "several", "forbidden")}
    publish(redis_server, {"upstreams": upstreams, "routes": [{"path": f"/{name}", "upstream": name} for name in upstreams]})
    # gevent's own resolver, because it can be told whom to ask; what it resolves is judged like what the system's does.
    resolver = {"GEVENT_RESOLVER": "ares", "GEVENTARES_SERVERS": "127.0.0.1"} | {
        f"GEVENTARES_{protocol}_PORT": str(names.port) for protocol in ("UDP", "TCP")
    }
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, **resolver).ready()


def test_G12_a_name_that_moves_to_a_metadata_address_is_not_followed(gateway: GatewayProcess, names: NameServer) -> None:
    names.addresses["moves.example"] = ["127.0.0.1"]
    assert gateway.get("/moves").status_code == 200
    names.addresses["moves.example"] = [FORBIDDEN]
    before, began = names.asked, time.monotonic()
    answers = [gateway.get("/moves") for _ in range(4)]
    assert time.monotonic() - began < 4  # nobody waited for a connection: four of them would have taken 20 seconds
    assert {(answer.status_code, answer.text) for answer in answers} == {(502, '{"error":"Bad Gateway"}')}
    assert names.asked >= before + 4
    names.addresses["moves.example"] = ["127.0.0.1"]
    assert gateway.get("/moves").status_code == 200


def test_G12_a_metadata_address_among_others_is_passed_over(gateway: GatewayProcess, names: NameServer) -> None:
    names.addresses["several.example"] = [FORBIDDEN, "127.0.0.1"]
    assert {gateway.get("/several").status_code for _ in range(4)} == {200}


def test_G11_a_gateway_does_not_send_requests_to_itself(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, names: NameServer
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    publish(redis_server, [{"path": "/loop", "upstream": url, "plugins": [{"name": "access_log"}]}], prefix="loop:")
    gateway = start_gateway(port=port, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="loop:").ready()
    with RawClient(gateway.port) as client:
        answer = client.ask("/loop", "X-Request-ID: once")
        assert (answer.status, answer.json()) == (502, {"error": "Bad Gateway"})
    until(lambda: redis_server.client().llen("loop:access_log") >= 1, "the request to be logged")
    assert gateway.get("/loop").status_code == 502
    until(lambda: redis_server.client().llen("loop:access_log") >= 2, "the second request to be logged")
    assert redis_server.client().llen("loop:access_log") == 2  # each came once


def test_S09_a_flood_of_malformed_requests_is_no_flood_of_lines(gateway: GatewayProcess) -> None:
    began = time.monotonic()
    for number in range(300):
        with RawClient(gateway.port) as client:
            client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" % number)
            assert client.answer().status == 400
    seconds = 2 + int(time.monotonic() - began)
    lines = [line for line in gateway.output().splitlines() if "client=127.0.0.1" in line and "status=400" in line]
    assert 1 <= len(lines) <= 5 * gateway.workers * seconds
    assert len(lines) + sum(int(line.rpartition("suppressed=")[2]) for line in lines) <= 300
    assert not [line for line in lines if "/1" in line]  # what the client sent is in none of them
