"""What is made of an upstream's answers (reliability 2.9)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gwproxy.dataplane.session import UpstreamSession
from gwproxy.dataplane.transport import ClientLeft, Failure, RawResponse, UpstreamFailed, UpstreamRequest, UpstreamTimedOut
from gwproxy.model import Timeouts
from tests.dataplane.conftest import Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
QUICK = Timeouts(connect=1.0, head=0.3, read=0.3)
PATIENT = Timeouts(connect=5.0, head=5.0, read=5.0)


@pytest.fixture
def session(transport: Transport) -> Iterator[UpstreamSession]:
    with UpstreamSession(transport()) as made:
        yield made


def exchange(session: UpstreamSession, upstream: Any, method: str = "GET", timeouts: Timeouts = PATIENT, **more: Any) -> RawResponse:
    return session.exchange(UpstreamRequest(method, upstream.origin, b"/", [("Host", "a")], timeouts=timeouts, **more))


def refused(session: UpstreamSession, upstream: Any, timeouts: Timeouts = PATIENT, **more: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        exchange(session, upstream, timeouts=timeouts, **more)
    upstream.wait(ended=1)  # and the connection was closed
    return caught.value


def test_U02_no_answer_is_504(session: UpstreamSession, serve: Any) -> None:
    failure = refused(session, serve([]), QUICK)
    assert isinstance(failure, UpstreamTimedOut)
    assert (failure.status, failure.phase, failure.sent, failure.reused) == (504, "head", True, False)


def test_U03_a_trickled_head_is_504_at_the_deadline_of_the_whole_head(session: UpstreamSession, serve: Any) -> None:
    stop = threading.Event()

    def script(peer: Any) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\n")
        while not stop.wait(0.05):
            peer.say(b"X-Slow: 1\r\n")

    upstream = serve(script)
    began = time.monotonic()
    with pytest.raises(UpstreamTimedOut):
        exchange(session, upstream, timeouts=QUICK)
    assert 0.3 <= time.monotonic() - began < 1.5
    stop.set()


def test_R17_the_total_deadline_caps_the_head(session: UpstreamSession, serve: Any) -> None:
    failure = refused(session, serve([]), Timeouts(connect=5.0, head=5.0, read=5.0, total=0.2))
    assert isinstance(failure, UpstreamTimedOut)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nX: a", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_U04_a_connection_that_ends_before_the_head_is_502(session: UpstreamSession, serve: Any, answer: bytes) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.say(answer)

    failure = refused(session, serve(script))
    assert (failure.status, failure.phase, failure.sent, failure.reused) == (502, "head", True, False)  # type: ignore[attr-defined]


MALFORMED = {
    "U15_two_lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "U15_length_and_chunked": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "U16_gzip_chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "U24_obs_fold": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "U24_bare_lf": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "U24_bare_cr": b"HTTP/1.1 200 OK\r\nX: a\rY: b\r\nContent-Length: 0\r\n\r\n",
    "U24_nul": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "U28_101_fields": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 101 + b"Content-Length: 0\r\n\r\n",
    "U28_70_KB_line": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
    "U29_90_large_fields": b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 60_000 + b"\r\n") * 90 + b"\r\n",
    "U30_099": b"HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n",
    "U30_abc": b"HTTP/1.1 abc X\r\nContent-Length: 0\r\n\r\n",
    "U30_600": b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",
    "U30_999": b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
    "U32_http_0_9": b"<html>hello</html>",
    "U32_http_3_7": b"HTTP/3.7 200 OK\r\nContent-Length: 0\r\n\r\n",
    "U32_http_2_preface": b"\0\0\x12\x04\0\0\0\0\0",
    "R11_unasked_101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "R11_eleven_interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 11 + OK,
    "R11_malformed_interim": b"HTTP/1.1 103 X\r\nX: a\n\r\n\r\n" + OK,
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED)
def test_malformed_heads_are_502_at_once(session: UpstreamSession, serve: Any, answer: bytes) -> None:
    failure = refused(session, serve([answer]))
    assert isinstance(failure, UpstreamFailed)
    assert (failure.status, failure.phase, failure.sent, failure.reused) == (502, "head", True, False)


def test_U30_no_reason_passes(session: UpstreamSession, serve: Any) -> None:
    assert exchange(session, serve([b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"])).status == 200


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_R11_interim_answers_are_skipped_however_they_are_cut(session: UpstreamSession, serve: Any, step: int) -> None:
    whole = b"HTTP/1.1 100 Continue\r\n\r\n" + b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 9 + OK

    def script(peer: Any) -> None:
        peer.request()
        for at in range(0, len(whole), step):
            peer.say(whole[at : at + step])
        peer.wait_closed()

    raw = exchange(session, serve(script))
    assert (raw.status, b"".join(raw.stream())) == (200, b"ok")


def test_H17_R15_fields_keep_order_case_and_repetition(session: UpstreamSession, serve: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nX-B: \xe9\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
    raw = exchange(session, serve([head]))
    fields = [(name, value) for _, name, value, _ in raw.fields]
    assert fields == [("set-cookie", "a=1"), ("X-B", "\xe9"), ("Set-Cookie", "b=2"), ("Content-Length", "0")]


BODIES = {
    "length": b"Content-Length: 11\r\n\r\nhello world",
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n",
}


@pytest.mark.parametrize("answer", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("step", [1, 10, 1000])
def test_bodies_are_read_to_their_end_and_the_connection_is_used_again(
    session: UpstreamSession, serve: Any, answer: bytes, step: int
) -> None:
    whole = b"HTTP/1.1 200 OK\r\n" + answer

    def script(peer: Any) -> None:
        while peer.request():
            for at in range(0, len(whole), step):
                peer.say(whole[at : at + step])

    upstream = serve(script)
    for turn in range(3):
        raw = exchange(session, upstream)
        assert b"".join(raw.stream()) == b"hello world"
        assert (raw.complete, raw.reused) == (True, turn > 0)
        raw.close()
    assert upstream.accepted == 1


def test_a_body_until_the_end_of_the_connection(session: UpstreamSession, serve: Any) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\n\r\nhello")
        peer.say(b" world")

    raw = exchange(session, serve(script))
    assert (raw.length, b"".join(raw.stream()), raw.complete) == (None, b"hello world", True)


def test_a_body_that_came_with_the_head_is_whole_at_once(session: UpstreamSession, serve: Any) -> None:
    raw = exchange(session, serve([OK]))
    assert (raw.whole, raw.complete, list(raw.stream())) == (b"ok", True, [b"ok"])


def test_R10_bytes_are_passed_on_as_they_come_and_never_decoded(session: UpstreamSession, serve: Any) -> None:
    go = threading.Event()

    def script(peer: Any) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 12\r\n\r\nnot gz")
        assert go.wait(5)
        peer.say(b"ip rly")
        peer.wait_closed()

    chunks = exchange(session, serve(script)).stream(decode_content=True)
    assert next(chunks) == b"not gz"  # U31, and nothing waited for
    go.set()
    assert b"".join(chunks) == b"ip rly"


def test_one_read_bounds_what_is_held(session: UpstreamSession, serve: Any) -> None:
    size = 4 << 20
    upstream = serve([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size])
    sizes = [len(chunk) for chunk in exchange(session, upstream).stream(4096)]
    assert sum(sizes) == size
    assert max(sizes[1:]) <= 4096


BODYLESS = {
    "U33_204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
    "U33_304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", 10),
    "U33_head": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 10),
    "U33_head_chunked": ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
}


@pytest.mark.parametrize(("method", "answer", "length"), BODYLESS.values(), ids=BODYLESS)
def test_answers_without_a_body(session: UpstreamSession, serve: Any, method: str, answer: bytes, length: int | None) -> None:
    upstream = serve([answer, OK])
    raw = exchange(session, upstream, method)
    assert (list(raw.stream()), raw.length, raw.complete) == ([], length, True)
    assert b"".join(exchange(session, upstream).stream()) == b"ok"
    assert upstream.accepted == 1


CUT = {
    "U08_length": b"Content-Length: 10\r\n\r\nabc",
    "U08_length_nothing": b"Content-Length: 10\r\n\r\n",
    "U09_no_last_chunk": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "U09_in_a_chunk": b"Transfer-Encoding: chunked\r\n\r\n8\r\nabc",
    "U09_in_the_trailer": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n",
    "U11_bad_size": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\nabc\r\n0\r\n\r\n",
    "U11_negative_size": b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "U12_no_crlf_after_data": b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc3\r\nabc\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", CUT.values(), ids=CUT)
def test_a_cut_or_malformed_body_never_ends_well(session: UpstreamSession, serve: Any, answer: bytes) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\n" + answer)

    raw = exchange(session, serve(script))
    with pytest.raises(UpstreamFailed) as caught:
        list(raw.stream())
    assert (caught.value.phase, caught.value.sent, caught.value.reused, raw.complete) == ("body", True, False, False)
    raw.close()
    with pytest.raises(UpstreamFailed):
        list(raw.stream())


def test_R13_a_body_that_was_closed_does_not_end_well(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"])
    raw = exchange(session, upstream)
    raw.close()
    with pytest.raises(UpstreamFailed):
        list(raw.stream())


def test_U23_a_redirect_is_a_response_like_any_other(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([b"HTTP/1.1 302 Found\r\nLocation: http://b.example/\r\nContent-Length: 10\r\n\r\nhel"])
    raw = exchange(session, upstream)
    assert (raw.status, next(raw.stream())) == (302, b"hel")
    raw.close()
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("answer", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"\r\nabc"])
def test_a_body_that_stalls_is_504(session: UpstreamSession, serve: Any, answer: bytes) -> None:
    upstream = serve([b"HTTP/1.1 200 OK\r\n" + answer])
    raw = exchange(session, upstream, timeouts=QUICK)
    with pytest.raises(UpstreamTimedOut) as caught:
        list(raw.stream())
    assert (caught.value.phase, raw.complete) == ("body", False)
    upstream.wait(ended=1)


def test_R17_the_total_deadline_cuts_a_body_that_trickles(session: UpstreamSession, serve: Any) -> None:
    stop = threading.Event()

    def script(peer: Any) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stop.wait(0.02):
            peer.say(b"x")

    raw = exchange(session, serve(script), timeouts=Timeouts(connect=1.0, head=1.0, read=1.0, total=0.3))
    with pytest.raises(UpstreamTimedOut):
        list(raw.stream())
    stop.set()


def test_B12_a_client_that_left_cancels_the_exchange(session: UpstreamSession, serve: Any) -> None:
    asked: list[bool] = []

    def gone() -> bool:
        asked.append(True)
        return len(asked) == 2

    failure = refused(session, serve([]), client_gone=gone)
    assert isinstance(failure, ClientLeft)
    assert (failure.phase, failure.sent, len(asked)) == ("head", True, 2)


@pytest.mark.parametrize("answer", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"])
def test_B11_a_client_that_left_cancels_a_body_that_is_silent(session: UpstreamSession, serve: Any, answer: bytes) -> None:
    upstream = serve([b"HTTP/1.1 200 OK\r\n" + answer])
    asked: list[bool] = []

    def gone() -> bool:
        asked.append(True)
        return len(asked) == 2

    raw = exchange(session, upstream, client_gone=gone)
    with pytest.raises(ClientLeft) as caught:
        list(raw.stream())
    assert (caught.value.phase, raw.complete, len(asked)) == ("body", False, 2)
    upstream.wait(ended=1)


def test_an_upgrade_hands_over_the_connection(session: UpstreamSession, serve: Any) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nfirst")
        peer.say(peer.sock.recv(100))
        peer.wait_closed()

    upstream = serve(script)
    raw = exchange(session, upstream, upgrade=True)
    assert (raw.status, raw.leftover, raw.complete) == (101, b"first", False)
    raw.socket.sendall(b"ping")
    assert raw.socket.recv(100) == b"ping"
    raw.close()
    upstream.wait(ended=1)


def test_an_upgrade_that_is_refused_is_a_response_like_any_other(session: UpstreamSession, serve: Any) -> None:
    raw = exchange(session, serve([b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"]), upgrade=True)
    assert (raw.status, b"".join(raw.stream())) == (403, b"no")
