"""What goes over the wire to an upstream, byte for byte."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from gwproxy.dataplane.session import UpstreamSession
from gwproxy.dataplane.transport import (
    ClientLeft,
    Failure,
    Origin,
    SizedBody,
    UpstreamFailed,
    UpstreamRequest,
    UpstreamTimedOut,
)
from gwproxy.errors import RequestTimeout
from gwproxy.model import Timeouts
from tests.dataplane.conftest import Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
QUICK = Timeouts(connect=1.0, head=2.0, read=2.0)


def request(origin: Origin, method: str = "GET", target: bytes = b"/", **more: Any) -> UpstreamRequest:
    fields = more.pop("fields", [("Host", "a.example")])
    return UpstreamRequest(method, origin, target, fields, timeouts=more.pop("timeouts", QUICK), **more)


@pytest.fixture
def session(transport: Transport) -> Iterator[UpstreamSession]:
    with UpstreamSession(transport()) as made:
        yield made


def read(session: UpstreamSession, sent: UpstreamRequest) -> bytes:
    raw = session.exchange(sent)
    try:
        return b"".join(raw.stream())
    finally:
        raw.close()


@pytest.mark.parametrize(
    "target",
    [b"/", b"*", b"/a%2fb", b"/a%2Fb", b"//a//b", b"/a[1]?x[]=1", b"/a/../b/./c", b"/\xff\xc3\xa9", b"/?q=%zz&&a=%00", b"/a;p=1?x=a+b?c"],
)
def test_R8_R9_the_target_is_sent_untouched(session: UpstreamSession, serve: Any, target: bytes) -> None:
    upstream = serve([OK])
    assert read(session, request(upstream.origin, target=target)) == b"ok"
    assert upstream.requests == [b"GET " + target + b" HTTP/1.1\r\nHost: a.example\r\n\r\n"]


def test_H12_H16_R15_R23_exactly_the_given_fields_are_sent(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([OK])
    fields = [("host", "a.example"), ("X-M", "1"), ("x-m", "2"), ("X-M", "1"), ("Bytes", "\xe9\x80")]
    read(session, request(upstream.origin, fields=fields))
    assert upstream.requests == [b"GET / HTTP/1.1\r\nhost: a.example\r\nX-M: 1\r\nx-m: 2\r\nX-M: 1\r\nBytes: \xe9\x80\r\n\r\n"]


@pytest.mark.parametrize(
    ("method", "body", "expected"),
    [
        ("GET", None, b"\r\n"),
        ("POST", None, b"Content-Length: 0\r\n\r\n"),
        ("POST", b"", b"Content-Length: 0\r\n\r\n"),
        ("GET", b"abc", b"Content-Length: 3\r\n\r\nabc"),
        ("POST", SizedBody([b"ab", b"", b"c"], 3), b"Content-Length: 3\r\n\r\nabc"),
        ("POST", SizedBody([], 0), b"Content-Length: 0\r\n\r\n"),
        ("POST", SizedBody([b"ab", b"", b"c" * 16]), b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n10\r\ncccccccccccccccc\r\n0\r\n\r\n"),
    ],
)
def test_R5_the_gateway_frames_the_body(session: UpstreamSession, serve: Any, method: str, body: Any, expected: bytes) -> None:
    upstream = serve([OK])
    fields = [("Host", "a.example"), ("Content-Length", "999"), ("Transfer-Encoding", "gzip")]
    assert read(session, request(upstream.origin, method, body=body, fields=fields)) == b"ok"
    assert upstream.requests == [method.encode() + b" / HTTP/1.1\r\nHost: a.example\r\n" + expected]


def test_large_bodies_arrive_whole(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([OK, OK, OK])
    data = bytes(range(256)) * 8192  # 2 MiB: more than a socket takes at once
    for body in (data, SizedBody([data], len(data)), SizedBody([data[:70_000], data[70_000:]], len(data))):
        assert read(session, request(upstream.origin, "POST", body=body)) == b"ok"
    assert [sent.partition(b"\r\n\r\n")[2] == data for sent in upstream.requests] == [True] * 3
    assert upstream.accepted == 1


def test_R6_a_body_short_of_its_length_aborts_the_upstream(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([OK])
    with pytest.raises(ClientLeft) as caught:
        session.exchange(request(upstream.origin, "POST", body=SizedBody([b"abc"], 10)))
    assert (caught.value.phase, caught.value.sent) == ("send", True)
    upstream.wait(ended=1)
    assert upstream.requests[0].endswith(b"\r\n\r\nabc")  # what came until the connection ended


def test_R6_a_body_beyond_its_length_is_not_sent(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([OK])
    with pytest.raises(ValueError, match="more than the 3 bytes"):
        session.exchange(request(upstream.origin, "POST", body=SizedBody([b"ab", b"cd"], 3)))
    upstream.wait(ended=1)
    assert upstream.requests[0].endswith(b"\r\n\r\nab")


@pytest.mark.parametrize("length", [10, None])
def test_B10_what_the_body_raises_passes_and_the_upstream_is_aborted(session: UpstreamSession, serve: Any, length: int | None) -> None:
    class OwnError(Exception):
        pass

    def chunks() -> Iterator[bytes]:
        yield b"abc"
        raise OwnError

    seen: list[bytes] = []
    upstream = serve(lambda peer: seen.append(peer.head() + peer.wait_closed()))
    with pytest.raises(OwnError):
        session.exchange(request(upstream.origin, "POST", body=SizedBody(chunks(), length)))
    upstream.wait(ended=1)
    assert b"abc" in seen[0]
    assert b"0\r\n\r\n" not in seen[0]


@pytest.mark.parametrize("closes", [True, False])
def test_an_early_answer_is_delivered_and_the_rest_of_the_body_is_not_sent(session: UpstreamSession, serve: Any, closes: bool) -> None:
    def script(peer: Any) -> None:
        peer.head()
        peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        if not closes:
            peer.wait_closed()

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    upstream = serve(script, [OK])
    raw = session.exchange(request(upstream.origin, "POST", body=SizedBody(endless())))
    assert raw.status == 413
    assert b"".join(raw.stream()) == b"big"
    raw.close()
    assert read(session, request(upstream.origin)) == b"ok"
    assert upstream.accepted == 2  # a connection with half a request on it is not used again


def test_an_early_answer_ends_the_sending_of_one_large_body(session: UpstreamSession, serve: Any) -> None:
    def script(peer: Any) -> None:
        peer.sock.recv(1000)
        peer.say(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        finish.wait(5)

    finish = threading.Event()
    upstream = serve(script)
    raw = session.exchange(request(upstream.origin, "POST", body=b"x" * (32 << 20)))
    finish.set()
    assert (raw.status, raw.complete) == (401, True)


def test_interim_answers_do_not_stop_the_sending(session: UpstreamSession, serve: Any) -> None:
    def script(peer: Any) -> None:
        head = peer.head()
        peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        told.set()
        peer.buffer = head + b"\r\n\r\n" + peer.buffer
        peer.request()
        peer.say(OK)

    told = threading.Event()

    def chunks() -> Iterator[bytes]:
        yield b"a" * 10
        assert told.wait(5)
        yield b"b" * 10

    upstream = serve(script)
    assert read(session, request(upstream.origin, "POST", body=SizedBody(chunks(), 20))) == b"ok"
    assert upstream.requests[0].endswith(b"a" * 10 + b"b" * 10)


def test_a_body_that_comes_too_slowly_is_the_clients_fault(session: UpstreamSession, serve: Any) -> None:
    finish = threading.Event()

    def slow() -> Iterator[bytes]:
        time.sleep(0.2)
        yield b"late"

    upstream = serve(lambda peer: finish.wait(5))
    timeouts = Timeouts(connect=1.0, head=5.0, read=5.0, total=0.1)
    with pytest.raises(RequestTimeout):
        session.exchange(request(upstream.origin, "POST", body=SizedBody(slow(), 4), timeouts=timeouts))
    finish.set()


def test_a_request_that_is_not_taken_times_out(session: UpstreamSession, serve: Any) -> None:
    finish = threading.Event()
    upstream = serve(lambda peer: finish.wait(5))
    timeouts = Timeouts(connect=1.0, head=5.0, read=0.3)
    with pytest.raises(UpstreamTimedOut) as caught:
        session.exchange(request(upstream.origin, "POST", body=b"x" * (32 << 20), timeouts=timeouts))
    finish.set()
    assert (caught.value.phase, caught.value.sent) == ("send", True)


def test_an_upstream_that_closes_while_it_is_sent_to_failed_in_sending(session: UpstreamSession, serve: Any) -> None:
    upstream = serve(lambda peer: peer.head())
    with pytest.raises(UpstreamFailed) as caught:
        session.exchange(request(upstream.origin, "POST", body=SizedBody(iter(lambda: b"x" * 65536, b""))))
    assert (caught.value.phase, caught.value.sent, caught.value.reused) == ("send", True, False)


@pytest.mark.parametrize("target", [b"a", b"http://b.example/", b"/a b", b"/\r\nX: y"])
def test_R7_a_target_that_is_no_path_is_refused_before_anything_is_sent(session: UpstreamSession, serve: Any, target: bytes) -> None:
    upstream = serve([OK])
    with pytest.raises(ValueError, match="target"):
        session.exchange(request(upstream.origin, target=target))
    upstream.wait(accepted=1, ended=1)
    assert upstream.requests == []


def test_H14_a_line_break_in_a_field_is_refused_before_anything_is_sent(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([OK])
    with pytest.raises(ValueError, match="header X"):
        session.exchange(request(upstream.origin, fields=[("X", "a\r\nY: b")]))
    assert (upstream.accepted, upstream.requests) == (0, [])


def test_only_hand_built_requests_are_sent(session: UpstreamSession) -> None:
    with pytest.raises(TypeError, match="UpstreamRequest"):
        session.get("http://127.0.0.1:9/")
    with pytest.raises(TypeError, match="UpstreamRequest"):
        session.get_adapter("http://127.0.0.1:9/").send(requests.Request("GET", "http://127.0.0.1:9/").prepare())


def test_a_request_can_be_read_as_one_of_requests() -> None:
    made = request(Origin("https", "::1", 8443), "POST", b"/a?b", body=b"x")
    assert (made.method, made.url, made.headers["host"], made.body) == ("POST", "https://[::1]:8443/a?b", "a.example", b"x")


def test_total_becomes_a_deadline_unless_one_is_given() -> None:
    total = Timeouts(total=10.0)
    origin = Origin("http", "127.0.0.1", 80)
    assert request(origin).deadline is None
    assert request(origin, timeouts=total).deadline is not None
    assert request(origin, timeouts=total, deadline=5.0).deadline == 5.0


def test_every_failure_is_one_kind(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([])
    with pytest.raises(Failure) as caught:
        session.exchange(request(upstream.origin, timeouts=Timeouts(connect=1.0, head=0.2)))
    assert isinstance(caught.value, UpstreamTimedOut)
