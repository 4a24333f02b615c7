from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gwproxy.controlplane.environment import Environment, replaced, without
from gwproxy.controlplane.parse import Parsed
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Problem

ROUTE = "[{path: /a, upstream: 'http://a', %s}]"


def config_of(parsed: Parsed) -> Any:
    return parsed.configs[0, 0]


def limit(config: str) -> str:
    return ROUTE % f"plugins: [{{name: limit, config: {{{config}}}}}]"


@pytest.mark.parametrize(
    ("written", "field", "value"),
    [
        ('limit: "${GW_LIMIT}"', "limit", 5),
        ('limit: "${GW_UNSET:-7}"', "limit", 7),
        ('limit: "${GW_EMPTY:-8}"', "limit", 8),
        ('window_seconds: "${GW_LIMIT}"', "window_seconds", 5.0),
        ('windowSeconds: "${GW_UNSET:-1.5}"', "window_seconds", 1.5),
        ('on_error: "${GW_TRUE}"', "on_error", True),
        ('key: "${GW_LIMIT}"', "key", "5"),
        ('key: "${GW_EMPTY}"', "key", ""),
        ('key: "${GW_UNSET:-}"', "key", ""),
        ('key: "a-${GW_LIMIT}-${GW_UNSET:-x}"', "key", "a-5-x"),
        ('key: "$${GW_LIMIT}"', "key", "${GW_LIMIT}"),
        ('key: "$${GW_LIMIT} ${GW_LIMIT}"', "key", "${GW_LIMIT} 5"),
        ('key: "$GW_LIMIT $ {"', "key", "$GW_LIMIT $ {"),
        ('key: "\\x24{GW_LIMIT}"', "key", "5"),
    ],
)
def test_references_take_the_type_of_their_field(accepted: Callable[..., Parsed], written: str, field: str, value: object) -> None:
    made = getattr(config_of(accepted(limit(written))), field)
    assert made == value
    assert type(made) is type(value)


def test_an_escaped_dollar_in_json_is_a_reference_too(accepted: Callable[..., Parsed]) -> None:
    data = orjson.dumps([{"path": "/a", "upstream": "http://a", "plugins": [{"name": "limit", "config": {"key": "?{GW_LIMIT}"}}]}])
    assert config_of(accepted(data.replace(b"?{", b"\\u0024{"))).key == "5"


def test_core_fields_take_references(accepted: Callable[..., Parsed]) -> None:
    fields = 'timeout: "${GW_LIMIT}", strip_path: "${GW_TRUE}", max_body: "${GW_UNSET:-10KiB}", priority: "${GW_LIMIT}"'
    route = accepted(ROUTE % fields).document.routes[0]
    assert (route.timeout.read, route.strip_path, route.max_body, route.priority) == (5.0, True, 10240, 5)


def test_a_reference_may_disable_an_entry(accepted: Callable[..., Parsed]) -> None:
    parsed = accepted(ROUTE % 'plugins: [{name: limit, enabled: "${GW_UNSET:-false}"}]')
    assert not parsed.document.routes[0].plugins[0].enabled
    assert not parsed.configs


def test_keys_are_taken_as_written(accepted: Callable[..., Parsed]) -> None:
    parsed = accepted("routes: []\nconsumers: [{id: a, match: {'${GW_LIMIT}': x}}]")
    assert parsed.document.consumers[0].match == {"${GW_LIMIT}": "x"}


def test_a_number_that_is_written_in_quotes_stays_a_string(only: Callable[..., Problem]) -> None:
    assert only(limit('limit: "5"')).expected == "a whole number"


def test_only_a_whole_reference_changes_its_type(only: Callable[..., Problem]) -> None:
    problem = only(limit('limit: "${GW_LIMIT}0"'))
    assert (problem.found, problem.expected) == ("the value of ${GW_LIMIT}0", "a whole number")


def test_a_refused_value_is_not_shown(only: Callable[..., Problem]) -> None:
    problem = only(limit('limit: "${GW_SECRET}"'))
    assert str(problem) == "gateway.yaml:1:75: routes[0].plugins[0].config.limit: found the value of ${GW_SECRET}, expected a whole number"


def test_a_validators_own_text_does_not_show_a_secret(only: Callable[..., Problem]) -> None:
    problem = only(ROUTE % 'plugins: [{name: login, config: {secret: "${GW_SHORT}"}}]')
    assert "shorty" not in str(problem)
    assert problem.expected == "at least 8 characters, unlike ***"


@pytest.mark.parametrize("keys", ["upstream: 'ftp://${GW_SHORT}'", "path: '${GW_SHORT}'", "hosts: ['a b ${GW_SHORT}']"])
def test_what_is_checked_after_resolving_does_not_show_it_either(only: Callable[..., Problem], keys: str) -> None:
    name = keys.split(":")[0]
    fields = {"path": "path: /a", "upstream": "upstream: 'http://a'", name: keys}
    problem = only("[{" + ", ".join(fields.values()) + "}]")
    assert "shorty" not in str(problem)
    assert "***" in problem.found


@pytest.mark.parametrize("written", ["${", "${}", "${1A}", "${A B}", "${A:=x}", "${A", "x ${A-b}"])
def test_malformed_references_are_refused(only: Callable[..., Problem], written: str) -> None:
    problem = only(limit(f'key: "{written}"'))
    assert problem.path == "routes[0].plugins[0].config.key"
    assert "$${" in problem.expected


def test_names_that_are_not_allowed_are_refused(only: Callable[..., Problem]) -> None:
    problem = only(limit('limit: "${HOME}"'))
    assert problem.found == "${HOME}"
    assert "GWPROXY_ENV_ALLOW" in problem.expected


def test_a_default_does_not_allow_a_name(only: Callable[..., Problem]) -> None:
    assert "GWPROXY_ENV_ALLOW" in only(limit('limit: "${HOME:-5}"')).expected


def test_G21_an_unset_name_refuses_where_it_is_needed(only: Callable[..., Problem]) -> None:
    problem = only(limit('limit: "${GW_UNSET}"'))
    assert problem.found == "${GW_UNSET}, which is not set here"
    assert problem.path == "routes[0].plugins[0].config.limit"


@pytest.fixture
def relaxed() -> Environment:
    return Environment({}, lambda name: name.startswith("GW_"), strict=False)


UNSET = """
routes:
  - id: "${GW_ID}"
    path: "${GW_PATH}"
    upstream: "${GW_UPSTREAM}"
    timeout: "${GW_TIMEOUT}"
    methods: [GET, "${GW_M1}", "${GW_M2}"]
    hosts: ["${GW_HOST}"]
    plugins:
      - {name: limit, priority: "${GW_PRIORITY}", config: {limit: "${GW_LIMIT}"}}
      - {name: login, config: {secret: "${GW_SECRET}"}}
      - {name: login, config: {secret: long enough, rules: "${GW_RULES}"}}
      - {name: "${GW_NAME}"}
upstreams:
  a: {targets: [{url: "${GW_URL}", weight: "${GW_WEIGHT}"}]}
  b: {targets: "${GW_TARGETS}"}
consumers:
  - {id: "${GW_CONSUMER}", match: {user_id: a}}
"""


def test_G21_elsewhere_it_is_a_warning_and_its_field_is_not_checked(accepted: Callable[..., Parsed], relaxed: Environment) -> None:
    parsed = accepted(UNSET, environment=relaxed)
    assert len(parsed.warnings) == UNSET.count("${")
    assert all("which is not set here" in warning.found for warning in parsed.warnings)
    assert [warning.line for warning in parsed.warnings] == sorted(warning.line for warning in parsed.warnings)
    (route,) = parsed.document.routes
    assert route.timeout.read == 30
    assert route.methods == ("GET",)
    assert not parsed.configs
    assert parsed.unavailable == {
        (0, i): f"the environment variable GW_{name} is not set" for i, name in enumerate(("LIMIT", "SECRET", "RULES"))
    }


def test_what_is_wrong_beside_an_unset_name_is_still_refused(relaxed: Environment, accepted: Callable[..., Parsed]) -> None:
    with pytest.raises(ConfigurationRefused) as caught:
        accepted(limit('limit: "${GW_LIMIT}", key: 5'), environment=relaxed)
    assert [problem.path for problem in caught.value.problems] == ["routes[0].plugins[0].config.key"]


def test_a_strict_environment_reports_each_unset_name_once(refused: Callable[..., tuple[Problem, ...]], relaxed: Environment) -> None:
    strict = Environment({}, relaxed.allowed)
    assert len(refused(UNSET, environment=strict)) == UNSET.count("${")


def test_trees_are_changed_in_a_copy() -> None:
    tree = {"a": [1, {"b": 2}], "c": 3}
    assert replaced(tree, ("a", 1, "b"), lambda value: value + 1) == {"a": [1, {"b": 3}], "c": 3}
    assert without(tree, ("a", 0)) == {"a": [{"b": 2}], "c": 3}
    assert tree == {"a": [1, {"b": 2}], "c": 3}


def test_an_environment_does_not_show_its_values() -> None:
    assert "hunter2" not in repr(Environment({"GW_A": "hunter2"}, bool))
