"""The history of configurations: bounded, newest first."""

from __future__ import annotations

import time

import pytest

from gwproxy.store.configuration import ConfigurationStore, Latest, Retention, digest_of

ONE, TWO = b'[{"path": "/one"}]', b'[{"path": "/two"}]'


@pytest.fixture
def store(client):
    return ConfigurationStore(client)


@pytest.mark.parametrize("keep", [1, 10])
def test_the_history_is_bounded_by_count(client, keep):
    store = ConfigurationStore(client, retention=Retention(revisions=keep))
    for n in range(30):
        store.publish(b"[%d]" % n, actor="me")
    assert [entry.revision for entry in store.history()] == list(range(30, 30 - keep, -1))
    client.set("gw:routes", ONE)
    assert store.note_external(ONE, digest_of(ONE)) == 31
    assert [entry.revision for entry in store.history()] == list(range(31, 31 - keep, -1))


def old_entry(client, revision: int, days: float) -> None:
    """An entry as somebody made it so many days ago."""
    data = b"[%d]" % revision
    fields = {"revision": revision, "digest": digest_of(data), "at": "then", "actor": "me", "comment": "", "configuration": data}
    client.xadd("gw:history", fields, id=f"{int((time.time() - days * 86_400) * 1000)}-0")
    client.mset({"gw:routes": data, "gw:revision": revision})


def test_the_history_is_bounded_by_age(client):
    for revision, days in ((1, 9.0), (2, 8.0), (3, 6.0)):
        old_entry(client, revision, days)
    store = ConfigurationStore(client, retention=Retention(days=7))
    store.publish(ONE, actor="me")
    assert [entry.revision for entry in store.history()] == [4, 3]


@pytest.mark.parametrize("retention", [Retention(revisions=1), Retention(days=0.5), Retention(revisions=1, days=1e-9)])
def test_the_live_revision_outlives_both_bounds(client, retention):
    old_entry(client, 1, 400.0)
    store = ConfigurationStore(client, retention=retention)
    assert store.latest() == Latest(b"[1]", 1)
    assert store.note_external(b"[1]", digest_of(b"[1]")) == 1
    assert [entry.revision for entry in store.history()] == [1]  # whatever its age: nothing came after it
    store.publish(ONE, actor="me")
    assert [(entry.revision, entry.configuration) for entry in store.history()] == [(2, ONE)]
    assert store.latest() == Latest(ONE, 2)


def test_by_default_no_age_is_too_old(store, client):
    old_entry(client, 1, 4000.0)
    store.publish(ONE, actor="me")
    assert [entry.revision for entry in store.history()] == [2, 1]


def test_history_is_read_in_pages_newest_first(store):
    for n in range(50):
        store.publish(b"[%d]" % n, actor="me")
    assert [entry.revision for entry in store.history()] == list(range(50, 0, -1))
    assert [entry.revision for entry in store.history(3)] == [50, 49, 48]
    assert store.history(0) == []
    assert store.revision(7).configuration == b"[6]"
    assert store.revision(51) is None
    assert store.revision(0) is None


def test_entries_of_strangers_in_the_history_are_passed_over(store, client):
    store.publish(ONE, actor="me")
    client.xadd("gw:history", {"revision": "x", "configuration": "y"})
    client.xadd("gw:history", {"hello": b"\xff"})
    assert [entry.revision for entry in store.history()] == [1]
    assert store.publish(TWO, actor="me").revision > 1
    assert store.history()[0].configuration == TWO
