from __future__ import annotations

import json

import orjson
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from gwproxy.cli.export import to_yaml
from gwproxy.controlplane.text import read
from gwproxy.store.configuration import ConfigurationStore

TREE = {
    "routes": [
        {"path": "/a", "upstream": "${GW_A:-http://x}", "plugins": [{"name": "cors", "config": {"origins": ["*"], "maxAge": 5}}]},
        {"path": "=/b", "upstream": "http://b", "headers": {"x-on": "on", "x-e": "1e3", "x-n": "null", "x-d": "2024-01-01", "é": "ü\n"}},
    ]
}
SECRET = "0123456789-0123456789-0123456789"


def test_yaml_that_reads_back_as_the_same_tree(cli, store: redis.Redis) -> None:
    store.set("gw:routes", orjson.dumps(TREE))
    result = cli("export")
    assert result.status == 0
    assert result.out.startswith("routes:\n  - path: /a\n    upstream: ${GW_A:-http://x}\n")
    assert read(result.out.encode(), "out").tree == TREE
    assert list(read(result.out.encode(), "out").tree["routes"][1]["headers"]) == ["x-on", "x-e", "x-n", "x-d", "é"]


def test_json(cli, store: redis.Redis) -> None:
    store.set("gw:routes", orjson.dumps(TREE))
    assert json.loads(cli("export", "--json").out) == TREE


def test_a_list_of_routes_stays_a_list(cli, store: redis.Redis) -> None:
    store.set("gw:routes", b"[]")
    assert cli("export").out == "[]\n"


def test_secrets_are_masked_and_told(cli, store: redis.Redis) -> None:
    entry = {"name": "jwt_auth", "config": {"secret": SECRET}}
    store.set("gw:routes", orjson.dumps([{"path": "/a", "upstream": "http://u:p@a", "plugins": [entry]}]))
    result = cli("export")
    assert SECRET not in result.out
    assert read(result.out.encode(), "out").tree == [
        {"path": "/a", "upstream": "http://***@a", "plugins": [{"name": "jwt_auth", "config": {"secret": "***"}}]}
    ]
    assert result.err.startswith("gwproxy: warning: secrets are masked, at [0].upstream, [0].plugins[0].config.secret; ")
    assert SECRET not in result.err
    assert json.loads(cli("export", "--json").out)[0]["upstream"] == "http://***@a"


def test_secrets_are_printed_on_demand_and_warned_of(cli, store: redis.Redis) -> None:
    entry = {"name": "jwt_auth", "config": {"secret": SECRET}}
    store.set("gw:routes", orjson.dumps([{"path": "/a", "upstream": "http://u:p@a", "plugins": [entry]}]))
    result = cli("export", "--show-secrets")
    assert SECRET in result.out
    assert "http://u:p@a" in result.out
    assert result.err.startswith("gwproxy: warning: the output holds what seem to be secrets")
    assert SECRET not in result.err


def test_a_past_revision(cli, store: redis.Redis) -> None:
    gateway = ConfigurationStore(store)
    gateway.publish(b'[{"path": "/old", "upstream": "http://a"}]', actor="me")
    gateway.publish(b"[]", actor="me")
    assert cli("export", "--revision", "1").out == "- path: /old\n  upstream: http://a\n"
    missing = cli("export", "--revision", "3")
    assert (missing.status, missing.out) == (1, "")
    assert "no revision 3" in missing.err


def test_references_are_no_secrets(cli, store: redis.Redis) -> None:
    entry = {"name": "jwt_auth", "config": {"secret": "${GW_KEY}"}}
    store.set("gw:routes", orjson.dumps([{"path": "/a", "upstream": "${GW_U}", "plugins": [entry]}]))
    result = cli("export")
    assert "secret: ${GW_KEY}" in result.out
    assert result.err == ""


@pytest.mark.parametrize("data", [None, b""])
def test_no_configuration_yet(cli, store: redis.Redis, data: bytes | None) -> None:
    if data is not None:
        store.set("gw:routes", data)
    result = cli("export")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("gwproxy: error: gw:routes is missing or empty; publish a configuration with ")


def test_what_is_no_configuration_is_refused_with_its_place(cli, store: redis.Redis) -> None:
    store.set("gw:routes", b'{"routes": [}')
    result = cli("export")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("gw:routes:1:13: ")


def test_another_prefix(cli, store: redis.Redis, monkeypatch) -> None:
    monkeypatch.setenv("GWPROXY_PREFIX", "{gw}:")
    store.set("{gw}:routes", b'[{"path": "/other"}]')
    assert cli("export").out == "- path: /other\n"


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), max_size=30) | st.sampled_from(
    ["1e3", "0o7", "0x1F", ".5", "1.", "~", "yes", "=", "<<", "1_000", "12:30", "- a", "a: b", " x ", "", "#", "|", "\x85", "\u2028", "\t"]
)


@given(st.recursive(SCALARS | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8))
def test_whatever_json_can_hold_reads_back_from_the_yaml(value: object) -> None:
    tree = {"routes": [value]}
    assert read(to_yaml(tree).encode(), "out").tree == tree
