from __future__ import annotations

import threading
import time

import pytest

from gwproxy.errors import StoreUnavailable
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect


@pytest.fixture
def store(server):
    store = ConfigurationStore(connect(server.url, timeout=2.0))
    yield store
    store.close()


@pytest.fixture
def heard(store):
    heard = store.subscribe()
    yield heard
    heard.close()


def test_the_first_wait_connects_and_says_read_everything(heard):
    assert not heard.connected
    assert heard.wait(5.0)
    assert heard.connected
    assert not heard.wait(0.01)


def test_a_hint_is_heard_at_once(heard, store):
    heard.wait(5.0)
    threading.Timer(0.05, lambda: store.publish(b"[]", actor="me")).start()
    began = time.monotonic()
    assert heard.wait(10.0)
    assert time.monotonic() - began < 2.0


def test_what_was_published_between_two_waits_is_heard(heard, store):
    heard.wait(5.0)
    store.publish(b"[]", actor="me")
    assert heard.wait(5.0)


def test_Q13_a_storm_of_hints_is_one(heard, client, wait_until):
    heard.wait(5.0)
    for n in range(3000):
        client.publish("gw:reload", n)
    hints = 0
    while heard.wait(0.2):
        hints += 1
    assert 1 <= hints <= 30


def test_messages_on_other_channels_are_not_ours(heard, client):
    heard.wait(5.0)
    client.publish("gwx:reload", "x")
    assert not heard.wait(0.05)


def test_Q07_a_killed_connection_is_an_error_then_a_new_one(heard, client):
    heard.wait(5.0)
    assert client.client_kill_filter(_type="pubsub") == 1
    with pytest.raises(StoreUnavailable):
        heard.wait(5.0)
    assert not heard.connected
    client.publish("gw:reload", "missed")
    assert heard.wait(5.0)  # reconnected: nothing is assumed delivered
    assert not heard.wait(0.01)
    client.publish("gw:reload", "x")
    assert heard.wait(5.0)


def test_Q03_a_restarted_server_is_found_again(heard, server):
    heard.wait(5.0)
    server.kill()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            heard.wait(1.0)
    server.start()
    assert heard.wait(5.0)


def test_a_half_open_connection_is_found_by_its_silence(store, server):
    heard = store.subscribe(ping_every=0.1, patience=0.2)
    heard.wait(5.0)
    with server.frozen():
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no sign of life"):
            heard.wait(10.0)
        assert 0.25 < time.monotonic() - began < 3.0
    assert heard.wait(5.0)
    heard.close()


def test_silence_is_found_over_many_short_waits_too(store, server):
    heard = store.subscribe(ping_every=0.1, patience=0.2)
    heard.wait(5.0)

    def listen() -> None:
        for _ in range(500):
            assert not heard.wait(0.02)

    with server.frozen(), pytest.raises(StoreUnavailable, match="no sign of life"):
        listen()
    heard.close()


def test_a_living_but_silent_server_is_left_in_peace(store, client):
    heard = store.subscribe(ping_every=0.05, patience=1.0)
    heard.wait(5.0)
    assert not heard.wait(0.5)
    client.publish("gw:reload", "x")
    assert heard.wait(5.0)
    heard.close()


def test_Q15_a_subscriber_that_was_cut_off_for_being_slow_subscribes_again(heard, client):
    before = client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]
    client.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
    try:
        heard.wait(5.0)
        for _ in range(64):
            client.publish("gw:reload", b"x" * 100_000)

        def listen() -> None:
            for _ in range(50):
                heard.wait(0.2)

        with pytest.raises(StoreUnavailable):
            listen()
        assert heard.wait(5.0)
    finally:
        client.config_set("client-output-buffer-limit", before)


def test_closing_twice_is_fine_and_gives_the_connection_back(heard, client, wait_until):
    heard.wait(5.0)
    heard.close()
    heard.close()
    wait_until(lambda: client.pubsub_numsub("gw:reload") == [(b"gw:reload", 0)])
