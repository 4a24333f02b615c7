"""How much memory a plugin holds: what it keeps, and not what it refers to."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from gwproxy import Context, Plugin, Request
from gwproxy.controlplane import weighing
from gwproxy.controlplane.weighing import Weighing
from gwproxy.dataplane.measures import Measures
from gwproxy.tally import Tally

MIB = 1 << 20

SOURCE = """
import logging
from functools import lru_cache
from gwproxy import Plugin

log = logging.getLogger("hoarder")
table = {}

class Kept:
    seen = {}

@lru_cache(maxsize=None)
def cached(n):
    return b"x" * n

class Hoarder(Plugin):
    name = "hoarder"
    version = "1.0"
"""


@pytest.fixture
def module() -> Iterator[Any]:
    """A plugin's module, as one that was imported."""
    made = types.ModuleType("hoarder_package")
    sys.modules["hoarder_package"] = made
    exec(SOURCE, made.__dict__)
    yield made
    del sys.modules["hoarder_package"]


@pytest.fixture
def measures() -> Measures:
    return Measures(Tally())


@pytest.fixture
def plugin(module: Any, measures: Measures) -> Any:
    plugin = module.Hoarder()
    measures.step(plugin, "auth")
    return plugin


def grown(measures: Measures) -> int:
    weigher = Weighing(measures, lambda seconds: True, pause=lambda: None)
    weigher.weigh()
    return measures.held["hoarder", "1.0"].grown


def in_itself(module: Any, plugin: Any) -> None:
    plugin.kept = {"a": [b"x" * MIB]}


def in_a_variable(module: Any, plugin: Any) -> None:
    module.table["a"] = b"x" * MIB


def in_a_class(module: Any, plugin: Any) -> None:
    module.Kept.seen["a"] = b"x" * MIB


def in_a_cache(module: Any, plugin: Any) -> None:
    module.cached(MIB)


def in_objects_of_its_own(module: Any, plugin: Any) -> None:
    plugin.kept = module.Kept()
    plugin.kept.data = bytearray(MIB)


def in_a_closure(module: Any, plugin: Any) -> None:
    data = b"x" * MIB
    plugin.call = functools.partial(lambda: data)


def in_requests_that_it_keeps(module: Any, plugin: Any) -> None:
    ctx = Context(Request("GET", "/"))
    ctx.state["a"] = b"x" * MIB
    plugin.seen = [ctx]


KEEPING = (in_itself, in_a_variable, in_a_class, in_a_cache, in_objects_of_its_own, in_a_closure, in_requests_that_it_keeps)


@pytest.mark.parametrize("keep", KEEPING, ids=lambda keep: keep.__name__)
def test_what_a_plugin_keeps_is_found(module: Any, plugin: Any, measures: Measures, keep: Any) -> None:
    assert grown(measures) == 0
    before = measures.held["hoarder", "1.0"].bytes
    assert before < 100_000
    keep(module, plugin)
    assert MIB <= grown(measures) < MIB + 20_000


def test_what_it_refers_to_is_not_its_own(module: Any, plugin: Any, measures: Measures) -> None:
    grown(measures)
    plugin.gateway = measures  # of gwproxy
    plugin.modules = sys
    plugin.log = module.log
    assert grown(measures) < 5000


def test_so_many_objects_are_weighed_and_no_more(plugin: Any, measures: Measures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "MOST", 1000)
    plugin.kept = [object() for _ in range(2000)]
    grown(measures)
    assert not measures.held["hoarder", "1.0"].whole


def test_it_pauses_between_slices(plugin: Any, measures: Measures) -> None:
    pauses: list[int] = []
    plugin.kept = [object() for _ in range(weighing.SLICE * 5)]
    Weighing(measures, lambda seconds: True, pause=lambda: pauses.append(1)).weigh()
    assert len(pauses) >= 5


def test_what_cannot_say_how_large_it_is_stops_nobody(module: Any, plugin: Any, measures: Measures) -> None:
    class Odd:
        def __sizeof__(self) -> int:
            raise RuntimeError("no idea")

    other = type("Other", (Plugin,), {"name": "other", "version": "1"})()
    measures.step(other, "auth")
    plugin.kept = Odd()
    Weighing(measures, lambda seconds: True, pause=lambda: None).weigh()
    assert measures.held.keys() == {("other", "1")}


def test_a_version_that_is_gone_is_forgotten(measures: Measures) -> None:
    plugin = type("Other", (Plugin,), {"name": "other", "version": "1"})()
    measures.step(plugin, "auth")
    weigher = Weighing(measures, lambda seconds: True, pause=lambda: None)
    weigher.weigh()
    assert measures.held.keys() == {("other", "1")}
    del plugin
    import gc

    gc.collect()
    weigher.weigh()
    assert measures.held == {}
