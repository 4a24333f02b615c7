from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gwproxy.controlplane.masking import MASK, mask, scrub, shown
from gwproxy.controlplane.parse import Parsed
from gwproxy.controlplane.shape import is_secret
from gwproxy.registry import Registry


def entry(name: str, **config: Any) -> dict[str, Any]:
    return {"routes": [{"path": "/a", "upstream": "http://a", "plugins": [{"name": name, "config": config}]}]}


def masked_config(plugins: Registry, name: str, **config: Any) -> Any:
    return mask(entry(name, **config), plugins)["routes"][0]["plugins"][0]["config"]


@pytest.mark.parametrize(
    ("config", "masked"),
    [
        ({"secret": "hunter2"}, {"secret": MASK}),
        ({"secret": "${GW_SECRET}"}, {"secret": "${GW_SECRET}"}),
        ({"secret": "${GW_SECRET:-hunter2}"}, {"secret": "${GW_SECRET:-***}"}),
        ({"secret": "x${GW_SECRET}"}, {"secret": MASK}),
        ({"rules": [{"name": "a", "value": "hunter2"}]}, {"rules": [{"name": "a", "value": MASK}]}),
        ({"by_name": {"a": "hunter2", "b": "${B}"}}, {"by_name": {"a": MASK, "b": "${B}"}}),
        ({"byName": {"a": "hunter2"}}, {"byName": {"a": MASK}}),
        ({"secret": {"odd": ["hunter2", 5, None]}}, {"secret": {"odd": [MASK, 5, None]}}),
    ],
)
def test_what_a_model_declares_as_secret_is_masked(plugins: Registry, config: dict[str, Any], masked: dict[str, Any]) -> None:
    assert masked_config(plugins, "login", **config) == masked


def test_without_its_plugin_names_decide(plugins: Registry) -> None:
    config = {"apiKey": "hunter2", "nested": {"client_secret": "hunter2"}, "key": "hunter2", "list": [{"password": "hunter2"}], "limit": 5}
    assert masked_config(plugins, "unknown", **config) == {
        "apiKey": MASK,
        "nested": {"client_secret": MASK},
        "key": MASK,
        "list": [{"password": MASK}],
        "limit": 5,
    }


def test_what_a_model_declares_otherwise_is_shown(plugins: Registry) -> None:
    assert masked_config(plugins, "limit", key="auto") == {"key": "auto"}


def test_the_rest_of_a_document_is_shown_but_for_credentials(plugins: Registry) -> None:
    tree = {
        "routes": [{"path": "/a", "upstream": "http://u:hunter2@a/x@y", "headers": {"x-api-key": "hunter2", "x-version": "2"}}],
        "upstreams": {"a": {"targets": [{"url": "http://u:hunter2@b"}], "tls": {"key": "/key.pem"}}},
        "plugins": [{"name": "login", "config": {"secret": "hunter2"}}],
        "stray": {"token": "hunter2"},
    }
    before = orjson.dumps(tree)
    masked = mask(tree, plugins)
    assert b"hunter2" not in orjson.dumps(masked)
    assert masked["routes"][0]["upstream"] == "http://***@a/x@y"
    assert masked["routes"][0]["headers"] == {"x-api-key": MASK, "x-version": "2"}
    assert masked["upstreams"]["a"]["tls"] == {"key": "/key.pem"}
    assert orjson.dumps(tree) == before


def test_an_array_stays_an_array(plugins: Registry) -> None:
    tree = entry("login", secret="hunter2")["routes"]
    assert mask(tree, plugins) == entry("login", secret=MASK)["routes"]


@pytest.mark.parametrize("tree", [None, 5, "x", [], {}, [5], {"routes": 5, "plugins": [5, {"name": 5, "config": 5}]}])
def test_any_tree_can_be_masked(plugins: Registry, tree: Any) -> None:
    assert mask(tree, plugins) == tree


def test_a_parsed_document_shows_itself_as_written(accepted: Callable[..., Parsed]) -> None:
    parsed = accepted("[{path: /a, upstream: 'http://${GW_SHORT}', plugins: [{name: login, config: {secret: long enough}}]}]")
    assert parsed.document.routes[0].upstream == "http://shorty"
    assert parsed.masked == [{"path": "/a", "upstream": "http://${GW_SHORT}", "plugins": [{"name": "login", "config": {"secret": MASK}}]}]


@pytest.mark.parametrize(
    ("key", "secret"),
    [
        ("secret", True),
        ("clientSecret", True),
        ("client-secret", True),
        ("API_KEY", True),
        ("APIKey", True),
        ("db_password", True),
        ("token", True),
        ("private_key", True),
        ("Authorization", True),
        ("keys", True),
        ("key", True),
        ("public_key", False),
        ("keepalive", False),
        ("monkey", False),
        ("tokenizer", False),
        ("limit", False),
        ("", False),
    ],
)
def test_names_that_look_like_a_secret(key: str, secret: bool) -> None:
    assert is_secret(key, ()) is secret


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (5, "5"),
        (1.5, "1.5"),
        ("a'b", '"a\'b"'),
        ({}, "an object"),
        ([], "a list"),
        ("http://u:p@a", "'http://***@a'"),
        ("x" * 100, "'" + "x" * 78 + "…"),
    ],
)
def test_values_in_messages(value: Any, text: str) -> None:
    assert shown(value) == text


def test_secret_values_in_messages() -> None:
    assert shown("x", secret=True) == MASK
    assert shown(5, secret=True) == MASK


def test_texts_are_scrubbed_of_secrets_the_longest_first() -> None:
    assert scrub("abc abcdef ab http://u:p@h", {"abc", "abcdef", "ab"}) == "*** *** ab http://***@h"
