from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime

import pytest

from gwproxy.errors import StoreUnavailable
from gwproxy.store.audit import KEPT, AuditEntry, AuditLog
from gwproxy.store.connection import connect


@pytest.fixture
def audit(client):
    return AuditLog(client)


def test_what_was_done_and_refused_newest_last(audit, client):
    assert audit.entries() == []
    audit.record("ann", "apply", "done", "route é added", revision=8)
    audit.record("bob", "apply", "refused", "revision 8 came first")
    first, second = audit.entries()
    assert first == AuditEntry(first.at, "ann", "apply", "done", 8, "route é added")
    assert second == AuditEntry(second.at, "bob", "apply", "refused", None, "revision 8 came first")
    assert audit.entries(1) == [second]
    assert audit.entries(0) == []
    assert client.type("gw:audit") == b"stream"


def test_times_are_the_stores_in_utc(audit, client):
    audit.record("ann", "apply", "done")
    (entry,) = audit.entries()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry.at)
    seconds, _ = client.time()
    assert abs((datetime.fromtimestamp(seconds, UTC) - datetime.fromisoformat(entry.at)).total_seconds()) < 10


def test_it_is_bounded(audit, client):
    pipeline = client.pipeline(transaction=False)
    for number in range(KEPT + 500):
        pipeline.xadd("gw:audit", {"actor": str(number)})
    pipeline.execute()
    audit.record("last", "apply", "done")
    assert KEPT <= client.xlen("gw:audit") <= KEPT + 100  # whole nodes are dropped, of a hundred entries
    assert audit.entries(1)[0].actor == "last"


def test_a_long_detail_is_cut(audit):
    audit.record("ann", "apply", "refused", "x" * 100_000)
    assert audit.entries()[0].detail == "x" * 1999 + "…"


def test_entries_of_strangers_do_no_harm(audit, client):
    client.xadd("gw:audit", {"revision": "x", b"actor": b"\xff"})
    assert audit.entries() == [AuditEntry("", "\ufffd", "", "", None, "")]


def test_following_outlives_an_outage(server, audit):
    with contextlib.closing(connect(server.url, timeout=5.0)) as client:
        other = AuditLog(client)
        for actor in "abc":
            other.record(actor, "apply", "done")
        slept = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 1:
                client.rename("gw:audit", "elsewhere")
                client.set("gw:audit", "no stream")  # any error will do
            if len(slept) == 2:
                client.rename("elsewhere", "gw:audit")
                other.record("d", "apply", "done")
                other.record("e", "apply", "done")

        following = audit.follow(2, interval=0.25, sleep=sleep)
        assert [next(following).actor for _ in range(4)] == ["b", "c", "d", "e"]
        assert slept == [0.25, 0.25]


def test_following_without_old_entries(audit):
    audit.record("old", "apply", "done")
    following = audit.follow(0, sleep=lambda _: audit.record("new", "apply", "done"))
    assert next(following).actor == "new"


def test_every_method_says_that_the_store_is_away():
    with contextlib.closing(AuditLog(connect("unix:///nowhere/redis.sock"))) as audit:
        for call in (audit.entries, lambda: audit.record("a", "b", "done"), lambda: next(audit.follow())):
            with pytest.raises(StoreUnavailable, match=r"/nowhere/redis\.sock"):
                call()
