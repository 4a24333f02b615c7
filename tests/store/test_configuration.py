from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from datetime import UTC, datetime

import pytest

from gwproxy.errors import CommandFailed, StoreUnavailable
from gwproxy.store.audit import AuditEntry, AuditLog
from gwproxy.store.configuration import ConfigurationStore, Latest, RevisionConflict, digest_of
from gwproxy.store.connection import connect

ONE, TWO, THREE = b'[{"path": "/one"}]', b'[{"path": "/two"}]', b'[{"path": "/three"}]'


@pytest.fixture
def store(client):
    return ConfigurationStore(client)


def at_once(count: int, server, function) -> list:
    """Call ``function(store)`` in as many threads, each with a store of its own, all at once."""
    results: list = []
    barrier = threading.Barrier(count, timeout=20)

    def run() -> None:
        with contextlib.closing(ConfigurationStore(connect(server.url, timeout=10.0))) as own:
            own.read()
            barrier.wait()
            try:
                results.append(function(own))
            except Exception as error:
                results.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# ---- reading


def test_nothing_there(store, client):
    assert store.read() == (live := store.read())
    assert (live.data, live.revision) == (None, 0)
    assert store.fingerprint() is None
    assert store.history() == []
    client.set("gw:routes", "")
    assert store.read().data is None
    assert store.fingerprint() is None


def test_a_bare_set_by_anybody_changes_the_fingerprint(store, client):
    seen = set()
    for data in (ONE, TWO, THREE):
        client.set("gw:routes", data)
        seen.add(store.fingerprint())
    assert len(seen) == 3
    client.set("gw:routes", ONE)
    assert store.fingerprint() in seen


def test_an_unchanged_document_is_not_transferred(store, client):
    client.set("gw:routes", b"x" * 1_000_000)
    store.fingerprint()
    before = client.info("stats")["total_net_output_bytes"]
    for _ in range(10):
        store.fingerprint()
    assert client.info("stats")["total_net_output_bytes"] - before < 20_000


@pytest.mark.parametrize("revision", ["", "x", "-1", "1e3", "9" * 400])
def test_a_revision_that_is_none_reads_as_0(store, client, revision):
    client.mset({"gw:routes": ONE, "gw:revision": revision})
    assert store.read().revision == 0


def test_a_key_of_a_wrong_type_is_a_readable_error(store, client):
    client.rpush("gw:routes", "x")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        store.fingerprint()
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        store.publish(ONE, actor="me")


# ---- publishing


def test_publishing_makes_a_revision(store, client):
    published = store.publish(ONE, actor="alice", comment="é first")
    assert (published.revision, published.digest) == (1, digest_of(ONE))
    assert store.read().data == ONE
    assert store.read().revision == 1
    [entry] = store.history()
    assert (entry.revision, entry.digest, entry.actor, entry.comment, entry.configuration) == (1, digest_of(ONE), "alice", "é first", ONE)
    assert client.get("gw:revision") == b"1"
    assert client.type("gw:history") == b"stream"


def test_the_time_of_a_revision_is_the_stores_in_utc(store):
    store.publish(ONE, actor="me")
    at = store.history()[0].at
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", at)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()) < 60


def test_the_calendar_of_the_script_is_right(client, store):
    source = store._revisions
    function = source[source.index("local function iso") : source.index("local function record")]
    script = client.register_script(function + "return iso(tonumber(ARGV[1]), 42)")
    for seconds in (0, 951_782_399, 951_782_400, 951_868_800, 1_709_164_800, 1_735_689_599, 1_798_761_600, 4_107_542_400, 2**31):
        expected = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + ".000042Z"
        assert script(args=[seconds]).decode() == expected


def test_an_expected_revision_guards_against_overwriting(store):
    store.publish(ONE, actor="alice")
    store.publish(TWO, actor="bob", expected_revision=1)
    with pytest.raises(RevisionConflict, match="revision 2 now, by bob") as caught:
        store.publish(THREE, actor="alice", expected_revision=1)
    assert (caught.value.revision, caught.value.actor, caught.value.at) == (2, "bob", store.history()[0].at)
    assert store.read().data == TWO
    assert store.publish(THREE, actor="alice").revision == 3


def test_of_many_with_the_same_expectation_one_publishes(server, store):
    store.publish(ONE, actor="me")
    results = at_once(12, server, lambda own: own.publish(TWO, actor="x", expected_revision=1))
    assert sorted(type(one).__name__ for one in results) == ["Published"] + ["RevisionConflict"] * 11
    assert store.read().revision == 2


def test_an_empty_configuration_is_not_published(store):
    with pytest.raises(CommandFailed, match=r"\[\]"):
        store.publish(b"", actor="me")


def test_Q14_a_revision_is_higher_than_any_before_whatever_happened_to_the_counter(store, client):
    for data in (ONE, TWO, THREE):
        store.publish(data, actor="me")
    client.delete("gw:revision")
    assert store.publish(ONE, actor="me").revision == 4
    client.set("gw:revision", "2")
    assert store.publish(TWO, actor="me").revision == 5
    client.set("gw:revision", "nonsense")
    assert store.publish(THREE, actor="me").revision == 6
    client.delete("gw:history")
    assert store.publish(ONE, actor="me").revision > 6


def test_the_latest_is_what_is_live_and_its_revision(store, client):
    assert store.latest() == Latest(None, 0)
    store.publish(ONE, actor="me")
    assert store.latest() == Latest(ONE, 1)
    client.set("gw:routes", TWO)
    assert store.latest() == Latest(TWO, None)
    store.note_external(TWO, digest_of(TWO))
    assert store.latest() == Latest(TWO, 2)
    client.delete("gw:routes")
    assert store.latest() == Latest(None, 2)
    client.delete("gw:history", "gw:revision")
    client.set("gw:routes", ONE)
    assert store.latest() == Latest(ONE, None)


# ---- changes by others


def test_a_bare_set_gets_the_next_revision(store, client):
    store.publish(ONE, actor="me")
    client.set("gw:routes", TWO)
    assert store.note_external(TWO, digest_of(TWO)) == 2
    assert store.note_external(TWO, digest_of(TWO)) == 2
    newest = store.history()[0]
    assert (newest.revision, newest.actor, newest.digest, newest.configuration) == (2, "external", digest_of(TWO), TWO)
    assert store.read().revision == 2


def test_many_workers_note_one_change_once(server, store, client):
    store.publish(ONE, actor="me")
    client.set("gw:routes", TWO)
    assert at_once(20, server, lambda own: own.note_external(TWO, digest_of(TWO))) == [2] * 20
    noted, _ = store.history()
    assert noted.actor == "external"
    (entry,) = AuditLog(client).entries()
    told = f"the key was written directly, digest {digest_of(TWO)[:12]}"
    assert entry == AuditEntry(noted.at, "external", "set", "done", 2, told)


def test_noting_what_was_published_is_its_revision(store, client):
    assert store.publish(ONE, actor="me").revision == 1
    assert store.note_external(ONE, digest_of(ONE)) == 1
    client.set("gw:revision", "7")  # somebody raised the counter by hand; it never goes back
    assert store.note_external(ONE, digest_of(ONE)) == 1
    assert store.read().revision == 7
    client.delete("gw:revision")
    assert store.note_external(ONE, digest_of(ONE)) == 1
    assert store.read().revision == 1


def test_noting_what_is_live_no_more(store, client):
    store.publish(ONE, actor="me")
    store.publish(TWO, actor="me")
    assert store.note_external(ONE, digest_of(ONE)) == 1  # it was revision 1
    assert store.note_external(THREE, digest_of(THREE)) == 0  # never recorded
    assert len(store.history()) == 2


def test_publishing_over_a_bare_set_loses_nothing(store, client):
    store.publish(ONE, actor="me")
    client.set("gw:routes", TWO)
    assert store.publish(THREE, actor="me").revision == 3
    assert [(entry.revision, entry.actor) for entry in store.history()] == [(3, "me"), (2, "external"), (1, "me")]
    assert [(entry.revision, entry.actor) for entry in AuditLog(client).entries()] == [(2, "external")]  # who publishes audits that
    assert store.revision(2).configuration == TWO


def test_an_unnoted_change_is_a_conflict_for_who_expected_the_one_before(store, client):
    store.publish(ONE, actor="me")
    client.set("gw:routes", TWO)
    with pytest.raises(RevisionConflict, match="by external"):
        store.publish(THREE, actor="me", expected_revision=1)
    assert store.read().data == TWO


@pytest.mark.parametrize("present", [None, b""])
def test_seeding_happens_once(server, store, client, present):
    if present is not None:
        client.set("gw:routes", present)
    results = at_once(15, server, lambda own: own.seed(ONE, "seed"))
    assert sorted(type(one).__name__ for one in results) == ["NoneType"] * 14 + ["Published"]
    assert [entry.revision for entry in store.history()] == [1]
    client.set("gw:routes", TWO)
    assert store.seed(ONE, "seed") is None
    assert store.read().data == TWO


# ---- workers


def test_a_heartbeat_is_the_whole_truth_and_is_forgotten(store, client):
    store.heartbeat("host-1-a", {"state": "refused", "error": "no such plugin: é"})
    store.heartbeat("host-1-a", {"state": "ready"})
    store.heartbeat("host-2-b", {"state": "starting"})
    assert store.workers() == [{"id": "host-1-a", "state": "ready"}, {"id": "host-2-b", "state": "starting"}]
    assert 8_000 < client.pttl("gw:worker:host-1-a") <= 10_000
    assert store.heartbeats(["host-2-b", "gone"]) == [{"id": "host-2-b", "state": "starting"}]
    assert store.heartbeats([]) == []
    store.forget()
    store.forget("host-1-a", "host-3-c")
    assert [worker["id"] for worker in store.workers()] == ["host-2-b"]
    assert store.departed(["host-1-a", "host-2-b", "host-3-c", "other"]) == {"host-1-a", "host-3-c"}
    assert store.departed([]) == set()
    assert 590_000 < client.pttl("gw:departed:host-1-a") <= 600_000


def test_workers_of_other_gateways_are_not_ours(client):
    odd = ConfigurationStore(client, "g[w]*:")
    odd.heartbeat("a", {"state": "ready"})
    ConfigurationStore(client, "gw:").heartbeat("b", {"state": "ready"})
    ConfigurationStore(client, "gwx:").heartbeat("c", {"state": "ready"})
    assert [worker["id"] for worker in odd.workers()] == ["a"]


def test_S06_only_configuration_and_history_have_no_lifetime(store, client):
    store.publish(ONE, actor="me")
    store.heartbeat("w", {"state": "ready"})
    store.forget("v")
    assert sorted(key for key in client.scan_iter() if client.ttl(key) < 0) == [b"gw:history", b"gw:revision", b"gw:routes"]


# ---- the access log


def test_the_access_log_newest_last(store, client):
    assert store.access_log(5) == []
    client.rpush("gw:access_log", *range(10))
    assert store.access_log(3) == [b"7", b"8", b"9"]
    assert store.access_log(0) == []
    assert len(store.access_log()) == 10


def test_following_the_access_log_outlives_an_outage(server, store):
    with contextlib.closing(connect(server.url, timeout=5.0)) as client:
        client.rpush("gw:access_log", "a", "b", "c")
        slept = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 1:
                client.rpush("gw:access_log", "d")
            if len(slept) == 2:
                client.rename("gw:access_log", "elsewhere")
                client.set("gw:access_log", "no list")  # any error will do
            if len(slept) == 3:
                client.rename("elsewhere", "gw:access_log")
                client.rpush("gw:access_log", "e")

        following = store.follow(2, interval=0.25, sleep=sleep)
        assert [next(following) for _ in range(4)] == [b"b", b"c", b"d", b"e"]
        assert slept == [0.25, 0.25, 0.25]


# ---- the store away


def test_Q03_every_method_says_that_the_store_is_away():
    with contextlib.closing(ConfigurationStore(connect("unix:///nowhere/redis.sock"))) as store:
        for call in (
            store.read,
            store.fingerprint,
            store.history,
            store.workers,
            store.latest,
            lambda: store.heartbeats(["w"]),
            store.access_log,
            lambda: store.revision(1),
            lambda: store.publish(ONE, actor="me"),
            lambda: store.seed(ONE, "me"),
            lambda: store.note_external(ONE, "d"),
            lambda: store.heartbeat("w", {"a": "b"}),
            lambda: store.forget("w"),
            lambda: store.departed(["w"]),
            lambda: next(store.follow()),
            lambda: store.subscribe().wait(0.1),
        ):
            with pytest.raises(StoreUnavailable, match=r"/nowhere/redis\.sock"):
                call()


def test_a_script_flush_is_not_noticed(store, client):
    store.publish(ONE, actor="me")
    client.script_flush()
    assert store.publish(TWO, actor="me").revision == 2
    client.script_flush()
    assert store.fingerprint() is not None


def test_the_hint_says_revision_and_digest(store, client):
    pubsub = client.pubsub()
    pubsub.subscribe("gw:reload")
    assert pubsub.get_message(timeout=5.0)["type"] == "subscribe"
    store.publish(ONE, actor="me")
    assert json.loads(pubsub.get_message(timeout=5.0)["data"]) == {"revision": 1, "digest": digest_of(ONE)}
    pubsub.close()


def test_a_large_configuration_is_published_and_read_quickly(store):
    data = json.dumps([{"path": f"/service-{n}", "upstream": "http://10.0.0.5:8000", "methods": ["GET"]} for n in range(10_000)]).encode()
    began = time.monotonic()
    store.publish(data, actor="me")
    assert store.read().data == data
    assert time.monotonic() - began < 2.0
