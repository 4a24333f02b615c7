"""Request bodies: framing, streaming, 100-continue, and what is done with one that nobody reads."""

import json

import pytest
from gunicorn.http.body import ChunkedReader

from gwproxy.errors import ClientGone
from gwproxy.settings import Settings
from gwproxy.stream import Stream
from gwproxy.worker.body import DRAIN_BYTES, Body
from gwproxy.worker.reader import ClientReader

CHUNKED = b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
NEXT = b"GET /echo/next HTTP/1.1\r\nHost: a\r\n\r\n"


def assert_next(client):
    """The connection serves another request, and nothing of the body is taken for one."""
    assert json.loads(client.reply().body)["RAW_URI"] == "/echo/next"


def test_sized_body_ends_where_the_next_request_begins(client):
    client.send(SIZED % (b"/body", 5) + b"hello" + NEXT)
    assert json.loads(client.reply().body)["body"] == "hello"
    assert_next(client)


def test_large_sized_body(client):
    body = bytes(range(256)) * 4096
    client.send(SIZED % (b"/body", len(body)) + body)
    assert json.loads(client.reply().body)["body"].encode("latin-1") == body


def test_chunked_body(client):
    client.send(CHUNKED % b"/body" + b"5\r\nhello\r\n1\r\n \r\n6\r\nworld!\r\n0\r\n\r\n" + NEXT)
    assert json.loads(client.reply().body)["body"] == "hello world!"
    assert_next(client)


def test_large_chunk_is_cut_to_what_is_asked_for(client):
    client.send(CHUNKED % b"/body" + b"%x\r\n" % 200_000 + b"x" * 200_000 + b"\r\n0\r\n\r\n")
    assert len(json.loads(client.reply().body)["body"]) == 200_000


def test_P12_extensions_zeros_and_trailers_are_read_over(client):
    client.send(CHUNKED % b"/body" + b'%s5;a=b;c="d"\r\nhello\r\n0\r\nX-T: 1\r\n\r\n' % (b"0" * 17) + NEXT)
    assert json.loads(client.reply().body)["body"] == "hello"
    assert_next(client)


@pytest.mark.parametrize(
    "body",
    [
        b"0x3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"-0\r\n\r\n",
        b"3_\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"3\r\nabcd\r\n",
        b"\r\nabc\r\n",
    ],
)
def test_P10_bad_chunks(client, body):
    client.send(CHUNKED % b"/body" + body + b"0\r\n\r\n" + NEXT)
    reply = client.reply()
    assert (reply.status, reply["Connection"]) == (400, "close")
    assert json.loads(reply.body) == {"error": "Bad Request"}
    assert client.closed()


@pytest.mark.parametrize("name", ["Host", "Authorization", "Content-Length", "Transfer-Encoding"])
def test_P13_forbidden_trailers(client, name):
    client.send(CHUNKED % b"/body" + b"1\r\na\r\n0\r\n%s: 1\r\n\r\n" % name.encode() + NEXT)
    assert client.reply().status == 400
    assert client.closed()


def test_a_body_error_is_raised_again_and_ends_the_connection(counted):
    with counted.client() as client:
        client.send(CHUNKED % b"/forgiving" + b"x\r\n" + NEXT)
        assert client.reply()["Connection"] == "close"
        assert client.closed()
    assert counted.stats()["errors"] == ["BadRequest", "BadRequest"]


@pytest.mark.parametrize("data", [SIZED % (b"/forgiving", 10) + b"half", CHUNKED % b"/forgiving" + b"a\r\nhalf"])
def test_B10_client_gone_within_a_body(counted, data, wait_until):
    with counted.client() as client:
        client.send(data)
    wait_until(lambda: counted.stats()["errors"] == ["ClientGone", "ClientGone"])
    assert "Traceback" not in counted.log()


def test_file_methods_work(client):
    client.send(SIZED % (b"/lines", 7) + b"a\nbc\nde")
    assert json.loads(client.reply().body) == ["a\n", "bc\n", "de"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_read_returns_what_is_there(client, chunked):
    """The app echoes each piece before the next one is sent: neither side waits for more."""
    client.send(CHUNKED % b"/echoing" if chunked else SIZED % (b"/echoing", 6))
    assert client.head().status == 200
    for piece in (b"abc", b"def"):
        client.send(b"3\r\n" + piece + b"\r\n" if chunked else piece)
        client.until(b"3\r\n" + piece + b"\r\n")
    if chunked:
        client.send(b"0\r\n\r\n")
    client.until(b"0\r\n\r\n")


def test_P20_continue_comes_when_the_app_reads(client):
    client.send(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n")
    assert client.head().line == "HTTP/1.1 100 Continue"
    client.send(b"abc" + NEXT)
    assert json.loads(client.reply().body)["body"] == "abc"
    assert_next(client)


def test_P20_no_continue_for_a_body_that_is_refused(client):
    client.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    reply = client.reply()
    assert (reply.status, reply["Connection"]) == (401, "close")
    assert client.closed()


def test_P20_no_continue_once_the_response_has_begun(client):
    client.send(b"POST /begun HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert client.head().status == 200
    client.send(b"abc")
    assert client.until(b"0\r\n\r\n") == b"6\r\nbegun \r\n3\r\nabc\r\n0\r\n\r\n"


def test_P20_no_continue_without_a_body_or_for_http_1_0(client):
    assert client.get("/echo", "Expect: 100-continue").status == 200
    client.send(b"POST /body HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
    assert client.reply().status == 200


@pytest.mark.parametrize("data", [SIZED % (b"/unread", 3) + b"abc", CHUNKED % b"/unread" + b"3\r\nabc\r\n0\r\n\r\n"])
def test_B13_short_unread_body_is_read_away(client, data):
    client.send(data + NEXT)
    reply = client.reply()
    assert (reply.status, reply.has("Connection")) == (401, False)
    assert_next(client)


def test_B13_long_unread_body_closes_and_the_response_arrives(client):
    """The client sends everything first: a close with bytes unread would reset the response away."""
    body = b"x" * (4 * 1024 * 1024)
    client.send(SIZED % (b"/unread", len(body)) + body)
    reply = client.reply()
    assert (reply.status, reply["Connection"]) == (401, "close")
    assert json.loads(reply.body) == {"error": "Authentication required"}
    assert client.closed()


@pytest.mark.parametrize("more", [b"", b"8000\r\n" + b"x" * 0x8000 + b"\r\n"])
def test_B13_unread_body_that_does_not_end_closes(client, more):
    client.send(CHUNKED % b"/unread" + more * 4)
    assert client.reply().status == 401
    assert client.closed()


class Head:
    """As much of a request as a body needs."""

    limit_request_field_size = 100
    max_buffer_headers = 1000
    awaits_continue = False

    def __init__(self, reader, length):
        self.length = length
        self.reader = reader

    def pieces(self):
        return None if self.length is not None else ChunkedReader(self, self.reader).parser


class Pieces(Stream):
    """Gives one piece a receive, then the end."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)

    def receive(self, size, until, *, awaited=False):
        return self.pieces.pop(0) if self.pieces else b""


def body_of(length, *pieces):
    reader = ClientReader(Pieces(*pieces), Settings(), 15.0)
    return Body(Head(reader, length), reader, lambda: None), reader


def test_read_never_returns_the_end_before_the_end():
    body, _ = body_of(None, b"3\r\n", b"abc\r\n2", b"\r\nde\r\n", b"0\r\n", b"\r\n")
    assert [body.read(2) for _ in range(4)] == [b"ab", b"c", b"de", b""]
    assert (body.ended, body.read(1)) == (True, b"")


def test_what_follows_a_body_stays():
    body, reader = body_of(3, b"abcGET")
    assert (body.read(100), body.ended, reader.held) == (b"abc", True, b"GET")


def test_read_of_everything():
    assert body_of(6, b"abc", b"def")[0].read() == b"abcdef"
    assert body_of(None, b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")[0].read(None) == b"abcdef"
    assert body_of(6, b"abc", b"def")[0].read(0) == b""


def test_an_end_too_early_is_no_end():
    body, _ = body_of(6, b"abc")
    assert body.read(10) == b"abc"
    for _ in range(2):
        with pytest.raises(ClientGone):
            body.read(10)
    assert not body.drainable


def test_drain_is_bounded():
    assert body_of(DRAIN_BYTES, *[b"x" * 8192] * 8)[0].drain()
    assert not body_of(DRAIN_BYTES + 1, b"x")[0].drain()
    endless, _ = body_of(None, *[b"4000\r\n" + b"x" * 0x4000 + b"\r\n"] * 100)
    assert not endless.drain()


def test_a_read_that_was_given_up_is_no_end():
    class Stopped(BaseException):
        """As a budget, or the end of a greenlet."""

    def stop(size, until, *, awaited=False):
        raise Stopped

    body, reader = body_of(None, b"3\r\nab")
    assert body.read(10) == b"ab"
    reader.stream.receive = stop
    with pytest.raises(Stopped):
        body.read(10)
    for _ in range(2):
        with pytest.raises(ClientGone):
            body.read(10)
    assert (body.ended, body.drainable, body.drain()) == (False, False, False)
