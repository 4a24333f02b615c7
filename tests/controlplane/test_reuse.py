from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import orjson
import pytest
from pydantic import PrivateAttr, model_validator

from gwproxy import Plugin, PluginConfig
from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.parse import Parsed
from gwproxy.model import Problem, Route
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


def test_only_routes_with_a_plugin_that_is_another_one_are_validated_anew(accepted: Accepted, plugins: Registry) -> None:
    routes = [*numbered(2), route(path="/login", plugins=[{"name": "login", "config": {"secret": "correct-horse"}}]), route(path="/bare")]
    first = accepted(document(*routes))
    limit = type(plugins.find("limit"))
    second = accepted(document(*routes), previous=first, plugins=plugins.over([Registry.of(limit())]))
    same = [old is new for old, new in zip(first.document.routes, second.document.routes, strict=True)]
    assert same == [False, False, True, True]
    assert second.configs[0, 0] is not first.configs[0, 0]
    assert second.configs[2, 0] is first.configs[2, 0]


def test_a_plugin_that_is_gone_refuses_routes_that_were_valid(accepted: Accepted, only: Only, plugins: Registry) -> None:
    first = accepted(document(*numbered(2)))
    found = only(document(*numbered(1)), previous=first, plugins=plugins.lacking(["limit"], "it was taken back"))
    assert "it was taken back" in found.found


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
    assert len(pauses) >= 2 * 500


def written(*routes: dict[str, Any]) -> list[str]:
    return [json.dumps(route) for route in routes]


def ids(parsed: Parsed) -> list[str]:
    return [route.id for route in parsed.document.routes]


@pytest.mark.parametrize("form", ["[%s]", '{"plugins": [], "routes": [%s ], "upstreams": {}}'], ids=["array", "object"])
@pytest.mark.parametrize(
    ("order", "reused"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([1, 2, 3], [1, 2, 3]),  # the first is gone
        ([3, 2, 1, 0], [3, 2, 1, 0]),
        ([4, 0, 1, 2, 3], [0, 1, 2, 3]),  # one is new
        ([0, 5, 2, 3], [0, 2, 3]),  # one is another
    ],
)
def test_what_is_written_as_before_is_reused_wherever_it_stands(accepted: Accepted, form: str, order: list[int], reused: list[int]) -> None:
    texts = written(*numbered(6))
    first = accepted(form % ", ".join(texts[:4]), file="gw:routes")
    second = accepted(form % ",\n".join(texts[i] for i in order), file="gw:routes", previous=first)
    assert ids(second) == [f"r{i}" for i in order]
    old, new = first.document.routes, dict(zip(order, second.document.routes, strict=True))
    assert [i for i in range(4) if new.get(i) is old[i]] == sorted(reused)
    assert second.document.routes == accepted(form % ",".join(texts[i] for i in order)).document.routes


def test_ids_that_are_made_are_those_of_this_document(accepted: Accepted) -> None:
    """``/a-b`` and ``/a/b`` are both to be called ``a-b``: the first one is."""
    one, two = written(route(path="/a-b"), route(path="/a/b"))
    first = accepted(f"[{one}, {two}]", file="gw:routes")
    turned = accepted(f"[{two}, {one}]", file="gw:routes", previous=first)
    again = accepted(f"[{one}, {two}]", file="gw:routes", previous=turned)
    assert [[(r.id, r.path) for r in parsed.document.routes] for parsed in (first, turned, again)] == [
        [("a-b", "/a-b"), ("a-b-2", "/a/b")],
        [("a-b", "/a/b"), ("a-b-2", "/a-b")],
        [("a-b", "/a-b"), ("a-b-2", "/a/b")],
    ]


def test_a_reference_spelled_with_an_escape_is_one(accepted: Accepted) -> None:
    text = r'[{"path": "/a", "upstream": "http://a", "plugins": [{"name": "limit", "config": {"limit": "\u0024{GW_LIMIT}"}}]}]'
    first = accepted(text, file="gw:routes")
    other = accepted(text, file="gw:routes", previous=first, environment=Environment({"GW_LIMIT": "6"}, lambda name: True))
    assert [parsed.configs[0, 0].limit for parsed in (first, other)] == [5, 6]  # type: ignore[attr-defined]


def listed(texts: Iterable[str], end: str = "]") -> str:
    return "[" + ",\n".join(texts) + end


def test_what_looks_like_json_and_is_yaml_is_compared_as_yaml(accepted: Accepted) -> None:
    first = accepted(listed(written(*numbered(3))), file="gw:routes")
    second = accepted(listed(reversed(written(*numbered(3))), ",]"), file="gw:routes", previous=first)
    assert ids(second) == ["r2", "r1", "r0"]
    assert [second.configs[i, 0].limit for i in range(3)] == [3, 2, 1]  # type: ignore[attr-defined]


def test_problems_of_routes_beside_reused_ones_are_those_of_the_document(accepted: Accepted, refused: Refused) -> None:
    texts = written(*numbered(3))
    first = accepted(listed(texts), file="gw:routes")
    broken = listed([texts[0], '{"path": "/x", "upstreem": "http://a"}', texts[2], '{"path": "/r0", "upstream": "http://a"}'])
    problems = refused(broken, file="gw:routes", previous=first)
    assert [(problem.line, problem.path) for problem in problems] == [(2, "routes[1]"), (2, "routes[1].upstreem"), (4, "routes[3]")]
    assert problems == refused(broken, file="gw:routes")


class CountingConfig(PluginConfig):
    """Counts how often it is validated; one kind keeps something private."""

    validated: ClassVar[int] = 0
    limit: int = 1

    @model_validator(mode="after")
    def _count(self) -> CountingConfig:
        CountingConfig.validated += 1
        return self


class PrivateConfig(CountingConfig):
    _seen: list[str] = PrivateAttr(default_factory=list)


class Open(Plugin):
    name = "open"
    config_model = CountingConfig


class Private(Plugin):
    name = "private"
    config_model = PrivateConfig


@pytest.mark.parametrize(("name", "times"), [("open", 2), ("private", 5)])
def test_equal_lists_of_plugins_are_validated_once_unless_a_plugin_keeps_something_private(
    accepted: Accepted, name: str, times: int
) -> None:
    CountingConfig.validated = 0
    routes = [route(path=f"/r{i}", plugins=[{"name": name, "config": {"limit": i // 3}}]) for i in range(5)]
    parsed = accepted(document(*routes), plugins=Registry.of(Open(), Private()))
    assert CountingConfig.validated == times
    assert [parsed.configs[i, 0].limit for i in range(5)] == [0, 0, 0, 1, 1]  # type: ignore[attr-defined]
    assert [r.plugins[0].config for r in parsed.document.routes] == [{"limit": i // 3} for i in range(5)]
    assert parsed.document.routes == tuple(Route.model_validate_json(orjson.dumps({**r, "id": f"r{i}"})) for i, r in enumerate(routes))


def test_of_routes_that_share_plugins_each_has_its_own_problems(refused: Refused) -> None:
    plugins = [{"name": "limit", "config": {"limit": 0}}]
    problems = refused(document(*(route(path=f"/r{i}", plugins=plugins, priority="x") for i in range(3))))
    assert [problem.path for problem in problems] == [
        f"routes[{i}].{what}" for i in range(3) for what in ("plugins[0].config.limit", "priority")
    ]
