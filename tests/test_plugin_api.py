"""The plugin API is what its reference says, and keeps what it has promised."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from docs import plugin_api
from gwproxy import Context, Headers, Plugin, Request, Response
from gwproxy.process import compiled

pytestmark = pytest.mark.skipif(compiled(), reason="what is compiled has no signatures in Python's own form")

PROMISED: dict[str, list[str] | None] = json.loads(plugin_api.PROMISE.read_text())
SURFACE = {} if compiled() else plugin_api.surface()


def test_the_reference_is_current() -> None:
    assert plugin_api.PAGE.read_text() == plugin_api.page(), "run: python docs/plugin_api.py"


def test_everything_public_is_promised() -> None:
    assert [name for name in SURFACE if name not in PROMISED] == [], "run: python docs/plugin_api.py"


@pytest.mark.parametrize("name", PROMISED)
def test_what_was_promised_is_there(name: str) -> None:
    assert name in SURFACE
    assert accepts(SURFACE[name], PROMISED[name])


def accepts(now: list[str] | None, promised: list[str] | None) -> bool:
    """Whether every call that was promised is still one: nothing has gone or moved, and what is new has a default."""
    if now is None or promised is None:
        return now == promised
    positional = [[one for one in parameters if not one.startswith("*, ")] for parameters in (now, promised)]
    added = set(now) - set(promised)
    kept = all(one in now or f"{one}=" in now for one in promised)
    return kept and positional[0][: len(positional[1])] == positional[1] and all(one.endswith("=") or one.startswith("*") for one in added)


@pytest.mark.parametrize(
    ("now", "promised", "good"),
    [
        (["a", "b="], ["a", "b="], True),
        (["a", "b=", "c="], ["a", "b="], True),
        (["a", "*, c="], ["a"], True),
        (["a", "c"], ["a"], False),
        (["a"], ["a", "b="], False),
        (["b=", "a="], ["a=", "b="], False),
        (["a="], ["a"], False),
        (None, ["a"], False),
        (None, None, True),
    ],
)
def test_what_counts_as_kept(now: list[str] | None, promised: list[str] | None, good: bool) -> None:
    assert accepts(now, promised) is good


@pytest.mark.parametrize("kind", [Context, Headers, Plugin, Request, Response], ids=lambda kind: kind.__name__)
def test_what_is_public_by_its_name_is_promised_or_said_to_be_internal(kind: type) -> None:
    slots = {name for name in (*getattr(kind, "__slots__", ()), *vars(kind)) if not name.startswith("_")}
    told = {*plugin_api.attributes(kind.__name__, kind), *dict(plugin_api.members(kind.__name__, kind))}
    assert slots <= told | plugin_api.INTERNAL.get(kind.__name__, set())


def test_what_is_internal_exists() -> None:
    """A name that is no more would hide a public one of that name."""
    named = {name: value for module in (plugin_api.gwproxy, plugin_api.gwproxy.testing) for name, value in plugin_api.exported(module)}
    for name, internal in plugin_api.INTERNAL.items():
        source = inspect.getsource(named[name])
        assert [one for one in internal if not re.search(rf"\b{one}\b", source)] == []
