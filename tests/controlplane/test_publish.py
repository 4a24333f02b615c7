from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gwproxy.controlplane.publish import Overtaken, Publisher
from gwproxy.errors import CommandFailed, ConfigurationRefused
from gwproxy.registry import Registry
from gwproxy.store.audit import AuditLog
from gwproxy.store.configuration import ConfigurationStore, Retention, digest_of
from tests.controlplane.conftest import ENVIRONMENT


def document(*paths: str, **fields: Any) -> bytes:
    return json.dumps([{"path": path, "upstream": "http://a", **fields} for path in paths]).encode()


@pytest.fixture
def people(client: redis.Redis, plugins: Registry) -> Any:
    """Makes publishers, each for an actor."""

    def person(actor: str = "ann", **options: Any) -> Publisher:
        store = ConfigurationStore(client, retention=Retention(**options))
        return Publisher(store, AuditLog(client), plugins, ENVIRONMENT, actor)

    return person


@pytest.fixture
def ann(people: Any) -> Publisher:
    return people("ann")


def audited(client: redis.Redis) -> list[tuple[str, str, str, int | None]]:
    return [(entry.actor, entry.action, entry.outcome, entry.revision) for entry in AuditLog(client).entries()]


def publish(publisher: Publisher, *paths: str, **fields: Any) -> int:
    return publisher.commit(publisher.check(document(*paths, **fields), "gateway.yaml"), "why").revision


def test_a_change_is_a_revision_with_its_author(ann: Publisher, client: redis.Redis) -> None:
    prepared = ann.check(b"- {path: /a, upstream: 'http://a'}", "gateway.yaml")
    assert (prepared.revision, prepared.unchanged, prepared.difference.summary()) == (0, False, "route a added")
    assert ann.commit(prepared, "first").revision == 1
    (entry,) = ann.store.history()
    assert (entry.actor, entry.comment, entry.configuration) == ("ann", "first", b'[{"path":"/a","upstream":"http://a"}]')
    assert entry.digest == prepared.digest == digest_of(prepared.data)
    assert audited(client) == [("ann", "apply", "done", 1)]


def test_the_same_again_is_nothing_to_change_however_it_is_formatted(ann: Publisher, client: redis.Redis) -> None:
    client.set("gw:routes", b'[ {"path": "/a",   "upstream": "http://a"} ]\n')
    prepared = ann.check(b"- {path: /a, upstream: 'http://a'}", "gateway.yaml")
    assert prepared.unchanged
    assert prepared.revision == 1
    reordered = ann.check(b"- {upstream: 'http://a', path: /a}", "gateway.yaml")
    assert not reordered.unchanged  # a plugin may care for the order of keys
    assert not reordered.difference


def test_a_conflict_names_who_changed_what_since(people: Any, client: redis.Redis) -> None:
    ann, bob = people("ann"), people("bob")
    publish(ann, "/a")
    mine = bob.check(document("/a", "/mine"), "mine.yaml")
    publish(ann, "/a", "/b")
    publish(ann, "/a", "/b", priority=1)
    with pytest.raises(Overtaken) as caught:
        bob.commit(mine)
    since = [str(change) for change in caught.value.since]
    times = [entry.at for entry in ann.store.history(2)]
    assert since == [
        f"revision 3 by ann at {times[0]} (why): route a changed (priority), route b changed (priority)",
        f"revision 2 by ann at {times[1]} (why): route b added",
    ]
    assert str(caught.value).startswith("this change was made from revision 1, and the configuration is at revision 3 now, by ann at ")
    assert all(line in str(caught.value) for line in since)
    assert (caught.value.base, caught.value.revision, caught.value.actor) == (1, 3, "ann")
    assert ann.store.latest().revision == 3
    assert audited(client)[-1] == ("bob", "apply", "refused", 1)


@pytest.mark.parametrize("base", [1, 3, 99])
def test_a_base_that_is_not_live_is_refused_at_once_and_when_written(ann: Publisher, base: int) -> None:
    publish(ann, "/a")
    publish(ann, "/b")
    prepared = ann.check(document("/c"), "gateway.yaml")
    ann.expect(prepared, 2)
    for attempt in (lambda: ann.expect(prepared, base), lambda: ann.commit(prepared, base=base)):
        with pytest.raises(Overtaken, match=f"made from revision {base}"):
            attempt()
    assert ann.commit(prepared, base=2).revision == 3


def test_a_bare_set_that_nobody_noted_is_in_the_way(ann: Publisher, client: redis.Redis) -> None:
    publish(ann, "/a")
    prepared = ann.check(document("/b"), "gateway.yaml")
    client.set("gw:routes", document("/theirs"))
    with pytest.raises(Overtaken, match=r"revision 2 by external at \S+: route theirs added, route a removed"):
        ann.commit(prepared)
    assert ann.store.latest().data == document("/theirs")


def test_a_bare_set_before_is_noted_and_is_what_a_change_is_compared_with(ann: Publisher, client: redis.Redis) -> None:
    publish(ann, "/a")
    client.set("gw:routes", document("/a", "/theirs"))
    prepared = ann.check(document("/a"), "gateway.yaml")
    assert (prepared.revision, prepared.difference.summary()) == (2, "route theirs removed")
    assert ann.commit(prepared).revision == 3
    assert [entry.actor for entry in ann.store.history()] == ["ann", "external", "ann"]


def test_of_what_is_no_longer_kept_the_rest_is_told(people: Any) -> None:
    ann = people("ann", revisions=2)
    for path in "abcd":
        publish(ann, f"/{path}")
    with pytest.raises(Overtaken) as caught:
        ann.commit(ann.check(document("/mine"), "mine.yaml"), base=1)
    assert [change.revision.revision for change in caught.value.since] == [4, 3]
    assert caught.value.since[1].summary == "what it changed is not known"


def test_an_invalid_one_is_refused_with_its_place_and_recorded(ann: Publisher, client: redis.Redis) -> None:
    text = b"- {path: /a, upstream: nowhere}"
    with pytest.raises(ConfigurationRefused) as caught:
        ann.check(text, "gateway.yaml")
    assert (caught.value.problems[0].line, caught.value.problems[0].path) == (1, "routes[0].upstream")
    assert audited(client) == [("ann", "apply", "refused", None)]
    with pytest.raises(ConfigurationRefused):
        ann.check(text, "gateway.yaml", trial=True)
    assert len(audited(client)) == 1
    assert ann.store.history() == []


def test_without_routes_it_must_be_meant(ann: Publisher) -> None:
    with pytest.raises(CommandFailed, match="--allow-empty"):
        ann.check(b"[]", "gateway.yaml")
    assert ann.check(b"[]", "gateway.yaml", allow_empty=True).data == b"[]"


def test_a_worker_without_the_plugin_is_in_the_way(ann: Publisher) -> None:
    ann.store.heartbeat("w", {"host": "one", "pid": "7", "state": "ready", "plugins": "{}"})
    with pytest.raises(ConfigurationRefused, match="plugin 'limit', which is not installed on one/7"):
        ann.check(document("/a", plugins=[{"name": "limit"}]), "gateway.yaml")
    ann.store.heartbeat("w", {"host": "one", "pid": "7", "state": "ready", "plugins": '{"limit": "0", "far": "1"}'})
    prepared = ann.check(document("/a", plugins=[{"name": "limit"}, {"name": "far"}]), "gateway.yaml")
    assert "plugin 'far'" in prepared.warnings[0].found
    with pytest.raises(ConfigurationRefused, match="the unknown plugin 'fra'"):
        ann.check(document("/a", plugins=[{"name": "fra"}]), "gateway.yaml")


LOGIN = {"name": "login", "config": {"secret": "hunter2-hunter2"}}


def test_masks_keep_what_is_live(ann: Publisher) -> None:
    publish(ann, "/a", plugins=[LOGIN])
    shown = {"name": "login", "config": {"secret": "***"}}
    assert ann.check(document("/a", plugins=[shown]), "gateway.yaml").unchanged
    prepared = ann.check(document("/a", plugins=[shown], priority=1), "gateway.yaml")
    assert prepared.difference.summary() == "route a changed (priority)"
    ann.commit(prepared)
    assert json.loads(ann.store.latest().data or b"")[0]["plugins"] == [LOGIN]
    with pytest.raises(ConfigurationRefused) as caught:
        ann.check(b"- path: /new\n  upstream: http://a\n  plugins: [{name: login, config: {secret: '***'}}]", "gateway.yaml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.path, problem.found) == (3, "routes[0].plugins[0].config.secret", "***")


def test_problems_of_a_masked_document_are_told_at_their_places_in_it(ann: Publisher) -> None:
    publish(ann, "/a", plugins=[LOGIN])
    text = b"- path: /a\n  upstream: nowhere\n  plugins: [{name: login, config: {secret: '***'}}]"
    with pytest.raises(ConfigurationRefused) as caught:
        ann.check(text, "gateway.yaml")
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [(2, "routes[0].upstream")]


def test_a_rollback_is_a_higher_revision_byte_for_byte(ann: Publisher, client: redis.Redis) -> None:
    odd = b'[ {"path": "/a", "upstream": "http://a"} ]'
    client.set("gw:routes", odd)
    ann.live()
    publish(ann, "/b")
    assert ann.commit(ann.check_rollback(1), "back").revision == 3
    assert ann.store.latest().data == odd
    assert [entry.comment for entry in ann.store.history()] == ["back", "why", ""]
    assert ann.check_rollback(3).unchanged
    with pytest.raises(CommandFailed, match="no revision 9"):
        ann.check_rollback(9)
    assert audited(client)[-1] == ("ann", "rollback", "refused", None)


def test_a_rollback_to_what_workers_cannot_run_any_more_is_refused(ann: Publisher) -> None:
    publish(ann, "/a", plugins=[{"name": "limit"}])
    publish(ann, "/b")
    ann.store.heartbeat("w", {"host": "one", "pid": "7", "state": "ready", "plugins": "{}"})
    with pytest.raises(ConfigurationRefused, match=r"revision 1:.*not installed on one/7"):
        ann.check_rollback(1)


def test_what_failed_is_put_back_unless_somebody_was_quicker(people: Any) -> None:
    ann, bob = people("ann"), people("bob")
    publish(ann, "/good")
    prepared = ann.check(document("/bad"), "gateway.yaml")
    failed = ann.commit(prepared)
    assert ann.put_back(failed, prepared.base, "one/7 refuses it").revision == 3
    newest = ann.store.history(1)[0]
    assert json.loads(newest.configuration)[0]["path"] == "/good"
    assert newest.comment == "back to revision 1, because of revision 2: one/7 refuses it"
    publish(bob, "/other")
    with pytest.raises(Overtaken, match="by bob"):
        ann.put_back(failed, prepared.base, "late")
    assert json.loads(ann.store.latest().data or b"")[0]["path"] == "/other"


def test_before_the_first_there_is_nothing_to_put_back(ann: Publisher) -> None:
    prepared = ann.check(document("/bad"), "gateway.yaml")
    with pytest.raises(CommandFailed, match="no configuration before revision 1"):
        ann.put_back(ann.commit(prepared), prepared.base, "x")


def test_what_is_live_and_makes_no_sense_can_be_replaced(ann: Publisher, client: redis.Redis) -> None:
    client.set("gw:routes", b"{nonsense")
    assert publish(ann, "/a") == 2
    assert [change.summary for change in ann.history()] == ["what it changed is not known"] * 2


def test_an_audit_that_cannot_be_written_does_not_undo_the_change(ann: Publisher, client: redis.Redis) -> None:
    client.set("gw:audit", "no stream")
    assert publish(ann, "/a") == 1
