"""deploy/haproxy.cfg before two gateways: one gateway to its clients, whatever becomes of either."""

from __future__ import annotations

import contextlib
import csv
import getpass
import grp
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import GatewayProcess, Process, RedisServer, publish, until
from tests.e2e.raw import Answer, RawClient, head
from tests.ports import free_port

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOCAL = SIGNATURE + struct.pack(">BBH", 0x20, 0, 0)
READY = "/.well-known/gwproxy/ready"
CLIENT = "127.0.0.2"


def preface(client: str) -> bytes:
    """A PROXY protocol v2 header that says so."""
    addresses = socket.inet_aton(client) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 40000, 80)
    return SIGNATURE + struct.pack(">BBH", 0x21, 0x11, len(addresses)) + addresses


class Balancer:
    """HAProxy with deploy/haproxy.cfg."""

    def __init__(self, folder: Path, *gateways: GatewayProcess) -> None:
        self.port = free_port()
        self._socket = str(folder / "admin.sock")
        env = {
            "LB_BIND": f"127.0.0.1:{self.port}",
            "LB_ADMIN": self._socket,
            "LB_MAXCONN": "200",
            "LB_USER": getpass.getuser(),
            "LB_GROUP": grp.getgrgid(os.getgid()).gr_name,
            **{f"GATEWAY_{number}": f"127.0.0.1:{gateway.port}" for number, gateway in enumerate(gateways, 1)},
        }
        self.process = Process(["haproxy", "-db", "-f", str(DEPLOY / "haproxy.cfg")], folder / "haproxy.log", env=env)
        self.await_up("gateway-1", "gateway-2")

    def ask(self, command: str) -> str:
        """Say something on the admin socket."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(5)
            admin.connect(self._socket)
            admin.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    def servers(self) -> dict[str, dict[str, str]]:
        rows = csv.DictReader(self.ask("show stat").lstrip("# ").splitlines())
        return {row["svname"]: row for row in rows if row["pxname"] == "gateways" and row["svname"].startswith("gateway-")}

    def await_up(self, *names: str) -> None:
        """Wait until exactly these are ready in its eyes."""
        until(lambda: {name for name, row in self.servers().items() if row["status"] == "UP"} == set(names), f"{names} to be up")

    def get(self, target: str, source: str = CLIENT, **headers: str) -> tuple[int, bytes]:
        """Send one request on a connection of its own, from an address of this machine."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(source, 0))
        with contextlib.closing(connection):
            connection.request("GET", target, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture(scope="module")
def gateways(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str) -> list[GatewayProcess]:
    limit = {"name": "rate_limit", "config": {"limit": 3, "window_seconds": 600}}
    publish(redis_server, [{"path": "/echo", "upstream": echo}, {"path": "/limited", "upstream": echo, "plugins": [limit]}])
    env = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_PROXY_PROTOCOL": "v2", "GWPROXY_PROXY_FROM": "127.0.0.0/8"}
    return [start_gateway(workers=2, **env) for _ in range(2)]


@pytest.fixture(scope="module")
def balancer(gateways: list[GatewayProcess], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    balancer = Balancer(tmp_path_factory.mktemp("haproxy"), *gateways)
    yield balancer
    balancer.process.stop()


def direct(gateway: GatewayProcess, target: str, before: bytes = LOCAL) -> Answer:
    with RawClient(gateway.port, before) as client:
        return client.ask(target)


# ---- two gateways as one


def test_requests_reach_both(balancer: Balancer) -> None:
    before = {name: int(row["stot"]) for name, row in balancer.servers().items()}
    assert [balancer.get("/echo")[0] for _ in range(6)] == [200] * 6
    assert all(int(row["stot"]) > before[name] for name, row in balancer.servers().items())


def test_the_upstream_learns_the_clients_address_whatever_the_client_says(balancer: Balancer) -> None:
    claims = {"X_Forwarded_For": "6.6.6.6", "X_Real_IP": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
    for headers in ({}, claims):
        _, body = balancer.get("/echo", CLIENT, **headers)
        seen = json.loads(body)["headers"]
        assert [value for name, value in seen if name == "X-Forwarded-For"] == [CLIENT]
        assert "6.6.6.6" not in str(seen)


def test_clients_are_counted_by_their_address_on_both_together(balancer: Balancer) -> None:
    asked = [balancer.get("/limited", "127.0.0.3", X_Forwarded_For=f"10.0.0.{number}")[0] for number in range(6)]
    assert asked == [200, 200, 200, 429, 429, 429]
    assert balancer.get("/limited", "127.0.0.4")[0] == 200


def test_one_SET_is_live_on_both(balancer: Balancer, gateways: list[GatewayProcess], redis_server: RedisServer, echo: str) -> None:
    assert balancer.get("/new")[0] == 404
    text = publish(redis_server, [{"path": path, "upstream": echo} for path in ("/echo", "/new")])
    digest = hashlib.sha256(text.encode()).hexdigest()
    until(lambda: [beat["digest"] for beat in gateways[0].heartbeats(redis_server.client())] == [digest] * 4, "all four workers to run it")
    assert [balancer.get("/new")[0] for _ in range(8)] == [200] * 8
    assert [direct(gateway, "/new").status for gateway in gateways] == [200, 200]


# ---- past the balancer


@pytest.mark.parametrize(
    "data",
    [head("/echo"), b"PROXY TCP4 6.6.6.6 127.0.0.1 40000 80\r\n" + head("/echo"), head("/echo", "X-Forwarded-For: 6.6.6.6"), SIGNATURE[:8]],
    ids=["plain", "v1", "X-Forwarded-For", "half a signature"],
)
def test_R43_a_connection_without_the_header_is_closed_unanswered(gateways: list[GatewayProcess], data: bytes) -> None:
    with RawClient(gateways[0].port) as client:
        client.send(data)
        with contextlib.suppress(OSError):  # it is closed already
            client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""


def test_the_header_decides_who_the_client_is(gateways: list[GatewayProcess]) -> None:
    answer = direct(gateways[0], "/echo", preface("203.0.113.7"))
    assert dict(answer.json()["headers"])["X-Forwarded-For"] == "203.0.113.7"
    assert direct(gateways[0], READY).json() == {"status": "ready"}  # LOCAL: the balancer's own check


# ---- stopping one


class Traffic:
    """Clients that ask without pause: each request on a connection of its own, or on one that is kept while it may be."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._enough = threading.Event()
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(kept,)) for kept in (False, False, True, True)]

    def _ask(self, kept: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._balancer.port, timeout=20)
        while not self._enough.is_set():
            try:
                connection.request("GET", "/echo")
                answer = connection.getresponse()
                answer.read()
                self.statuses.append(answer.status)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{error!r}, kept: {kept}")
                connection.close()
            if not kept:
                connection.close()
        connection.close()

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, requests: int = 40) -> None:
        """Wait until so many more were answered."""
        goal = len(self.statuses) + requests
        until(lambda: self.failures or len(self.statuses) >= goal, "traffic to go on")


def stop(gateway: GatewayProcess) -> None:
    gateway.process.signal(signal.SIGTERM)
    assert gateway.process.child.wait(40) == 0


def start_again(gateway: GatewayProcess) -> None:
    """Start it on the port it had."""
    command = [str(argument) for argument in gateway.process.child.args]  # type: ignore[union-attr]
    gateway.process = Process(command, gateway.process.log, env=gateway.env, cwd=gateway.process.log.parent)


def test_V02_a_gateway_that_is_taken_out_stopped_and_put_back_loses_no_request(balancer: Balancer, gateways: list[GatewayProcess]) -> None:
    with Traffic(balancer) as traffic:
        traffic.goes_on()
        balancer.ask("set server gateways/gateway-1 state drain")
        stop(gateways[0])
        traffic.goes_on()
        start_again(gateways[0])
        balancer.ask("set server gateways/gateway-1 state ready")
        balancer.await_up("gateway-1", "gateway-2")
        before = int(balancer.servers()["gateway-1"]["stot"])
        until(lambda: int(balancer.servers()["gateway-1"]["stot"]) > before + 5, "requests to reach it again")
    assert traffic.failures == []
    assert set(traffic.statuses) == {200}


def test_V02_a_gateway_that_is_stopped_without_a_word_loses_no_request(balancer: Balancer, gateways: list[GatewayProcess]) -> None:
    with Traffic(balancer) as traffic:
        traffic.goes_on()
        stop(gateways[1])
        balancer.await_up("gateway-1")
        traffic.goes_on()
    assert traffic.failures == []
    assert set(traffic.statuses) == {200}
    start_again(gateways[1])
    balancer.await_up("gateway-1", "gateway-2")


def test_a_gateway_that_drains_is_not_ready(balancer: Balancer, gateways: list[GatewayProcess], redis_server: RedisServer) -> None:
    gateway = gateways[1]
    request = head(READY)
    with RawClient(gateway.port, LOCAL) as client:
        client.send(request[:-2])  # under way, so that the connection stays
        assert direct(gateway, READY).status == 200
        gateway.process.signal(signal.SIGTERM)
        states = lambda: [beat["state"] for beat in gateway.heartbeats(redis_server.client())]  # noqa: E731
        until(lambda: states().count("ready") == gateways[0].workers and "draining" in states(), "its workers to drain")
        client.send(request[-2:])
        answer = client.answer()
    assert (answer.status, answer.json()) == (503, {"status": "draining"})
    assert answer.get("Connection") == "close"
    assert gateway.process.child.wait(40) == 0
    balancer.await_up("gateway-1")
    assert [balancer.get("/echo")[0] for _ in range(4)] == [200] * 4


# ---- around it


def test_haproxy_accepts_the_environment_of_compose() -> None:
    env = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["haproxy"]["environment"]
    command = ["haproxy", "-c", "-f", str(DEPLOY / "haproxy.cfg")]
    checked = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr
    variables = set(re.findall(r"presetenv (\w+)", (DEPLOY / "haproxy.cfg").read_text()))
    assert set(env) <= variables
    documented = set(re.findall(r"`((?:LB|GATEWAY)_\w+)`", (DEPLOY / "README.md").read_text()))
    assert documented == variables


def healthy(address: str, *what: str, **env: str) -> tuple[int, str]:
    command = [sys.executable, str(DEPLOY / "healthcheck.py"), *(what or ("live",)), address]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stderr.strip()


def test_the_health_check_tells_what_is_wrong(
    balancer: Balancer, gateways: list[GatewayProcess], start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer
) -> None:
    speaks_proxy = f"127.0.0.1:{gateways[0].port}"
    assert healthy(speaks_proxy, GWPROXY_PROXY_PROTOCOL="v2") == (0, "")
    assert healthy(speaks_proxy, "ready", GWPROXY_PROXY_PROTOCOL="v2") == (0, "")
    assert healthy(speaks_proxy)[0] == 1
    assert healthy(f"127.0.0.1:{free_port()}") == (1, "[Errno 111] Connection refused")
    empty = start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="empty:")
    until(lambda: healthy(f"127.0.0.1:{empty.port}") == (0, ""), "it to live")
    assert healthy(f"127.0.0.1:{empty.port}", "ready") == (1, "answered 503")
