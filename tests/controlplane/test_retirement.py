"""What was pushed and is deployed no more: requests end on it, its plugins say goodbye, and nothing is left of its code."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gwproxy.controlplane.collection import Remains
from tests.controlplane.pushing import BARE, ROUTE, Bench, tenant
from tests.wheels.made import make_wheel

#: A plugin that does what makes code hard to free: it refers to itself, caches what is made of its classes, keeps configurations.
KEEPING = """
from __future__ import annotations
import functools, logging
from typing import Any, Optional
from importlib import resources
from gwproxy import Context, Plugin, PluginConfig, hookimpl

log = logging.getLogger(__name__)
told = []

class Rule(PluginConfig):
    name: str = "n"

class Config(PluginConfig):
    rule: Optional[Rule] = None
    rules: tuple[Rule, ...] = (Rule(),)

class Tenant(Plugin):
    name = "tenant"
    version = "{version}"
    config_model = Config

    def __init__(self) -> None:
        self.itself = self
        self.configs: dict[int, Config] = {{}}
        self.known = functools.lru_cache(maxsize=8)(self.look)
        self.told = told

    def look(self, number: int) -> Config:
        return self.configs[number]

    @hookimpl
    def worker_started(self, gateway: Any) -> None:
        self.gateway = gateway
        self.told.append("started")

    @hookimpl
    def configuration_applied(self, revision: int) -> None:
        self.told.append(f"applied {{revision}}")

    @hookimpl
    def worker_stopping(self) -> None:
        self.told.append("stopping")

    @hookimpl
    def response(self, ctx: Context, config: Config) -> None:
        self.configs[0] = config
        self.known(0)
        log.debug("seen")
        ctx.response_headers["X-Tenant-Version"] = self.version
        ctx.on_finish(lambda outcome: self.told.append(f"finished {{config.rules[0].name}}"))
"""


def keeping(version: str) -> bytes:
    return make_wheel({"gwproxy_tenant.py": KEEPING.format(version=version)}, version=version)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    logging.getLogger("gwproxy.gateway").setLevel(logging.CRITICAL)  # a handler of pytest's keeps every record, and what is in it
    gc.collect()
    gc.freeze()  # as in a worker: what the tests have is not looked at
    made = Bench(tmp_path)
    made.serve(BARE)
    yield made
    gc.unfreeze()
    logging.getLogger("gwproxy.gateway").setLevel(logging.NOTSET)


def packages_loaded() -> set[str]:
    return {name.partition(".")[0] for name in sys.modules if name.startswith("_wheel_")}


def plugin_of(bench: Bench) -> Any:
    return bench.watcher.deployed.registry.find("tenant")


def test_its_life(bench: Bench) -> None:
    bench.push(keeping("1.0"))
    told = plugin_of(bench).told
    assert told == ["started", "applied 1"]
    bench.serve(ROUTE)
    bench.ask()
    bench.remove("gwproxy-tenant")  # which the route still needs
    assert "tenant" in bench.standing.deployment_error
    assert told[-1] == "finished n"
    bench.serve(BARE)
    bench.watcher.step()
    bench.pass_time()
    assert told == ["started", "applied 1", "applied 1", "finished n", "applied 1", "stopping"]


def test_a_request_ends_on_the_version_that_it_began_with(bench: Bench) -> None:
    bench.push(keeping("1.0"))
    bench.serve(ROUTE)
    told = plugin_of(bench).told
    request = bench.begin()
    bench.push(keeping("2.0"))
    bench.pass_time()
    assert bench.ask() == (502, "2.0")
    assert told[-1] == "applied 1"  # not stopped
    bench.finish(request)
    assert request.response is not None
    assert request.response.headers["X-Tenant-Version"] == "1.0"
    bench.pass_time()
    assert told[-2:] == ["finished n", "stopping"]


def test_a_request_on_another_route_is_not_waited_for(bench: Bench) -> None:
    bench.push(keeping("1.0"))
    bench.serve(ROUTE, BARE)
    told = plugin_of(bench).told
    bench.begin("/bare")
    bench.push(keeping("2.0"))
    bench.pass_time()
    assert told[-1] == "stopping"


def test_a_request_on_any_route_is_if_the_plugin_was_on_all(bench: Bench) -> None:
    bench.push(keeping("1.0"))
    bench.serve(BARE, plugins=[{"name": "tenant"}])
    told = plugin_of(bench).told
    request = bench.begin("/of-no-route")
    bench.push(keeping("2.0"))
    bench.pass_time()
    assert told[-1] == "applied 1"
    bench.finish(request)
    bench.pass_time()
    assert told[-1] == "stopping"


def test_what_is_pushed_again_before_it_ended_goes_on(bench: Bench) -> None:
    first = bench.push(keeping("1.0"))
    bench.serve(ROUTE)
    plugin = plugin_of(bench)
    request = bench.begin()
    bench.push(keeping("2.0"))
    bench.pass_time()
    bench.deploy(first)
    assert plugin_of(bench) is plugin
    bench.finish(request)
    bench.pass_time()
    assert plugin.told.count("stopping") == 0
    assert bench.ask() == (502, "1.0")


def test_code_is_gone_as_soon_as_the_last_request_although_it_was_set_aside(bench: Bench) -> None:
    """Without a single whole collection: those take as long as there are routes."""
    bench.push(keeping("1.0"))
    bench.serve(ROUTE)
    bench.ask()
    plugin = plugin_of(bench)
    module = sys.modules[type(plugin).__module__]
    graves = [weakref.ref(thing) for thing in (plugin, type(plugin), type(plugin.configs[0]), module, module.Rule)]
    request = bench.begin()
    del plugin, module
    bench.collector.set_aside()
    gc.disable()
    try:
        bench.push(keeping("2.0"))
        bench.pass_time()
        assert [grave() is None for grave in graves] == [False] * 5
        bench.finish(request)
        del request
        bench.pass_time()
        assert [grave() for grave in graves] == [None] * 5
    finally:
        gc.enable()


def test_code_that_somebody_keeps_is_told_of(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.push(tenant("1.0"))
    kept = plugin_of(bench)
    bench.push(tenant("2.0"))
    bench.pass_time()
    assert bench.retirement.lingering == 1
    for _ in range(4):
        bench.pass_time(61.0)
    assert "plugin_code_kept" in caplog.text
    assert bench.retirement.lingering == 1
    assert kept.version == "1.0"


def test_code_that_was_still_in_use_is_freed_when_it_is_tried_again(bench: Bench) -> None:
    """Although it is the plugin itself that leads to its class, and no way leads back."""
    bench.push(keeping("1.0"))
    bench.serve(ROUTE)
    bench.ask()
    kept = plugin_of(bench)
    bench.collector.set_aside()
    bench.push(keeping("2.0"))
    bench.pass_time()
    assert bench.retirement.lingering == 1
    grave = weakref.ref(type(kept))
    del kept
    gc.disable()
    try:
        bench.pass_time(1.0)
        assert grave() is None
        assert bench.retirement.lingering == 0
    finally:
        gc.enable()


def test_what_it_does_in_the_background_ends_with_it(bench: Bench) -> None:
    bench.push(keeping("1.0"))
    closed = threading.Event()
    (wheel,) = bench.watcher.deployed.wheels
    assert wheel.port is not None
    wheel.port.close = closed.set  # type: ignore[attr-defined]
    bench.push(keeping("2.0"))
    bench.pass_time()
    assert closed.is_set()


def test_a_refused_push_leaves_nothing(bench: Bench) -> None:
    bench.push(keeping("1.0"))
    bench.serve({**ROUTE, "plugins": [{"name": "tenant", "config": {"rules": []}}]})
    before = packages_loaded()
    bench.push(tenant("2.0"))  # which has no such key
    assert "rules" in bench.standing.deployment_error
    bench.pass_time()
    assert packages_loaded() == before


def test_S07_deploys_in_a_row_leave_one_version_each_and_flat_memory(bench: Bench) -> None:
    bench.push(keeping("0.1"))
    bench.serve(ROUTE)
    classes: weakref.WeakSet[type] = weakref.WeakSet()
    packages, blocks = packages_loaded(), 0
    for number in range(50):
        if number == 10:  # line caches and the like have filled
            gc.collect(1)
            blocks = sys.getallocatedblocks()
        bench.push(keeping(f"1.{number}"))
        assert bench.ask() == (502, f"1.{number}")
        classes.add(type(plugin_of(bench)))
        bench.pass_time()
        assert len(classes) == 1
        bench.store.wheels.clear()
    gc.collect(1)
    grown = sys.getallocatedblocks() - blocks
    print(f"blocks {grown:+d}")
    assert len(packages_loaded() - packages) == 1  # in place of the one that is gone
    assert grown < 40 * 20  # a version is some 5,000


def test_remains_of_others_are_left_alone() -> None:
    """What is not of the package is looked at no more than as much as it takes to see that."""
    remains = Remains("_wheel_nothing", [Bench, sys.modules[__name__]])
    assert remains._reachable(lambda: None) == []
