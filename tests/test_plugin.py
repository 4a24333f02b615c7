"""The base of plugin configurations: what it accepts, what it refuses, and that nothing in it can be changed."""

from __future__ import annotations

import datetime
from functools import cached_property
from typing import Any, Literal

import orjson
import pytest
from pydantic import Field, SecretStr, ValidationError

from gwproxy import Entry, Plugin, PluginConfig, Size
from gwproxy.plugin import bind_entry, freeze, secrets_in


class Rule(PluginConfig):
    paths: tuple[str, ...] = ()


class Everything(PluginConfig):
    window_seconds: float = Field(default=60.0, gt=0)
    limit: int = 100
    log_body: bool = False
    names: tuple[str, ...] = ("a",)
    tags: frozenset[str] = frozenset()
    loose: list[Any] = Field(default_factory=list)
    table: dict[str, list[int]] = Field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    since: datetime.date | None = None
    kind: Literal["x", "y"] = "x"
    size: Size = 1
    type: str = "tuple"
    default: tuple[int, ...] = ()
    secret: SecretStr | None = None

    @cached_property
    def counter(self) -> str:
        return f"{self.entry.route}/{self.entry.index}/{self.limit}"


def from_python(data: dict[str, Any]) -> Everything:
    return Everything.model_validate(data)


def from_json(data: dict[str, Any]) -> Everything:
    return Everything.model_validate_json(orjson.dumps(data))


both_ways = pytest.mark.parametrize("read", [from_python, from_json])


@both_ways
def test_both_spellings_of_a_key_are_accepted(read):
    assert read({"windowSeconds": 5, "logBody": True}) == read({"window_seconds": 5, "log_body": True})


@both_ways
def test_a_key_given_in_both_spellings_is_refused_by_name(read):
    with pytest.raises(ValidationError, match="'window_seconds' is given twice, as 'window_seconds' and as 'windowSeconds'"):
        read({"window_seconds": 5, "windowSeconds": 5})


@both_ways
def test_camel_case_of_an_unknown_key_stays_unknown(read):
    with pytest.raises(ValidationError) as refused:
        read({"windowMinutes": 1})
    assert [(e["type"], e["loc"]) for e in refused.value.errors()] == [("extra_forbidden", ("windowMinutes",))]


def test_nested_configurations_know_both_spellings_too():
    class Inner(PluginConfig):
        max_age: int = 0

    class Outer(PluginConfig):
        inner_rule: Inner = Inner()

    assert Outer.model_validate({"innerRule": {"maxAge": 3}}).inner_rule.max_age == 3


@both_ways
def test_what_json_writes_as_array_or_string_is_taken(read):
    config = read({"names": ["b", "c"], "tags": ["t"], "rules": [{"paths": ["/x"]}], "since": "2026-01-02", "size": "1KiB", "default": [1]})
    assert config.names == ("b", "c")
    assert config.tags == frozenset({"t"})
    assert config.rules == (Rule(paths=("/x",)),)
    assert config.since == datetime.date(2026, 1, 2)
    assert config.size == 1024
    assert config.default == (1,)


@both_ways
@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"limit": "100"}, ("limit",)),
        ({"limit": True}, ("limit",)),
        ({"limit": 1.0}, ("limit",)),
        ({"log_body": 1}, ("log_body",)),
        ({"log_body": "true"}, ("log_body",)),
        ({"window_seconds": 0}, ("window_seconds",)),
        ({"names": "abc"}, ("names",)),
        ({"names": [1]}, ("names", 0)),
        ({"tags": [1]}, ("tags", 0)),
        ({"rules": [{"paths": [1]}]}, ("rules", 0, "paths", 0)),
        ({"rules": [{"path": []}]}, ("rules", 0, "path")),
        ({"kind": "z"}, ("kind",)),
        ({"type": 1}, ("type",)),
        ({"default": ["1"]}, ("default", 0)),
    ],
)
def test_nothing_is_converted_silently(read, data, where):
    with pytest.raises(ValidationError) as refused:
        read(data)
    assert [error["loc"] for error in refused.value.errors()] == [where]


@both_ways
def test_every_problem_is_reported_at_once(read):
    with pytest.raises(ValidationError) as refused:
        read({"limit": "1", "log_body": 2, "names": [3], "nope": 4})
    assert {error["loc"][0] for error in refused.value.errors()} == {"limit", "log_body", "names", "nope"}


def test_a_refusal_shows_no_input():
    with pytest.raises(ValidationError) as refused:
        from_python({"secret": ["hunter2-hunter2"]})
    assert "hunter2" not in str(refused.value)


def test_validation_leaves_the_document_as_it_was():
    data = {"windowSeconds": 5, "loose": [[1]]}
    from_python(data)
    assert data == {"windowSeconds": 5, "loose": [[1]]}


def test_X06_nothing_in_a_configuration_can_be_changed():
    config = from_json({"loose": [[1], {"k": [2]}], "table": {"a": [1, 2]}})
    assert config.loose == ((1,), {"k": (2,)})
    assert config.table["a"] == (1, 2)
    with pytest.raises(TypeError):
        config.table["a"] = [3]
    with pytest.raises(TypeError):
        config.loose[1]["k"] = 3
    with pytest.raises(ValidationError):
        config.limit = 3
    with pytest.raises(ValidationError):
        config.entry = Entry("other", 7)
    assert (config.limit, config.entry) == (100, Entry())


def test_freeze_takes_what_a_document_holds_and_leaves_the_rest():
    secret = SecretStr("x")
    frozen = freeze({"a": [1, {2}], "b": {"c": [None]}, "s": secret})
    assert frozen == {"a": (1, frozenset({2})), "b": {"c": (None,)}, "s": secret}
    assert frozen["s"] is secret


def test_a_configuration_is_unbound_at_first():
    assert Everything().entry == Entry(route=None, index=0)


def test_one_configuration_is_bound_to_several_entries():
    shared = from_python({"limit": 7, "loose": [[1]]})
    first, second = bind_entry(shared, Entry("users")), bind_entry(shared, Entry("orders", 2))
    assert [c.entry for c in (shared, first, second)] == [Entry(), Entry("users", 0), Entry("orders", 2)]
    assert first.loose is shared.loose
    assert isinstance(first, Everything)
    assert bind_entry(first, Entry("third")).entry == Entry("third")
    assert first.entry == Entry("users")


def test_binding_forgets_what_was_computed_for_another_entry():
    shared = from_python({"limit": 7})
    assert shared.counter == "None/0/7"
    bound = bind_entry(shared, Entry("users", 1))
    assert bound.counter == "users/1/7"
    assert bound.counter is bound.counter
    assert shared.counter == "None/0/7"


def test_an_entry_is_frozen():
    with pytest.raises(AttributeError):
        Entry("users").index = 3  # type: ignore[misc]


def test_a_plugin_without_a_model_has_no_keys():
    assert Plugin.config_model.model_validate({}).entry == Entry()
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Plugin.config_model.model_validate({"limit": 1})


def test_a_configuration_with_frozen_fields_can_be_dumped() -> None:
    class Nested(PluginConfig):
        names: dict[str, tuple[str, ...]] = Field(default={"a": ("b",)})

    class Outer(PluginConfig):
        inner: Nested = Nested()
        tags: dict[str, str] = Field(default={"x": "y"})

    assert Outer().model_dump(mode="json") == {"inner": {"names": {"a": ["b"]}}, "tags": {"x": "y"}}
    assert Outer().model_dump_json() == '{"inner":{"names":{"a":["b"]}},"tags":{"x":"y"}}'


def test_X08_the_secrets_of_a_configuration_are_found_wherever_they_are() -> None:
    class Inner(PluginConfig):
        key: SecretStr

    class Outer(PluginConfig):
        plain: str
        one: SecretStr
        several: list[SecretStr]
        named: dict[str, Inner]

    config = Outer(
        plain="nothing",
        one=SecretStr("first-secret"),
        several=[SecretStr("second-secret"), SecretStr("ab")],
        named={"a": Inner(key=SecretStr("third-secret"))},
    )
    assert set(secrets_in(config)) == {"first-secret", "second-secret", "third-secret"}
