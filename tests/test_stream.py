"""Bytes over a connected socket, every wait bounded: both kinds behave alike, and the loop's leaves nothing running."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket as gsocket

from gwproxy.stream import LoopStream, SocketStream, Stream, stream_of, take_turns

SOON = 0.05
LONG = 30.0


def soon(seconds: float = SOON) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    """A gevent socket that is tested, and its other end."""
    ours, theirs = gsocket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture(params=[LoopStream, SocketStream])
def stream(request: pytest.FixtureRequest, pair: tuple[Any, Any]) -> Iterator[Stream]:
    made: Stream = request.param(pair[0])
    yield made
    made.close()


def test_a_plain_gevent_socket_goes_by_the_loop_and_any_other_by_itself(pair: tuple[Any, Any]) -> None:
    made = stream_of(pair[0])
    assert type(made) is LoopStream
    made.close()
    assert type(stream_of(object())) is SocketStream


@pytest.mark.parametrize("awaited", [False, True])
def test_what_is_there_is_returned_at_once(stream: Stream, pair: tuple[Any, Any], awaited: bool) -> None:
    pair[1].sendall(b"hello")
    assert stream.receive(3, soon(LONG), awaited=awaited) == b"hel"
    assert stream.receive(100, soon(LONG), awaited=awaited) == b"lo"


@pytest.mark.parametrize("awaited", [False, True])
def test_what_comes_later_is_waited_for(stream: Stream, pair: tuple[Any, Any], awaited: bool) -> None:
    gevent.spawn_later(SOON, pair[1].sendall, b"late")
    assert stream.receive(100, soon(LONG), awaited=awaited) == b"late"


def test_the_end_is_empty(stream: Stream, pair: tuple[Any, Any]) -> None:
    pair[1].close()
    assert stream.receive(100, soon(LONG)) == b""
    assert stream.receive(100, soon(LONG)) == b""


def test_silence_ends_in_time_and_the_stream_is_still_of_use(stream: Stream, pair: tuple[Any, Any]) -> None:
    for _ in range(2):
        with pytest.raises(TimeoutError):
            stream.receive(100, soon())
    pair[1].sendall(b"now")
    assert stream.receive(100, soon(LONG)) == b"now"


def test_a_time_that_is_over_already_ends_a_wait_at_once(stream: Stream) -> None:
    with pytest.raises(TimeoutError):
        stream.receive(100, time.monotonic() - 1)


def test_a_later_end_counts_though_an_earlier_was_set_before(stream: Stream, pair: tuple[Any, Any]) -> None:
    pair[1].sendall(b"a")
    assert stream.receive(100, soon(2 * SOON), awaited=True) == b"a"
    gevent.spawn_later(4 * SOON, pair[1].sendall, b"b")
    assert stream.receive(100, soon(LONG), awaited=True) == b"b"


def test_an_earlier_end_counts_though_a_later_was_set_before(stream: Stream, pair: tuple[Any, Any]) -> None:
    pair[1].sendall(b"a")
    assert stream.receive(100, soon(LONG), awaited=True) == b"a"
    with pytest.raises(TimeoutError):
        stream.receive(100, soon(), awaited=True)


def test_no_end_at_all(stream: Stream, pair: tuple[Any, Any]) -> None:
    gevent.spawn_later(SOON, pair[1].sendall, b"late")
    assert stream.receive(100, float("inf")) == b"late"


def test_receive_now_waits_for_nothing(stream: Stream, pair: tuple[Any, Any]) -> None:
    assert stream.receive_now(100) is None
    pair[1].sendall(b"now")
    assert stream.receive_now(100) == b"now"
    pair[1].close()
    assert stream.receive_now(100) == b""


def fill(stream: Stream, seconds: float) -> None:
    while True:
        stream.send(b"x" * 100_000, seconds)


def test_a_peer_that_takes_nothing_ends_a_send_in_time(stream: Stream, pair: tuple[Any, Any]) -> None:
    with pytest.raises(TimeoutError):
        fill(stream, SOON)
    gevent.spawn(lambda: [pair[1].recv(1 << 20) for _ in range(100)])
    assert stream.send(b"more", LONG) > 0


def test_a_broken_connection_is_an_error(stream: Stream, pair: tuple[Any, Any]) -> None:
    pair[1].close()
    with pytest.raises(OSError):  # noqa: PT011 - a pipe or a reset
        fill(stream, LONG)


def test_a_killed_greenlet_leaves_a_stream_that_others_can_use(stream: Stream, pair: tuple[Any, Any]) -> None:
    waiting = gevent.spawn(stream.receive, 100, float("inf"))
    gevent.sleep(0)
    waiting.kill()
    pair[1].sendall(b"for the next")
    assert stream.receive(100, soon(LONG)) == b"for the next"


def turns(seconds: float) -> int:
    """Count the turns of the loop."""
    count = 0

    def turn() -> None:
        nonlocal count
        count += 1

    check = gevent.get_hub().loop.prepare()
    check.start(turn)
    try:
        gevent.sleep(seconds)
    finally:
        check.stop()
        check.close()
    return count


def closed(stream: LoopStream) -> None:
    stream.close()


def untouched(stream: LoopStream) -> None:
    """Leave it with bytes that nobody reads."""


@pytest.mark.parametrize("afterwards", [closed, untouched])
def test_bytes_that_nobody_waits_for_do_not_keep_the_loop_busy(pair: tuple[Any, Any], afterwards: Callable[[LoopStream], None]) -> None:
    stream = LoopStream(pair[0])
    pair[1].sendall(b"a")
    assert stream.receive(1, soon(LONG), awaited=True) == b"a"
    pair[1].sendall(b"unread")
    afterwards(stream)
    assert turns(SOON) < 50
    stream.close()


def test_after_its_end_nothing_is_read_of_whoever_has_the_descriptor_next(pair: tuple[Any, Any]) -> None:
    stream = LoopStream(pair[0])
    stream.close()
    stream.close()
    pair[1].sendall(b"somebody else's")
    for use in (lambda: stream.receive(1, soon()), lambda: stream.receive(1, soon(), awaited=True), lambda: stream.send(b"x", soon())):
        with pytest.raises(OSError):  # noqa: PT011 - of two kinds
            use()
    gevent.sleep(2 * SOON)  # nothing is thrown into whoever waits next
    assert pair[0].recv(100) == b"somebody else's"


def test_what_has_arrived_is_read_when_others_take_turns(pair: tuple[Any, Any]) -> None:
    """With ``gevent.sleep(0)`` it takes a thousand turns and more."""
    read: list[bytes] = []
    reader = gevent.spawn(lambda: read.append(pair[0].recv(10)))
    take_turns()  # it waits
    pair[1].send(b"request")
    for _ in range(3):
        take_turns()
    reader.kill()
    assert read == [b"request"]
