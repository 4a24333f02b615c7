from __future__ import annotations

import contextlib
import itertools

import pytest
import redis

from gwproxy.store.connection import connect
from gwproxy.store.redial import PAUSE, Redial
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def redial(clock):
    return Redial(clock)


def refuse() -> None:
    raise redis.ConnectionError("refused")


def tried(redial: Redial) -> bool:
    """Whether an attempt was made; it fails."""
    made = []
    with contextlib.suppress(redis.ConnectionError):
        redial.attempt(lambda: made.append(1) or refuse())
    return bool(made)


def test_as_long_as_connecting_works_nobody_waits(redial):
    made = []
    for number in range(5):
        redial.attempt(lambda number=number: made.append(number))
    assert made == [0, 1, 2, 3, 4]


def test_Q12_after_a_failure_there_is_one_attempt_a_second(redial, clock):
    assert tried(redial)
    attempts = []
    for _ in range(1000):
        clock.now += 0.01
        if tried(redial):
            attempts.append(clock.now)
    gaps = [after - before for before, after in itertools.pairwise(attempts)]
    assert 7 <= len(attempts) <= 13
    assert PAUSE[0] <= min(gaps) < max(gaps) <= PAUSE[1] + 0.02


def test_whoever_comes_too_soon_is_told_why(redial):
    assert tried(redial)
    with pytest.raises(redis.ConnectionError, match="refused"):
        redial.attempt(lambda: pytest.fail("too soon"))


def test_while_one_tries_again_others_do_not(redial, clock):
    assert tried(redial)
    clock.now += PAUSE[1]

    def slow() -> None:
        assert not tried(redial)

    redial.attempt(slow)
    redial.attempt(lambda: None)  # it has succeeded: all may


def test_a_failure_that_began_before_a_success_is_old_news(redial):
    def overtaken() -> None:
        redial.attempt(lambda: None)
        refuse()

    with pytest.raises(redis.ConnectionError):
        redial.attempt(overtaken)
    redial.attempt(lambda: None)


def test_an_attempt_that_was_cut_off_has_failed(redial):
    class Killed(BaseException):
        pass

    def killed() -> None:
        raise Killed

    with pytest.raises(Killed):
        redial.attempt(killed)
    assert not tried(redial)


def test_clients_of_one_worker_share_it(server):
    redial = Redial()
    clients = [connect(server.url, timeout=1.0, redial=redial) for _ in range(2)]
    server.kill()
    with pytest.raises(redis.ConnectionError):
        clients[0].ping()
    server.start()
    with pytest.raises(redis.ConnectionError):
        clients[1].ping()  # too soon, although it would have worked
    for client in clients:
        client.close()


def test_Q11_connections_to_a_store_that_refuses_to_write_are_replaced_all(client, server):
    redial = Redial()
    writer, reader = (connect(server.url, timeout=5.0, redial=redial) for _ in range(2))
    before = [one.client_id() for one in (writer, reader)]
    client.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            writer.set("k", "v")
    finally:
        client.replicaof("NO", "ONE")
    after = [one.client_id() for one in (writer, reader)]
    assert not set(before) & set(after)
    assert after == [one.client_id() for one in (writer, reader)]
    for one in (writer, reader):
        one.close()


def test_connections_as_old_as_one_that_swallows_everything_are_replaced(server):
    redial = Redial()
    impatient, other = connect(server.url, timeout=0.1, redial=redial), connect(server.url, timeout=5.0, redial=redial)
    impatient.ping()
    before = other.client_id()
    with server.frozen(), pytest.raises(redis.TimeoutError):
        impatient.ping()
    assert other.client_id() != before
    for one in (impatient, other):
        one.close()
