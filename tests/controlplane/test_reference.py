from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr

import gwproxy.model
from gwproxy import PluginConfig
from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.parse import parse
from gwproxy.controlplane.reference import field_table, main, with_tables
from gwproxy.model import Duration, Model, Size
from gwproxy.registry import Registry

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


class Inner(PluginConfig):
    x: int = 1


class Sample(PluginConfig):
    name: str = Field(min_length=1, max_length=10)
    """What it is
    called."""
    count: int = Field(default=1, ge=1, le=9)
    rate: float = Field(default=2.0, gt=0)
    wait: Duration = 5.0
    size: Size | None = None
    buffer: Size = 64 * 1024
    odd: Size = 1000
    mode: Literal["a", "b|c"] = "a"
    secrets: tuple[SecretStr, ...] = Field(default=(SecretStr("hunter2"),), min_length=1)
    by_name: dict[str, Inner] = Field(default_factory=dict)
    inner: Inner = Inner()
    any_of: int | str | None = None
    free: Any = None
    flag: bool = False
    words: frozenset[str] = frozenset("gfedcba")


def test_a_table_says_what_the_model_says() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` (\|.*)$", field_table(Sample), re.MULTILINE))
    assert rows == {
        "name": "| string (1 to 10 characters) | required | What it is called. |",
        "count": "| whole number (1 to 9) | `1` |  |",
        "rate": "| number (above 0) | `2` |  |",
        "wait": "| number (above 0, at most 86400) | `5` |  |",
        "size": "| size | none |  |",
        "buffer": "| size | `64KiB` |  |",
        "odd": "| size | `1000` |  |",
        "mode": '| `a`, `b\\|c` | `"a"` |  |',
        "secrets": '| list of secret string (at least 1 items) | `["***"]` |  |',
        "by_name": "| object: name to [Inner](#inner) | `{}` |  |",
        "inner": "| [Inner](#inner) | the defaults below |  |",
        "any_of": "| whole number or string | none |  |",
        "free": "| anything | none |  |",
        "words": '| list of string | `["a", "b", "c", "d", "e", "f", "g"]` |  |',
        "flag": "| true or false | `false` |  |",
    }


def test_a_page_is_written_anew(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: gwproxy.model:Target -->\nstale\n<!-- end -->\nafter\n")
    main([str(page)])
    assert page.read_text() == f"before\n<!-- table: gwproxy.model:Target -->\n{field_table(gwproxy.model.Target)}<!-- end -->\nafter\n"


def test_a_marker_that_names_nothing_is_an_error() -> None:
    with pytest.raises(AttributeError):
        with_tables("<!-- table: gwproxy.model:Nothing -->\n<!-- end -->")


def models() -> list[type[BaseModel]]:
    found = vars(gwproxy.model).values()
    return [model for model in found if inspect.isclass(model) and issubclass(model, Model) and model is not Model]


def test_the_reference_is_up_to_date() -> None:
    page = PAGE.read_text("utf-8")
    assert with_tables(page) == page, "run: python -m gwproxy.controlplane.reference docs/configuration.md"


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_the_reference_has_every_model_and_every_field_is_described(model: type[BaseModel]) -> None:
    assert f"<!-- table: gwproxy.model:{model.__name__} -->" in PAGE.read_text("utf-8")
    assert all(field.description for field in model.model_fields.values())


EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_is_a_valid_configuration(example: str) -> None:
    parsed = parse(example.encode(), file="example.yaml", plugins=Registry.discover(), environment=Environment({}, lambda name: True))
    assert parsed.document.routes
    assert parsed.warnings == ()
