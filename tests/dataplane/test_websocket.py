"""Where frames end: against frames made by another implementation, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode

from gwproxy.dataplane.websocket import GOING_AWAY, Frames, close_frame

LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 100_000]


def frame(payload: bytes = b"", opcode: Opcode = Opcode.BINARY, *, masked: bool = False, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=masked)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_frame_of_any_length_ends_where_it_ends(length: int, masked: bool) -> None:
    data = frame(b"x" * length, masked=masked)
    frames = Frames(masked=masked)
    assert frames.between
    assert frames.feed(data[:-1]) == 0
    assert not frames.between
    assert frames.feed(data[-1:]) == 1
    assert frames.between


@given(
    lengths=st.lists(st.sampled_from([0, 1, 5, 125, 126, 200, 65536]), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=12),
    masked=st.booleans(),
)
def test_however_a_stream_is_cut_the_same_ends_are_found(lengths: list[int], cuts: list[int], masked: bool) -> None:
    ends, stream = {0}, b""
    for length in lengths:
        stream += frame(b"\x88" * length, masked=masked)
        ends.add(len(stream))
    frames, at = Frames(masked=masked), 0
    for piece in pieces(stream, cuts):
        found = frames.feed(piece)
        within = [end - at for end in ends if at < end <= at + len(piece)]
        assert found == max(within, default=0)
        at += len(piece)
        assert frames.between == (at in ends)
    assert not frames.lost


def test_a_stream_byte_by_byte() -> None:
    frames = Frames(masked=True)
    data = frame(b"x" * 70_000, masked=True)
    assert [index for index in range(len(data)) if frames.feed(data[index : index + 1])] == [len(data) - 1]


def test_a_frame_may_stand_between_the_fragments_of_a_message() -> None:
    frames = Frames(masked=False)
    first = frame(b"a", Opcode.TEXT, fin=False)
    assert frames.feed(first) == len(first)
    assert frames.between
    second = frame(b"b", Opcode.CONT)
    assert frames.feed(second + frame(b"c", Opcode.PING)[:2]) == len(second)
    assert not frames.between


@pytest.mark.parametrize("payload", [b"", Close(1000, "bye").serialize()])
def test_nothing_may_follow_a_close_frame(payload: bytes) -> None:
    frames = Frames(masked=True)
    text, close = frame(b"x", Opcode.TEXT, masked=True), frame(payload, Opcode.CLOSE, masked=True)
    assert frames.feed(text + close[:-1]) == len(text)
    assert not frames.closed
    assert frames.feed(close[-1:] + b"anything") == 1
    assert frames.closed
    assert not frames.between
    assert frames.feed(text) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"hello, this is no frame",
        frame(b"x", masked=False),
        b"\x08\x80key!",
        b"\x89\xfe\x00\x7e",
        b"\x82\xff" + b"\xff" * 8 + b"key!",
    ],
    ids=["text", "not masked", "a fragmented control frame", "a long control frame", "a length of 64 bits"],
)
def test_what_is_no_frame_of_a_client_is_noticed(data: bytes) -> None:
    frames = Frames(masked=True)
    good = frame(b"good", masked=True)
    assert frames.feed(good + data) == len(good)
    assert frames.lost
    assert not frames.between
    assert frames.feed(good) == 0


def test_a_server_masks_nothing() -> None:
    frames = Frames(masked=False)
    frames.feed(frame(b"x", masked=True))
    assert frames.lost


@pytest.mark.parametrize("masked", [False, True])
def test_our_close_frame_is_one(masked: bool) -> None:
    made = close_frame(GOING_AWAY, "going away", masked=masked)
    frames = Frames(masked=masked)
    assert frames.feed(made) == len(made)
    assert frames.closed


def test_a_masked_close_frame_says_the_same() -> None:
    made = close_frame(GOING_AWAY, "going away", masked=True)
    key, payload = made[2:6], made[6:]
    plain = bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))
    assert Close.parse(plain) == Close(1001, "going away")
    assert close_frame(GOING_AWAY, "going away", masked=False) == made[:1] + bytes([len(plain)]) + plain
    assert close_frame(GOING_AWAY, "", masked=True) != close_frame(GOING_AWAY, "", masked=True)


def test_a_reason_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="125 bytes"):
        close_frame(GOING_AWAY, "x" * 124, masked=False)
