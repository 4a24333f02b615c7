"""What a change costs: parsing and building 10,000 routes, whole and with one of them changed; and a lookup among them.

``python benchmarks/changes.py`` prints a Markdown table. Ratios hold, absolute numbers are this machine's.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable

from gwproxy import Headers
from gwproxy.controlplane.build import Builder
from gwproxy.controlplane.collection import uncollected
from gwproxy.controlplane.parse import Environment, Parsed, parse
from gwproxy.dataplane.snapshot import Snapshot
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.registry import Registry

ROUNDS = 5


class Bench:
    """A parser and a builder, as in a worker."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.builder = Builder(self.registry, Upstreams(), self.pause)
        self.parsed: Parsed | None = None
        self.longest = 0.0
        self._last = 0.0

    def pause(self) -> None:
        """Note how long it was without a pause; by CPU time, of which others on the machine take none."""
        now = time.process_time()
        self.longest = max(self.longest, now - self._last)
        self._last = now

    def apply(self, data: bytes) -> Snapshot:
        self._last = time.process_time()
        environment = Environment({}, lambda name: True)
        with uncollected():
            self.parsed = parse(data, file="bench", plugins=self.registry, environment=environment, previous=self.parsed, pause=self.pause)
            snapshot = self.builder.build(self.parsed, revision=1, digest="")
            self.pause()
            gc.freeze()  # as a worker does
        return snapshot


def document(count: int, changed: int = -1) -> bytes:
    plugin = {"name": "rate_limit", "config": {"limit": 100}}
    routes = [
        {"path": f"/service-{n % 50}/resource-{n}/{{id}}", "upstream": f"http://10.0.0.{n % 50}:8000", "plugins": [plugin]}
        for n in range(count)
    ]
    if changed >= 0:
        routes[changed]["strip_path"] = True
    return json.dumps(routes).encode()


def timed(function: Callable[[], object], times: int = 1) -> float:
    """Return the median seconds of CPU that one call takes."""
    took = []
    for _ in range(ROUNDS):
        gc.collect()
        began = time.process_time()
        for _ in range(times):
            function()
        took.append((time.process_time() - began) / times)
    return statistics.median(took)


def freed(bench: Bench) -> tuple[float, float]:
    """Return the seconds of CPU that a whole collection takes with what is served, and without, after :func:`gc.freeze`."""
    gc.unfreeze()
    gc.collect()
    began = time.process_time()
    gc.collect()
    whole = time.process_time() - began
    gc.freeze()
    began = time.process_time()
    gc.collect()
    aside = time.process_time() - began
    gc.unfreeze()
    assert bench.parsed is not None
    return whole, aside


def lookup(snapshot: Snapshot, count: int) -> Callable[[], object]:
    path, headers = f"/service-{(count - 1) % 50}/resource-{count - 1}/7", Headers()
    assert snapshot.router.match("h", path, "GET", headers) is not None
    return lambda: snapshot.router.match("h", path, "GET", headers)


def main() -> None:
    registry = Registry.discover()
    small, large = Bench(registry), Bench(registry)
    few = small.apply(document(10))
    whole = timed(lambda: Bench(registry).apply(document(10_000)))
    many = large.apply(document(10_000))
    numbers = iter(range(1, 1000))
    one = timed(lambda: large.apply(document(10_000, next(numbers))))
    ten, ten_thousand = timed(lookup(few, 10), 20_000), timed(lookup(many, 10_000), 20_000)
    print("| what | measured | ratio |\n| --- | --- | --- |")
    print(f"| parse and build 10,000 routes | {whole:.2f} s | 1 |")
    print(f"| the same with one route changed | {one:.2f} s | {one / whole:.2f} |")
    print(f"| longest stretch without a pause | {large.longest * 1000:.1f} ms | |")
    whole_collection, aside = freed(large)
    print(f"| a whole collection of garbage | {whole_collection * 1000:.0f} ms | |")
    print(f"| the same with what is served set aside | {aside * 1000:.2f} ms | |")
    print(f"| lookup among 10 routes | {ten * 1e6:.1f} us | 1 |")
    print(f"| lookup among 10,000 routes | {ten_thousand * 1e6:.1f} us | {ten_thousand / ten:.2f} |")


if __name__ == "__main__":
    main()
