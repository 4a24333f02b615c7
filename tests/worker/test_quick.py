"""The quick parser: what it takes it understands as gunicorn's does, and what it does not it leaves alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.errors import HttpError
from gwproxy.settings import Settings
from gwproxy.stream import Stream
from gwproxy.worker.quick import LONGEST_HEAD, MOST_BYTES, QuickHead, QuickHeads
from gwproxy.worker.reader import ClientReader
from gwproxy.worker.request import ParserLimits, Request, read_request

LIMITS = ParserLimits(8190, 100, 8190, is_ssl=False, header_map="drop")
HEAD = b"GET /a%2Fb?c=d&&e HTTP/1.1\r\nHost: h:80\r\nx-B: 1\r\nAccept:\ttext/x \r\nEmpty:\r\n"


def quick(head: bytes, heads: QuickHeads | None = None) -> QuickHead | None:
    """Parse a head, its last line's end included."""
    return (heads or QuickHeads(8190, 100, 8190)).parse(head + b"\r\n", len(head) - 2)


class AtOnce(Stream):
    """Gives everything at once."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def receive(self, size: int, until: float, *, awaited: bool = False) -> bytes:
        data, self.data = self.data, b""
        return data


def slow(head: bytes) -> Request | None:
    """Parse it as gunicorn does; None: it is refused."""
    reader = ClientReader(AtOnce(head + b"\r\n"), Settings(), 15.0)
    reader.expect_head()
    try:
        return read_request(LIMITS, reader, ("127.0.0.1", 1))
    except (HttpError, OSError):
        return None


def shown(head: QuickHead | Request | None) -> object:
    """Everything that the rest of the worker looks at."""
    if head is None:
        return None
    parts = (head.method, head.uri, head.path, head.query, head.http11, head.close, head.length, head.awaits_continue)
    return (*parts, head.pieces is None, head.dropped, head.entries, head.folded)


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"Content-Length: 3\r\n",
        b"Content-Length: 003\r\n",
        b"Connection: close\r\n",
        b"Connection: Keep-Alive\r\n",
        b"Authorization: Bearer a.b.c\r\nCookie: a=1; b=2\r\nOrigin: https://a.example\r\n",
        b"X-Request-ID: 7\r\nX-Forwarded-For: 1.2.3.4\r\nX-User-Id: me\r\nTE: trailers\r\n",
        b"X: caf\xe9 \xff\r\nY: a  b\tc\r\n",
    ],
)
def test_what_it_takes_means_what_gunicorn_says(lines: bytes) -> None:
    head = HEAD + lines
    assert quick(head) is not None
    assert shown(quick(head)) == shown(slow(head))


LEFT = {
    "P01-both": b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
    "P02-chunked": b"Transfer-Encoding: chunked\r\n",
    "P06-length-twice": b"Content-Length: 3\r\nContent-Length: 3\r\n",
    "P06-length-list": b"Content-Length: 3, 3\r\n",
    "P06-length-signed": b"Content-Length: +3\r\n",
    "P06-length-empty": b"Content-Length:\r\n",
    "P06-length-long": b"Content-Length: " + b"9" * 19 + b"\r\n",
    "P08-underscore": b"X_User: 1\r\n",
    "P09-fold": b"X: a\r\n b\r\n",
    "P09-bare-lf": b"X: a\nY: b\r\n",
    "P09-bare-cr": b"X: a\rY: b\r\n",
    "P09-nul": b"X: a\0\r\n",
    "P09-no-colon": b"X\r\n",
    "P09-space-before-colon": b"X : a\r\n",
    "P09-no-name": b": a\r\n",
    "P15-connection-list": b"Connection: close, x\r\n",
    "P20-expect": b"Expect: 100-continue\r\n",
    "N18-second-host": b"Host: h\r\n",
    "H11-authorization-twice": b"Authorization: a\r\nauthorization: b\r\n",
    "H12-repeated": b"X-M: 1\r\nX-M: 2\r\n",
    "C09-origins": b"Origin: https://a, https://b\r\n",
    "H03-upgrade": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "control": b"X: \x1b[0m\r\n",
}


@pytest.mark.parametrize("lines", LEFT.values(), ids=LEFT)
def test_what_is_not_plain_is_left_to_gunicorn(lines: bytes) -> None:
    assert quick(HEAD + lines) is None


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.0",
        b"GET / HTTP/1.2",
        b"GET / http/1.1",
        b"GET  / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"get / HTTP/1.1",
        b"FOO / HTTP/1.1",
        b"CONNECT h:443 HTTP/1.1",
        b"TRACE / HTTP/1.1",
        b"GET http://h/ HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /a#b HTTP/1.1",
        b"GET /\xe9 HTTP/1.1",
        b"GET /a\tb HTTP/1.1",
        b"GET",
        b"",
        b"\r\nGET / HTTP/1.1",
        b"GET /" + b"a" * 8190 + b" HTTP/1.1",
    ],
)
def test_request_lines_that_are_not_plain(line: bytes) -> None:
    assert quick(line + b"\r\nHost: h\r\n") is None


def test_a_head_needs_a_host_that_is_one() -> None:
    assert quick(b"GET / HTTP/1.1\r\nX: 1\r\n") is None
    assert quick(b"GET / HTTP/1.1\r\nHost: a b\r\n") is None
    assert quick(b"GET / HTTP/1.1\r\nHost:\r\n") is None


def test_P23_the_limits_are_gunicorns() -> None:
    heads = QuickHeads(line=16, fields=2, field_size=20)
    assert quick(b"GET /ab HTTP/1.1\r\nHost: h\r\n", heads) is not None
    assert quick(b"GET /abc HTTP/1.1\r\nHost: h\r\n", heads) is None
    assert quick(b"GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 2\r\n", heads) is None
    assert quick(b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"1" * 17 + b"\r\n", heads) is not None
    assert quick(b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"1" * 18 + b"\r\n", heads) is None
    long = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X%d: %b\r\n" % (n, b"a" * 8000) for n in range(3))
    assert len(long) > LONGEST_HEAD
    assert quick(long) is None


def test_R46_what_is_remembered_is_bounded_and_means_the_same_again() -> None:
    heads = QuickHeads(8190, 100, 8190)
    padding = "x" * 4000
    for number in range(3 * MOST_BYTES // len(padding)):
        head = quick(b"GET / HTTP/1.1\r\nHost: h\r\nX: %d%b\r\nContent-Length: 3\r\n" % (number, padding.encode()), heads)
        assert head is not None
        assert (head.folded["HTTP_X"], head.length, head.close) == (f"{number}{padding}", 3, False)
        assert heads._lines.size < MOST_BYTES + LONGEST_HEAD
        assert sum(map(len, heads._lines)) == heads._lines.size
    for _ in range(2):
        assert quick(b"GET / HTTP/1.1\r\nHost: h\r\nX_Y: 1\r\n", heads) is None


def again(head: bytes, before: QuickHead | None) -> QuickHead | None:
    """Parse a head that comes after another on its connection."""
    return QuickHeads(8190, 100, 8190).parse(head + b"\r\n", len(head) - 2, before.block if before is not None else None)


def test_a_header_that_comes_again_is_not_read_again_whatever_the_request_line() -> None:
    first = quick(HEAD)
    second = again(HEAD.replace(b"GET /a%2Fb?c=d&&e", b"POST /other"), first)
    assert first is not None
    assert second is not None
    assert second.block is first.block
    assert (second.method, second.path, second.query, second.entries) == ("POST", "/other", "", first.entries)


@pytest.mark.parametrize(
    "header",
    [
        b"Host: h:80\r\nx-B: 1\r\nAccept:\ttext/x \r\nEmpty:\r\nMore: 1\r\n",
        b"Host: h:80\r\nx-B: 1\r\nAccept:\ttext/x \r\n",
        b"Host: h:80\r\nx-B: 2\r\nAccept:\ttext/x \r\nEmpty:\r\n",
        b"Host: h:80\r\nx-b: 1\r\nAccept:\ttext/x \r\nEmpty:\r\n",
        b"Host: h:80\r\nContent-Length: 3\r\n",
        b"Host: h:80\r\nTransfer-Encoding: chunked\r\n",
        b"x-B: 1\r\n",
        b"",
    ],
)
def test_a_header_that_differs_in_anything_is_read(header: bytes) -> None:
    line = b"GET /a%2Fb?c=d&&e HTTP/1.1\r\n"
    assert shown(again(line + header, quick(HEAD))) == shown(quick(line + header))


PIECES = [b"GET", b"POST", b" ", b"/", b"a", b"HTTP/1.1", b"\r\n", b"\n", b"\r", b"\0", b":", b"\t", b",", b"\xff", b"?", b"%41", b"="]
PIECES += [b"Host", b"Host: h\r\n", b"X: 1\r\n", b"X: 2\r\n", b"X_: 1\r\n"]
PIECES += [b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=6), st.integers(0, 60))
def test_whatever_is_spliced_in_it_takes_nothing_that_gunicorn_reads_otherwise(pieces: list[bytes], at: int) -> None:
    plain = b"GET /a?b HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n"
    data = plain[:at] + b"".join(pieces) + plain[at:] + b"\r\n"
    end = data.find(b"\r\n\r\n")
    found = QuickHeads(8190, 100, 8190).parse(data, end) if end > 0 else None
    if found is not None:
        assert shown(found) == shown(slow(data[: end + 2]))
    before = quick(plain)
    after = QuickHeads(8190, 100, 8190).parse(data, end, before.block if before is not None else None) if end > 0 else None
    assert shown(after) == shown(found)
