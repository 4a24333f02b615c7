from __future__ import annotations

from typing import Any

import orjson
import pytest

from gwproxy.controlplane.difference import NOT_SET, difference
from gwproxy.registry import Registry

Row = tuple[str, Any, Any]


def route(**fields: Any) -> dict[str, Any]:
    return {"id": "users", "path": "/u", "upstream": "http://a", **fields}


def fields(plugins: Registry, before: Any, after: Any) -> list[Row]:
    """The fields by which one route became another."""
    (change,) = difference([before], [after], plugins).changes
    assert (change.kind, change.name, change.action) == ("route", "users", "changed")
    return [(field.path, field.before, field.after) for field in change.fields]


def limit(**config: Any) -> dict[str, Any]:
    return {"name": "limit", "config": config}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"timeout": 30}, {"timeout": {"read": 5, "head": 30}}, [("timeout.read", 30, 5)]),
        ({}, {"timeout": 5}, [("timeout", NOT_SET, 5)]),
        ({"timeout": 5}, {"timeout": 6}, [("timeout", 5, 6)]),
        ({"max_body": "10MiB"}, {"max_body": "20MiB"}, [("max_body", "10MiB", "20MiB")]),
        ({"strip_path": True}, {"strip_path": 1}, [("strip_path", True, 1)]),
        ({"methods": ["GET"]}, {"methods": ["GET", "PUT"]}, [("methods", ["GET"], ["GET", "PUT"])]),
        ({"headers": {"x-a": "1"}}, {"headers": {"x-a": "2", "x.b": "3"}}, [("headers.x-a", "1", "2"), ("headers.x.b", NOT_SET, "3")]),
        ({"nonsense": 1}, {"nonsense": None}, [("nonsense", 1, None)]),
        (
            {"plugins": [limit(limit=1, windowSeconds=5)]},
            {"plugins": [limit(limit=2, window_seconds=5)]},
            [("plugins.limit.config.limit", 1, 2)],
        ),
        ({"plugins": [limit()]}, {"plugins": [limit(), limit(key="x")]}, [("plugins.limit#2", NOT_SET, limit(key="x"))]),
        ({"plugins": [limit()]}, {}, [("plugins.limit", limit(), NOT_SET)]),
        (
            {"plugins": [{"name": "a"}, {"name": "b"}, {"name": "c"}]},
            {"plugins": [{"name": "c"}, {"name": "a"}, {"name": "b"}]},
            [("plugins.c.position", 3, 1)],
        ),
        ({"plugins": [limit()]}, {"plugins": [{**limit(), "mode": "shadow"}]}, [("plugins.limit.mode", NOT_SET, "shadow")]),
    ],
)
def test_what_changed_in_a_route(plugins: Registry, before: Any, after: Any, expected: list[Row]) -> None:
    assert fields(plugins, route(**before), route(**after)) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (route(), {"upstream": "http://a", "path": "/u", "id": "users"}),
        (route(timeout=30), route(timeout={"head": 30, "read": 30.0})),
        (route(stripPath=True), route(strip_path=True)),
        (route(max_body="1KiB"), route(maxBody=1024)),
        (route(plugins=[limit(windowSeconds=5)]), route(plugins=[limit(window_seconds=5)])),
    ],
)
def test_how_it_is_written_makes_no_difference(plugins: Registry, before: Any, after: Any) -> None:
    found = difference([before], {"routes": [after]}, plugins)
    assert not found
    assert found.summary() == "nothing but how it is written"


@pytest.mark.parametrize(
    ("before", "after", "path", "shown"),
    [
        ({"secret": "hunter2-a"}, {"secret": "hunter2-b"}, "secret", ("***", "***")),
        ({"secret": "hunter2"}, {"secret": "${GW_S:-hunter2}"}, "secret", ("***", "${GW_S:-***}")),
        ({"rules": [{"name": "a", "value": "hunter2"}]}, {"rules": [{"name": "a", "value": "hunter3"}]}, "rules[0].value", ("***", "***")),
        ({"by_name": {"a": "hunter2"}}, {"by_name": {"a": "hunter3"}}, "by_name.a", ("***", "***")),
    ],
)
def test_secrets_are_compared_and_not_shown(plugins: Registry, before: Any, after: Any, path: str, shown: tuple[Any, Any]) -> None:
    pair = [[route(plugins=[{"name": "login", "config": config}])] for config in (before, after)]
    found = difference(*pair, plugins)
    (change,) = found.changes
    (field,) = change.fields
    assert (field.path, field.before, field.after, field.secret) == (f"plugins.login.config.{path}", *shown, True)
    assert b"hunter" not in orjson.dumps(found.as_data())
    assert "hunter" not in repr(found)


def test_credentials_in_urls_and_in_what_came_or_went_are_masked(plugins: Registry) -> None:
    entry = {"name": "login", "config": {"secret": "hunter2"}}
    before = {"routes": [route(upstream="http://u:hunter2@a")], "plugins": [entry]}
    after = {"routes": [route(upstream="http://u:hunter3@a"), {"path": "/new", "upstream": "x", "plugins": [entry]}]}
    found = difference(before, after, plugins)
    assert found.summary() == "route users changed (upstream), route new added, plugin login removed"
    assert found.changes[0].fields[0].secret
    assert b"hunter" not in orjson.dumps(found.as_data())


def test_upstreams_consumers_and_global_plugins(plugins: Registry) -> None:
    before = {
        "routes": [],
        "upstreams": {"a": {"targets": [{"url": "http://a"}]}, "b": {}},
        "consumers": [{"id": "x", "groups": []}],
        "plugins": [limit(limit=1), {"name": "cors"}],
    }
    after = {
        "routes": [],
        "upstreams": {"a": {"targets": [{"url": "http://a", "weight": 2}]}, "c": {}},
        "consumers": [{"id": "x", "groups": ["g"]}],
        "plugins": [{"name": "cors"}, limit(limit=2)],
    }
    found = difference(before, after, plugins)
    assert list(map(str, found.changes)) == [
        "upstream a changed (targets[0].weight)",
        "upstream c added",
        "upstream b removed",
        "consumer x changed (groups)",
        "plugin cors changed (position)",
        "plugin limit changed (config.limit)",
    ]
    assert difference(after, after, plugins).as_data() == []


def test_routes_that_moved_are_as_few_as_explain_the_order(plugins: Registry) -> None:
    def listed(order: str) -> list[dict[str, Any]]:
        return [{"id": name, "path": f"/{name}", "upstream": "x"} for name in order]

    (change,) = difference(listed("abcde"), listed("eabcd"), plugins).changes
    assert (change.name, change.fields[0].path, change.fields[0].before, change.fields[0].after) == ("e", "position", 5, 1)
    assert not difference(listed("abc"), listed("abc"), plugins)
    assert {change.action for change in difference(listed("abcd"), listed("xbdy"), plugins).changes} == {"added", "removed"}


def test_a_summary_names_some_and_counts_the_others(plugins: Registry) -> None:
    added = [{"id": f"r{n}", "path": f"/{n}", "upstream": "x"} for n in range(9)]
    assert difference(None, added, plugins).summary(2) == "route r0 added, route r1 added and 7 more"
    before, after = route(), route(priority=1, methods=["GET"], hosts=["a"], websocket=True)
    assert difference([before], [after], plugins).summary() == "route users changed (priority, methods, hosts and 1 more)"


def test_as_data(plugins: Registry) -> None:
    before = [route(), {"id": "old", "path": "/o", "upstream": "x"}]
    after = [route(priority=1), {"id": "new", "path": "/n", "upstream": "x"}]
    assert difference(before, after, plugins).as_data() == [
        {"kind": "route", "name": "users", "action": "changed", "fields": [{"path": "priority", "after": 1, "secret": False}]},
        {"kind": "route", "name": "new", "action": "added", "after": after[1]},
        {"kind": "route", "name": "old", "action": "removed", "before": before[1]},
    ]


@pytest.mark.parametrize("tree", [None, 5, "x", [5, None, {}], {"routes": 5, "upstreams": [], "consumers": {}, "plugins": [5, {}]}])
def test_what_is_no_document_can_be_compared(plugins: Registry, tree: Any) -> None:
    assert not difference(tree, tree, plugins)
    difference(tree, [route()], plugins)
    difference([route()], tree, plugins)


def test_ten_thousand_routes_of_which_one_changed(plugins: Registry) -> None:
    def routes() -> list[dict[str, Any]]:
        return [{"id": f"r{n}", "path": f"/{n}", "upstream": "x", "plugins": [limit(limit=5)]} for n in range(10_000)]

    after = routes()
    after[7_000]["plugins"] = [limit(limit=6)]
    assert difference(routes(), after, plugins).summary() == "route r7000 changed (plugins.limit.config.limit)"
