"""The candidate in a real Redis: one at a time, each change of it one step, and an end that is told."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from gwproxy.store.candidates import Candidate, CandidateBusy, CandidateGone, CandidateStore, CandidateUnreadable
from gwproxy.store.configuration import ConfigurationStore, RevisionConflict, digest_of
from tests.conftest import Server

ONE, TWO, THREE = b'[{"path": "/one"}]', b'[{"path": "/two"}]', b'[{"path": "/three"}]'


@pytest.fixture
def live(client: redis.Redis) -> ConfigurationStore:
    store = ConfigurationStore(client)
    store.publish(ONE, actor="alice")
    return store


@pytest.fixture
def store(client: redis.Redis, live: ConfigurationStore) -> CandidateStore:
    return CandidateStore(client)


def canary(store: CandidateStore, data: bytes = TWO, **options: Any) -> Candidate:
    return store.start(data, **{"mode": "canary", "base": 1, "actor": "bob", "share": 5.0, **options})


def ended(store: CandidateStore) -> tuple[str, str, str]:
    last = store.last()
    assert last is not None
    assert store.read() is None
    return last.outcome, last.reason, last.by


def test_there_is_none_until_there_is_one(store: CandidateStore, live: ConfigurationStore) -> None:
    look = store.look()
    assert (look.fingerprint, look.candidate, look.version, look.void) == (live.fingerprint(), "", "", "")
    assert store.read() is None
    assert store.last() is None
    made = canary(store, comment="é", rules="{}")
    assert store.read() == made
    assert store.read(data=False) == Candidate(**{**{name: getattr(made, name) for name in Candidate.__slots__}, "data": b""})
    assert (made.digest, made.base, made.mode, made.actor, made.share) == (digest_of(TWO), 1, "canary", "bob", 5.0)
    look = store.look()
    assert (look.fingerprint, look.candidate, look.void) == (live.fingerprint(), made.id, "")


def test_a_look_costs_a_short_reply_whatever_the_size(store: CandidateStore, client: redis.Redis) -> None:
    canary(store, b"x" * 1_000_000)
    before = client.info("stats")["total_net_output_bytes"]
    for _ in range(10):
        store.look()
        store.read(data=False)
    assert client.info("stats")["total_net_output_bytes"] - before < 20_000


def test_one_at_a_time(store: CandidateStore) -> None:
    first = canary(store)
    with pytest.raises(CandidateBusy, match=r"a canary by bob, since 20\d\d-"):
        canary(store, THREE)
    assert store.finish(first.id, "aborted", "enough", by="carol")
    assert ended(store) == ("aborted", "enough", "carol")
    assert canary(store, THREE).id != first.id


def test_it_is_made_from_what_is_live_now(store: CandidateStore, live: ConfigurationStore, client: redis.Redis) -> None:
    live.publish(TWO, actor="carol")
    with pytest.raises(RevisionConflict, match="revision 2 now, by carol"):
        canary(store, base=1)
    client.set("gw:routes", THREE)  # somebody's bare SET, that no worker has seen yet
    with pytest.raises(RevisionConflict, match="revision 3 now, by external"):
        canary(store, base=2)
    client.delete("gw:routes")
    with pytest.raises(RevisionConflict):
        canary(store, base=3)


def test_promoting_is_a_revision_and_the_end_in_one_step(store: CandidateStore, live: ConfigurationStore) -> None:
    made = canary(store, comment="faster")
    published = store.publish(made.id, "promoted", "it is well", by="carol")
    assert (published.revision, published.digest) == (2, made.digest)
    newest = live.history(1)[0]
    assert (newest.revision, newest.actor, newest.comment, newest.configuration) == (2, "carol", "faster", TWO)
    assert live.read().data == TWO
    assert ended(store) == ("promoted", "it is well", "carol")
    last = store.last()
    assert last is not None
    assert (last.revision, last.candidate.actor, last.candidate.base, last.candidate.at) == (2, "bob", 1, made.at)
    with pytest.raises(CandidateGone):
        store.publish(made.id, "promoted", "again", by="carol")


@pytest.mark.parametrize("how", ["published", "set", "the same again", "deleted", "counter"])
def test_whoever_changes_the_live_one_ends_it(store: CandidateStore, live: ConfigurationStore, client: redis.Redis, how: str) -> None:
    made = canary(store)
    if how == "published":
        live.publish(THREE, actor="carol")
    elif how == "the same again":
        live.publish(ONE, actor="carol")
    elif how == "set":
        client.set("gw:routes", THREE)  # and no worker has seen it yet
    elif how == "deleted":
        client.delete("gw:routes")
    else:
        client.delete("gw:revision")
    assert store.look().void == "superseded"
    with pytest.raises(CandidateGone):
        store.publish(made.id, "promoted", "too late", by="bob")
    settled = store.settle(made.id)
    assert settled is not None
    assert settled.outcome == "superseded"
    assert store.settle(made.id) is None
    assert store.look().candidate == ""
    named = {"published": "revision 2 now, by carol", "set": "revision 2 now, by external", "deleted": "gw:routes is missing"}
    assert named.get(how, "revision") in settled.reason


def test_what_stands_is_not_settled(store: CandidateStore) -> None:
    made = canary(store)
    assert store.settle(made.id) is None
    assert store.look().candidate == made.id


def test_a_stage_whose_owner_is_gone_ends_by_itself_and_says_so(store: CandidateStore, wait_until: Any) -> None:
    made = store.start(TWO, mode="stage", base=1, actor="bob", lease=30.0)
    store.renew(made.id, 0.05)
    wait_until(lambda: store.look().void == "expired")
    with pytest.raises(CandidateGone):
        store.renew(made.id, 30.0)
    with pytest.raises(CandidateGone):
        store.publish(made.id, "committed", "", by="bob")
    assert store.settle(made.id) is not None
    assert ended(store) == ("aborted", "who staged it did not say any more that it is wanted", "gateway")


def test_a_void_one_makes_room(store: CandidateStore, live: ConfigurationStore) -> None:
    canary(store)
    live.publish(THREE, actor="carol")
    assert canary(store, base=2).base == 2


def test_another_share_is_the_same_candidate(store: CandidateStore) -> None:
    made, before = canary(store), store.look()
    store.change(made.id, share=50.0, rules="[]")
    after, found = store.look(), store.read()
    assert found is not None
    assert (found.id, found.share, found.rules) == (made.id, 50.0, "[]")
    assert (before.candidate, before.version) != (after.candidate, after.version)
    store.finish(made.id, "aborted", "", by="bob")
    with pytest.raises(CandidateGone):
        store.change(made.id, share=1.0, rules="")


def test_what_workers_count_adds_up_once_also_of_those_that_are_gone(store: CandidateStore) -> None:
    made = canary(store)
    store.report(made.id, "w1", 1, {"live:requests": 100, "live:5xx": 2})
    store.report(made.id, "w1", 1, {"live:requests": 100, "live:5xx": 2})  # the answer to the first was lost
    store.report(made.id, "w1", 2, {"live:requests": 1})
    store.report(made.id, "w2", 1, {"live:requests": 10, "candidate:requests": 3})
    found = store.read()
    assert found is not None
    assert found.counts == {"live:requests": 111, "live:5xx": 2, "candidate:requests": 3}
    store.finish(made.id, "aborted", "", by="bob")
    last = store.last()
    assert last is not None
    assert last.candidate.counts == found.counts
    with pytest.raises(CandidateGone):
        store.report(made.id, "w1", 3, {"live:requests": 1})


def test_one_of_many_workers_judges(store: CandidateStore, client: redis.Redis) -> None:
    made = canary(store)
    judgements = [store.report(made.id, f"w{number}", 1, {"live:requests": 1}) for number in range(8)]
    (judgement,) = (found for found in judgements if found is not None)
    assert judgement is judgements[0]
    assert judgement.counts == {"live:requests": 1}
    assert 0 <= judgement.age < 60
    client.hset("gw:candidate", "judged", 0)  # two seconds later
    later = store.report(made.id, "w9", 1, {})
    assert later is not None
    assert later.counts == {"live:requests": 8}


def test_of_many_who_end_it_one_does(server: Server, store: CandidateStore) -> None:
    made = canary(store)
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(store.finish(made.id, "aborted", "x", by="w"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, False, True]


def test_what_is_no_candidate_is_in_nobodys_way(store: CandidateStore, live: ConfigurationStore, client: redis.Redis) -> None:
    client.set("gw:candidate", "what is this")
    assert store.look().fingerprint == live.fingerprint()
    assert store.look().candidate == ""


@pytest.mark.parametrize("fields", [{"base": "x"}, {"share": "x"}, {"n:live:requests": "x"}, {"n:\xff": "1"}])
def test_what_others_have_written_into_it_is_a_readable_error(store: CandidateStore, client: redis.Redis, fields: dict[str, str]) -> None:
    made = canary(store)
    client.hset("gw:candidate", mapping={name.encode("latin-1"): value for name, value in fields.items()})
    with pytest.raises(CandidateUnreadable, match="none of gwproxy's"):
        store.read()
    client.delete("gw:candidate")
    client.hset("gw:candidate", mapping={"id": made.id})
    found = store.read()
    assert found is not None
    assert found.data == b""


def test_S06_nothing_of_it_is_kept_for_ever(store: CandidateStore, client: redis.Redis) -> None:
    stage = store.start(TWO, mode="stage", base=1, actor="bob", lease=5.0)
    assert 5_000 < client.pttl("gw:candidate") <= 65_000  # type: ignore[operator]
    store.finish(stage.id, "aborted", "", by="bob")
    made = canary(store)
    store.report(made.id, "w1", 1, {})
    for key in client.scan_iter("gw:candidate*"):
        assert client.ttl(key) > 86_400  # type: ignore[operator]


def test_keys_of_one_slot_are_enough(client: redis.Redis) -> None:
    ConfigurationStore(client, "{gw}:").publish(ONE, actor="alice")
    tagged = CandidateStore(client, "{gw}:")
    made = canary(tagged)
    tagged.publish(made.id, "promoted", "", by="bob")
    assert sorted(client.scan_iter()) == [b"{gw}:candidate_last", b"{gw}:history", b"{gw}:revision", b"{gw}:routes"]
