from __future__ import annotations

import json
from typing import Any

import pytest

from gwproxy.controlplane.history import blame, changes
from gwproxy.errors import CommandFailed
from gwproxy.registry import Registry
from gwproxy.store.configuration import Revision


def revisions(*trees: Any, first: int = 1) -> list[Revision]:
    """Revisions of these documents, newest first."""
    made = [
        Revision(number, f"d{number}", f"t{number}", f"by{number}", "", json.dumps(tree).encode())
        for number, tree in enumerate(trees, first)
    ]
    return made[::-1]


def route(**fields: Any) -> dict[str, Any]:
    return {"id": "users", "path": "/u", "upstream": "http://a", **fields}


def test_what_each_revision_changed(plugins: Registry) -> None:
    found = [str(change) for change in changes(revisions([], [route()], [route(priority=1)]), plugins)]
    assert found == [
        "revision 3 by by3 at t3: route users changed (priority)",
        "revision 2 by by2 at t2: route users added",
        "revision 1 by by1 at t1: nothing but how it is written",
    ]
    cut = list(changes(revisions([route()], [route(priority=1)], first=7), plugins))
    assert [change.difference is None for change in cut] == [False, True]
    assert cut[1].as_data()["changes"] is None


def test_what_cannot_be_read_is_compared_with_nothing(plugins: Registry) -> None:
    made = revisions([route()], [route()], [route()])
    made[1] = Revision(2, "d", "t", "external", "", b"{nonsense")
    assert [change.difference is None for change in changes(made, plugins)] == [True, True, False]


def blamed(plugins: Registry, *trees: Any, **options: Any) -> dict[str, tuple[int, bool]]:
    found = blame("route", "users", revisions(*trees, **options), plugins)
    return {one.field.path: (one.revision.revision, one.earlier) for one in found}


def test_each_field_is_from_the_revision_that_gave_it_its_value(plugins: Registry) -> None:
    limit = {"name": "limit", "config": {"limit": 5}}
    assert blamed(
        plugins,
        [route(timeout=30)],
        [route(timeout=30, plugins=[{"name": "limit", "config": {"limit": 4}}])],
        [route(timeout={"read": 5, "head": 30}, plugins=[limit])],
        [{"path": "/other", "upstream": "x"}, route(timeout={"read": 5, "head": 30}, plugins=[limit])],
    ) == {
        "id": (1, False),
        "path": (1, False),
        "upstream": (1, False),
        "timeout.read": (3, False),
        "timeout.head": (1, False),
        "plugins.limit.name": (2, False),
        "plugins.limit.config.limit": (3, False),
    }


def test_a_field_that_went_and_came_back_is_from_when_it_came_back(plugins: Registry) -> None:
    assert blamed(plugins, [route(priority=1)], [route()], [route(priority=1)])["priority"] == (3, False)
    assert blamed(plugins, [route()], [], [route()]) == {"id": (3, False), "path": (3, False), "upstream": (3, False)}


def test_beyond_what_is_kept_it_is_at_least_as_old(plugins: Registry) -> None:
    assert blamed(plugins, [route()], [route(priority=1)], first=5) == {
        "id": (5, True),
        "path": (5, True),
        "upstream": (5, True),
        "priority": (6, False),
    }


def test_secrets_are_compared_and_masked(plugins: Registry) -> None:
    trees = [[route(plugins=[{"name": "login", "config": {"secret": f"hunter2-{n}"}}])] for n in (1, 2)]
    found = {one.field.path: one for one in blame("route", "users", revisions(*trees), plugins)}
    secret = found["plugins.login.config.secret"]
    assert (secret.field.after, secret.revision.revision) == ("***", 2)
    assert "hunter" not in repr(next(iter(found.values())).field) + repr(secret.field)


def test_no_more_is_read_than_is_needed(plugins: Registry) -> None:
    def endless() -> Any:
        yield from revisions([], [route()])
        raise AssertionError("read on")

    assert len(blame("route", "users", endless(), plugins)) == 3


def test_upstreams_too(plugins: Registry) -> None:
    trees = [{"routes": [], "upstreams": {"a": {"targets": [{"url": "http://a"}], "keepalive": keepalive}}} for keepalive in (True, False)]
    found = {one.field.path: one.revision.revision for one in blame("upstream", "a", revisions(*trees), plugins)}
    assert found == {"targets": 1, "keepalive": 2}


def test_what_is_not_live_cannot_be_blamed(plugins: Registry) -> None:
    with pytest.raises(CommandFailed, match="no route 'users'"):
        blame("route", "users", revisions([route()], []), plugins)
    assert blame("route", "users", [], plugins) == []
