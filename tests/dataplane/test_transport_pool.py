"""Which connection a request goes over."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from gwproxy.dataplane.transport import GatewayAdapter, Origin, RawResponse, UpstreamFailed, UpstreamRequest
from gwproxy.model import Timeouts
from tests.dataplane.conftest import Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENT = Timeouts(connect=5.0, head=5.0, read=5.0)


@pytest.fixture
def adapter(transport: Transport) -> Any:
    made = transport()
    yield made
    made.close()


def exchange(adapter: GatewayAdapter, upstream: Any, method: str = "GET", timeouts: Timeouts = PATIENT) -> RawResponse:
    return adapter.send(UpstreamRequest(method, upstream.origin, b"/", [("Host", "a")], timeouts=timeouts)).raw


def read(adapter: GatewayAdapter, upstream: Any) -> RawResponse:
    raw = exchange(adapter, upstream)
    assert b"".join(raw.stream()) == b"ok"
    raw.close()
    return raw


def counts(adapter: GatewayAdapter) -> list[int]:
    """How many idle connections each origin has."""
    return [idle for _, idle in adapter.connections()]


def halved(go: threading.Event, *before: bytes) -> Any:
    """Script: answers ``before``, then in two halves of which the second waits for ``go``, then ok."""

    def script(peer: Any) -> None:
        for answer in before:
            peer.request()
            peer.say(answer)
        peer.request()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        assert go.wait(5)
        peer.say(b"lf")
        if peer.request():
            peer.say(b"HTTP/1.1 200 OK\r\nHalf: 1\r\nContent-Length: 2\r\n\r\nok")
        peer.wait_closed()

    return script


def until_readable(adapter: GatewayAdapter, upstream: Any) -> None:
    """Wait until what the upstream did to its idle connection has arrived here."""
    connection = adapter._pools[upstream.origin.name]._idle[-1]
    deadline = time.monotonic() + 5
    while not connection.readable():
        assert time.monotonic() < deadline


def test_a_connection_is_used_again_and_is_its_exchange_s_own_meanwhile(adapter: GatewayAdapter, serve: Any) -> None:
    upstream = serve([OK, OK, OK])
    raw = exchange(adapter, upstream)
    assert counts(adapter) == [1]  # the whole body came with the head
    assert not raw.reused
    assert [read(adapter, upstream).reused for _ in range(2)] == [True, True]
    assert upstream.accepted == 1


def test_the_connection_used_last_is_used_next(adapter: GatewayAdapter, serve: Any) -> None:
    go = threading.Event()
    upstream = serve(halved(go), [OK])
    first = exchange(adapter, upstream)
    read(adapter, upstream)
    go.set()
    assert b"".join(first.stream()) == b"half"
    first.close()
    assert counts(adapter) == [2]
    upstream.wait(accepted=2)
    assert read(adapter, upstream).fields[0][1:3] == ("Half", "1")


def test_R14_a_response_that_is_closed_early_takes_its_connection_along(adapter: GatewayAdapter, serve: Any) -> None:
    upstream = serve([b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"], [OK])
    raw = exchange(adapter, upstream)
    assert counts(adapter) == [0]
    raw.close()
    raw.close()
    raw.release_conn()
    upstream.wait(ended=1)
    assert counts(adapter) == [0]
    assert not read(adapter, upstream).reused


def test_closing_twice_does_not_close_what_others_use(adapter: GatewayAdapter, serve: Any) -> None:
    go = threading.Event()
    upstream = serve(halved(go, OK))
    first = read(adapter, upstream)
    second = exchange(adapter, upstream)
    assert second.reused
    first.close()
    go.set()
    assert b"".join(second.stream()) == b"half"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    ],
    ids=["close", "http_1_0", "hint_of_a_second", "U20_after_length", "U20_after_chunks"],
)
def test_some_connections_serve_once(adapter: GatewayAdapter, serve: Any, answer: bytes) -> None:
    upstream = serve([answer], [OK])
    read(adapter, upstream)
    assert not read(adapter, upstream).reused
    upstream.wait(accepted=2, ended=1)


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil"),
        ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ],
)
def test_U20_U33_a_body_where_none_belongs_reaches_nobody(adapter: GatewayAdapter, serve: Any, method: str, answer: bytes) -> None:
    upstream = serve([answer], [OK])
    raw = exchange(adapter, upstream, method)
    assert list(raw.stream()) == []
    raw.close()
    assert not read(adapter, upstream).reused


@pytest.mark.parametrize("stray", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b""], ids=["byte", "answer", "end"])
def test_U19_an_idle_connection_on_which_anything_comes_is_discarded(adapter: GatewayAdapter, serve: Any, stray: bytes) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.say(OK)
        peer.say(stray)
        if stray:
            peer.wait_closed()

    upstream = serve(script, [OK])
    exchange(adapter, upstream).close()
    if adapter._pools[upstream.origin.name].idle:  # else it came together with the answer
        until_readable(adapter, upstream)
    assert not read(adapter, upstream).reused
    assert len(upstream.requests) == 2


def test_U05_U06_a_reused_connection_that_dies_says_so(adapter: GatewayAdapter, serve: Any) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.say(OK)
        peer.request()

    upstream = serve(script)
    read(adapter, upstream)
    with pytest.raises(UpstreamFailed) as caught:
        exchange(adapter, upstream)
    assert (caught.value.phase, caught.value.sent, caught.value.reused) == ("head", True, True)
    assert len(upstream.requests) == 2  # sent once: a retry is decided elsewhere


@pytest.mark.parametrize("answer", [b"HT", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_R16_a_reused_connection_that_dies_after_a_byte_does_not(adapter: GatewayAdapter, serve: Any, answer: bytes) -> None:
    def script(peer: Any) -> None:
        peer.request()
        peer.say(OK)
        peer.request()
        peer.say(answer)

    upstream = serve(script)
    read(adapter, upstream)
    with pytest.raises(UpstreamFailed) as caught:
        exchange(adapter, upstream)
    assert not caught.value.reused


def test_without_keepalive_every_connection_serves_once_and_the_upstream_is_told(transport: Transport, serve: Any) -> None:
    upstream = serve([OK], [OK])
    adapter = transport(keepalive=False)
    assert [read(adapter, upstream).reused for _ in range(2)] == [False, False]
    upstream.wait(accepted=2, ended=2)
    assert upstream.requests == [b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"] * 2


def test_heads_that_come_again_are_those_that_came_and_are_nobody_s_to_change(adapter: GatewayAdapter, serve: Any) -> None:
    heads = [b"HTTP/1.1 200 OK\r\nX-Tag: %b\r\nContent-Length: 2\r\n\r\n" % tag for tag in (b"a", b"a", b"b", b"a", b"a" * 3000, b"a")]
    upstream = serve([head + b"%02d" % number for number, head in enumerate(heads)])
    for number, head in enumerate(heads):
        raw = exchange(adapter, upstream)
        assert (raw.whole, [line for *_, line in raw.fields]) == (b"%02d" % number, [line + b"\r\n" for line in head.split(b"\r\n")[1:-2]])
        raw.headers().remove("X-Tag")  # as a plugin may
    assert upstream.accepted == 1


def test_an_idle_connection_is_kept_for_idle_timeout(transport: Transport, serve: Any) -> None:
    upstream = serve([OK, OK], [OK])
    adapter = transport(idle_timeout=0.05)
    read(adapter, upstream)
    pool = adapter._pools[upstream.origin.name]
    expiry = pool._idle[0].idle_until
    while time.monotonic() <= expiry:
        pass
    assert not read(adapter, upstream).reused
    upstream.wait(accepted=2, ended=1)
    adapter.close()


def test_a_hint_of_the_upstream_shortens_idle_timeout_only(adapter: GatewayAdapter, serve: Any) -> None:
    answers = [b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=%d\r\nContent-Length: 2\r\n\r\nok" % seconds for seconds in (5, 900)]
    upstream = serve(answers)
    kept = []
    for _ in answers:
        read(adapter, upstream)
        kept.append(adapter._pools[upstream.origin.name]._idle[-1].idle_until - time.monotonic())
    assert 3 < kept[0] <= 4
    assert 58 < kept[1] <= 60


def test_S04_prune_closes_what_the_upstream_has_closed_and_keeps_the_rest(adapter: GatewayAdapter, serve: Any) -> None:
    closing, staying = serve([OK, None]), serve([OK, OK])
    read(adapter, closing)
    read(adapter, staying)
    until_readable(adapter, closing)
    adapter.prune()
    assert counts(adapter) == [0, 1]
    assert read(adapter, staying).reused


def test_no_connection_is_left_of_an_exchange_that_failed(transport: Transport, serve: Any) -> None:
    upstream = serve([b"garbage\r\n\r\n"], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"], [None])
    adapter = transport()
    with pytest.raises(UpstreamFailed):
        exchange(adapter, upstream)
    exchange(adapter, upstream).close()
    with pytest.raises(UpstreamFailed):
        exchange(adapter, upstream)
    nowhere = Origin("http", "127.0.0.1", 1)
    with pytest.raises(UpstreamFailed):
        adapter.send(UpstreamRequest("GET", nowhere, b"/", [], timeouts=PATIENT))
    upstream.wait(ended=3)
    assert counts(adapter) == [0, 0]
    adapter.close()


def test_U34_concurrent_exchanges_share_connections_and_keep_apart(transport: Transport, serve: Any) -> None:
    def script(peer: Any) -> None:
        while head := peer.request():
            name = head.split()[1]
            peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))

    upstream = serve(*[script] * 50)
    adapter = transport()
    wrong: list[bytes] = []

    def client(number: int) -> None:
        for turn in range(20):
            name = b"/%d-%d" % (number, turn)
            raw = adapter.send(UpstreamRequest("GET", upstream.origin, name, [("Host", "a")], timeouts=PATIENT)).raw
            body = b"".join(raw.stream())
            raw.close()
            if body != name:
                wrong.append(body)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert len(upstream.requests) == 240
    assert upstream.accepted <= 12
    adapter.close()


def test_U35_each_of_many_origins_keeps_its_connection(adapter: GatewayAdapter, serve: Any) -> None:
    upstreams = [serve([OK, OK]) for _ in range(12)]
    for _ in range(2):
        for upstream in upstreams:
            read(adapter, upstream)
    assert [upstream.accepted for upstream in upstreams] == [1] * 12


def test_a_closed_adapter_closes_connections_at_the_end_of_their_exchange(transport: Transport, serve: Any) -> None:
    go = threading.Event()
    upstream = serve(halved(go), [OK], [OK])
    adapter = transport()
    running = exchange(adapter, upstream)
    read(adapter, upstream)
    adapter.close()
    upstream.wait(ended=1)
    go.set()
    assert b"".join(running.stream()) == b"half"
    upstream.wait(ended=2)
    assert not read(adapter, upstream).reused  # a request with an old snapshot is still served
    upstream.wait(ended=3)
