from __future__ import annotations

from collections.abc import Iterator

import pytest

from gwproxy.errors import BadGateway, BudgetExceeded, ClientGone, PayloadTooLarge, RequestTimeout
from gwproxy.http.bodies import CHUNK, RequestBody, ResponseBody


class Client:
    """A client that sends these chunks, one a read, and notes how much was asked for. An exception is raised in its turn."""

    def __init__(self, *chunks: bytes | BaseException) -> None:
        self.chunks = list(chunks)
        self.asked: list[int] = []

    def read(self, size: int, /) -> bytes:
        self.asked.append(size)
        if not self.chunks:
            return b""
        chunk = self.chunks.pop(0)
        if isinstance(chunk, BaseException):
            raise chunk
        if len(chunk) > size:
            self.chunks.insert(0, chunk[size:])
        return chunk[:size]


# ---- requests


def test_a_body_is_streamed_chunk_by_chunk() -> None:
    client = Client(b"ab", b"cd", b"e")
    chunks = iter(RequestBody(client, 5))
    assert next(chunks) == b"ab"
    assert client.chunks == [b"cd", b"e"]
    assert list(chunks) == [b"cd", b"e"]


@pytest.mark.parametrize("length", [4, None])
def test_a_body_ends_where_it_says(length: int | None) -> None:
    body = RequestBody(Client(b"ab", b"cd"), length)
    assert not body.ended
    assert b"".join(body) == b"abcd"
    assert (body.ended, body.received) == (True, 4)


def test_nothing_is_read_beyond_the_declared_length() -> None:
    client = Client(b"abcd", b"GET / HTTP/1.1")
    assert list(RequestBody(client, 4)) == [b"abcd"]
    assert client.asked == [4]


def test_no_body_asks_for_nothing() -> None:
    client = Client(b"GET / HTTP/1.1")
    body = RequestBody(client, 0)
    assert body.ended
    assert list(body) == []
    assert body.read_all(0) == b""
    assert client.asked == []


def test_a_large_body_is_read_in_bounded_chunks() -> None:
    client = Client(b"x" * (3 * CHUNK + 1))
    assert [len(chunk) for chunk in RequestBody(client, 3 * CHUNK + 1)] == [CHUNK, CHUNK, CHUNK, 1]
    assert max(client.asked) == CHUNK


@pytest.mark.parametrize("length", [4, None])
def test_R18_a_body_of_exactly_the_limit_is_accepted(length: int | None) -> None:
    assert b"".join(RequestBody(Client(b"ab", b"cd"), length, 4)) == b"abcd"


def test_B06_a_declared_length_over_the_limit_is_refused_before_reading() -> None:
    client = Client(b"abcde")
    with pytest.raises(PayloadTooLarge):
        RequestBody(client, 5, 4)
    assert client.asked == []


def test_R18_a_chunked_body_over_the_limit_is_cut_before_the_chunk_passes() -> None:
    passed: list[bytes] = []
    with pytest.raises(PayloadTooLarge):
        passed.extend(RequestBody(Client(b"ab", b"cd", b"e"), None, 4))
    assert passed == [b"ab", b"cd"]


def test_R18_one_byte_too_many_is_all_that_is_waited_for() -> None:
    client = Client(b"ab", b"c" * 100)
    with pytest.raises(PayloadTooLarge):
        list(RequestBody(client, None, 4))
    assert client.asked == [5, 3]


def test_the_limit_of_the_route_comes_later() -> None:
    body = RequestBody(Client(b"abcd"), 4)
    body.restrict(4)
    body.restrict(None)
    assert body.limit is None
    with pytest.raises(PayloadTooLarge):
        body.restrict(3)


def test_a_limit_below_what_has_come_is_exceeded() -> None:
    body = RequestBody(Client(b"abcd"), None)
    next(iter(body))
    with pytest.raises(PayloadTooLarge):
        body.restrict(3)


@pytest.mark.parametrize("sent", [(), (b"ab",), (b"ab", b"c")])
def test_R6_B10_a_body_that_is_short_is_an_error(sent: tuple[bytes, ...]) -> None:
    body = RequestBody(Client(*sent), 4)
    with pytest.raises(ClientGone):
        list(body)
    assert not body.ended


def test_a_body_that_was_read_is_still_sent() -> None:
    body = RequestBody(Client(b"ab", b"cd"), None)
    assert body.read_all(4) == b"abcd"
    assert body.read_all(4) == b"abcd"
    assert b"".join(body) == b"abcd"
    assert b"".join(body) == b"abcd"


def test_reading_more_than_a_plugin_may_leaves_a_declared_body_untouched() -> None:
    client = Client(b"abcde")
    body = RequestBody(client, 5)
    with pytest.raises(PayloadTooLarge):
        body.read_all(4)
    assert client.asked == []
    assert b"".join(body) == b"abcde"


def test_reading_more_than_a_plugin_may_loses_nothing_of_a_chunked_body() -> None:
    body = RequestBody(Client(b"abc", b"def", b"ghi"), None)
    for _ in range(2):
        with pytest.raises(PayloadTooLarge):
            body.read_all(4)
    assert body.received == 6
    assert b"".join(body) == b"abcdefghi"


def test_a_body_is_replayable_if_it_was_kept_whole_and_is_small() -> None:
    body = RequestBody(Client(b"ab", b"cd"), 4)
    assert body.replayable(4) is None
    body.read_all(4)
    assert body.replayable(4) == b"abcd"
    assert body.replayable(3) is None
    assert RequestBody(Client(), 0).replayable(0) == b""


def test_R16_a_body_that_was_streamed_is_not_replayed_as_an_empty_one() -> None:
    body = RequestBody(Client(b"ab", b"cd"), 4)
    list(body)
    assert body.replayable(4) is None
    with pytest.raises(RuntimeError, match="streamed"):
        list(body)
    with pytest.raises(RuntimeError, match="streamed"):
        body.read_all(4)


@pytest.mark.parametrize(
    ("length", "limit", "sent", "error"),
    [
        (4, None, (b"ab",), ClientGone),
        (None, 4, (b"abc", b"def"), PayloadTooLarge),
        (None, None, (b"ab", RequestTimeout()), RequestTimeout),
        (None, None, (b"ab", OSError("reset")), OSError),
    ],
)
def test_R6_a_torn_body_stays_torn_for_whoever_reads_next(
    length: int | None, limit: int | None, sent: tuple[bytes | Exception, ...], error: type[Exception]
) -> None:
    body = RequestBody(Client(*sent), length, limit)
    for _ in range(2):
        with pytest.raises(error):
            body.read_all(100)
    assert body.replayable(100) is None
    with pytest.raises(error):
        list(body)
    assert not body.ended


def test_a_read_that_a_budget_ended_may_have_lost_bytes() -> None:
    body = RequestBody(Client(b"ab", BudgetExceeded(), b"cd"), None)
    with pytest.raises(BudgetExceeded):
        body.read_all(100)
    with pytest.raises(ClientGone):
        list(body)


def test_waiting_for_the_client_is_counted() -> None:
    seen: list[float | None] = []

    class Watched(Client):
        def read(self, size: int, /) -> bytes:
            seen.append(body.waiting_since)
            return super().read(size)

    body = RequestBody(Watched(b"ab"), 2)
    list(body)
    assert seen[0] is not None
    assert body.waiting_since is None
    assert body.waited > 0


# ---- responses


def _stream(*chunks: bytes | BaseException) -> Iterator[bytes]:
    for chunk in chunks:
        if isinstance(chunk, BaseException):
            raise chunk
        yield chunk


def test_a_response_in_hand_is_complete() -> None:
    body = ResponseBody(b"abc")
    assert (body.complete, body.length, list(body)) == (True, 3, [b"abc"])
    assert list(ResponseBody()) == []


def test_a_response_that_declares_no_length_has_none() -> None:
    assert ResponseBody(chunks=_stream(b"ab")).length is None


def test_a_response_is_streamed_unless_somebody_reads_it() -> None:
    body = ResponseBody(chunks=_stream(b"ab", b"cd"), length=4)
    assert (body.complete, body.length) == (False, 4)
    assert list(body) == [b"ab", b"cd"]


@pytest.mark.parametrize("limit", [4, 100])
def test_reading_ahead_returns_what_is_within_the_bound(limit: int) -> None:
    body = ResponseBody(chunks=_stream(b"ab", b"cd"))
    assert body.read_ahead(limit) == b"abcd"
    assert body.complete
    assert body.length == 4
    assert list(body) == [b"abcd"]


@pytest.mark.parametrize("limit", [0, 1, 2, 3])
def test_reading_ahead_loses_nothing_of_what_is_beyond_the_bound(limit: int) -> None:
    body = ResponseBody(chunks=_stream(b"ab", b"cd", b"ef"), length=6)
    assert body.read_ahead(limit) is None
    assert body.read_ahead(limit) is None
    assert (body.complete, body.length) == (False, 6)
    assert b"".join(body) == b"abcdef"


def test_reading_ahead_again_with_a_higher_bound_goes_on() -> None:
    body = ResponseBody(chunks=_stream(b"ab", b"cd", b"ef"))
    assert body.read_ahead(1) is None
    assert body.read_ahead(6) == b"abcdef"


def test_a_complete_body_is_read_within_the_bound_only() -> None:
    assert ResponseBody(b"abc").read_ahead(3) == b"abc"
    assert ResponseBody(b"abc").read_ahead(2) is None


def test_reading_ahead_stops_at_the_bound() -> None:
    came = []

    def endless() -> Iterator[bytes]:
        while True:
            came.append(1)
            yield b"x"

    assert ResponseBody(chunks=endless()).read_ahead(10) is None
    assert len(came) == 11


@pytest.mark.parametrize("error", [OSError("reset"), BadGateway("short"), BudgetExceeded()])
def test_R13_a_body_that_broke_off_while_it_was_read_is_never_taken_for_whole(error: BaseException) -> None:
    body = ResponseBody(chunks=_stream(b"ab", error), length=4)
    with pytest.raises(type(error)):
        body.read_ahead(100)
    assert not body.complete
    with pytest.raises(BadGateway):
        body.read_ahead(100)
    chunks = iter(body)
    assert next(chunks) == b"ab"
    with pytest.raises(BadGateway):
        next(chunks)


def test_U08_what_the_stream_raises_reaches_who_sends() -> None:
    chunks = iter(ResponseBody(chunks=_stream(b"ab", OSError("reset"))))
    assert next(chunks) == b"ab"
    with pytest.raises(OSError, match="reset"):
        next(chunks)


def test_a_body_is_closed_once() -> None:
    closed: list[int] = []
    body = ResponseBody(chunks=_stream(b"ab"), close=lambda: closed.append(1))
    body.close()
    body.close()
    assert closed == [1]
    ResponseBody(b"ab").close()
