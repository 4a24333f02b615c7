from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest

from gwproxy.controlplane.masking import mask
from gwproxy.controlplane.restoring import restore
from gwproxy.registry import Registry

LIVE = {
    "routes": [
        {
            "path": "/a",
            "upstream": "http://u:hunter1@a/x",
            "headers": {"x-api-key": "hunter2"},
            "plugins": [
                {
                    "name": "login",
                    "config": {"secret": "hunter3", "rules": [{"name": "r", "value": "hunter4"}, {"name": "s", "value": "hunter5"}]},
                },
                {"name": "login", "config": {"secret": "${GW_S:-hunter6}", "byName": {"k": "hunter7"}}},
            ],
        },
        {"id": "b", "path": "/b", "upstream": "http://b", "plugins": [{"name": "other", "config": {"tokens": ["hunter8", "hunter9"]}}]},
    ],
    "upstreams": {"u": {"targets": [{"url": "http://u:hunter10@a"}, {"url": "http://b"}]}},
    "plugins": [{"name": "login", "config": {"secret": "hunter11"}}],
}


def config(route: int, entry: int) -> Any:
    return lambda tree: tree["routes"][route]["plugins"][entry]["config"]


def masked(plugins: Registry) -> Any:
    tree = mask(LIVE, plugins)
    assert b"hunter" not in orjson.dumps(tree)
    return copy.deepcopy(tree)


def test_what_was_shown_is_what_it_was_shown_of(plugins: Registry) -> None:
    assert restore(masked(plugins), LIVE, plugins) == (LIVE, [])


def test_either_form(plugins: Registry) -> None:
    assert restore(masked(plugins)["routes"], LIVE["routes"], plugins) == (LIVE["routes"], [])
    assert restore(masked(plugins)["routes"], LIVE, plugins) == (LIVE["routes"], [])


def test_edits_beside_a_secret_leave_it(plugins: Registry) -> None:
    tree = masked(plugins)
    tree["routes"][0]["path"] = "/a"
    tree["routes"][0]["priority"] = 5
    tree["routes"].reverse()
    tree["routes"][1]["plugins"][0]["config"]["rules"][0]["name"] = "renamed"
    tree["upstreams"]["u"]["targets"][0]["weight"] = 3
    made, missing = restore(tree, LIVE, plugins)
    assert missing == []
    assert made["routes"][1]["plugins"][0]["config"]["rules"][0] == {"name": "renamed", "value": "hunter4"}
    assert made["upstreams"]["u"]["targets"][0] == {"url": "http://u:hunter10@a", "weight": 3}
    assert made["routes"][0] == LIVE["routes"][1]


def test_a_list_in_another_order_keeps_each_its_own(plugins: Registry) -> None:
    tree = masked(plugins)
    config(0, 0)(tree)["rules"].reverse()
    made, missing = restore(tree, LIVE, plugins)
    assert missing == []
    assert config(0, 0)(made)["rules"] == [{"name": "s", "value": "hunter5"}, {"name": "r", "value": "hunter4"}]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["***", "***"], ["hunter8", "hunter9"]),
        (["new", "***", "***"], ["new", "hunter8", "hunter9"]),
        (["***", "***", "new"], ["hunter8", "hunter9", "new"]),
        (["new"], ["new"]),
        (["***"], None),  # which of the two is to stay?
        (["***", "new"], None),
        (["***", "***", "***"], None),
    ],
)
def test_lists_of_secrets(plugins: Registry, tokens: list[str], expected: list[str] | None) -> None:
    tree = masked(plugins)
    config(1, 0)(tree)["tokens"] = tokens
    made, missing = restore(tree, LIVE, plugins)
    assert bool(missing) == (expected is None)
    if expected is not None:
        assert config(1, 0)(made)["tokens"] == expected


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda tree: tree["routes"][1].update(id="other"), ("routes", 1, "plugins", 0, "config", "tokens", 0)),
        (lambda tree: tree["routes"][0].update(upstream="http://***@elsewhere"), ("routes", 0, "upstream")),
        (lambda tree: config(0, 1)(tree).update(secret="${GW_T:-***}"), ("routes", 0, "plugins", 1, "config", "secret")),
        (lambda tree: config(1, 0)(tree).update(password="***"), ("routes", 1, "plugins", 0, "config", "password")),
        (lambda tree: tree["plugins"].append(tree["plugins"][0]), ("plugins", 1, "config", "secret")),
        (lambda tree: tree["upstreams"].update(v=tree["upstreams"].pop("u")), ("upstreams", "v", "targets", 0, "url")),
    ],
)
def test_a_mask_for_nothing_is_told_with_its_place(plugins: Registry, change: Any, path: Any) -> None:
    tree = masked(plugins)
    change(tree)
    _, missing = restore(tree, LIVE, plugins)
    assert path in missing


def test_without_a_live_one_every_mask_is_told(plugins: Registry) -> None:
    made, missing = restore(masked(plugins), None, plugins)
    assert len(missing) == 11
    assert made == masked(plugins)


def test_stars_elsewhere_are_no_masks(plugins: Registry) -> None:
    tree = {"routes": [{"path": "/***", "upstream": "http://a/***", "headers": {"x-version": "***"}}]}
    assert restore(tree, None, plugins) == (tree, [])


def test_the_document_is_left_as_it_is(plugins: Registry) -> None:
    tree = masked(plugins)
    restore(tree, LIVE, plugins)
    assert tree == masked(plugins)
