"""A parsed configuration becomes a snapshot; what did not change is reused; what is dead is collected."""

from __future__ import annotations

import gc
import json
import weakref

from gwproxy import Context, Headers, Plugin, PluginConfig, hookimpl
from gwproxy.controlplane.build import Builder
from gwproxy.controlplane.parse import Environment, Parsed, parse
from gwproxy.dataplane.snapshot import Consumers, Snapshot
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.model import Consumer
from gwproxy.registry import Registry


class TagConfig(PluginConfig):
    tag: str = ""


class First(Plugin):
    name = "first"
    priority = 100
    config_model = TagConfig

    @hookimpl
    def pre_auth(self, ctx: Context) -> None: ...

    @hookimpl
    def response(self, ctx: Context) -> None: ...


class Second(Plugin):
    name = "second"
    priority = 100
    config_model = TagConfig

    @hookimpl
    def pre_auth(self, ctx: Context) -> None: ...


class Bench:
    def __init__(self) -> None:
        self.registry = Registry.of(First(), Second())
        self.pauses = 0
        self.builder = Builder(self.registry, Upstreams(), self.pause)
        self.parsed: Parsed | None = None

    def pause(self) -> None:
        self.pauses += 1

    def build(self, document: object, *, lenient: bool = False) -> Snapshot:
        self.parsed = parse(
            json.dumps(document).encode(),
            file="test",
            plugins=self.registry,
            environment=Environment({}, lambda name: True),
            lenient=lenient,
            previous=self.parsed,
        )
        return self.builder.build(self.parsed, revision=1, digest="d")


def route(path: str, *plugins: object, **more: object) -> dict[str, object]:
    return {"path": path, "upstream": "http://127.0.0.1:9", "plugins": list(plugins), **more}


def order(snapshot: Snapshot, index: int = 0, phase: str = "pre_auth") -> list[tuple[str, str]]:
    return [(step.plugin, step.config.tag) for step in snapshot.routes[index].chain[phase]]  # type: ignore[attr-defined]


def test_equal_priorities_run_global_first_then_by_the_routes_list() -> None:
    snapshot = Bench().build(
        {
            "routes": [route("/", {"name": "first", "config": {"tag": "r1"}}, {"name": "first", "config": {"tag": "r2"}})],
            "plugins": [{"name": "second", "config": {"tag": "g"}}],
        }
    )
    assert order(snapshot) == [("second", "g"), ("first", "r1"), ("first", "r2")]


def test_an_entrys_priority_replaces_the_plugins() -> None:
    snapshot = Bench().build([route("/", {"name": "first"}, {"name": "second", "priority": 99})])
    assert [name for name, _ in order(snapshot)] == ["second", "first"]


def test_on_error_defaults_to_fail_but_in_response() -> None:
    snapshot = Bench().build([route("/", {"name": "first"}), route("/b", {"name": "first", "on_error": "ignore"})])
    chain = snapshot.routes[0].chain
    assert [chain[phase][0].on_error for phase in ("pre_auth", "response")] == ["fail", "ignore"]
    assert snapshot.routes[1].chain["pre_auth"][0].on_error == "ignore"
    explicit = Bench().build([route("/", {"name": "first", "on_error": "fail"})])
    assert explicit.routes[0].chain["response"][0].on_error == "fail"


def test_entries_know_where_they_stand() -> None:
    snapshot = Bench().build(
        {"routes": [route("/", {"name": "first"}, {"name": "first"}, id="r")], "plugins": [{"name": "second"}]},
    )
    entries = [(step.plugin, step.config.entry.route, step.config.entry.index) for step in snapshot.routes[0].chain["pre_auth"]]
    assert entries == [("second", None, 0), ("first", "r", 0), ("first", "r", 1)]


def test_routes_that_did_not_change_are_the_same_objects() -> None:
    bench = Bench()
    one, two = route("/a", {"name": "first"}), route("/b", {"name": "first"})
    before = bench.build([one, two])
    after = bench.build([one, route("/b", {"name": "first", "config": {"tag": "new"}}), route("/c")])
    assert after.routes[0] is before.routes[0]
    assert after.routes[1] is not before.routes[1]
    assert order(after, 1) == [("first", "new")]


def test_a_change_of_a_global_plugin_rebuilds_every_chain() -> None:
    bench = Bench()
    before = bench.build({"routes": [route("/a")], "plugins": [{"name": "first", "config": {"tag": "1"}}]})
    after = bench.build({"routes": [route("/a")], "plugins": [{"name": "first", "config": {"tag": "2"}}]})
    assert (order(before), order(after)) == ([("first", "1")], [("first", "2")])


def test_a_change_of_an_upstream_reaches_routes_that_did_not_change() -> None:
    bench = Bench()
    document = {"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": {"targets": [{"url": "http://127.0.0.1:9"}]}}}
    before = bench.build(document)
    document["upstreams"] = {"users": {"targets": [{"url": "http://127.0.0.1:10"}]}}
    after = bench.build(document)
    assert before.routes[0].upstream.targets[0].url != after.routes[0].upstream.targets[0].url


def test_X09_a_missing_plugin_makes_only_the_routes_that_need_it_unavailable() -> None:
    document = {
        "routes": [route("/a"), route("/b", {"name": "lost"}), route("/c", {"name": "gone", "enabled": False})],
        "plugins": [{"name": "gone"}],
    }
    snapshot = Bench().build(document, lenient=True)
    assert [compiled.unavailable is None for compiled in snapshot.routes] == [False, False, True]
    assert "lost" in (snapshot.routes[1].unavailable or "")


def test_building_pauses_for_each_route_that_is_compiled_and_now_and_then_for_the_others() -> None:
    bench = Bench()
    routes = [route(f"/r{number}") for number in range(1000)]
    bench.build(routes)
    assert bench.pauses >= 1000
    before = bench.pauses
    bench.build(routes)
    assert bench.pauses - before >= 1000 // 16


def test_S07_a_dead_snapshot_is_collected() -> None:
    bench = Bench()
    graves = []
    for number in range(50):
        snapshot = bench.build([route("/same", {"name": "first"}), route(f"/r{number}", {"name": "second"})])
        graves.append(weakref.ref(snapshot))
    del snapshot
    gc.collect()
    assert [grave() for grave in graves if grave() is not None] == []


def test_consumers_are_found_by_what_they_match() -> None:
    consumers = Consumers(
        [
            Consumer(id="ada", match={"user_id": "1"}),
            Consumer(id="both", match={"user_id": "2", "tenant": "x"}),
        ]
    )
    assert consumers.find({"user_id": "1"}).id == "ada"  # type: ignore[union-attr]
    assert consumers.find({"user_id": "2", "tenant": "x"}).id == "both"  # type: ignore[union-attr]
    assert consumers.find({"user_id": "2"}) is None
    assert consumers.find({}) is None


def test_an_unmatched_request_gets_the_global_chain() -> None:
    snapshot = Bench().build({"routes": [], "plugins": [{"name": "first"}]})
    assert snapshot.router.match("h", "/", "GET", Headers()) is None
    assert [step.plugin for step in snapshot.unmatched["response"]] == ["first"]
