"""What a Prometheus server scrapes: the gateway as the heartbeats of its workers tell it, of all machines.

It is asked of the store: no worker is held up by a scrape, and one listener tells of the whole fleet. What is shown is two
seconds old at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from gwproxy.admin.measured import plugin_metrics, request_metrics
from gwproxy.controlplane.overview import Worker, held

MEDIA = CONTENT_TYPE_LATEST

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # anybody may write to the store
_STATES = ("starting", "ready", "refused", "draining")


def exposition(workers: Sequence[Worker], revision: int) -> bytes:
    """Return the metrics in the text format of Prometheus.

    :param workers: their heartbeats.
    :param revision: the live one.
    """
    registry = CollectorRegistry()
    registry.register(_Fleet(workers, revision))
    return generate_latest(registry)


class _Fleet(Collector):
    def __init__(self, workers: Sequence[Worker], revision: int) -> None:
        self._workers = workers
        self._revision = revision

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("gwproxy_revision", "The live revision.", value=self._revision)
        yield from _standing(self._workers)
        yield from _measured(self._workers)
        yield from _upstreams(self._workers)
        yield from _targets(self._workers)
        yield from request_metrics(self._workers)
        yield from plugin_metrics(self._workers)


def _standing(workers: Sequence[Worker]) -> Iterator[Metric]:
    state = GaugeMetricFamily("gwproxy_worker_state", "1 for the state that a worker is in.", labels=["worker", "host", "state"])
    runs = GaugeMetricFamily("gwproxy_worker_revision", "The revision that a worker runs.", labels=["worker"])
    build = GaugeMetricFamily("gwproxy_worker_build_seconds", "What it took to make what a worker runs.", labels=["worker"])
    for worker in workers:
        for name in _STATES:
            state.add_metric([worker["id"], worker.get("host", ""), name], float(worker.get("state") == name))
        runs.add_metric([worker["id"]], _number(worker.get("revision")))
        build.add_metric([worker["id"]], _number(worker.get("build_ms")) / 1000)
    return iter((state, runs, build))


def _measured(workers: Sequence[Worker]) -> Iterator[Metric]:
    """Yield a metric for each gauge and each counter of the workers, by its own name."""
    gauges: dict[str, GaugeMetricFamily] = {}
    counters: dict[str, CounterMetricFamily] = {}
    for worker in workers:
        for name, value in held(worker, "gauges", {}).items():
            if _NAME.fullmatch(name) and _is_number(value):
                made = gauges.setdefault(name, GaugeMetricFamily(f"gwproxy_{name}", f"The gauge {name} of a worker.", labels=["worker"]))
                made.add_metric([worker["id"]], value)
        for key, value in held(worker, "counters", {}).items():
            name, _, label = key.partition(":")
            if _NAME.fullmatch(name) and _is_number(value):
                told = f"How often a worker has counted {name}, by kind."
                made_counter = counters.setdefault(name, CounterMetricFamily(f"gwproxy_{name}", told, labels=["worker", "kind"]))
                made_counter.add_metric([worker["id"], label], value)
    return iter((*gauges.values(), *counters.values()))


def _upstreams(workers: Sequence[Worker]) -> Iterator[Metric]:
    labels = ["worker", "upstream"]
    counts: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
        "in_flight": GaugeMetricFamily("gwproxy_upstream_in_flight", "Requests to an upstream that are under way.", labels=labels),
        "queued": GaugeMetricFamily("gwproxy_upstream_queued", "Requests that wait for a place.", labels=labels),
        "connections": GaugeMetricFamily("gwproxy_upstream_pool_connections", "Connections to an upstream, idle ones too.", labels=labels),
        "limit": GaugeMetricFamily("gwproxy_upstream_limit", "Places of an upstream, in a worker.", labels=labels),
        "refused": CounterMetricFamily("gwproxy_upstream_refused", "Requests refused for want of a place.", labels=labels),
    }
    circuit = GaugeMetricFamily("gwproxy_upstream_circuit_open", "1 unless the circuit is closed.", labels=labels)
    for worker, upstream in _rows(workers, "upstreams"):
        where = [worker["id"], str(upstream.get("upstream", ""))]
        for name, family in counts.items():
            if _is_number(upstream.get(name)):
                family.add_metric(where, upstream[name])
        if "circuit" in upstream:
            circuit.add_metric(where, float(upstream["circuit"] != "closed"))
    return iter((*counts.values(), circuit))


def _targets(workers: Sequence[Worker]) -> Iterator[Metric]:
    labels = ["worker", "upstream", "target"]
    up = GaugeMetricFamily("gwproxy_target_up", "1 if a target may have traffic.", labels=[*labels, "state"])
    active = GaugeMetricFamily("gwproxy_target_active", "Requests to a target that are under way.", labels=labels)
    for worker, target in _rows(workers, "targets"):
        where = [worker["id"], str(target.get("upstream", "")), str(target.get("url", ""))]
        up.add_metric([*where, str(target.get("state", ""))], float(target.get("healthy") is True))
        active.add_metric(where, _number(target.get("active")))
    return iter((up, active))


def _rows(workers: Sequence[Worker], name: str) -> Iterator[tuple[Worker, dict[str, Any]]]:
    """Yield each object of a field that holds a list of them, once for a worker and what names it."""
    for worker in workers:
        seen = set()
        for row in held(worker, name, []):
            if isinstance(row, dict) and (named := (str(row.get("upstream")), str(row.get("url")))) not in seen:
                seen.add(named)  # while a change is applied, both descriptions of an upstream are there
                yield worker, row


def _number(value: object) -> float:
    try:
        return float(value or 0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
