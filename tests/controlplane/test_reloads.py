"""Ten thousand changes of the configuration leave nothing behind but the last one."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter

from gwproxy import Headers
from gwproxy.agent import WorkerGateway
from gwproxy.controlplane.collection import Collector
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.parse import Environment, Parsed
from gwproxy.controlplane.sources import Found
from gwproxy.controlplane.watch import Watcher
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.patterns import compile_pattern
from gwproxy.dataplane.pool import Pool
from gwproxy.dataplane.snapshot import CompiledRoute, Snapshot
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.model import Route, Upstream
from gwproxy.plugin import PluginConfig
from gwproxy.plugins.jwks import KeySet
from gwproxy.registry import Registry
from gwproxy.store.candidates import Candidate
from gwproxy.store.deployments import LiveDeployment, Revocation
from gwproxy.store.shared import LocalStore

RELOADS = 10_000
WARM = 1_000
KEPT = (Snapshot, CompiledRoute, LiveUpstream, Pool, PluginConfig, KeySet, Parsed, Route, Upstream)  # one configuration's, and no more


class Pushed:
    """A source that says what the test pushes."""

    def __init__(self) -> None:
        self.candidate: Candidate | None = None
        self.deployment: LiveDeployment | None = None
        self.revoked: dict[str, Revocation] = {}
        self.next: Found | None = None

    def poll(self) -> Found | None:
        said, self.next = self.next, None
        return said

    def outdated(self) -> bool:
        return False

    def wait(self) -> None: ...

    def close(self) -> None: ...


class Unsaved(LastGoodFile):
    """No file: 10,000 times fsync would take longer than all else."""

    def save(self, data: bytes, revision: int) -> None: ...


class Foreground(WorkerGateway):
    """Runs at once what a worker runs in its background: what is left is left for good."""

    def spawn(self, function: Callable[..., object], *args: Any) -> None:
        function(*args)


class Worker:
    """The part of a worker that follows the configuration, with every built-in plugin."""

    def __init__(self, folder: Path) -> None:
        self.source = Pushed()
        self.gateway = Gateway(Upstreams())
        registry = Registry.discover()
        assert not registry.broken
        assert registry.notify("worker_started", gateway=Foreground(LocalStore(), "w", folder)) == []
        environment = Environment({"GW_SECRET": "s" * 40}, lambda name: True)
        self.collector = Collector(lambda: True)
        unsaved = Unsaved(folder, "gw:")
        upstreams = self.gateway.upstreams
        self.watcher = Watcher(self.source, self.gateway, registry, upstreams, environment, unsaved, collector=self.collector)

    def reload(self, data: bytes, revision: int) -> Snapshot:
        self.source.next = Found(data, revision, "gw:routes")
        self.watcher.step()
        self.collector.look()
        standing, snapshot = self.watcher.standing, self.gateway.snapshot
        assert (standing.error, standing.revision) == ("", revision)
        assert snapshot is not None
        return snapshot


def document(number: int) -> bytes:
    """The ``number``-th configuration: no two alike, in routes, plugins, their configs, upstreams, targets and patterns."""
    limit = {"name": "rate_limit", "config": {"limit": number + 1}}
    plugins: list[dict[str, Any]] = [
        {"name": "jwt_auth", "config": {"secret": "${GW_SECRET}", "audience": f"a{number}"}},
        {"name": "request_transform", "config": {"add_headers": {"X-Number": str(number)}}},
        {"name": "pii_log", "config": {"fields": [f"f{number}"]}},
        {"name": "access_log", "config": {"redact": [f"secret{number}"], "sinks": ["file"], "file": f"/tmp/log-{number}"}},
        {"name": "webhook_signature", "config": {"scheme": "github", "secrets": [f"{number:032d}"]}},
    ]
    fetched = {"name": "jwt_auth", "config": {"jwks_url": f"http://127.0.0.1:9/{number}", "algorithms": ["RS256"]}}
    changing = plugins[number % len(plugins)] if number % 50 else fetched  # trying to fetch takes ten times as long as all else
    routes: list[dict[str, Any]] = [
        {"path": "/same", "upstream": "http://127.0.0.1:9"},
        {"path": f"/changing/{number}", "upstream": f"http://127.0.0.1:{1 + number % 60_000}", "plugins": [limit]},
        {"path": f"~^/regex{number}/", "upstream": "pair", "plugins": [changing]},
    ]
    targets = [{"url": f"http://10.0.{number % 250}.{i}:8000"} for i in (1, 2)]
    pair = {"targets": targets, "algorithm": "consistent_hash", "hash_on": "path", "health": {"path": "/h"}, "breaker": {}}
    cors = {"name": "cors", "config": {"origins": [f"https://n{number // 10}.example"]}}
    return orjson.dumps(
        {
            "routes": routes,
            "upstreams": {"pair": pair},
            "plugins": [cors],
            "consumers": [{"id": f"c{number}", "match": {"user_id": f"u{number}"}}],
        }
    )


def living() -> Counter[str]:
    """How many objects of each kind of :data:`KEPT` there are."""
    gc.unfreeze()
    gc.collect()
    return Counter(kind.__name__ for thing in gc.get_objects() for kind in KEPT if isinstance(thing, kind))


def caches() -> list[Any]:
    """The caches of gwproxy's functions; all of them are bounded."""
    found = [thing for thing in gc.get_objects() if isinstance(thing, type(compile_pattern)) and thing.__module__.startswith("gwproxy")]
    assert compile_pattern in found
    assert [cache for cache in found if cache.cache_info().maxsize is None] == []
    return found


def fill_string_cache() -> None:
    """Fill the one cache that cannot be cleared: pydantic's of short strings in JSON, 16,384 of at most 63 bytes for ever."""
    TypeAdapter(list[str]).validate_json(orjson.dumps([f"filling {number}" for number in range(200_000)]))


def memory() -> tuple[int, int]:
    """Blocks of memory that Python has allocated, and bytes of the process that are resident; without what is in bounded caches."""
    gc.unfreeze()
    for cache in caches():
        cache.cache_clear()
    gc.collect()
    return sys.getallocatedblocks(), int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    logging.getLogger("gwproxy").setLevel(logging.CRITICAL)  # a handler of pytest's keeps every record
    yield Worker(tmp_path)
    logging.getLogger("gwproxy").setLevel(logging.NOTSET)
    gc.unfreeze()


@pytest.mark.timeout(400)  # ten thousand are what the catalogue says: 25 seconds of one core, when there is one
def test_S07_S11_ten_thousand_reloads_leave_one_snapshot_and_flat_memory(worker: Worker) -> None:
    snapshots: weakref.WeakSet[Snapshot] = weakref.WeakSet()
    fill_string_cache()
    before = living()
    for number in range(WARM):
        snapshots.add(worker.reload(document(number), number))
    once, (blocks, resident) = living() - before, memory()
    for number in range(WARM, RELOADS):
        snapshots.add(worker.reload(document(number), number))
    assert compile_pattern.cache_info().currsize == compile_pattern.cache_info().maxsize  # it was filled, and held its bound
    assert living() - before == once
    assert list(snapshots) == [worker.gateway.snapshot]
    now, resident_now = memory()
    print(f"blocks {now - blocks:+d}, resident {resident_now - resident:+d}")
    assert now - blocks < (RELOADS - WARM) // 10  # a single object left by each reload would be ten times as many
    assert resident_now - resident < 48 << 20  # what RE2 keeps is not Python's: what is left of a cache full of regexes is 30 MiB
    assert once["Snapshot"] == once["Parsed"] == 1
    assert once["LiveUpstream"] == once["CompiledRoute"] == once["Route"] == 3


def test_S07_a_refused_configuration_leaves_nothing(worker: Worker) -> None:
    worker.reload(document(0), 0)
    before = living()
    for number in range(1, 300):
        broken = orjson.loads(document(number))
        broken["routes"][2]["upstream"] = "absent"
        worker.source.next = Found(orjson.dumps(broken), number, "gw:routes")
        worker.watcher.step()
        assert worker.watcher.standing.state == "refused"
    assert living() == before


def test_S07_what_was_served_is_freed_without_any_collection(worker: Worker) -> None:
    """Nothing of a configuration refers back to what holds it: a collector that has set it aside is not needed to free it."""
    gc.collect()
    gc.disable()
    try:
        graves: list[weakref.ref[Any]] = []
        for number in range(1, 12):
            snapshot = worker.reload(document(number), number)
            parsed = worker.watcher._serving.maker.parsed
            changing = snapshot.routes[1]
            steps = [step for steps in changing.chain.values() for step in steps]
            assert parsed is not None
            graves += map(weakref.ref, (snapshot, parsed, parsed.configs[1, 0], changing.route, *(step.config for step in steps[1:])))
            del snapshot, parsed, changing, steps
        worker.reload(document(99), 99)
        assert len(graves) >= 5 * 11
        assert [grave() for grave in graves if grave() is not None] == []
    finally:
        gc.enable()


def test_S07_a_request_that_is_not_over_keeps_what_it_began_with_whole(worker: Worker) -> None:
    snapshot = worker.reload(document(1), 1)
    for number in range(2, 5):
        worker.reload(document(number), number)
    match = snapshot.router.match("h", "/changing/1", "GET", Headers())
    assert match is not None
    assert match.entry is snapshot.routes[1]
    assert [step.config.entry.route for step in match.entry.chain["post_auth"]] == ["changing-1"]
    assert snapshot.router.match("h", "/regex1/x", "GET", Headers()) is not None
    assert len(snapshot.routes) == len(snapshot.document.routes) == 3
