"""How four workers hear of changes when messages are lost, connections die or lie, and changes storm (row Q)."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import statistics
import time
from collections import Counter

import pytest

from tests.e2e.conftest import until
from tests.e2e.redis_bench import Bench, Stream, bench_fixture, document, p95, waited

pytestmark = pytest.mark.e2e

WORKERS = 4


bench = bench_fixture(workers=WORKERS)


def applied(bench: Bench) -> Counter[str]:
    """How often each worker has applied a configuration, by process id."""
    return Counter(re.findall(r"\[(\d+)\] \[INFO\] configuration_applied", bench.gateway.output()))


def listening(bench: Bench) -> bool:
    return bench.subscribers() == WORKERS


def test_Q07_lost_messages_are_made_up_for_by_looking(bench: Bench) -> None:
    bench.relay.losing = True
    try:
        for number in range(3):
            digest = bench.publish(f"/lost/{number}")
            bench.server.client().publish("gw:reload", "x")
            began = time.monotonic()
            bench.settled(digest)
            assert time.monotonic() - began < 5  # half a second, its application, a heartbeat, a busy machine
    finally:
        bench.relay.losing = False
    assert bench.relay.lost >= 3


def test_Q07_killed_subscriptions_are_made_anew_and_nothing_is_assumed_delivered(bench: Bench) -> None:
    before = bench.logged()
    with Stream(bench) as stream:
        for number in range(3):
            assert bench.server.client().client_kill_filter(_type="pubsub") == WORKERS
            bench.settled(bench.publish(f"/unheard/{number}"))
            until(lambda: listening(bench), "every worker to listen")
        until(lambda: bench.logged()["subscription_back"] == before["subscription_back"] + 3 * WORKERS, "every worker to say so")
        stream.more(50)
    assert stream.failures == []
    assert bench.logged()["subscription_lost"] == before["subscription_lost"] + 3 * WORKERS


def test_Q07_half_open_subscriptions_are_found_out_and_looking_keeps_changes_live_meanwhile(bench: Bench) -> None:
    """A ping after three seconds of silence, two for its answer."""
    before = bench.logged()
    assert bench.relay.silence(subscriptions_only=True) == WORKERS
    began = time.monotonic()
    bench.settled(bench.publish("/unheard-of"))
    assert time.monotonic() - began < 3
    assert bench.logged()["subscription_lost"] == before["subscription_lost"]  # by looking, then
    until(lambda: bench.logged()["subscription_lost"] == before["subscription_lost"] + WORKERS, "every worker to miss an answer", within=10)
    assert time.monotonic() - began > 3
    assert bench.gateway.output().count("no sign of life") >= WORKERS
    until(lambda: listening(bench), "every worker to listen")
    assert bench.logged()["source_away"] == before["source_away"]


def test_Q07_half_open_connections_of_all_kinds_cost_their_patience_once(bench: Bench) -> None:
    """All connections swallow everything, new ones work: the look at the configuration gives up after 2 s."""
    bench.fill_pools()
    before = bench.logged()
    with Stream(bench) as stream, bench.clients() as clients:
        assert bench.relay.silence() >= 4 * WORKERS
        began = time.monotonic()
        bench.publish("/half-open")
        for client in clients:
            answers = [client.ask("/deny") for _ in range(3)]
            assert {answer.status for answer in answers} <= {200, 503}
            assert max(map(waited, answers)) < 300
        until(lambda: [client.ask("/deny").status for client in clients] == [200] * WORKERS, "Redis to be asked again")
        assert time.monotonic() - began < 4.5  # not a probe for each of the connections
        until(lambda: [client.ask("/half-open").status for client in clients] == [200] * WORKERS, "the change, by looking")
        assert time.monotonic() - began < 6
        assert bench.recovered("half-open-over") < 5
        until(lambda: bench.logged()["source_back"] == bench.logged()["source_away"], "all to be back")
    assert stream.failures == []
    assert bench.logged()["source_away"] <= before["source_away"] + WORKERS


def test_Q15_a_worker_too_slow_for_its_messages_is_cut_off_and_comes_back(bench: Bench) -> None:
    client = bench.server.client()
    usual = client.config_get("client-output-buffer-limit")["client-output-buffer-limit"]  # type: ignore[index]
    slow = bench.pids()[0]
    client.config_set("client-output-buffer-limit", "pubsub 1mb 1mb 1")
    os.kill(slow, signal.SIGSTOP)
    try:
        until(lambda: client.publish("gw:reload", b"x" * 500_000) == WORKERS - 1, "Redis to cut off the slow one")
        text = json.dumps(document(bench.upstream, "/while-it-slept"))
        client.set("gw:routes", text)
    finally:
        os.kill(slow, signal.SIGCONT)
        client.config_set("client-output-buffer-limit", usual)
    bench.settled(hashlib.sha256(text.encode()).hexdigest())
    until(lambda: listening(bench), "every worker to listen")
    assert slow in bench.pids()  # it has recovered, and not been replaced


def test_Q13_a_storm_of_changes_is_applied_ten_times_a_second_at_most_and_disturbs_nobody(bench: Bench) -> None:
    bench.settled(bench.publish("/calm"))
    client = bench.server.client()
    with Stream(bench) as stream:
        stream.more(100)
        usual, usual_control = stream.taken()
        before, began = applied(bench), time.monotonic()
        for number in itertools.count():  # a hundred rounds a second, evenly: each could be applied by itself, if nothing held back
            pipeline = client.pipeline(transaction=False)
            pipeline.set("gw:routes", last := json.dumps(document(bench.upstream, f"/storm/{number}")))
            for _ in range(10):
                pipeline.publish("gw:reload", "x")
            pipeline.execute()
            if time.monotonic() - began > 3:
                break
            time.sleep(max(0.0, began + (number + 1) / 100 - time.monotonic()))
        sent = time.monotonic() - began
        bench.settled(hashlib.sha256(last.encode()).hexdigest())
        took, storm = time.monotonic() - began, applied(bench) - before
        affected, affected_control = stream.taken()
    assert number >= 100
    assert len(storm) == WORKERS
    assert 2 <= min(storm.values()) <= max(storm.values()) <= took / 0.1 + 2
    assert took - sent < 5  # nothing has queued up
    assert stream.failures == []
    assert p95(affected) < 3 * max(p95(usual), p95(usual_control), p95(affected_control)) + 0.06


def test_Q12_each_worker_tries_to_connect_about_once_a_second_and_not_in_step(bench: Bench) -> None:
    relay, workers = bench.relay, bench.pids()
    relay.refusing = True
    relay.cut()
    try:
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 5.2, "five seconds to pass")
        # Not the first fifth: what dies at once is tried at once.
        paces = relay.pace(began + 0.2, began + 5.2)
    finally:
        relay.refusing = False
    assert paces.keys() == set(workers)  # each goes on trying
    assert 0.3 < min(paces.values()) <= max(paces.values()) < 1.5
    times = {pid: [at for who, at in relay.attempts if who == pid and began + 0.2 <= at < began + 5.2] for pid in workers}
    gaps = [after - before for attempts in times.values() for before, after in itertools.pairwise(attempts)]
    assert min(gaps) > 0.6
    assert statistics.pstdev(gaps) > 0.02  # jitter: a fleet that was cut off at once does not stay in step
    assert bench.recovered("reconnected") < 5


def test_L10_forgotten_scripts_are_no_matter_to_anybody(bench: Bench) -> None:
    before = bench.logged()
    for number in range(3):
        bench.server.client().script_flush()
        bench.settled(bench.publish(f"/forgotten/{number}"))
        bench.server.client().script_flush()
        until(bench.exact, "an exact limit")
    assert bench.logged() == before


@pytest.mark.parametrize("counter", [0, -1], ids=["Q14-goes-backwards", "Q14-same-revision-other-content"])
def test_Q14_the_content_decides_whatever_its_revision_says(bench: Bench, counter: int) -> None:
    """The store was restored from a copy: its counter is behind. What it holds is run all the same, and an alarm is logged."""
    bench.settled(bench.publish(f"/numbered/{counter}"))
    client = bench.server.client()
    revision = int(client.get("gw:revision"))  # type: ignore[arg-type]
    before = bench.gateway.output().count("revision_not_higher")
    text = json.dumps(document(bench.upstream, f"/restored/{counter}"))
    restore = client.pipeline()
    restore.delete("gw:history")
    restore.set("gw:revision", revision + counter if counter else 1)
    restore.set("gw:routes", text)
    restore.execute()
    bench.settled(hashlib.sha256(text.encode()).hexdigest())
    expected = revision if counter else 2
    until(lambda: {beat["revision"] for beat in bench.beats()} == {str(expected)}, "its revision in every heartbeat")
    assert bench.gateway.output().count("revision_not_higher") == before + WORKERS
    assert bench.gateway.get(f"/restored/{counter}").status_code == 200
    assert {json.loads(beat["counters"])["revisions_not_higher"] > 0 for beat in bench.beats()} == {True}
