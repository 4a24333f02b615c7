"""Bodies on their way: as they come, in flat memory, and given up when nobody is left to read or send them."""

from __future__ import annotations

import hashlib
import queue
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient, head
from tests.e2e.scripted import ScriptedService, Seen

pytestmark = pytest.mark.e2e

MIB = 1 << 20
BLOCKS = 64
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
WRITE_TIMEOUT = 1.5
CANCELLED = 1.0  # seconds after its client has left, an upstream's request is over


@cache
def block(number: int) -> bytes:
    """A MiB of bytes that is like no other."""
    return random.Random(number).randbytes(MIB)


@cache
def digest() -> str:
    whole = hashlib.sha256()
    for number in range(BLOCKS):
        whole.update(block(number))
    return whole.hexdigest()


def event(number: int) -> bytes:
    data = b"data: %d\n\n" % number
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    service: ScriptedService,
    strangers: str,
    path: dict[str, str],
) -> GatewayProcess:
    def reader(**config: bool) -> list[object]:
        return [{"name": "stranger_reader", "config": config}]

    url = service.url
    jwt = {"name": "jwt_auth", "config": {"secret": "a-secret-of-more-than-32-bytes-for-tests"}}
    publish(
        redis_server,
        [
            {"path": "/", "upstream": url},
            {"path": "/private", "upstream": url, "plugins": [jwt]},
            {"path": "/small", "upstream": url, "max_body": 10},
            {"path": "/read/request", "upstream": url, "max_buffer": 100, "plugins": reader(request=True)},
            {"path": "/read/response", "upstream": url, "max_buffer": 100, "plugins": reader(response=True)},
        ],
    )
    settings = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_WRITE_TIMEOUT": str(WRITE_TIMEOUT), "PYTHONPATH": strangers}
    return start_gateway(**settings, **path).ready()


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[RawClient]:
    with RawClient(gateway.port) as client:
        yield client


def memory(gateway: GatewayProcess, field: str) -> list[float]:
    """``VmRSS`` (now) or ``VmHWM`` (at most, ever) of every worker, in MiB."""
    workers = gateway.worker_pids()
    assert len(workers) == gateway.workers
    statuses = (Path(f"/proc/{pid}/status").read_text() for pid in workers)
    return [int(re.findall(rf"{field}:\s+(\d+) kB", status)[0]) / 1024 for status in statuses]


@pytest.fixture
def flat(gateway: GatewayProcess) -> Iterator[None]:
    """The workers' memory has not grown by more than 30 MiB at any time of the test, and is below 100 MiB."""
    before = memory(gateway, "VmRSS")
    yield
    peaks = memory(gateway, "VmHWM")
    assert max(peak - was for peak, was in zip(peaks, before, strict=True)) < 30
    assert max(peaks) < 100


# ---- large


def hashing(seen: Seen) -> bytes:
    whole, size = hashlib.sha256(), 0
    for piece in seen.pieces():
        whole.update(piece)
        size += len(piece)
    seen.consumed()
    body = f"{whole.hexdigest()} {size}".encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.usefixtures("flat")
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_large_upload(client: RawClient, service: ScriptedService, framing: str) -> None:
    service.on("/upload", hashing)
    declared = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {BLOCKS * MIB}"
    client.send(head("/upload", declared, method="POST"))
    for number in range(BLOCKS):
        client.send(b"%x\r\n%b\r\n" % (MIB, block(number)) if framing == "chunked" else block(number))
    if framing == "chunked":
        client.send(b"0\r\n\r\n")
    assert client.answer().body.decode() == f"{digest()} {BLOCKS * MIB}"
    seen = service.next("/upload")
    assert (seen.all("Transfer-Encoding"), seen.all("Content-Length")) == (
        (["chunked"], []) if framing == "chunked" else ([], [str(BLOCKS * MIB)])
    )


def sending(framing: str) -> Callable[[Seen], None]:
    def script(seen: Seen) -> None:
        declared = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {BLOCKS * MIB}"
        seen.send(f"HTTP/1.1 200 OK\r\n{declared}\r\nConnection: close\r\n\r\n".encode())
        for number in range(BLOCKS):
            seen.send(b"%x\r\n%b\r\n" % (MIB, block(number)) if framing == "chunked" else block(number))
        if framing == "chunked":
            seen.send(b"0\r\n\r\n")

    return script


@pytest.mark.usefixtures("flat")
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_large_download(client: RawClient, service: ScriptedService, framing: str) -> None:
    service.on("/download", sending(framing))
    answer = client.ask("/download")
    assert (len(answer.body), hashlib.sha256(answer.body).hexdigest()) == (BLOCKS * MIB, digest())
    assert answer.all("Content-Length") == ([] if framing == "chunked" else [str(BLOCKS * MIB)])


# ---- as they come


def test_events_arrive_one_by_one(client: RawClient, service: ScriptedService) -> None:
    permissions: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def script(seen: Seen) -> None:
        seen.send(STREAM)
        while data := permissions.get(timeout=10):
            seen.send(data)

    service.on("/events", script)
    client.send(head("/events"))
    assert b"text/event-stream" in client.until(b"\r\n\r\n")  # the head, before there is any event
    for number in range(5):
        permissions.put(event(number))
        assert client.until(b"\n\n\r\n") == event(number)
    permissions.put(b"0\r\n\r\n")
    assert client.until(b"0\r\n\r\n") == b"0\r\n\r\n"
    permissions.put(b"")


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked", "Connection: close"])
def test_every_byte_arrives_before_the_next_is_sent(client: RawClient, service: ScriptedService, framing: str) -> None:
    permissions: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    chunked = framing.endswith("chunked")

    def script(seen: Seen) -> None:
        seen.send(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n\r\n".encode())
        while byte := permissions.get(timeout=10):
            seen.send(b"1\r\n%b\r\n" % byte if chunked else byte)
        seen.send(b"0\r\n\r\n" if chunked else b"")

    service.on("/bytes", script)
    client.send(head("/bytes"))
    framed = b"chunked" in client.until(b"\r\n\r\n")  # to a client a body without a length is chunked
    for byte in (b":", b"h", b"i", b"\n", b"\n"):
        permissions.put(byte)
        assert (client.exactly(6)[3:4] if framed else client.exactly(1)) == byte
    permissions.put(b"")
    assert client.until(b"0\r\n\r\n") == b"0\r\n\r\n" if framed else client.ask("/bytes/over").status == 200


@pytest.mark.parametrize("announced", [b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"], ids=["silent", "after a 103"])
def test_long_polls_wait_side_by_side_and_each_is_answered_when_its_event_comes(
    gateway: GatewayProcess, service: ScriptedService, announced: bytes
) -> None:
    permissions: list[queue.SimpleQueue[bytes]] = [queue.SimpleQueue() for _ in range(20)]

    def script(seen: Seen) -> bytes:
        seen.send(announced)
        event = permissions[int(seen.target.partition("?")[2])].get(timeout=20)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(event), event)

    service.on("/poll", script)
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(gateway.port)) for _ in permissions]
        for number, client in enumerate(clients):
            client.send(head(f"/poll?{number}"))
        for _ in clients:
            service.next("/poll")
        for number in reversed(range(20)):
            permissions[number].put(b"event %d" % number)
            assert clients[number].answer().body == b"event %d" % number
            assert clients[number].ask("/poll/next").status == 200  # and is ready to ask again


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_an_upload_arrives_as_it_is_sent(client: RawClient, service: ScriptedService, framing: str) -> None:
    came: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def script(seen: Seen) -> bytes:
        for piece in seen.pieces():
            came.put(piece)
        seen.consumed()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    service.on("/lines", script)
    client.send(head("/lines", framing, method="POST"))
    service.next("/lines")  # the head is there before any byte of the body
    for piece in (b"first", b"other"):
        client.send(b"5\r\n%b\r\n" % piece if "chunked" in framing else piece)
        assert came.get(timeout=10) == piece
    client.send(b"0\r\n\r\n" if "chunked" in framing else b"")
    assert client.answer().status == 200


# ---- too slow, or gone


def counting(sent: list[int]) -> Callable[[Seen], None]:
    def script(seen: Seen) -> None:
        seen.send(f"HTTP/1.1 200 OK\r\nContent-Length: {BLOCKS * MIB}\r\nConnection: close\r\n\r\n".encode())
        try:
            for number in range(BLOCKS):
                for start in range(0, MIB, 1 << 16):
                    seen.send(block(number)[start : start + (1 << 16)])
                    sent.append(1 << 16)
        except OSError:
            sent.append(-1)

    return script


def stalled(sent: list[int]) -> bool:
    before = len(sent)
    time.sleep(0.1)
    return len(sent) == before > 0


@pytest.mark.usefixtures("flat")
def test_a_slow_reader_slows_the_upstream_down(gateway: GatewayProcess, service: ScriptedService) -> None:
    sent: list[int] = []
    service.on("/slow", counting(sent))
    with RawClient(gateway.port) as client:
        client.send(head("/slow"))
        until(lambda: stalled(sent), "the upstream to be held back")
        assert sum(sent) < BLOCKS * MIB / 2  # what it sent is in the kernel's buffers, not in the gateway
        answer = client.answer()
    assert hashlib.sha256(answer.body).hexdigest() == digest()


def test_B04_a_client_that_reads_no_more_is_given_up(gateway: GatewayProcess, service: ScriptedService) -> None:
    sent: list[int] = []
    service.on("/stuck", counting(sent))
    with RawClient(gateway.port) as client:
        client.send(head("/stuck"))
        until(lambda: -1 in sent, "the upstream to be let go", within=WRITE_TIMEOUT + 5)


def closes(service: ScriptedService, path: str, script: Callable[[Seen], None]) -> queue.SimpleQueue[float]:
    """Script ``path``; when the gateway has closed the connection after it, the time is in the queue."""
    closed: queue.SimpleQueue[float] = queue.SimpleQueue()

    def whole(seen: Seen) -> None:
        script(seen)
        if seen.gone():
            closed.put(time.monotonic())

    service.on(path, whole)
    return closed


def silent(seen: Seen) -> None:
    pass


def begun(seen: Seen) -> None:
    seen.send(STREAM + event(0))


def begun_sized(seen: Seen) -> None:
    seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")


@pytest.mark.parametrize("script", [silent, begun, begun_sized], ids=["B12 thinking", "B11 quiet stream", "B11 within a body"])
def test_a_client_that_leaves_cancels_the_upstream(
    gateway: GatewayProcess, service: ScriptedService, script: Callable[[Seen], None]
) -> None:
    closed = closes(service, "/leave", script)
    assert cancelled(lambda: leave(gateway, service, script), closed) < CANCELLED


def leave(gateway: GatewayProcess, service: ScriptedService, script: Callable[[Seen], None]) -> None:
    with RawClient(gateway.port) as client:
        client.send(head("/leave"))
        service.next("/leave")
        if script is not silent:
            client.until(b"\r\n\r\n")


def cancelled(ask_and_leave: Callable[[], object], closed: queue.SimpleQueue[float]) -> float:
    """Return the seconds from a client's leaving to the end of the upstream's connection: the best of three, on a busy machine."""
    took = []
    for _ in range(3):
        ask_and_leave()
        left = time.monotonic()
        took.append(closed.get(timeout=10) - left)
        if took[-1] < CANCELLED:
            break
    return min(took)


def test_B11_a_client_that_leaves_a_busy_stream_cancels_the_upstream(gateway: GatewayProcess, service: ScriptedService) -> None:
    ended: queue.SimpleQueue[float] = queue.SimpleQueue()

    def script(seen: Seen) -> None:
        seen.send(STREAM)
        try:
            while True:
                seen.send(event(1))
                time.sleep(0.02)
        except OSError:
            ended.put(time.monotonic())

    def leave() -> None:
        with RawClient(gateway.port) as client:
            client.send(head("/busy"))
            client.until(event(1))

    service.on("/busy", script)
    assert cancelled(leave, ended) < CANCELLED


def test_B10_a_client_that_leaves_within_its_upload_cancels_the_upstream(gateway: GatewayProcess, service: ScriptedService) -> None:
    ended: queue.SimpleQueue[float] = queue.SimpleQueue()

    def script(seen: Seen) -> None:
        with suppress(EOFError, OSError):
            for _ in seen.pieces():
                pass
        ended.put(time.monotonic())

    def leave() -> None:
        with RawClient(gateway.port) as client:
            client.send(head("/half", "Content-Length: 1000", method="POST") + b"half")
            service.next("/half")

    service.on("/half", script)
    assert cancelled(leave, ended) < CANCELLED


# ---- what plugins read


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("size", [100, 101])
def test_a_plugin_reads_a_request_up_to_max_buffer(client: RawClient, service: ScriptedService, size: int, framing: str) -> None:
    data = block(0)[:size]
    if framing == "sized":
        answer = client.ask("/read/request", method="POST", body=data)
    else:
        client.send(head("/read/request", "Transfer-Encoding: chunked", method="POST") + b"%x\r\n%b\r\n0\r\n\r\n" % (size, data))
        answer = client.answer()
    if size > 100:
        assert (answer.status, answer.json()) == (413, {"error": "Payload too large"})
    else:
        seen = service.next("/read/request")
        assert (answer.status, seen.body, seen.get("X-Read")) == (200, data, "100")


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("size", [0, 100, 101, MIB])
def test_a_plugin_reads_a_response_up_to_max_buffer(client: RawClient, service: ScriptedService, size: int, framing: str) -> None:
    data = block(0)[:size]
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (size, data) if size else b"0\r\n\r\n"
    sized = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, data)
    service.on("/read/response", sized if framing == "sized" else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    answer = client.ask("/read/response")
    assert (answer.status, answer.body, answer.cut) == (200, data, False)  # beyond it nothing is lost: it is streamed
    assert answer.get("X-Read") == (str(size) if size <= 100 else "too long")


def test_a_response_that_breaks_off_while_a_plugin_reads_it_is_502(client: RawClient, service: ScriptedService) -> None:
    service.on("/read/response", lambda seen: seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc"))  # type: ignore[func-returns-value]
    answer = client.ask("/read/response")
    assert (answer.status, answer.json()) == (502, {"error": "Bad Gateway"})


@pytest.mark.usefixtures("gateway")
def test_nothing_is_left_open(service: ScriptedService) -> None:
    """After all that, the workers hold no connection that the service has closed."""
    port = f"{service.port:04X}"

    def half_closed() -> list[str]:
        lines = map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        return [line[1] for line in lines if line[2].endswith(f":{port}") and line[3] == "08"]  # CLOSE_WAIT

    until(lambda: not half_closed(), "connections to be closed")
