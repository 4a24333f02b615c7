from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.parse import Parsed
from gwproxy.model import Problem
from gwproxy.registry import Registry

Only = Callable[..., Problem]
Refused = Callable[..., tuple[Problem, ...]]
Accepted = Callable[..., Parsed]


def route(**keys: Any) -> dict[str, Any]:
    return {"path": "/a", "upstream": "http://10.0.0.5:8000", **keys}


def document(*routes: dict[str, Any], **keys: Any) -> bytes:
    return orjson.dumps({"routes": routes, **keys}, option=orjson.OPT_INDENT_2)


def numbered(count: int) -> list[dict[str, Any]]:
    return [route(path=f"/r{i}", plugins=[{"name": "limit", "config": {"limit": i + 1}}]) for i in range(count)]


def test_unchanged_routes_are_the_same_objects(accepted: Accepted) -> None:
    routes = numbered(6)
    first = accepted(document(*routes))
    routes[2]["priority"] = 5
    del routes[4]
    second = accepted(document(*routes), previous=first)
    old, new = first.document.routes, second.document.routes
    assert [new[i] is old[j] for i, j in ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5))] == [True, True, False, True, True]
    assert second.configs[4, 0] is first.configs[5, 0]
    assert second.configs[2, 0] is not first.configs[2, 0]


def test_reuse_lasts_over_many_documents_and_forgets(accepted: Accepted) -> None:
    parsed = first = accepted(document(*numbered(3)))
    for _ in range(5):
        parsed = accepted(document(*numbered(3)), previous=parsed)
    assert parsed.document.routes[1] is first.document.routes[1]
    parsed = accepted(document(*numbered(1)), previous=parsed)
    assert accepted(document(*numbered(3)), previous=parsed).document.routes[1] is not first.document.routes[1]


def test_a_changed_environment_is_a_change(accepted: Accepted) -> None:
    text = document(route(plugins=[{"name": "limit", "config": {"limit": "${GW_LIMIT}"}}]))
    first = accepted(text)
    same = accepted(text, previous=first)
    other = accepted(text, previous=first, environment=Environment({"GW_LIMIT": "6"}, lambda name: True))
    assert same.configs[0, 0] is first.configs[0, 0]
    assert [parsed.configs[0, 0].limit for parsed in (first, other)] == [5, 6]  # type: ignore[attr-defined]


def test_a_reference_and_its_text_are_not_the_same(accepted: Accepted, only: Only) -> None:
    first = accepted(document(route(plugins=[{"name": "limit", "config": {"limit": "${GW_LIMIT}"}}])))
    assert only(document(route(plugins=[{"name": "limit", "config": {"limit": "5"}}])), previous=first).found == "'5'"


def test_other_plugins_validate_anew(accepted: Accepted) -> None:
    first = accepted(document(*numbered(1)))
    from_elsewhere = Registry.of(next(iter(first._plugins)).plugin)  # type: ignore[call-overload]
    assert accepted(document(*numbered(1)), previous=first, plugins=from_elsewhere).configs[0, 0] is not first.configs[0, 0]


def test_reused_routes_are_still_compared_with_new_ones(accepted: Accepted, only: Only) -> None:
    first = accepted(document(*numbered(2)))
    assert only(document(*numbered(2), route(path="/r1", id="twin")), previous=first).path == "routes[2]"


def test_a_plugin_that_is_not_there_is_looked_for_each_time(accepted: Accepted, only: Only) -> None:
    routes = [route(plugins=[{"name": "geo"}])]
    first = accepted(document(*routes), lenient=True)
    assert only(document(*routes), previous=first).path == "routes[0].plugins[0].name"


def test_workers_may_serve_meanwhile(accepted: Accepted) -> None:
    pauses: list[None] = []
    accepted(document(*numbered(500)), pause=lambda: pauses.append(None))
    assert len(pauses) >= 2 * 500 // 50
