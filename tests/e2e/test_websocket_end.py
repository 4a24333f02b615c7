"""How WebSockets end: by either side, by a limit, by a worker that leaves; and what many of them cost."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

import pytest
import requests
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient, head
from tests.e2e.scripted import ScriptedService, Seen
from tests.e2e.tunnels import HANDSHAKE, SWITCHING, WebSocketService, code, dial, tunnelled

pytestmark = pytest.mark.e2e

IDLE = 0.5  # seconds
Start = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSocketService]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for a thousand sockets here and, inherited, there
    service = WebSocketService(tmp_path_factory.mktemp("websocket"))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.close()


@pytest.fixture(scope="module")
def routes(redis_server: RedisServer, service: WebSocketService, scripted: ScriptedService) -> None:
    document = {
        "plugins": [{"name": "access_log"}],
        "routes": [
            tunnelled("/ws", service.url),
            tunnelled("/idle", service.url, timeout={"read": IDLE}),
            tunnelled("/total", service.url, timeout={"total": IDLE}),
            tunnelled("/scripted", scripted.url),
            {"path": "/plain", "upstream": scripted.url},
        ],
    }
    publish(redis_server, document)


@pytest.fixture(scope="module")
def gateway(start_gateway: Start, redis_server: RedisServer, routes: None) -> GatewayProcess:
    return start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url).ready()


# ---- by either side


def test_a_clean_end_is_passed_on_with_its_code(gateway: GatewayProcess, service: WebSocketService) -> None:
    with dial(gateway, "/ws/echo?clean") as client:
        client.close(4321, "enough")
    assert client.close_code == 4321
    until(lambda: service.said("end /echo?clean 4321"), "the service to hear of it")


def test_a_client_that_is_gone_ends_the_upstreams_side(gateway: GatewayProcess, service: WebSocketService) -> None:
    client = dial(gateway, "/ws/echo?gone")
    until(lambda: service.said("open /echo?gone"), "the service")
    client.socket.shutdown(socket.SHUT_RDWR)
    until(lambda: service.said("end /echo?gone 1006"), "the service to lose its client", within=5)


def test_an_upstream_that_is_gone_ends_the_clients_side(gateway: GatewayProcess) -> None:
    with dial(gateway, "/ws/drop") as client:
        client.send("drop it")
        assert code(client) == (1006, "")  # before the idle timeout, which is 30 seconds


def test_an_upstream_that_resets_ends_the_clients_side_at_once(gateway: GatewayProcess, scripted: ScriptedService) -> None:
    def answer(seen: Seen) -> None:
        seen.sock.sendall(SWITCHING)
        seen._exactly(1)
        seen.reset()

    scripted.on("/reset", answer)
    with RawClient(gateway.port) as client:
        client.send(head("/scripted/reset", *HANDSHAKE))
        assert client.answer().status == 101
        client.send(b"x")
        assert client.rest() == b""


# ---- by a limit


def test_an_idle_tunnel_is_closed_and_both_are_told(gateway: GatewayProcess, service: WebSocketService) -> None:
    with dial(gateway, "/idle/echo?idle") as client:
        client.send("not idle yet")
        assert client.recv(timeout=20) == "not idle yet"
        assert code(client) == (1001, "idle timeout")
    until(lambda: service.said("end /echo?idle 1001"), "the service to be told")


def test_pings_keep_a_tunnel_open(gateway: GatewayProcess) -> None:
    with dial(gateway, "/idle/echo") as client:
        began = time.monotonic()
        while time.monotonic() - began < 4 * IDLE:
            assert client.ping().wait(20)
            time.sleep(IDLE / 10)
        client.send("still here")
        assert client.recv(timeout=20) == "still here"


def test_the_whole_exchange_has_a_limit(gateway: GatewayProcess, service: WebSocketService) -> None:
    with dial(gateway, "/total/echo?total") as client:
        with suppress(ConnectionClosed):
            while True:
                client.send("busy")
                client.recv(timeout=20)
        assert code(client) == (1001, "time limit")
    until(lambda: service.said("end /echo?total 1001"), "the service to be told")


# ---- by a worker that leaves


def test_a_draining_gateway_says_goodbye_and_does_not_wait(
    start_gateway: Start, redis_server: RedisServer, service: WebSocketService, routes: None
) -> None:
    gateway = start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url).ready()
    with ExitStack() as stack:
        clients = [stack.enter_context(dial(gateway, "/ws/echo?drain")) for _ in range(20)]
        for client in clients:
            client.send("busy")
            assert client.recv(timeout=20) == "busy"
        gateway.process.signal(signal.SIGTERM)
        assert [code(client) for client in clients] == [(1001, "going away")] * 20
    until(lambda: gateway.process.child.poll() is not None, "the gateway to be gone", within=15)  # it may take 30
    assert gateway.process.child.returncode == 0
    until(lambda: service.said("end /echo?drain 1001") == 20, "the service to be told of each")
    assert "worker_drain_cut" not in gateway.output()


def test_no_goodbye_stands_within_a_frame(start_gateway: Start, redis_server: RedisServer, scripted: ScriptedService, routes: None) -> None:
    """The upstream completes a frame that is under way; the client never does."""
    gateway = start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url).ready()
    whole = Frame(Opcode.BINARY, b"x" * 100_000).serialize(mask=False)
    draining = Event()
    got: SimpleQueue[bytes] = SimpleQueue()

    def answer(seen: Seen) -> None:
        seen.send(SWITCHING + whole[:50_000])
        got.put(seen._exactly(3))
        draining.wait(20)
        seen.send(whole[50_000:])
        got.put(seen.sock.recv(100))

    scripted.on("/half", answer)
    with RawClient(gateway.port) as client:
        client.send(head("/scripted/half", *HANDSHAKE) + b"\x82\xfe\xff")
        assert client.answer().status == 101
        assert client.exactly(50_000) == whole[:50_000]
        assert got.get(timeout=20) == b"\x82\xfe\xff"
        gateway.process.signal(signal.SIGTERM)
        until(lambda: refuses(gateway), "the gateway to drain")
        draining.set()
        assert client.rest() == whole[50_000:] + b"\x88\x0c\x03\xe9going away"
        assert got.get(timeout=20) == b""


def refuses(gateway: GatewayProcess) -> bool:
    """Whether it accepts no connections any more."""
    try:
        socket.create_connection(("127.0.0.1", gateway.port), 5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_restart_closes_them_and_clients_connect_anew(
    start_gateway: Start, redis_server: RedisServer, service: WebSocketService, routes: None
) -> None:
    gateway = start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url).ready()
    with dial(gateway, "/ws/echo") as client:
        gateway.hup()
        assert code(client)[0] == 1001
    with dial(gateway, "/ws/echo") as client:
        client.send("again")
        assert client.recv(timeout=20) == "again"


# ---- what is told of it


def entry(server: RedisServer, path: str) -> dict[str, Any]:
    """The one entry of the access log for a path, waiting for it."""

    def found() -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in server.client().lrange("gw:access_log", 0, -1)]
        return [entry for entry in entries if entry["path"] == path]

    until(found, f"the entry of {path}")
    (one,) = found()
    return one


def test_the_access_log_has_one_entry_at_the_end(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    with dial(gateway, "/ws/logged", compression=None) as client:
        opened = time.monotonic()
        client.send("x" * 1000)
        assert client.recv(timeout=20) == "x" * 1000
        assert gateway.get("/plain/meanwhile").status_code == 200
        entry(redis_server, "/plain/meanwhile")
        assert b"/ws/logged" not in b"".join(map(str.encode, redis_server.client().lrange("gw:access_log", 0, -1)))
        held = time.monotonic() - opened
    logged = entry(redis_server, "/ws/logged")
    assert (logged["status"], logged["route"], logged["completed"]) == (101, "ws", True)
    assert logged["bytes"] == 4 + 1000 + 4  # a frame with the message, the answer to the client's Close frame
    assert logged["latency_ms"] >= held * 1000


def test_a_connection_that_was_lost_is_logged_as_not_completed(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    client = dial(gateway, "/ws/lost")
    client.socket.shutdown(socket.SHUT_RDWR)
    assert entry(redis_server, "/ws/lost")["completed"] is False


# ---- load


def test_a_thousand_idle_sockets_on_two_workers_hold_up_nobody(
    start_gateway: Start, redis_server: RedisServer, service: WebSocketService, routes: None
) -> None:
    """They stay open, each still works, others are served meanwhile, and all are told when the gateway leaves."""
    gateway = start_gateway(workers=2, GWPROXY_REDIS_URL=redis_server.url).ready()
    frame = Frame(Opcode.TEXT, b"still here")
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(gateway.port)) for _ in range(1000)]
        for number, client in enumerate(clients):
            client.send(head(f"/ws/echo?idle={number}", *HANDSHAKE))
        assert {client.answer().status for client in clients} == {101}
        began = time.monotonic()
        assert [gateway.get("/plain/between").status_code for _ in range(20)] == [200] * 20
        assert time.monotonic() - began < 10
        for client in clients:
            client.send(frame.serialize(mask=True))
        assert {client.exactly(12) for client in clients} == {frame.serialize(mask=False)}
        gateway.process.signal(signal.SIGTERM)
        assert {client.rest() for client in clients} == {b"\x88\x0c\x03\xe9going away"}
    until(lambda: gateway.process.child.poll() is not None, "the gateway to be gone", within=20)  # it may take 30


def worker_pid(gateway: GatewayProcess) -> int:
    pid = gateway.process.child.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def standing(value: Callable[[], int]) -> int:
    """Wait until a counter moves no more; return where it stands."""
    seen = [-1] * 20

    def same() -> bool:
        seen.append(value())
        return len(set(seen[-20:])) == 1

    until(same, "a counter to stand still")
    return seen[-1]


def test_a_client_that_reads_late_costs_no_memory_and_gets_everything(gateway: GatewayProcess, service: WebSocketService) -> None:
    count, size = 64, 1 << 20
    target = f"/flood?count={count}&size={size}"
    pid = worker_pid(gateway)
    before = resident(pid)
    with dial(gateway, f"/ws{target}", compression=None, max_queue=1) as client:
        until(lambda: f"sent {target}" in service.output(), "the flood to begin")
        assert standing(lambda: service.output().count(f"sent {target}")) < count
        assert resident(pid) - before < 16 << 20
        for number in range(count):
            assert client.recv(timeout=20) == bytes([number]) * size


def test_a_client_that_never_reads_is_cut(gateway: GatewayProcess, service: WebSocketService) -> None:
    target = "/flood?count=64&size=1048576&cut"
    with RawClient(gateway.port) as client:
        client.send(head(f"/idle{target}", *HANDSHAKE))
        until(lambda: f"end {target}" in service.output(), "the service to get rid of it")
        with suppress(ConnectionResetError):
            while client.sock.recv(1 << 20):
                pass
    assert service.said(f"sent {target}") < 64


# ---- over TLS


def test_within_tls_on_both_sides(start_gateway: Start, redis_server: RedisServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, cert = tmp_path / "ca.pem", tmp_path / "cert.pem"
    authority.cert_pem.write_to_path(str(ca))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(cert))
    conf = tmp_path / "gunicorn.conf.py"
    monkey = "from gevent import monkey; monkey.patch_all()"
    conf.write_text(f"{monkey}\nfrom gwproxy.worker.gunicorn_conf import *\ncertfile = keyfile = {str(cert)!r}\n")
    secure = WebSocketService(tmp_path, cert)
    document = {
        "upstreams": {"secure": {"targets": [{"url": secure.url}], "tls": {"ca": str(ca)}}},
        "routes": [tunnelled("/ws", "secure")],
    }
    publish(redis_server, document, prefix="tls:")
    gateway = start_gateway(workers=1, conf=conf, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="tls:")
    ready = f"https://localhost:{gateway.port}/.well-known/gwproxy/ready"
    until(lambda: requests.get(ready, verify=str(ca), timeout=5).status_code == 200, "the gateway")
    context = ssl.create_default_context(cafile=str(ca))
    messages = [os.urandom(1 << 20) for _ in range(8)]
    with dial(gateway, "/ws/echo", context, compression=None) as client:
        sending = Thread(target=lambda: [client.send(message) for message in messages])
        sending.start()
        assert [client.recv(timeout=30) for _ in messages] == messages
        sending.join(20)
        gateway.process.signal(signal.SIGTERM)
        assert code(client) == (1001, "going away")
    until(lambda: secure.said("end /echo 1001"), "the service to be told")
    secure.stop()
