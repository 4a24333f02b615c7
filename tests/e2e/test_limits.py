"""The table of limits in docs/operating.md, each at a size that a test can reach, on a real worker."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import Answer, RawClient, chunked, head
from tests.e2e.scripted import OK, ScriptedService, Seen
from tests.e2e.tunnels import HANDSHAKE, SWITCHING

pytestmark = pytest.mark.e2e

IN_FLIGHT = 8
CONF = """
from gevent import monkey; monkey.patch_all()
from gwproxy.worker.gunicorn_conf import *
limit_request_line = 2000
limit_request_fields = 20
limit_request_field_size = 1000
worker_connections = 16
keepalive = 60
"""
SETTINGS = {
    "GWPROXY_HEADER_TIMEOUT": "0.6",
    "GWPROXY_BODY_TIMEOUT": "0.6",
    "GWPROXY_BODY_RATE": "500",
    "GWPROXY_WRITE_TIMEOUT": "0.6",
    "GWPROXY_MAX_IN_FLIGHT": str(IN_FLIGHT),
}


class Held:
    """A path of the service whose requests get no answer before the test says so."""

    def __init__(self, service: ScriptedService, path: str, before: bytes = b"", after: bytes = OK) -> None:
        self.arrived: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        self._go = threading.Semaphore(0)
        self._before, self._after = before, after
        service.on(path, self._answer)

    def _answer(self, seen: Seen) -> bytes:
        if self._before:
            seen.send(self._before)
        self.arrived.put(seen)
        assert self._go.acquire(timeout=30)
        return self._after

    def next(self) -> str:
        """Wait for the next request to arrive; return its target."""
        return self.arrived.get(timeout=15).target

    def release(self, count: int = 1) -> None:
        self._go.release(count)


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    service: ScriptedService,
    strangers: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    conf = tmp_path_factory.mktemp("conf") / "gunicorn.conf.py"
    conf.write_text(CONF)
    target = [{"url": service.url}]
    document = {
        "plugins": [{"name": "stranger_stamp"}],
        "routes": [
            {"path": "/free", "upstream": service.url},
            {"path": "/small", "upstream": service.url, "max_body": "10KiB"},
            {"path": "/larger", "upstream": service.url, "max_body": "20KiB"},
            *({"path": f"/{name}", "upstream": name, "websocket": True} for name in ("one", "queue", "brief")),
            {"path": "/also-one", "upstream": "one"},
        ],
        "upstreams": {
            "one": {"targets": target, "concurrency": {"limit": 1, "queue": 0}},
            "queue": {"targets": target, "concurrency": {"limit": 1, "queue": 2, "wait": 20}},
            "brief": {"targets": target, "concurrency": {"limit": 1, "queue": 1, "wait": 0.4}},
        },
    }
    publish(redis_server, document)
    return start_gateway(workers=1, conf=conf, GWPROXY_REDIS_URL=redis_server.url, PYTHONPATH=strangers, **SETTINGS).ready()


@pytest.fixture
def connect(gateway: GatewayProcess) -> Iterator[Callable[[], RawClient]]:
    with contextlib.ExitStack() as clients:
        yield lambda: clients.enter_context(RawClient(gateway.port))


@pytest.fixture
def client(connect: Callable[[], RawClient]) -> RawClient:
    return connect()


def check_busy(answer: Answer) -> None:
    """Refused for overload: told when to come back, seen by the global plugins, on a connection that goes on."""
    assert (answer.status, answer.json(), answer.get("Retry-After")) == (503, {"error": "Service Unavailable"}, "1")
    assert (answer.get("X-Stamp"), answer.closed) == ("503", False)


def counters(gateway: GatewayProcess, redis_server: RedisServer) -> dict[str, int]:
    beats = gateway.heartbeats(redis_server.client())
    return json.loads(beats[0]["counters"]) if beats else {}


# ---- heads and bodies


@pytest.mark.parametrize(
    ("inside", "beyond", "status"),
    [
        (head("/free?" + "a" * 1900), head("/free?" + "a" * 2000), 414),
        (head("/free", *["X-A: 1"] * 19), head("/free", *["X-A: 1"] * 20), 431),
        (head("/free", "X-A: " + "a" * 980), head("/free", "X-A: " + "a" * 1000), 431),
    ],
    ids=["P23-limit_request_line", "P23-limit_request_fields", "P23-limit_request_field_size"],
)
def test_heads(connect: Callable[[], RawClient], inside: bytes, beyond: bytes, status: int) -> None:
    client = connect()
    client.send(inside)
    assert client.answer().status == 200
    client.send(beyond)
    answer = client.answer()
    assert (answer.status, answer.closed) == (status, True)


@pytest.mark.parametrize(("path", "limit"), [("/small", 10 << 10), ("/larger", 20 << 10)])
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_B06_a_route_s_max_body(connect: Callable[[], RawClient], path: str, limit: int, framing: str) -> None:
    for size, status in ((limit, 200), (limit + 1, 413)):
        client = connect()
        field, body = "Transfer-Encoding: chunked", chunked(b"x" * size)
        if framing == "sized":
            field, body = f"Content-Length: {size}", b"x" * size
        client.send(head(path, field, method="POST") + body)
        assert client.answer().status == status


def test_B06_a_declared_body_is_refused_before_it_comes(client: RawClient) -> None:
    client.send(head("/small", f"Content-Length: {11 << 10}", method="POST"))
    assert client.answer().status == 413


def trickle(client: RawClient, data: bytes, pause: float = 0.1) -> float:
    """Send a byte at a time until the gateway has had enough; return how many seconds that took."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        for byte in data:
            client.send(bytes([byte]))
            client.sock.settimeout(pause)
            with contextlib.suppress(TimeoutError):
                client._more()
                break
    client.sock.settimeout(15)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("first", "slowly"),
    [
        (b"", head("/free", "X-A: " + "a" * 200)),
        (head("/free", "Content-Length: 200", method="POST"), b"a" * 200),
        (head("/free", "Transfer-Encoding: chunked", method="POST") + b"80\r\n", b"a" * 128),
    ],
    ids=["B01-head", "B03-sized-body", "B03-chunked-body"],
)
def test_what_trickles_is_408(client: RawClient, first: bytes, slowly: bytes) -> None:
    client.send(first)
    assert trickle(client, slowly) < 10  # all of it would take twice as long
    answer = client.answer()
    assert (answer.status, answer.json()) == (408, {"error": "Request Timeout"})


@pytest.mark.parametrize(
    "begun",
    [head("/free")[:-2], head("/free", "Content-Length: 9", method="POST") + b"abc"],
    ids=["B01-head", "B03-body"],
)
def test_what_stops_is_408(client: RawClient, begun: bytes) -> None:
    client.send(begun)
    assert client.answer().status == 408


def test_B04_a_client_that_does_not_read_releases_its_upstream_and_its_place(
    connect: Callable[[], RawClient], service: ScriptedService
) -> None:
    ended: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def endless(seen: Seen) -> None:
        seen.send(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                seen.send(b"x" * 65536)
        ended.put(True)

    service.on("/one/endless", endless)  # type: ignore[arg-type]
    connect().send(head("/one/endless"))
    assert ended.get(timeout=15)
    until(lambda: connect().ask("/one").status == 200, "the place")


# ---- concurrency of an upstream


def test_R46_beyond_the_concurrency_of_an_upstream_503_at_once(connect: Callable[[], RawClient], service: ScriptedService) -> None:
    held = Held(service, "/one/held")
    busy, other = connect(), connect()
    busy.send(head("/one/held"))
    held.next()
    began = time.monotonic()
    for path in ("/one", "/also-one"):
        check_busy(other.ask(path))
    assert time.monotonic() - began < 5
    assert other.ask("/free").status == 200  # the same target, by an upstream of its own
    held.release()
    assert busy.answer().status == 200
    assert other.ask("/one").status == 200


def test_a_response_that_streams_holds_its_place(connect: Callable[[], RawClient], service: ScriptedService) -> None:
    held = Held(service, "/one/stream", before=b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha", after=b"lf")
    busy, other = connect(), connect()
    busy.send(head("/one/stream"))
    busy.until(b"ha")
    check_busy(other.ask("/one"))
    held.release()
    assert busy.exactly(2) == b"lf"
    until(lambda: other.ask("/one").status == 200, "the place")


def test_a_tunnel_holds_its_place(connect: Callable[[], RawClient], service: ScriptedService) -> None:
    held = Held(service, "/one/tunnel", before=SWITCHING)
    tunnel, other = connect(), connect()
    tunnel.send(head("/one/tunnel", *HANDSHAKE))
    assert tunnel.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    check_busy(other.ask("/one"))
    tunnel.sock.close()
    held.release()
    until(lambda: other.ask("/one").status == 200, "the place")


def test_who_waits_is_served_in_order_and_beyond_the_queue_nobody_waits(connect: Callable[[], RawClient], service: ScriptedService) -> None:
    held = Held(service, "/queue")
    clients = [connect() for _ in range(3)]
    for number, client in enumerate(clients):
        client.send(head(f"/queue?{number}"))
        assert connect().ask("/free").status == 200  # by now the worker has read the request before
    check_busy(connect().ask("/queue?beyond"))
    for number, client in enumerate(clients):
        assert held.next() == f"/queue?{number}"
        held.release()
        assert client.answer().status == 200


def test_who_has_waited_long_enough_is_503(connect: Callable[[], RawClient], service: ScriptedService) -> None:
    held = Held(service, "/brief")
    busy, waiting = connect(), connect()
    busy.send(head("/brief"))
    held.next()
    began = time.monotonic()
    check_busy(waiting.ask("/brief"))
    assert time.monotonic() - began >= 0.4
    held.release()
    assert busy.answer().status == 200


def test_who_hangs_up_gives_up_the_stand(connect: Callable[[], RawClient], service: ScriptedService) -> None:
    held = Held(service, "/queue")
    busy, leaving, staying = connect(), connect(), connect()
    for name, client in (("busy", busy), ("leaving", leaving), ("staying", staying)):
        client.send(head(f"/queue?{name}"))
        assert connect().ask("/free").status == 200
    leaving.sock.close()
    assert held.next() == "/queue?busy"
    held.release(2)
    assert held.next() == "/queue?staying"
    assert (busy.answer().status, staying.answer().status) == (200, 200)


def test_what_was_refused_is_shown(gateway: GatewayProcess, redis_server: RedisServer, client: RawClient) -> None:
    def shown() -> bool:
        beat = gateway.heartbeats(redis_server.client())[0]
        one = next(load for load in json.loads(beat["upstreams"]) if load["upstream"] == "one")
        refused = json.loads(beat["counters"]).get("upstream_refused:one")
        return (one["in_flight"], one["queued"]) == (0, 0) and one["refused"] == refused > 0

    until(shown, "the heartbeat to show it")
    assert "upstream_busy upstream=one queue=full in_flight=1" in gateway.output()
    assert "upstream_busy upstream=brief queue=slow in_flight=1" in gateway.output()


# ---- all a worker serves


def test_R46_beyond_max_in_flight_a_worker_sheds(
    gateway: GatewayProcess, redis_server: RedisServer, connect: Callable[[], RawClient], service: ScriptedService
) -> None:
    held = Held(service, "/free/held")
    busy = [connect() for _ in range(IN_FLIGHT)]
    for client in busy:
        client.send(head("/free/held"))
    for _ in busy:
        held.next()
    late = connect()
    for target in ("/free", "/free", "/no-such-route"):
        check_busy(late.ask(target))
    check_busy(late.ask("/free", method="POST", body=b"x" * 1000))
    for state in ("live", "ready"):
        assert late.ask(f"/.well-known/gwproxy/{state}").status == 200
    held.release(IN_FLIGHT)
    assert [client.answer().status for client in busy] == [200] * IN_FLIGHT
    assert late.ask("/free").status == 200
    until(lambda: counters(gateway, redis_server).get("shed") == 4, "the heartbeat to count it")
    assert f"request_shed in_flight={IN_FLIGHT} suppressed=0" in gateway.output()


def test_B05_idle_connections_make_room_for_new_ones(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    """Twice as many connections as the worker may have, one request on each, and none waits for a keep-alive to end."""
    with contextlib.ExitStack() as clients:
        kept = [clients.enter_context(RawClient(gateway.port)) for _ in range(16)]
        assert [client.ask("/free").status for client in kept] == [200] * 16
        for _ in range(16):
            assert clients.enter_context(RawClient(gateway.port)).ask("/free").status == 200
        until(lambda: counters(gateway, redis_server).get("connections_given_up", 0) > 0, "the heartbeat to count it")
        assert kept[0].ended()


# ---- memory


def workers(gateway: GatewayProcess) -> list[int]:
    return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", gateway.output())]


def test_X05_a_worker_with_too_much_memory_is_replaced_and_loses_nothing(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, strangers: str, tmp_path: Path
) -> None:
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(CONF + "import gwproxy.worker.memory\ngwproxy.worker.memory.GRACE_SECONDS = 0.5  # not a minute\n")
    hoard = {"name": "stranger_hoard", "config": {"size": "400MiB"}}
    routes = [{"path": "/free", "upstream": service.url}, {"path": "/hoard", "upstream": service.url, "plugins": [hoard]}]
    publish(redis_server, routes, prefix="mem:")
    env = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_PREFIX": "mem:", "PYTHONPATH": strangers, "GWPROXY_MAX_MEMORY": "350MiB"}
    gateway = start_gateway(conf=conf, **env).ready()
    until(lambda: len(gateway.heartbeats(redis_server.client(), "mem:")) == 2, "both workers")
    held, failed, stop = Held(service, "/hoard"), [], threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                answer = gateway.get("/free")
            except Exception as error:
                failed.append(repr(error))
            else:
                failed.extend([str(answer.status_code)] if answer.status_code != 200 else [])

    threads = [threading.Thread(target=load) for _ in range(3)]
    with RawClient(gateway.port) as client:
        for thread in threads:
            thread.start()
        client.send(head("/hoard"))
        held.next()
        until(lambda: "worker_recycled reason=memory rss=" in gateway.output(), "the worker to be recycled")
        held.release()
        answer = client.answer()
        assert (answer.status, answer.get("Connection")) == (200, "close")  # what was under way is finished
        until(lambda: len(workers(gateway)) == 3, "another worker")
        until(lambda: len(gateway.heartbeats(redis_server.client(), "mem:")) == 2, "both workers")
    stop.set()
    for thread in threads:
        thread.join(20)
    assert failed == []
    rss = re.findall(r"worker_recycled reason=memory rss=(\d+)", gateway.output())
    assert len(rss) == 1
    assert int(rss[0]) > 350 << 20


def test_X05_a_worker_that_cannot_do_with_less_is_not_replaced_in_a_circle(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer
) -> None:
    gateway = start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_MAX_MEMORY="1MiB").ready()
    until(lambda: "memory_above_limit" in gateway.output(), "the warning")
    looked_again = time.monotonic() + 2.5  # twice at least
    while time.monotonic() < looked_again:
        assert gateway.get("/.well-known/gwproxy/ready").status_code == 200
    assert gateway.output().count("memory_above_limit") == 1
    assert len(workers(gateway)) == 1
