"""The candidate of a worker: built beside what it serves, taken over without building again, let go of without a trace."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gwproxy import Plugin, PluginConfig, hookimpl
from gwproxy.app import App
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.sources import Found
from gwproxy.controlplane.watch import Watcher
from gwproxy.dataplane.snapshot import Snapshot
from gwproxy.errors import StoreUnavailable
from gwproxy.registry import Registry
from gwproxy.store.candidates import Candidate
from gwproxy.store.configuration import digest_of
from gwproxy.store.deployments import LiveDeployment, Revocation

LIVE = [{"path": "/a", "upstream": "http://127.0.0.1:9"}, {"path": "/b", "upstream": "http://127.0.0.1:8"}]
NEXT = [LIVE[0], {"path": "/c", "upstream": "http://127.0.0.1:7", "plugins": [{"name": "tag", "config": {"secret": "open-sesame"}}]}]
WRONG = [{"path": "/a"}]


class TagConfig(PluginConfig):
    secret: SecretStr


class Tag(Plugin):
    name = "tag"
    config_model = TagConfig

    @hookimpl
    def pre_proxy(self, ctx: Any, config: TagConfig) -> None: ...


class Script:
    """A source that says what the test wants."""

    def __init__(self) -> None:
        self.found: Found | None = None
        self.candidate: Candidate | None = None
        self.deployment: LiveDeployment | None = None
        self.revoked: dict[str, Revocation] = {}
        self.newer = False
        self.asked = 0

    def poll(self) -> Found | None:
        said, self.found = self.found, None
        return said

    def outdated(self) -> bool:
        self.asked += 1
        return self.newer

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Bench:
    def __init__(self, folder: Path) -> None:
        self.app = App()
        self.gateway = self.app.gateway
        self.source = Script()
        self.last_good = LastGoodFile(folder, "gw:")
        self.seen: list[str] = []
        environment = Environment({}, lambda name: True)
        upstreams = self.gateway.upstreams
        self.watcher = Watcher(self.source, self.gateway, Registry.of(Tag()), upstreams, environment, self.last_good, changed=self.changed)
        self.live(LIVE, 1)

    def changed(self) -> None:
        shown = self.watcher.beside.shown()
        self.seen.append(shown["state"] if shown else "")

    def live(self, document: object, revision: int, beside: Candidate | None = None) -> None:
        self.source.found, self.source.candidate = Found(json.dumps(document).encode(), revision, "gw:routes"), beside
        self.watcher.step()

    def beside(self, document: object, mode: Any = "stage", ident: str = "c1", share: float = 50.0) -> Candidate:
        data = json.dumps(document).encode()
        self.source.candidate = Candidate(ident, data, digest_of(data), 1, mode, share=share)
        self.seen.clear()
        self.watcher.step()
        return self.source.candidate

    def gone(self) -> None:
        self.source.candidate = None
        self.watcher.step()

    def shown(self) -> dict[str, Any]:
        return self.watcher.beside.shown() or {}

    def upstreams(self) -> list[str]:
        return sorted(live.name for live in self.gateway.upstreams)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    logging.getLogger("gwproxy").setLevel(logging.CRITICAL)  # a handler of pytest's keeps every record
    yield Bench(tmp_path)
    logging.getLogger("gwproxy").setLevel(logging.NOTSET)


def test_it_is_built_beside_what_serves_and_reported(bench: Bench) -> None:
    before = bench.gateway.snapshot
    candidate = bench.beside(NEXT)
    assert bench.seen == ["building", "built"]
    shown = bench.shown()
    assert (shown["id"], shown["digest"], shown["mode"], shown["error"]) == ("c1", candidate.digest, "stage", "")
    assert shown["build_ms"] > 0
    assert bench.gateway.snapshot is before
    assert bench.gateway.canary is None
    assert bench.watcher.standing.revision == 1
    assert [kept.data for kept in bench.last_good.load()] == [json.dumps(LIVE).encode()]
    assert bench.upstreams() == ["http://127.0.0.1:7", "http://127.0.0.1:8", "http://127.0.0.1:9"]


def test_it_is_built_once_however_often_it_is_seen(bench: Bench) -> None:
    bench.beside(NEXT)
    built = bench.gateway.beside
    bench.watcher.step()
    assert bench.gateway.beside is built is not None


@pytest.mark.parametrize("mode", ["stage", "canary"])
def test_once_it_is_live_it_serves_without_being_built_again(bench: Bench, mode: str) -> None:
    bench.beside(NEXT, mode)
    built, took = bench.gateway.beside, bench.shown()["build_ms"]
    bench.live(NEXT, 2)
    assert bench.gateway.snapshot is built is not None
    assert (bench.gateway.beside, bench.gateway.canary, bench.shown()) == (None, None, {})
    standing = bench.watcher.standing
    assert (standing.state, standing.revision, round(standing.build_ms, 1)) == ("ready", 2, took)
    assert bench.last_good.load()[0].data == json.dumps(NEXT).encode()
    assert bench.upstreams() == ["http://127.0.0.1:7", "http://127.0.0.1:9"]
    bench.live(LIVE, 3)
    assert [compiled.route.path for compiled in bench.gateway.snapshot.routes] == ["/a", "/b"]


def test_another_change_leaves_nothing_of_it(bench: Bench) -> None:
    bench.beside(NEXT, "canary")
    assert bench.gateway.canary is not None
    bench.live([LIVE[1]], 2)
    assert (bench.gateway.beside, bench.gateway.canary, bench.shown()) == (None, None, {})
    assert bench.upstreams() == ["http://127.0.0.1:8"]


@pytest.mark.parametrize("document", [WRONG, [{"path": "/a", "upstream": "http://127.0.0.1:9", "plugins": [{"name": "gone"}]}]])
def test_what_this_worker_cannot_serve_is_refused_with_a_reason(bench: Bench, document: object) -> None:
    bench.beside(document, "canary")
    assert bench.seen == ["building", "refused"]
    assert "problem" in bench.shown()["error"]
    assert (bench.gateway.beside, bench.gateway.canary) == (None, None)
    assert bench.watcher.standing.state == "ready"
    assert len(bench.upstreams()) == 2
    bench.gone()
    assert bench.shown() == {}


def test_bytes_that_are_not_those_of_the_digest_are_refused(bench: Bench) -> None:
    bench.source.candidate = Candidate("c1", b"[]", digest_of(b"[ ]"), 1, "canary")
    bench.watcher.step()
    assert (bench.shown()["state"], bench.gateway.canary) == ("refused", None)


def test_a_canary_gets_another_share_and_keeps_its_numbers(bench: Bench) -> None:
    bench.beside(NEXT, "canary", share=1.0)
    canary = bench.gateway.canary
    assert canary is not None
    assert canary.snapshot is bench.gateway.beside
    bench.beside(NEXT, "canary", share=100.0)
    assert bench.gateway.canary is canary
    assert bench.shown()["share"] == canary.share == 100.0
    assert canary.serves("10.0.0.1")


def test_the_store_going_away_changes_nothing(bench: Bench) -> None:
    bench.beside(NEXT, "canary")
    canary = bench.gateway.canary

    def away() -> None:
        raise StoreUnavailable("away")

    bench.source.poll = away  # type: ignore[method-assign]
    bench.watcher.step()
    assert bench.gateway.canary is canary is not None


def test_X08_secrets_of_both_are_kept_out_of_logs(bench: Bench) -> None:
    short = [{**NEXT[1], "plugins": [{"name": "tag", "config": {"secret": "sesame"}}]}]
    bench.live(short, 2)
    assert bench.app.secrets() == ("sesame",)
    bench.beside(NEXT)
    assert bench.app.secrets() == ["open-sesame", "sesame"]  # the longest first
    bench.gone()
    assert bench.app.secrets() == ("sesame",)


def test_S07_a_candidate_that_is_let_go_of_is_freed_without_any_collection(bench: Bench) -> None:
    gc.collect()
    gc.disable()
    try:
        graves: list[weakref.ref[Snapshot]] = []
        for number in range(5):
            bench.beside([*NEXT, {"path": f"/n{number}", "upstream": "http://127.0.0.1:7"}], "canary", ident=f"c{number}")
            assert bench.gateway.beside is not None
            graves.append(weakref.ref(bench.gateway.beside))
            if number % 2:
                bench.gone()
            elif number == 2:
                bench.live([LIVE[number // 2]], number + 2)
        bench.gone()
        assert len(graves) == 5
        assert [grave() for grave in graves if grave() is not None] == []
    finally:
        gc.enable()


def test_an_upstream_described_otherwise_on_both_sides_lives_on_both(bench: Bench) -> None:
    def document(weight: int) -> dict[str, Any]:
        targets = [{"url": "http://127.0.0.1:1", "weight": weight}, {"url": "http://127.0.0.1:2"}]
        return {"routes": [{"path": "/", "upstream": "pair"}], "upstreams": {"pair": {"targets": targets}}}

    bench.live(document(1), 2)
    served = list(bench.gateway.upstreams)
    bench.beside(document(5), "canary")
    assert [live.described.targets[0].weight for live in bench.gateway.upstreams] == [1, 5]
    bench.gone()
    assert list(bench.gateway.upstreams) == served  # the same, with its connections and its health


def test_building_it_makes_way_for_others_between_any_two_routes(bench: Bench) -> None:
    many = [{"path": f"/{number}", "upstream": "http://127.0.0.1:7"} for number in range(100)]
    bench.beside(many)
    assert bench.shown()["state"] == "built"
    assert bench.source.asked >= 200  # parsing and building both


def test_building_it_ends_where_something_newer_is_to_be_served_first(bench: Bench) -> None:
    bench.source.newer = True
    bench.beside(NEXT)
    assert bench.seen == ["building", ""]
    assert (bench.gateway.beside, len(bench.upstreams())) == (None, 2)
    bench.source.newer = False
    bench.live([LIVE[1]], 2)
    bench.beside(NEXT)
    assert bench.shown()["state"] == "built"
