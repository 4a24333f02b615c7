from __future__ import annotations

import contextlib
import threading
import time

import pytest

from gwproxy.errors import StoreUnavailable
from gwproxy.store.connection import connect
from gwproxy.store.log_buffer import BATCH_ENTRIES, EAGER, LogBuffer


@pytest.fixture
def buffer(client):
    return LogBuffer(client)


@contextlib.contextmanager
def running(buffer: LogBuffer):
    stop = threading.Event()
    thread = threading.Thread(target=buffer.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def entries(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


def test_entries_are_written_in_order_to_their_lists(buffer, client):
    for entry in entries(3):
        buffer.add("access_log", entry)
        buffer.add("audit", b"a" + entry)
    assert buffer.pending == 6
    assert buffer.flush() == 6
    assert buffer.pending == 0
    assert client.lrange("gw:access_log", 0, -1) == entries(3)
    assert client.lrange("gw:audit", 0, -1) == [b"a0", b"a1", b"a2"]


def test_the_newest_are_kept(buffer, client):
    for entry in entries(25):
        buffer.add("access_log", entry, keep=10)
    buffer.flush()
    assert client.lrange("gw:access_log", 0, -1) == entries(10, 15)


def test_many_are_written_in_batches(buffer, client):
    for entry in entries(BATCH_ENTRIES * 3 + 1):
        buffer.add("access_log", entry)
    client.config_resetstat()
    assert buffer.flush() == BATCH_ENTRIES * 3 + 1
    assert client.info("commandstats")["cmdstat_rpush"]["calls"] == 4


def test_it_writes_by_itself_within_a_moment(buffer, client, wait_until):
    with running(buffer):
        buffer.add("access_log", b"1")
        wait_until(lambda: client.llen("gw:access_log") == 1)
        for entry in entries(EAGER * 2):
            buffer.add("access_log", entry)
        wait_until(lambda: client.llen("gw:access_log") == 1 + EAGER * 2)


def test_a_full_buffer_drops_the_oldest_and_counts(client):
    buffer = LogBuffer(client, most_entries=10)
    for entry in entries(25):
        buffer.add("access_log", entry)
    assert (buffer.pending, buffer.dropped) == (10, 15)
    buffer.flush()
    assert client.lrange("gw:access_log", 0, -1) == entries(10, 15)


def test_bytes_are_bounded_too(client):
    buffer = LogBuffer(client, most_bytes=1000)
    for _ in range(20):
        buffer.add("access_log", b"x" * 100)
    assert (buffer.pending, buffer.dropped) == (10, 10)
    buffer.add("access_log", b"x" * 1001)
    assert (buffer.pending, buffer.dropped) == (10, 11)
    buffer.flush()
    buffer.add("access_log", b"x" * 1000)
    assert (buffer.pending, buffer.dropped) == (1, 11)


def test_Q03_entries_wait_while_the_store_is_away_and_none_is_lost(server, buffer, wait_until):
    with running(buffer):
        buffer.add("access_log", b"before")
        wait_until(lambda: buffer.pending == 0)
        server.kill()
        for entry in entries(1000):
            buffer.add("access_log", entry)
        with pytest.raises(StoreUnavailable):
            buffer.flush()
        assert buffer.pending == 1000
        server.start()
        wait_until(lambda: buffer.pending == 0, 20)
    with contextlib.closing(connect(server.url, timeout=5.0)) as client:
        assert client.lrange("gw:access_log", 0, -1) == entries(1000)
    assert buffer.dropped == 0


def test_a_lost_reply_may_repeat_a_batch_but_loses_nothing(server, client):
    own = connect(server.url, timeout=0.05)
    buffer = LogBuffer(own)
    own.ping()
    for entry in entries(3):
        buffer.add("access_log", entry)
    with server.frozen(), pytest.raises(StoreUnavailable):
        buffer.flush()
    buffer.add("access_log", b"3")
    buffer._client = client
    assert buffer.flush() == 4
    written = client.lrange("gw:access_log", 0, -1)
    assert written[-4:] == entries(4)
    assert set(written) == set(entries(4))
    own.close()


def test_what_is_being_written_is_not_dropped_for_what_comes(server, client):
    own = connect(server.url, timeout=0.05)
    buffer = LogBuffer(own, most_entries=5)
    for entry in entries(5):
        buffer.add("access_log", entry)
    with server.frozen(), pytest.raises(StoreUnavailable):
        buffer.flush()
    for entry in entries(5, 5):
        buffer.add("access_log", entry)
    assert (buffer.pending, buffer.dropped) == (5, 5)
    buffer._client = client
    buffer.flush()
    assert client.lrange("gw:access_log", -5, -1) == entries(5)
    own.close()


def test_Q11_a_store_that_refuses_writes_for_now_gets_them_later(buffer, client):
    client.config_set("maxmemory", 1)
    buffer.add("access_log", b"1")
    with pytest.raises(StoreUnavailable, match="maxmemory"):
        buffer.flush()
    assert buffer.pending == 1
    client.config_set("maxmemory", 0)
    assert buffer.flush() == 1


def test_a_key_that_is_no_list_loses_its_own_entries_only(buffer, client, caplog):
    client.set("gw:audit", "a string")
    for entry in entries(3):
        buffer.add("audit", entry)
        buffer.add("access_log", entry)
    assert buffer.flush() == 3
    buffer.add("audit", b"again")
    buffer.flush()
    assert (buffer.pending, buffer.dropped) == (0, 4)
    assert client.lrange("gw:access_log", 0, -1) == entries(3)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["log_list_refused"]


def test_the_loop_survives_whatever_is_raised(server, client, monkeypatch, wait_until):
    raised = []
    with contextlib.closing(connect(server.url)) as own:
        buffer = LogBuffer(own)
        get_connection = own.connection_pool.get_connection

        def bad() -> object:
            if len(raised) < 2:
                raised.append(1)
                raise RuntimeError("a bug")
            return get_connection()

        monkeypatch.setattr(own.connection_pool, "get_connection", bad)
        buffer.add("access_log", b"1")
        with running(buffer):
            wait_until(lambda: client.llen("gw:access_log") == 1)
    assert len(raised) == 2


def test_Q12_the_loop_tries_less_often_while_the_store_is_away():
    pauses = []

    class Stop:
        def is_set(self) -> bool:
            return len(pauses) == 12

        def wait(self, timeout: float) -> None:
            pauses.append(timeout)

    with contextlib.closing(connect("unix:///nowhere")) as client:
        buffer = LogBuffer(client)
        buffer.add("access_log", b"1")
        buffer.run(Stop())
    assert pauses[0] <= 0.2
    assert 2.5 <= pauses[-1] <= 5.0
    assert len({round(pause, 6) for pause in pauses[-5:]}) == 5  # jitter


def test_it_writes_once_more_when_it_is_closed_and_counts_what_it_could_not(client):
    buffer = LogBuffer(client)
    buffer.add("access_log", b"1")
    buffer.close()
    assert client.llen("gw:access_log") == 1
    with contextlib.closing(connect("unix:///nowhere")) as nowhere:
        lost = LogBuffer(nowhere)
        lost.add("access_log", b"1")
        lost.close()
        assert (lost.pending, lost.dropped) == (0, 1)


def test_adding_never_waits_for_a_write_under_way(server, buffer):
    buffer.add("access_log", b"1")
    with server.frozen():
        thread = threading.Thread(target=buffer.flush)
        thread.start()
        began = time.monotonic()
        for entry in entries(1000):
            buffer.add("access_log", entry)
        assert time.monotonic() - began < 1.9  # the write under way waits 2 s for the store
        assert buffer.pending == 1001
    thread.join()
