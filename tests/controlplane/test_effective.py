from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, SecretStr, field_validator

from gwproxy import Plugin, PluginConfig
from gwproxy.controlplane.effective import effective, plain
from gwproxy.controlplane.stand_ins import StandIns
from gwproxy.registry import Registry


class Inner(PluginConfig):
    when: str = "now"


class Config(PluginConfig):
    note_text: str = "n"
    key: SecretStr = SecretStr("built-in-secret")
    api_token: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    joined: tuple[str, ...] = ()
    inner: Inner = Inner()
    numbers: frozenset[int] = frozenset((2, 1))

    @field_validator("joined")
    @classmethod
    def _join(cls, joined: tuple[str, ...]) -> tuple[str, ...]:
        return ("+".join(joined),)


class Sample(Plugin):
    name = "sample"
    config_model = Config


REGISTRY = Registry.of(Sample())


def shown(written: dict[str, Any], **resolved: Any) -> Any:
    return effective("sample", Config(**{**written, **resolved}), written, REGISTRY)


def test_defaults_are_filled_in_and_secrets_masked() -> None:
    assert shown({}) == {
        "note_text": "n",
        "key": "***",
        "api_token": "***",
        "labels": {},
        "joined": [],
        "inner": {"when": "now"},
        "numbers": [1, 2],
    }
    assert shown({"api_token": "t0ps3cret"})["api_token"] == "***"


@pytest.mark.parametrize("key", ["note_text", "noteText"])
def test_references_stand_as_they_were_written(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("GW_NOTE", "value-of-the-note")
    written = {key: "${GW_NOTE}", "labels": {"a": "x-${GW_NOTE}"}, "inner": {"when": "${GW_NOTE}"}}
    config = Config(note_text="value-of-the-note", labels={"a": "x-value-of-the-note"}, inner=Inner(when="value-of-the-note"))
    made = effective("sample", config, written, REGISTRY)
    assert (made["note_text"], made["labels"], made["inner"]) == ("${GW_NOTE}", {"a": "x-${GW_NOTE}"}, {"when": "${GW_NOTE}"})


def test_what_came_from_the_environment_is_masked_wherever_a_validator_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GW_ONE", "first-value")
    made = shown({"joined": ["${GW_ONE}", "b"]}, joined=("first-value", "b"))
    assert made["joined"] == ["***+b"]


def test_plain_leaves_nothing_that_json_has_not() -> None:
    assert plain({1: (1, None, True, 2.5), "s": SecretStr("x"), "o": 1j}) == {"1": [1, None, True, 2.5], "s": "***", "o": "1j"}


def test_stand_ins_are_for_unset_whole_references_in_the_place_of_an_upstream() -> None:
    tree = {
        "upstreams": {"u": {"targets": [{"url": "${GW_A}"}, {"url": 7}, 7]}, "v": 7, "w": {"targets": 7}},
        "routes": [
            {"upstream": "${GW_B}"},
            {"upstream": "http://${GW_C}"},
            {"upstream": "${GW_SET}"},
            {"upstream": "${GW_D:-http://d}"},
            7,
            {},
        ],
    }
    stand_ins = StandIns(tree, {"GW_SET": "http://set"})
    assert set(stand_ins.variables) == {"GW_SET", "GW_A", "GW_B"}
    assert stand_ins.variables["GW_SET"] == "http://set"
    assert all(stand_ins.variables[name].endswith(".invalid") for name in ("GW_A", "GW_B"))
    assert stand_ins.written(f"to {stand_ins.variables['GW_B']}/x") == "to ${GW_B}/x"


@pytest.mark.parametrize("tree", [7, None, {}, {"routes": 7, "upstreams": 7}, []])
def test_of_what_is_no_configuration_nothing_stands_in(tree: object) -> None:
    assert StandIns(tree, {}).variables == {}
