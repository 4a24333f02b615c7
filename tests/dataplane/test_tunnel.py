"""Tunnels between two socket pairs, of which the tests hold the outer ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.socket import SHUT_WR, SO_RCVBUF, SO_SNDBUF, SOL_SOCKET, socketpair
from websockets.frames import Close, Frame, Opcode

import gwproxy.dataplane.tunnel as tunnel_module
from gwproxy.dataplane.pool import Pool
from gwproxy.dataplane.tunnel import ENDING, Tunnel, Upgraded, switching_head
from gwproxy.dataplane.upstream_response import RawResponse
from gwproxy.dataplane.wire import Head
from gwproxy.http.headers import Headers

HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
PATIENCE = 10.0


def frame(payload: bytes, opcode: Opcode = Opcode.BINARY, *, masked: bool) -> bytes:
    return Frame(opcode, payload).serialize(mask=masked)


def close(code: int, reason: str = "", *, masked: bool) -> bytes:
    return frame(Close(code, reason).serialize(), Opcode.CLOSE, masked=masked)


AWAY = close(1001, "going away", masked=False)


class Joined:
    """A tunnel that runs, and what client and upstream hold of it."""

    def __init__(self, *, early: bytes = b"", leftover: bytes = b"", idle: float = 30.0, total: float | None = None) -> None:
        self.client, inner = socketpair()
        self.upstream, outer = socketpair()
        for sock in (self.client, self.upstream):
            sock.settimeout(PATIENCE)
        for sock in (self.client, self.upstream, inner, outer):
            sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 32 * 1024)
            sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 32 * 1024)
        connection = Pool(lambda until: outer, 60).lease(time.monotonic() + 1)
        made = Head(101, [], [], None, False, True, None)
        raw = RawResponse(made, leftover, connection, body=False, reusable=False, read=idle, deadline=None)
        deadline = None if total is None else time.monotonic() + total
        self.tunnel = Tunnel(inner, early, Upgraded(raw, raw.close), idle=idle, deadline=deadline)
        self._inner, self._raw = inner, raw
        self._running: Any = None

    def start(self) -> Joined:
        self._running = gevent.spawn(self._run)
        return self

    def _run(self) -> None:
        try:
            self.tunnel.run(HEAD)
        finally:  # as the worker and the gateway do
            self._inner.close()
            self._raw.close()

    def over(self) -> Tunnel:
        """Wait until the tunnel is over."""
        self._running.get(timeout=PATIENCE)
        return self.tunnel

    def stop(self) -> None:
        if self._running is not None:
            self._running.kill()
        self.client.close()
        self.upstream.close()


Join = Callable[..., Joined]


@pytest.fixture
def join() -> Iterator[Join]:
    made: list[Joined] = []

    def make(**options: Any) -> Joined:
        made.append(Joined(**options))
        return made[-1]

    yield make
    for joined in made:
        joined.stop()


@pytest.fixture
def no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give both sides all the time of the world, so that what ends in time did not wait for it."""
    for name in ("ENDING", "PARTING"):
        monkeypatch.setattr(tunnel_module, name, 100 * PATIENCE)


def take(sock: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"ended after {data!r}"
        data += more
    return bytes(data)


def rest(sock: Any) -> bytes:
    data = b""
    while more := sock.recv(65536):
        data += more
    return bytes(data)


# ---- what is carried


def test_the_head_comes_first_then_what_was_read_before(join: Join) -> None:
    joined = join(early=b"early", leftover=b"leftover").start()
    assert take(joined.client, len(HEAD) + 8) == HEAD + b"leftover"
    assert take(joined.upstream, 5) == b"early"


def test_bytes_go_both_ways_and_are_counted(join: Join) -> None:
    joined = join(early=b"12").start()
    take(joined.client, len(HEAD))
    joined.client.sendall(b"345")
    assert take(joined.upstream, 5) == b"12345"
    joined.upstream.sendall(b"x" * 1000)
    assert take(joined.client, 1000) == b"x" * 1000
    joined.upstream.close()
    joined.client.close()
    tunnel = joined.over()
    assert (tunnel.bytes_in, tunnel.bytes_out, tunnel.reason) == (5, 1000, "")


def test_both_ways_at_once(join: Join) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    data = bytes(range(256)) * 4000
    sending = [gevent.spawn(joined.client.sendall, data), gevent.spawn(joined.upstream.sendall, data)]
    reading = [gevent.spawn(take, joined.client, len(data)), gevent.spawn(take, joined.upstream, len(data))]
    gevent.joinall([*sending, *reading], timeout=PATIENCE, raise_error=True)
    assert [greenlet.value == data for greenlet in reading] == [True, True]


def test_a_tunnel_that_never_waits_lets_others_run(join: Join) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    turns = 0

    def other() -> None:
        nonlocal turns
        while True:
            gevent.sleep(0)
            turns += 1

    data = b"x" * 4_000_000
    greenlets = [gevent.spawn(joined.upstream.sendall, data), gevent.spawn(other)]
    take(joined.client, len(data))
    gevent.killall(greenlets)
    assert turns > 100


# ---- how it ends


def test_an_end_is_passed_on_and_what_comes_after_it_too(join: Join) -> None:
    joined = join().start()
    joined.client.shutdown(SHUT_WR)
    assert rest(joined.upstream) == b""
    joined.upstream.sendall(b"last words")
    joined.upstream.close()
    assert rest(joined.client) == HEAD + b"last words"
    assert joined.over().reason == ""


@pytest.mark.parametrize("side", ["client", "upstream"])
def test_one_side_that_ended_gives_the_other_a_while(join: Join, side: str) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    began = time.monotonic()
    getattr(joined, side).shutdown(SHUT_WR)
    assert joined.over().reason == ""
    assert time.monotonic() - began >= ENDING * 0.9


@pytest.mark.usefixtures("no_end")
@pytest.mark.parametrize("first", ["client", "upstream"])
def test_after_both_close_frames_the_first_end_is_the_end_of_both(join: Join, first: str) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    goodbye, echo = close(1000, masked=True), close(1000, masked=False)
    joined.client.sendall(goodbye)
    assert take(joined.upstream, len(goodbye)) == goodbye
    joined.upstream.sendall(echo)
    assert take(joined.client, len(echo)) == echo
    getattr(joined, first).shutdown(SHUT_WR)
    assert joined.over().completed


def test_close_frames_alone_end_it_soon(join: Join) -> None:
    joined = join().start()
    joined.client.sendall(close(1000, masked=True))
    joined.upstream.sendall(close(1000, masked=False))
    assert joined.over().reason == ""


def test_a_connection_lost_without_a_close_frame_is_not_completed(join: Join) -> None:
    joined = join().start()
    joined.client.sendall(frame(b"x", masked=True))
    joined.client.close()
    joined.upstream.close()
    assert not joined.over().completed


def test_silence_ends_it_and_both_are_told(join: Join) -> None:
    joined = join(idle=0.2).start()
    assert rest_after(joined) == close(1001, "idle timeout", masked=False)
    assert joined.over().reason == "idle timeout"


def test_bytes_of_one_side_are_enough(join: Join) -> None:
    joined = join(idle=0.5).start()
    take(joined.client, len(HEAD))
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        joined.upstream.sendall(b"x")
        take(joined.client, 1)
    assert joined.tunnel.reason == ""


def test_a_side_that_takes_nothing_ends_it_though_the_other_way_is_busy(join: Join) -> None:
    joined = join(idle=0.3).start()
    busy = gevent.spawn(pester, joined.upstream)
    chatting = gevent.spawn(chat, joined)
    tunnel = joined.over()
    gevent.killall([busy, chatting])
    assert tunnel.reason == "write timeout"


def test_it_has_a_deadline(join: Join) -> None:
    joined = join(total=0.2).start()
    assert rest_after(joined) == close(1001, "time limit", masked=False)
    assert joined.over().reason == "time limit"


def pester(sock: Any) -> None:
    """Send what nobody reads."""
    while True:
        sock.sendall(b"x" * 65536)


def chat(joined: Joined) -> None:
    while True:
        joined.client.sendall(b"y")
        take(joined.upstream, 1)


def rest_after(joined: Joined) -> bytes:
    """What the client gets after the head, if both sides answer a Close frame by one and end."""
    take(joined.client, len(HEAD))
    got = take(joined.client, 2)
    got += take(joined.client, got[1])
    joined.client.sendall(close(1001, masked=True))
    joined.upstream.sendall(close(1001, masked=False))
    return got + rest(joined.client)


# ---- goodbye, when the gateway ends it


@pytest.mark.usefixtures("no_end")
def test_both_sides_are_told_and_answer(join: Join) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    joined.tunnel.end("going away")
    assert take(joined.client, len(AWAY)) == AWAY
    told = take(joined.upstream, len(AWAY) + 4)
    assert told[:2] == bytes([0x88, 0x80 | (len(AWAY) - 2)])
    joined.client.sendall(close(1001, masked=True))
    joined.upstream.sendall(close(1001, masked=False))
    tunnel = joined.over()
    assert (tunnel.reason, tunnel.completed) == ("going away", True)
    assert (rest(joined.client), rest(joined.upstream)) == (b"", b"")


def test_asked_before_it_began_it_ends_after_the_head(join: Join) -> None:
    joined = join(leftover=frame(b"unsaid", masked=False))
    joined.tunnel.end("going away")
    joined.start()
    joined.client.sendall(close(1001, masked=True))
    joined.upstream.sendall(close(1001, masked=False))
    assert rest(joined.client) == HEAD + AWAY


def test_a_frame_under_way_is_completed_first_and_nothing_follows_the_goodbye(join: Join) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    first, second = frame(b"a" * 1000, masked=False), frame(b"b" * 1000, masked=False)
    joined.upstream.sendall(first[:500])
    assert take(joined.client, 500) == first[:500]
    joined.tunnel.end("going away")
    take(joined.upstream, len(AWAY) + 4)  # told already: nothing was under way there
    joined.upstream.sendall(first[500:] + second[:700])
    assert take(joined.client, len(first) - 500 + len(AWAY)) == first[500:] + AWAY
    joined.upstream.sendall(second[700:] + close(1001, masked=False))
    joined.client.sendall(close(1001, masked=True))
    assert rest(joined.client) == b""


def test_a_side_that_has_said_goodbye_itself_is_passed_on(join: Join) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    own = close(1000, "done", masked=False)
    joined.upstream.sendall(own)
    assert take(joined.client, len(own)) == own
    joined.tunnel.end("going away")
    joined.client.sendall(close(1000, masked=True))
    assert rest(joined.client) == b""
    assert joined.over().completed


def test_a_frame_that_never_ends_is_cut_and_no_goodbye_stands_in_it(join: Join) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    part = frame(b"x" * 1000, masked=False)[:600]
    joined.upstream.sendall(part)
    assert take(joined.client, len(part)) == part
    joined.tunnel.end("going away")
    joined.client.sendall(close(1001, masked=True))
    assert rest(joined.client) == b""
    assert joined.over().reason == "going away"


@pytest.mark.usefixtures("no_end")
def test_what_is_no_websocket_is_carried_and_gets_no_goodbye(join: Join) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    joined.client.sendall(b"some other protocol")
    assert take(joined.upstream, 19) == b"some other protocol"
    joined.upstream.sendall(b"\x00\xffanother one")
    assert take(joined.client, 13) == b"\x00\xffanother one"
    joined.tunnel.end("going away")
    assert (rest(joined.client), rest(joined.upstream)) == (b"", b"")
    assert joined.over().reason == "going away"


def test_killing_it_leaves_nothing_behind(join: Join) -> None:
    joined = join().start()
    take(joined.client, len(HEAD))
    joined.stop()
    assert joined._inner.fileno() == joined.upstream.fileno() == -1


# ---- the head


def test_the_head_has_the_end_to_end_fields_and_no_body() -> None:
    fields = [("Sec-WebSocket-Accept", "abc="), ("content-length", "0"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-L", "\xe9")]
    assert switching_head(Headers(fields)) == (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: abc=\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-L: \xe9\r\n\r\n"
    )


def test_H15_a_field_with_a_line_break_is_refused() -> None:
    with pytest.raises(ValueError, match="X-Bad"):
        switching_head(Headers([("X-Bad", "a\r\nb: c")]))
