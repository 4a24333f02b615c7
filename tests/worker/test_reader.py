"""How long the worker waits for a client: idle, in a head, in a body, and for it to read (reliability.md 2.8)."""

import contextlib
import json
import socket
import time

import pytest

from gwproxy.settings import Settings
from gwproxy.stream import Stream, stream_of
from gwproxy.worker.reader import ClientReader

REQUEST = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def gateway(gunicorn):
    """One that is short of patience."""
    return gunicorn(
        "--keep-alive",
        "1",
        GWPROXY_HEADER_TIMEOUT="0.5",
        GWPROXY_BODY_TIMEOUT="0.5",
        GWPROXY_BODY_RATE="500",
        GWPROXY_WRITE_TIMEOUT="0.5",
    )


def trickle(client, data, pause=0.1):
    """Send a byte at a time until the other side has had enough; return how long that took."""
    began = time.monotonic()
    client.sock.settimeout(pause)
    for byte in data:
        try:
            client.sock.sendall(bytes([byte]))
            client.data += client.sock.recv(65536)
            break
        except TimeoutError:
            continue
    client.sock.settimeout(10)
    return time.monotonic() - began


def assert_timed_out(client):
    reply = client.reply()
    assert (reply.status, reply["Connection"]) == (408, "close")
    assert json.loads(reply.body) == {"error": "Request Timeout"}
    assert client.closed()


def test_B01_a_trickled_head_is_408_within_its_deadline(client):
    assert trickle(client, REQUEST) < 1.5
    assert_timed_out(client)


def test_B01_a_head_that_stops_is_408(client):
    client.send(REQUEST[:-2])
    assert_timed_out(client)


def test_B01_a_slow_head_after_another_request_has_its_own_deadline(client):
    assert client.send(REQUEST).reply().status == 200
    time.sleep(0.6)  # longer than the header timeout: idle time is not counted
    assert client.send(REQUEST).reply().status == 200
    client.send(REQUEST[:10])
    assert_timed_out(client)


def test_B02_an_idle_connection_is_closed_silently(client):
    began = time.monotonic()
    assert client.closed()
    assert 0.9 < time.monotonic() - began < 3


def test_B02_also_after_a_request(client):
    assert client.send(REQUEST).reply().status == 200
    assert client.closed()


@pytest.mark.parametrize("target", ["/body", "/forgiving"])
def test_B03_an_idle_body_is_408(client, target):
    client.send(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc" % target.encode())
    if target == "/body":
        assert_timed_out(client)
    else:
        assert client.reply()["Connection"] == "close"  # the app answered all the same
        assert client.closed()


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_B03_a_trickled_body_is_408(client, framing):
    client.send(f"POST /body HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n".encode())
    assert trickle(client, b"0" * 100) < 2
    assert_timed_out(client)


def test_B03_a_slow_app_is_not_held_against_the_client(client, gateway):
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
    assert client.reply().status == 200
    time.sleep(0.3)
    client.send(b"abc" + REQUEST)  # drained within its second
    assert client.reply().status == 200


def receive_all(client):
    while client.sock.recv(1 << 20):
        pass


def test_B04_a_client_that_does_not_read_is_cut(counted, wait_until):
    with counted.client(receive_buffer=4096) as client:
        client.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: counted.stats()["closed"] == 1, seconds=5)
        assert client.head().status == 200
        with pytest.raises(ConnectionResetError):
            receive_all(client)
    assert "Traceback" not in counted.log()


class Clock(Stream):
    """A stream whose pieces take time to come, and a clock that knows."""

    def __init__(self, *pieces):
        self.now = 100.0
        self.pieces = list(pieces)
        self.limits = []

    def __call__(self):
        return self.now

    def receive(self, size, until, *, awaited=False):
        limit = until - self.now
        self.limits.append(limit)
        seconds, data = self.pieces.pop(0)
        self.now += min(seconds, limit)
        if seconds > limit:
            raise TimeoutError
        return data[:size]


@pytest.fixture
def timed(monkeypatch):
    def make(*pieces):
        clock = Clock(*pieces)
        monkeypatch.setattr("gwproxy.worker.reader.monotonic", clock)
        settings = Settings(header_timeout=10.0, body_timeout=20.0, body_rate=500)
        return ClientReader(clock, settings, 15.0), clock

    return make


def test_idle_time_is_not_head_time(timed):
    reader, clock = timed((14.0, b"G"), (6.0, b"E"), (3.0, b"T"), (2.0, b" "))
    reader.expect_head()
    assert reader.idle_since == 100.0
    assert reader.read() == b"G"
    assert (reader.begun, reader.idle_since) == (True, None)
    assert [reader.read(), reader.read()] == [b"E", b"T"]
    with pytest.raises(TimeoutError):
        reader.read()
    assert clock.limits == [15.0, 10.0, 4.0, 1.0]


def test_pipelined_bytes_begin_a_head_at_once(timed):
    reader, clock = timed((1.0, b"more"))
    reader.unread(b"GE")
    reader.expect_head()
    assert (reader.begun, reader.idle_since, reader.held) == (True, None, b"GE")
    assert [reader.read(), reader.read()] == [b"GE", b"more"]
    assert clock.limits == [10.0]


def test_a_body_pauses_at_most_body_timeout(timed):
    reader, _ = timed((19.0, b"x" * 8192), (21.0, b""))
    reader.expect_body()
    assert len(reader.read()) == 8192
    with pytest.raises(TimeoutError):
        reader.read()


@pytest.mark.parametrize(("rate", "fails"), [(499, True), (501, False)])
def test_a_body_averages_its_rate_after_body_timeout(timed, rate, fails):
    reader, _ = timed(*[(1.0, b"x" * rate)] * 30)
    reader.expect_body()
    for _ in range(20):
        reader.read()
    if fails:
        with pytest.raises(TimeoutError):
            reader.read()
    else:
        assert sum(len(reader.read()) for _ in range(10)) == 5010


def test_time_between_reads_is_not_waiting(timed):
    reader, clock = timed((1.0, b"a"), (1.0, b"b"), (1.0, b"c"))
    reader.expect_body()
    for expected in (b"a", b"b", b"c"):
        assert reader.read() == expected
        clock.now += 1000  # the app is busy, or its upstream slow


def test_whatever_is_read_until_a_deadline(timed):
    reader, _ = timed((3.0, b"a"), (3.0, b"b"))
    reader.expect_until(105.0)
    assert reader.read() == b"a"
    with pytest.raises(TimeoutError):
        reader.read()
    with pytest.raises(TimeoutError):
        reader.read()  # the deadline is past: not even asked


class Answered(Exception):
    """What the other side of an exchange may raise."""


@pytest.fixture
def pairs():
    with contextlib.ExitStack() as stack:
        yield [[stack.enter_context(sock) for sock in socket.socketpair()] for _ in range(2)]


def test_a_wait_for_a_body_ends_with_what_another_socket_brings(pairs):
    (client, ours), (other, watched) = pairs
    reader = ClientReader(stream_of(ours), Settings(), 15.0)
    reader.expect_body()
    came = []

    def meanwhile():
        came.append(watched.recv(1))
        if came[-1] == b"!":
            raise Answered
        client.send(b"body")

    other.send(b"?")
    with reader.watching(watched.fileno(), meanwhile, None):
        assert reader.chunk() == b"body"  # what came was nothing to end the wait for
        other.send(b"!")
        with pytest.raises(Answered):
            reader.chunk()
    other.send(b"!")
    client.send(b"more")
    assert (reader.chunk(), came) == (b"more", [b"?", b"!"])  # and only while it is watched


@pytest.mark.parametrize(("body_timeout", "until"), [(0.05, None), (20.0, 0.05), (0.05, 20.0)])
def test_a_watchful_wait_ends_in_time(pairs, body_timeout, until):
    (_, ours), (_, watched) = pairs
    reader = ClientReader(stream_of(ours), Settings(body_timeout=body_timeout), 15.0)
    reader.expect_body()
    deadline = None if until is None else time.monotonic() + until
    with reader.watching(watched.fileno(), lambda: None, deadline), pytest.raises(TimeoutError):
        reader.chunk()
