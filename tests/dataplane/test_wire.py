from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.dataplane import wire
from gwproxy.dataplane.wire import Dechunker, Head, Malformed, encode_fields, encode_head, framing, is_hopeless


def parse_head(data: bytes) -> Head:
    return wire.parse_head(data, len(data) - 4)


def head(*lines: str) -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def test_fields_keep_case_order_repetition_and_bytes() -> None:
    parsed = parse_head(head("HTTP/1.1 200 OK", "X-b: \t1 \t", "set-Cookie: a=1", "Set-Cookie: b=2", "X-Empty:", "X-E: \xe9: \x80"))
    assert [(name, value) for _, name, value, _ in parsed.fields] == [
        ("X-b", "1"),
        ("set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("X-Empty", ""),
        ("X-E", "\xe9: \x80"),
    ]


@pytest.mark.parametrize(
    ("line", "status"), [("HTTP/1.1 200", 200), ("HTTP/1.1 200 ", 200), ("HTTP/1.0 404 Not Found", 404), ("HTTP/1.1 599 \xe9", 599)]
)
def test_U30_status_lines_that_pass(line: str, status: int) -> None:
    assert parse_head(head(line)).status == status


@pytest.mark.parametrize(
    "line",
    [
        "HTTP/1.1 099 X",
        "HTTP/1.1 600 X",
        "HTTP/1.1 999 X",
        "HTTP/1.1 abc X",
        "HTTP/1.1 20 X",
        "HTTP/1.1 2000 X",
        "HTTP/1.1  200 X",
        "HTTP/1.1 +20 X",
        "HTTP/1.1 200\tOK",
        "HTTP/1.1 200 O\x01K",
        "HTTP/2.0 200 OK",
        "HTTP/3.7 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1",
        "ICY 200 OK",
        "<html>",
        "",
    ],
)
def test_U30_U32_status_lines_that_do_not(line: str) -> None:
    with pytest.raises(Malformed):
        parse_head(head(line))


@pytest.mark.parametrize(
    "line",
    [
        " folded",
        "X: a\r\n folded",
        "X : a",
        "no colon",
        ": no name",
        "X: a\nY: b",
        "X: a\rY: b",
        "X: a\0b",
        "X: \x7f",
        "X\xe9: a",
        "X Y: a",
    ],
)
def test_U24_R12_field_lines_that_do_not_pass(line: str) -> None:
    with pytest.raises(Malformed):
        parse_head(head("HTTP/1.1 200 OK", line))


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 3", "Content-Length: 4"],
        ["Content-Length: 3", "content-length: 3"],
        ["Content-Length: 3, 3"],
        ["Content-Length: +3"],
        ["Content-Length: -3"],
        ["Content-Length: 0x3"],
        ["Content-Length: 3_0"],
        ["Content-Length: \xb2"],
        ["Content-Length:"],
        ["Content-Length: " + "9" * 19],
        ["Content-Length: 3", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 3"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: identity, chunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked;q=1"],
        ["Transfer-Encoding:"],
    ],
)
def test_U15_U16_R12_ambiguous_framing_does_not_pass(lines: list[str]) -> None:
    with pytest.raises(Malformed):
        parse_head(head("HTTP/1.1 200 OK", *lines))


def test_R12_chunked_does_not_pass_in_http_1_0() -> None:
    with pytest.raises(Malformed):
        parse_head(head("HTTP/1.0 200 OK", "Transfer-Encoding: chunked"))


def test_framing_that_passes() -> None:
    assert parse_head(head("HTTP/1.1 200 OK", "Content-Length: 003")).length == 3
    assert parse_head(head("HTTP/1.1 200 OK", "transfer-encoding: Chunked ")).chunked
    neither = parse_head(head("HTTP/1.1 200 OK"))
    assert neither.length is None
    assert not neither.chunked


@pytest.mark.parametrize(
    ("lines", "reusable", "idle"),
    [
        (["HTTP/1.1 200 OK"], True, None),
        (["HTTP/1.0 200 OK", "Connection: keep-alive"], False, None),
        (["HTTP/1.1 200 OK", "Connection: close"], False, None),
        (["HTTP/1.1 200 OK", "Connection: x-other,Close"], False, None),
        (["HTTP/1.1 200 OK", "Connection: x", "Connection: close"], False, None),
        (["HTTP/1.1 200 OK", "Connection: not-close"], True, None),
        (["HTTP/1.1 200 OK", "Keep-Alive: max=100, timeout=5"], True, 5),
        (["HTTP/1.1 200 OK", "Keep-Alive: xtimeout=5"], True, None),
    ],
)
def test_what_becomes_of_the_connection(lines: list[str], reusable: bool, idle: int | None) -> None:
    parsed = parse_head(head(*lines))
    assert (parsed.reusable, parsed.idle) == (reusable, idle)


def test_U28_one_hundred_fields_pass_and_one_more_does_not() -> None:
    fields = [f"X-{n}: v" for n in range(100)]
    assert len(parse_head(head("HTTP/1.1 200 OK", *fields)).fields) == 100
    with pytest.raises(Malformed, match="100"):
        parse_head(head("HTTP/1.1 200 OK", *fields, "X-More: v"))


def test_U29_64_KiB_pass_and_one_byte_more_does_not() -> None:
    overhead = len(head("HTTP/1.1 200 OK", "X: "))
    assert parse_head(head("HTTP/1.1 200 OK", "X: " + "v" * (65536 - overhead))).status == 200
    with pytest.raises(Malformed, match="65536"):
        parse_head(head("HTTP/1.1 200 OK", "X: " + "v" * (65537 - overhead)))


@pytest.mark.parametrize("filler", [" ", "\t", ":", "x ", "x: "])
def test_R12_a_hostile_head_is_judged_in_linear_time(filler: str) -> None:
    hostile = head("HTTP/1.1 200 OK", "X:" + filler * (60_000 // len(filler)) + "\0")
    began = time.process_time()
    with pytest.raises(Malformed):
        parse_head(hostile)
    parse_head(hostile.replace(b"\0", b"x"))
    assert time.process_time() - began < 0.5


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_malformed(data: bytes) -> None:
    try:
        parsed = parse_head(b"HTTP/1.1 200 OK\r\n" + data)
    except Malformed:
        return
    assert all("\r" not in name + value and "\n" not in name + value and "\0" not in name + value for _, name, value, _ in parsed.fields)


def test_waiting_on_is_hopeless_as_soon_as_it_is() -> None:
    assert not is_hopeless(b"HTT")
    assert not is_hopeless(b"HTTP/1.1 200 OK\r\nX: a\r")
    assert is_hopeless(b"SSH-2.0")
    assert is_hopeless(b"<html>")
    assert is_hopeless(b"HTTP/2")
    assert is_hopeless(b"HTTP/1.1 200 OK\nX: a\n\n")
    assert is_hopeless(b"HTTP/1.1 200 OK\r\nX: a\rY: b")
    assert is_hopeless(b"HTTP/1.1 200 OK\r\nX: a\0")
    assert is_hopeless(b"HTTP/1.1 200 OK\r\nX: a\rY", scanned=22)
    assert is_hopeless(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 65536)


def test_a_head_is_encoded_in_order_without_foreign_framing() -> None:
    fields = [("Host", "a.example"), ("x-B", "1"), ("content-length", "7"), ("X-b", "2"), ("Transfer-Encoding", "gzip"), ("E", "\xe9")]
    sent = encode_head("POST", b"/a%2fb//c[?x=%zz\xff", encode_fields(fields), b"Content-Length: 3\r\n", close=True)
    lines = [b"Host: a.example", b"x-B: 1", b"X-b: 2", b"E: \xe9", b"Content-Length: 3", b"Connection: close"]
    assert sent == b"\r\n".join([b"POST /a%2fb//c[?x=%zz\xff HTTP/1.1", *lines, b"", b""])


@pytest.mark.parametrize("target", [b"", b"a", b"http://h/", b"/a b", b"/a\r\nX: y", b"/a\0", b"/a\t", b"**", b"*/"])
def test_R7_a_target_that_is_no_path_is_not_sent(target: bytes) -> None:
    with pytest.raises(ValueError, match="target"):
        encode_head("GET", target, b"", b"")


@pytest.mark.parametrize("field", [("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "a\rb"), ("X\r\nY", "a"), ("X", "\0")])
def test_H14_a_line_break_in_a_field_is_not_sent(field: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="header"):
        encode_fields([("A", "b"), field])


def test_H14_what_is_not_latin_1_is_not_sent() -> None:
    with pytest.raises(ValueError, match="non-latin-1"):
        encode_fields([("X", "\u20ac")])


@pytest.mark.parametrize(
    ("method", "body", "length", "expected"),
    [
        ("GET", False, None, b""),
        ("DELETE", False, None, b""),
        ("POST", False, None, b"Content-Length: 0\r\n"),
        ("PUT", False, None, b"Content-Length: 0\r\n"),
        ("PATCH", False, None, b"Content-Length: 0\r\n"),
        ("GET", True, 0, b"Content-Length: 0\r\n"),
        ("POST", True, 12, b"Content-Length: 12\r\n"),
        ("POST", True, None, b"Transfer-Encoding: chunked\r\n"),
    ],
)
def test_R5_a_request_has_exactly_one_framing(method: str, body: bool, length: int | None, expected: bytes) -> None:
    assert framing(method, body=body, length=length) == expected


CHUNKED = b"3;ext=1\r\nabc\r\n00000000000000002\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n"


@pytest.mark.parametrize("step", [1, 2, 7, len(CHUNKED)])
def test_P12_chunks_are_decoded_wherever_they_are_cut(step: int) -> None:
    dechunker = Dechunker()
    decoded = b"".join(dechunker.feed(CHUNKED[at : at + step]) for at in range(0, len(CHUNKED), step))
    assert (decoded, dechunker.ended, dechunker.excess) == (b"abcde", True, False)


@pytest.mark.parametrize("excess", [b"x", b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"0\r\n\r\n"])
@pytest.mark.parametrize("together", [True, False])
def test_U20_what_follows_the_last_chunk_is_noticed(excess: bytes, together: bool) -> None:
    dechunker = Dechunker()
    decoded = dechunker.feed(CHUNKED + excess) if together else dechunker.feed(CHUNKED) + dechunker.feed(excess)
    assert (decoded, dechunker.ended, dechunker.excess) == (b"abcde", True, True)


@pytest.mark.parametrize(
    "data",
    [
        b"zz\r\n",
        b"-3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3\nabc\r\n",
        b"\r\nabc",
        b"fffffffffffffffff\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc3\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
    ],
)
def test_P10_U11_U12_malformed_chunks_are_refused(data: bytes) -> None:
    dechunker = Dechunker()
    with pytest.raises(Malformed):
        dechunker.feed(data)
    assert not dechunker.ended


def test_H03_H18_what_is_for_the_next_hop_is_apart() -> None:
    hops = ["Transfer-Encoding", "Keep-Alive", "Proxy-Connection", "Trailer", "TE", "Upgrade", "Proxy-Authenticate"]
    lines = ["Connection: X-A, x-b", "Set-Cookie: a", "X-A: 1", *(f"{name}: chunked" for name in hops), "Date: now", "X-B: 2", "Server: s"]
    parsed = parse_head(head("HTTP/1.1 200 OK", *lines))
    assert [name for _, name, _, _ in parsed.fields] == ["Set-Cookie", "Date", "Server"]
    assert [name for _, name, _, _ in parsed.hop] == ["Connection", *hops]


def test_R46_what_is_remembered_is_bounded_and_means_the_same_again() -> None:
    padding = "x" * 4000
    for number in range(400):
        parsed = parse_head(head("HTTP/1.1 200 OK", f"X: {number}{padding}", "Content-Length: 3", "Connection: close"))
        assert (parsed.length, parsed.reusable, [key for key, *_ in parsed.fields]) == (3, False, ["x", "content-length"])
        assert wire.remembered.lines.size <= wire._MOST_BYTES + wire.MAX_HEAD
    for _ in range(2):
        with pytest.raises(Malformed):
            parse_head(head("HTTP/1.1 200 OK", "X : a"))


@pytest.mark.parametrize(
    "lines", [["Content-Length: 3"] * 2, ["Content-Length: 3", "content-length: 3"], ["Transfer-Encoding: chunked"] * 2]
)
def test_U15_R12_the_same_framing_twice_is_framing_twice(lines: list[str]) -> None:
    for _ in range(2):  # also when the lines have been seen before
        with pytest.raises(Malformed):
            parse_head(head("HTTP/1.1 200 OK", *lines))
