"""In threads, where each command takes a connection for itself; tests/store/test_pipeline.py is about greenlets."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
import redis
from redis.exceptions import NoScriptError

from gwproxy.errors import StoreUnavailable
from gwproxy.store.breaker import Breaker
from gwproxy.store.connection import connect
from gwproxy.store.roundtrips import RoundTrips


@pytest.fixture
def trips(client):
    return RoundTrips(client, Breaker(), timeout=5.0)


def in_threads(count: int, function) -> list:
    results: list = [None] * count

    def run(n: int) -> None:
        try:
            results[n] = function(n)
        except Exception as error:
            results[n] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_command_gets_its_reply(trips):
    assert trips.execute("SET", "k", b"\x00v") == b"OK"
    assert trips.execute("GET", "k") == b"\x00v"
    assert trips.execute("GET", "nothing") is None


def test_Q06_many_at_once_each_get_their_own(trips):
    def ask(n: int) -> list[bytes]:
        return [trips.execute("ECHO", f"{n}/{i}") for i in range(50)]

    assert in_threads(20, ask) == [[f"{n}/{i}".encode() for i in range(50)] for n in range(20)]


def test_an_error_is_that_of_its_own_command(trips):
    trips.execute("RPUSH", "list", "x")
    trips.execute("PING")

    def ask(n: int):
        return trips.execute("GET", "list") if n % 2 else trips.execute("ECHO", n)

    for _ in range(10):
        results = in_threads(10, ask)
        assert [str(one) for one in results[::2]] == [str(str(n).encode()) for n in range(0, 10, 2)]
        assert all(isinstance(one, StoreUnavailable) and "WRONGTYPE" in str(one) for one in results[1::2])
    assert not trips._breaker.is_open  # one bad key is no bad store


def test_an_unknown_script_is_the_callers_matter(trips):
    with pytest.raises(NoScriptError):
        trips.execute("EVALSHA", "0" * 40, 0)


def test_Q11_a_store_that_refuses_to_write_is_unavailable_and_opens_the_breaker(client, trips):
    client.config_set("maxmemory", 1)
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            trips.execute("SET", "k", "v")
    assert trips._breaker.is_open
    with pytest.raises(StoreUnavailable, match="left alone"):
        trips.execute("GET", "k")


def test_Q11_a_replica_is_unavailable_for_writes(client, trips):
    client.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(StoreUnavailable, match="read only"):
            trips.execute("SET", "k", "v")
    finally:
        client.replicaof("NO", "ONE")


def test_Q05_a_frozen_store_costs_a_call_its_timeout_whoever_leads_and_the_breaker_then_nothing(server):
    client = connect(server.url, timeout=0.1)
    trips = RoundTrips(client, Breaker(), timeout=0.1)
    trips.execute("SET", "k", "v")

    def ask(n: int) -> float:
        time.sleep(n * 0.003)  # arriving while others are under way
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            trips.execute("GET", "k")
        return time.monotonic() - began

    with server.frozen():
        took = in_threads(60, ask)
        assert max(took) < 3.0  # 0.1; without a bound it would be for ever
        assert trips._breaker.is_open
        for _ in range(100):  # at the timeout each, this would outlast the breaker's second and fail
            with pytest.raises(StoreUnavailable, match="left alone"):
                trips.execute("GET", "k")
    client.close()


def test_Q05_replies_that_come_late_answer_nobody(server, wait_until):
    client = connect(server.url, timeout=0.05, max_connections=2)
    trips = RoundTrips(client, Breaker(open_for=0.01), timeout=0.05)
    trips.execute("ECHO", "early")
    with server.frozen():
        for n in range(3):
            with pytest.raises(StoreUnavailable):
                trips.execute("ECHO", f"late {n}")
    wait_until(server.answers)
    patient = RoundTrips(client, Breaker(), timeout=5.0)
    assert [patient.execute("ECHO", f"after {n}") for n in range(5)] == [f"after {n}".encode() for n in range(5)]
    client.close()


def test_Q03_a_dead_store_is_unavailable_and_back_when_it_is(server, wait_until):
    client = connect(server.url, timeout=5.0)
    trips = RoundTrips(client, Breaker(open_for=0.05), timeout=5.0)
    trips.execute("PING")
    server.kill()
    for _ in range(8):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            trips.execute("PING")
        assert time.monotonic() - began < 4.0  # refused, not timed out
    server.start()

    def back() -> bool:
        with contextlib.suppress(StoreUnavailable):
            return trips.execute("PING") == b"PONG"
        return False

    wait_until(back)
    assert not trips._breaker.is_open
    client.close()


class Killed(BaseException):
    pass


def test_Q06_one_that_is_killed_leaves_no_reply_behind(trips, client):
    trips.execute("PING")
    connection = client.connection_pool.get_connection()

    def killed(**options: object) -> None:
        raise Killed

    connection.read_response = killed
    client.connection_pool.release(connection)
    with pytest.raises(Killed):
        trips.execute("ECHO", "first")
    del connection.read_response
    assert not trips._breaker.is_open
    assert trips.execute("ECHO", "second") == b"second"


def test_it_uses_the_clients_own_pool(trips, client):
    assert isinstance(client, redis.Redis)
    in_threads(10, lambda n: trips.execute("ECHO", n))
    assert len(client.connection_pool._connections) <= 10
