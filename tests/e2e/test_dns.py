"""Targets from DNS: a real server whose answers change, that is silent, that is killed; real services at what it names."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.dns_service import queries, records, write_zone
from tests.e2e.conftest import GatewayProcess, Process, RedisServer, free_port, publish, until
from tests.e2e.named import ADDRESSES, Services, names

pytestmark = pytest.mark.e2e

SERVICE = "_http._tcp.users.internal"


class Dns:
    """The DNS server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: Process | None = None

    def say(self, *addresses: str, service: tuple[str, ...] = ()) -> None:
        zone = {f"A {name}.internal": records(address) for name, address in ADDRESSES.items()}
        zone["AAAA six.internal"] = records("::1")
        if addresses:
            zone["A users.internal"] = records(*(ADDRESSES[name] for name in addresses))
        if service:
            zone[f"SRV {SERVICE}"] = records(*service)
        write_zone(self.folder, zone)

    def start(self) -> None:
        command = [sys.executable, str(Path(__file__).parent.parent / "dns_service.py"), str(self.port), str(self.folder)]
        self.process = Process(command, self.folder / "dns.log")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.child.kill()
        self.process.child.wait()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    running = Services(tmp_path_factory.mktemp("services"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def dns(tmp_path_factory: pytest.TempPathFactory, services: Services) -> Iterator[Dns]:
    server = Dns(tmp_path_factory.mktemp("dns"))
    service = (f"0 3 {services.port} a.internal", f"0 1 {services.port} b.internal", f"9 1 {services.port} c.internal")
    server.say("a", "b", service=service)
    server.start()
    yield server
    server.kill()


class Six(ThreadingHTTPServer):
    """A service that has an IPv6 address only; says by which it was asked."""

    address_family = socket.AF_INET6

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"{self.connection.getsockname()[0]} as {self.headers['Host']}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            pass


@pytest.fixture(scope="module")
def six() -> Iterator[int]:
    with Six(("::1", 0), Six.Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, services: Services, dns: Dns, six: int
) -> GatewayProcess:
    asked = {"servers": [f"127.0.0.1:{dns.port}"], "timeout": 1}
    upstreams = {
        "users": {"targets": [{"url": f"http://users.internal:{services.port}", "resolve": "a"}], "dns": asked},
        "six": {"targets": [{"url": f"http://six.internal:{six}", "resolve": "aaaa"}], "dns": asked},
        "service": {"targets": [{"url": f"http://{SERVICE}", "resolve": "srv"}], "dns": asked},
    }
    publish(redis_server, {"routes": [{"path": f"/{name}", "upstream": name} for name in upstreams], "upstreams": upstreams})
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready()


def answering(gateway: GatewayProcess, path: str = "/users") -> set[str]:
    return set(names(gateway, path, 20))


def test_every_address_is_used_from_the_first_request_on_and_asked_as_the_name(gateway: GatewayProcess, services: Services) -> None:
    got = names(gateway, "/users", 20)
    assert got.keys() == {"a", "b"}
    assert min(got.values()) >= 8
    assert gateway.get("/users").json()["host"] == f"users.internal:{services.port}"


def test_an_ipv6_address_is_connected_to_and_asked_as_the_name(gateway: GatewayProcess, six: int) -> None:
    assert {gateway.get("/six").text for _ in range(5)} == {f"::1 as six.internal:{six}"}


def test_a_service_s_servers_are_used_by_weight_and_asked_as_the_service(gateway: GatewayProcess) -> None:
    got = names(gateway, "/service", 40)
    assert got.keys() == {"a", "b"}
    assert 27 <= got["a"] <= 33, got
    assert gateway.get("/service").json()["host"] == "users.internal"


def test_an_answer_that_changes_is_followed_and_asked_for_by_its_time_to_live(gateway: GatewayProcess, dns: Dns) -> None:
    before, began = queries(dns.folder, "A users.internal"), time.monotonic()
    dns.say("b", "c")
    until(lambda: answering(gateway) == {"b", "c"}, "the new addresses to be used, and none that is gone")
    until(lambda: queries(dns.folder, "A users.internal") >= before + 6, "more lookups")
    elapsed = time.monotonic() - began
    assert queries(dns.folder, "A users.internal") - before <= 2 * (elapsed / 1.0 + 2), "two workers, once a second each"


def test_a_server_that_is_silent_holds_up_no_request_and_the_last_answer_stays(gateway: GatewayProcess, dns: Dns) -> None:
    dns.say("b", "c")
    until(lambda: answering(gateway) == {"b", "c"}, "b and c")
    dns.signal(signal.SIGSTOP)
    try:
        until(lambda: "lookup_failed name=users.internal" in gateway.output(), "a lookup to fail")
        slowest = max(gateway.get("/users").elapsed.total_seconds() for _ in range(60))
        assert slowest < 0.9, "less than a lookup's timeout"
        assert answering(gateway) == {"b", "c"}
    finally:
        dns.signal(signal.SIGCONT)


def test_workers_that_start_while_the_server_is_dead_have_the_last_answer(
    gateway: GatewayProcess, dns: Dns, redis_server: RedisServer
) -> None:
    dns.say("a", "c")
    until(lambda: answering(gateway) == {"a", "c"}, "a and c")

    def pids() -> set[str]:
        return {beat["pid"] for beat in gateway.heartbeats(redis_server.client())}

    dns.kill()
    former = pids()
    for pid in former:  # one after the other is replaced; what they knew is gone with them
        os.kill(int(pid), signal.SIGTERM)
    until(lambda: len(pids() - former) == 2 and not pids() & former, "two new workers")
    assert answering(gateway) == {"a", "c"}
    beats = gateway.heartbeats(redis_server.client())
    shown = {(row["name"], row["state"]) for beat in beats for row in json.loads(beat["targets"]) if row["upstream"] == "users"}
    assert {state for _, state in shown} == {"healthy"}
    dns.say("b")
    dns.start()
    until(lambda: answering(gateway) == {"b"}, "the server's new answer")


def test_a_name_that_is_no_more_empties_the_upstream_and_is_shown_as_unresolved(
    gateway: GatewayProcess, dns: Dns, redis_server: RedisServer
) -> None:
    dns.say()
    until(lambda: answering(gateway) == {"503"}, "no target to be left")

    def states() -> list[str]:
        beats = gateway.heartbeats(redis_server.client())
        return [row["state"] for beat in beats for row in json.loads(beat["targets"]) if row["upstream"] == "users"]

    until(lambda: states() == ["unresolved", "unresolved"], "the heartbeats to say so")
