"""Wheels and deployments in a real Redis: what is live changes in one step, and what it needs is kept."""

from __future__ import annotations

import hashlib
import json

import pytest
import redis

from gwproxy.store.candidates import Candidate, CandidateBusy, CandidateGone, CandidateStore, Tried
from gwproxy.store.configuration import ConfigurationStore, digest_of
from gwproxy.store.deployments import Change, DeploymentConflict, DeploymentStore, LiveDeployment, WheelMissing

WEEK = 7 * 86_400


def wheel(store: DeploymentStore, version: str) -> str:
    return store.put_wheel(version.encode(), "signed", distribution="tenant", version=version, actor="alice")


def names(*wheels: str) -> bytes:
    return json.dumps({"wheels": [{"sha256": sha256} for sha256 in wheels]}).encode()


def push(store: DeploymentStore, version: str, action: str = "push") -> LiveDeployment:
    made = names(wheel(store, version))
    return store.publish(made, Change(action, "tenant", version), base=store.live(), actor="alice", comment="why")


@pytest.fixture
def store(client: redis.Redis) -> DeploymentStore:
    return DeploymentStore(client)


@pytest.fixture
def candidates(client: redis.Redis) -> CandidateStore:
    ConfigurationStore(client).publish(b"[]", actor="alice")
    return CandidateStore(client)


def tried(candidates: CandidateStore, store: DeploymentStore, version: str = "1.1", base: LiveDeployment | None = None) -> Candidate:
    change = Tried(names(wheel(store, version)), base or store.live(), Change("push", "tenant", version))
    return candidates.start(b"[]", mode="stage", base=1, actor="bob", comment="faster", lease=30.0, tried=change)


def test_there_is_none_until_there_is_one(store: DeploymentStore, candidates: CandidateStore) -> None:
    assert store.live() == LiveDeployment(b"", 0)
    assert store.live().digest == ""
    assert (candidates.look().deployment, candidates.look().revoked) == ("", "")
    assert store.wheel("0" * 64) is None
    assert (store.history(), store.revoked()) == ([], {})
    live = push(store, "1.0")
    assert store.live() == live == LiveDeployment(names(digest_of(b"1.0")), 1)
    assert candidates.look().deployment == hashlib.sha1(live.data).hexdigest()
    found = store.wheel(digest_of(b"1.0"))
    assert found is not None
    assert (found.data, found.signature, found.distribution, found.version, found.actor) == (b"1.0", "signed", "tenant", "1.0", "alice")


def test_every_change_is_in_the_history_also_a_bare_set(store: DeploymentStore, client: redis.Redis) -> None:
    push(store, "1.0")
    push(store, "1.1")
    client.set("gw:plugins", names(digest_of(b"1.0")))
    push(store, "1.2", "rollback")
    told = [(past.revision, past.change.action, past.change.version, past.actor, past.comment) for past in store.history()]
    assert told == [
        (4, "rollback", "1.2", "alice", "why"),
        (3, "set", "", "external", ""),
        (2, "push", "1.1", "alice", "why"),
        (1, "push", "1.0", "alice", "why"),
    ]
    assert store.history(2)[1].deployment == names(digest_of(b"1.0"))
    assert store.history(1)[0].at.endswith("Z")


@pytest.mark.parametrize("how", ["published", "set", "the same again"])
def test_of_two_who_change_it_one_is_told(store: DeploymentStore, client: redis.Redis, how: str) -> None:
    base = push(store, "1.0")
    if how == "set":
        client.set("gw:plugins", names(wheel(store, "1.1")))
    else:
        push(store, "1.1" if how == "published" else "1.0")
    before = store.live()
    with pytest.raises(DeploymentConflict, match=r"at revision \d now, by alice at 20"):
        store.publish(names(wheel(store, "1.2")), Change("push"), base=base, actor="bob")
    assert store.live() == before


def test_what_is_not_in_the_store_is_not_made_live(store: DeploymentStore, candidates: CandidateStore, client: redis.Redis) -> None:
    live = push(store, "1.0")
    with pytest.raises(WheelMissing, match=r"the wheel with the digest 000000.* push it again"):
        store.publish(names(digest_of(b"1.0"), "0" * 64), Change("push"), base=live, actor="bob")
    made = tried(candidates, store)
    client.delete(f"gw:wheel:{digest_of(b'1.1')}")
    with pytest.raises(WheelMissing):
        candidates.publish(made.id, "committed", "", by="bob")
    assert store.live() == live
    assert candidates.look().candidate == made.id


def test_S06_a_wheel_stays_as_long_as_it_may_be_gone_back_to_and_no_longer(store: DeploymentStore, client: redis.Redis) -> None:
    def lifetime(version: str) -> int:
        return client.ttl(f"gw:wheel:{digest_of(version.encode())}")  # type: ignore[return-value]

    wheel(store, "0.9")
    assert 0 < lifetime("0.9") <= WEEK  # nobody has deployed it
    for number in range(20):
        push(store, f"1.{number}")
    assert {lifetime(f"1.{number}") for number in range(20)} == {-1}
    wheel(store, "1.5")
    assert lifetime("1.5") == -1  # pushed again: it is named all the same
    push(store, "2.0")
    assert 0 < lifetime("1.0") <= WEEK
    assert lifetime("1.1") == -1
    push(store, "1.0", "rollback")
    assert lifetime("1.0") == -1
    assert 0 < lifetime("0.9") <= WEEK


def test_the_history_is_bounded(store: DeploymentStore, client: redis.Redis) -> None:
    made = names(wheel(store, "1.0"))
    for number in range(1005):
        store.publish(made, Change("push", "tenant", "1.0"), base=LiveDeployment(made if number else b"", number), actor="a")
    assert client.xlen("gw:plugins_history") == 1000
    assert store.live().revision == 1005


def test_revoking_is_for_ever_and_takes_out_in_the_same_step(store: DeploymentStore, candidates: CandidateStore) -> None:
    bad, good = push(store, "1.1"), names(wheel(store, "1.0"))
    before = candidates.look()
    about = Change("revoke", "tenant", "1.0")
    live = store.revoke([digest_of(b"1.1")], "it leaks", actor="carol", without=good, base=bad, about=about)
    assert store.live() == live == LiveDeployment(good, 2)
    newest = store.history(1)[0]
    assert (newest.change, newest.actor, newest.comment) == (about, "carol", "it leaks")
    revoked = store.revoked()[digest_of(b"1.1")]
    assert (revoked.reason, revoked.actor) == ("it leaks", "carol")
    after = candidates.look()
    assert after.revoked not in ("", before.revoked)
    assert store.revoke(["KEY"], "stolen", actor="carol", without=b"", base=live, about=about) == live
    assert candidates.look().revoked != after.revoked
    assert set(store.revoked()) == {digest_of(b"1.1"), "KEY"}
    with pytest.raises(DeploymentConflict):
        store.revoke(["OTHER"], "late", actor="dave", without=good, base=bad, about=about)
    assert "OTHER" not in store.revoked()


def test_what_others_have_written_is_read_as_far_as_it_can_be(store: DeploymentStore, client: redis.Redis) -> None:
    push(store, "1.0")
    client.hset("gw:plugins_revoked", mapping={"A": b"\xff", "B": "[]", "C": "1"})
    client.xadd("gw:plugins_history", {"revision": "x", "deployment": "x"})
    assert set(store.revoked()) == {"A", "B", "C"}
    assert [past.revision for past in store.history()] == [1]
    client.hset(f"gw:wheel:{'1' * 64}", mapping={"version": "1"})
    assert store.wheel("1" * 64) is None


# ---- as a candidate


def test_one_that_was_tried_is_live_in_one_step(store: DeploymentStore, candidates: CandidateStore, client: redis.Redis) -> None:
    before = push(store, "1.0")
    made = tried(candidates, store)
    found = candidates.read()
    assert found == made
    assert (made.deployment_digest, made.deployment_base, made.change) == (
        digest_of(made.deployment),
        1,
        Change("push", "tenant", "1.1"),
    )
    assert store.live() == before
    published = candidates.publish(made.id, "committed", "all", by="bob")
    assert (published.revision, published.digest) == (2, made.deployment_digest)
    assert store.live() == LiveDeployment(made.deployment, 2)
    assert client.ttl(f"gw:wheel:{digest_of(b'1.1')}") == -1
    newest = store.history(1)[0]
    assert (newest.change, newest.actor, newest.comment) == (made.change, "bob", "faster")
    assert ConfigurationStore(client).latest().revision == 1  # which is as it was
    last = candidates.last()
    assert last is not None
    assert (last.outcome, last.revision, last.candidate.deployment, last.candidate.change) == ("committed", 2, made.deployment, made.change)


def test_of_a_configuration_nothing_of_plugins_changes(store: DeploymentStore, candidates: CandidateStore) -> None:
    live = push(store, "1.0")
    made = candidates.start(b'[{"path": "/"}]', mode="stage", base=1, actor="bob")
    assert candidates.read() == made
    assert (made.deployment, made.deployment_digest, made.deployment_base, made.change) == (b"", "", 1, None)
    candidates.publish(made.id, "committed", "", by="bob")
    assert store.live() == live


@pytest.mark.parametrize("kind", ["configuration", "deployment"])
@pytest.mark.parametrize("how", ["deployment", "set", "configuration"])
def test_it_is_void_when_either_changes(
    store: DeploymentStore, candidates: CandidateStore, client: redis.Redis, kind: str, how: str
) -> None:
    push(store, "1.0")
    made = tried(candidates, store) if kind == "deployment" else candidates.start(b"[1]", mode="canary", base=1, actor="bob")
    assert candidates.look().void == ""
    if how == "set":
        client.set("gw:plugins", names(wheel(store, "3.0")))
    elif how == "deployment":
        push(store, "2.0")
    else:
        ConfigurationStore(client).publish(b"[ ]", actor="carol")
    assert candidates.look().void == "superseded"
    with pytest.raises(CandidateGone):
        candidates.publish(made.id, "committed", "", by="bob")
    settled = candidates.settle(made.id)
    assert settled is not None
    told = {
        "deployment": "the plugins are at revision 2 now, by alice",
        "configuration": "the live configuration is revision 2 now, by carol",
    }
    assert told.get(how, "live") in settled.reason


def test_at_most_one_of_either_kind_and_of_what_is_live(store: DeploymentStore, candidates: CandidateStore) -> None:
    base = push(store, "1.0")
    made = tried(candidates, store)
    with pytest.raises(CandidateBusy, match="a stage by bob"):
        candidates.start(b"[1]", mode="canary", base=1, actor="carol")
    candidates.finish(made.id, "aborted", "", by="bob")
    push(store, "1.1")
    with pytest.raises(DeploymentConflict, match="at revision 2 now, by alice"):
        tried(candidates, store, "1.2", base)


def test_plugins_may_come_before_any_configuration(client: redis.Redis, store: DeploymentStore) -> None:
    candidates = CandidateStore(client)
    change = Tried(names(wheel(store, "1.0")), store.live(), Change("push", "tenant", "1.0"))
    made = candidates.start(b"[]", mode="stage", base=0, actor="bob", tried=change)
    assert candidates.look().void == ""
    candidates.publish(made.id, "committed", "", by="bob")
    assert (store.live().revision, client.exists("gw:routes")) == (1, 0)


def test_a_candidate_of_an_older_command_is_judged_by_its_configuration(candidates: CandidateStore, client: redis.Redis) -> None:
    candidates.start(b"[1]", mode="canary", base=1, actor="bob")
    client.hdel("gw:candidate", "plugins", "plugins_base")
    assert candidates.look().void == ""


def test_keys_of_one_slot_are_enough(client: redis.Redis) -> None:
    store, candidates = DeploymentStore(client, "{gw}:"), CandidateStore(client, "{gw}:")
    ConfigurationStore(client, "{gw}:").publish(b"[]", actor="alice")
    made = tried(candidates, store)
    candidates.publish(made.id, "committed", "", by="bob")
    assert all(key.startswith(b"{gw}:") for key in client.scan_iter())
