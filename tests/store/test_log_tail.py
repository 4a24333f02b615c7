from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gwproxy.store.log_tail import LogTail


class Log:
    """A list that is trimmed to its newest ``keep``."""

    def __init__(self, keep: int = 10_000) -> None:
        self.entries: list[bytes] = []
        self.keep = keep
        self.reads: list[int] = []

    def add(self, *entries: bytes) -> None:
        self.entries = [*self.entries, *entries][-self.keep :]

    def read(self, count: int) -> list[bytes]:
        self.reads.append(count)
        return self.entries[-count:]


def numbers(start: int, end: int) -> list[bytes]:
    return [b"%d" % n for n in range(start, end)]


def test_it_starts_with_the_newest_and_goes_on():
    log = Log()
    log.add(*numbers(0, 10))
    tail = LogTail(log.read)
    assert tail.start(3) == numbers(7, 10)
    assert tail.poll() == []
    log.add(*numbers(10, 12))
    assert tail.poll() == numbers(10, 12)
    assert tail.poll() == []


def test_it_may_start_with_nothing():
    log = Log()
    tail = LogTail(log.read)
    assert tail.start(0) == []
    assert tail.poll() == []
    log.add(b"a")
    assert tail.poll() == [b"a"]


def test_a_trimmed_list_goes_on():
    log = Log(keep=1000)
    log.add(*numbers(0, 1000))
    tail = LogTail(log.read)
    tail.start(1)
    for start in range(1000, 5000, 170):
        log.add(*numbers(start, start + 170))
        assert tail.poll() == numbers(start, start + 170)


def test_it_reads_no_more_than_it_needs():
    log = Log()
    log.add(*numbers(0, 10_000))
    tail = LogTail(log.read)
    tail.start(10)
    log.reads.clear()
    for n in range(10_000, 10_010):
        log.add(b"%d" % n)
        assert tail.poll() == [b"%d" % n]
    assert set(log.reads) == {256}


def test_a_long_absence_reads_more():
    log = Log()
    log.add(*numbers(0, 100))
    tail = LogTail(log.read)
    tail.start(1)
    log.add(*numbers(100, 9_000))
    assert tail.poll() == numbers(100, 9_000)


def test_what_was_trimmed_meanwhile_is_lost_the_rest_is_not():
    log = Log(keep=300)
    log.add(*numbers(0, 300))
    tail = LogTail(log.read)
    tail.start(1)
    log.add(*numbers(300, 590))  # ten of what was seen are left
    assert tail.poll() == numbers(300, 590)
    log.add(*numbers(590, 2000))
    assert tail.poll() == numbers(1700, 2000)


def test_a_deleted_list_begins_anew():
    log = Log()
    log.add(*numbers(0, 10))
    tail = LogTail(log.read)
    tail.start(1)
    log.entries = []
    assert tail.poll() == []
    log.add(b"new")
    assert tail.poll() == [b"new"]


def test_equal_entries_are_told_apart_by_their_neighbours():
    log = Log()
    log.add(b"a", b"a")
    tail = LogTail(log.read)
    tail.start(0)
    log.add(b"a")
    assert tail.poll() == [b"a"]
    log.add(b"b", b"a", b"a")
    assert tail.poll() == [b"b", b"a", b"a"]


def test_a_failed_read_loses_nothing():
    log = Log()
    log.add(b"a")
    tail = LogTail(log.read)
    tail.start(0)
    log.add(b"b")
    read, tail._read = tail._read, lambda count: 1 / 0
    with pytest.raises(ZeroDivisionError):
        tail.poll()
    tail._read = read
    assert tail.poll() == [b"b"]


@given(st.lists(st.integers(0, 700), max_size=12), st.sampled_from([500, 1000, 10_000]))
@settings(max_examples=40, deadline=None)
def test_nothing_is_missed_or_repeated(bursts, keep):
    log = Log(keep)
    tail = LogTail(log.read)
    tail.start(0)
    written = 0
    for burst in bursts:
        log.add(*numbers(written, written + burst))
        assert tail.poll() == numbers(max(written, written + burst - keep), written + burst)
        written += burst
