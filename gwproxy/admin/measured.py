"""The metrics of plugins and of requests: what workers measure all the time, as families of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from gwproxy.controlplane.measured import Row, StepSum, answered, counts, key_of, rows
from gwproxy.controlplane.overview import Worker
from gwproxy.dataplane.histogram import Histogram, cumulative

_STEP = ["worker", "plugin", "version", "phase"]
_ROUTE = ["worker", "route"]

#: Outside these a bucket says nothing, in seconds: no hook takes less than a microsecond, no request less than some tens of them.
_STEP_BUCKETS = (1e-6, 10.0)
_REQUEST_BUCKETS = (60e-6, 100.0)


def plugin_metrics(workers: Sequence[Worker]) -> Iterator[Metric]:
    """Yield what is told of plugins."""
    yield from _steps(workers)
    off = GaugeMetricFamily(
        "gwproxy_plugin_switched_off", "1 for an entry that its breaker has switched off.", labels=["worker", "plugin", "version", "route"]
    )
    for worker in workers:
        for at in {(row["plugin"], str(row.get("version", "")), str(row.get("route") or "")) for row in rows(worker, "off")}:
            off.add_metric([worker["id"], *at], 1.0)
    yield off
    labels = ["worker", "plugin", "version"]
    size = GaugeMetricFamily("gwproxy_plugin_held_bytes", "Memory that a plugin's instance and modules lead to.", labels=labels)
    grown = GaugeMetricFamily("gwproxy_plugin_grown_bytes", "How much more that is than when it was weighed first.", labels=labels)
    for worker in workers:
        for row in rows(worker, "held"):
            for family, name in ((size, "bytes"), (grown, "grown")):
                if isinstance(row.get(name), int):
                    family.add_metric([worker["id"], row["plugin"], str(row.get("version", ""))], row[name])
    yield from (size, grown)


def _steps(workers: Sequence[Worker]) -> Iterator[Metric]:
    spent = HistogramMetricFamily("gwproxy_plugin_spent_seconds", "Time in which a hook ran and nothing else did.", labels=_STEP)
    waited = HistogramMetricFamily("gwproxy_plugin_waited_seconds", "Time in which a hook waited, of those that did.", labels=_STEP)
    decisions = CounterMetricFamily("gwproxy_plugin_decisions", "What hooks have come to.", labels=[*_STEP, "decision"])
    errors = CounterMetricFamily("gwproxy_plugin_errors", "Hooks that failed, by kind.", labels=[*_STEP, "kind"])
    over = CounterMetricFamily(
        "gwproxy_plugin_over_budget", "Hooks that exceeded their budget: they waited, or ran.", labels=[*_STEP, "how"]
    )
    blocked = CounterMetricFamily("gwproxy_plugin_blocked", "Hooks that held the loop of their worker for 0.4 seconds.", labels=_STEP)
    for worker in workers:
        summed: dict[tuple[str, str, str], StepSum] = {}
        for row in rows(worker, "steps"):
            summed.setdefault(key_of(row), StepSum()).add(row)
        for key, step in summed.items():
            at = [worker["id"], *key]
            _add(spent, at, step.spent, _STEP_BUCKETS)
            _add(waited, at, step.waited, _STEP_BUCKETS)
            decisions.add_metric([*at, "went_on"], step.went_on)
            for family, name in ((decisions, "decisions"), (errors, "errors"), (over, "over_budget")):
                for kind, count in step.counts[name].items():
                    family.add_metric([*at, kind], count)
            blocked.add_metric(at, step.blocked)
    return iter((spent, waited, decisions, errors, over, blocked))


def request_metrics(workers: Sequence[Worker]) -> Iterator[Metric]:
    """Yield what is told of requests, by route."""
    requests = CounterMetricFamily("gwproxy_http_requests", "Requests that are over.", labels=[*_ROUTE, "status"])
    times = {
        "total": HistogramMetricFamily("gwproxy_http_request_seconds", "From a request's head to its response's last byte.", labels=_ROUTE),
        "upstream": HistogramMetricFamily("gwproxy_http_upstream_seconds", "Until an upstream had answered its head.", labels=_ROUTE),
        "gateway": HistogramMetricFamily("gwproxy_http_gateway_seconds", "What else it took until a response could leave.", labels=_ROUTE),
    }
    sizes = {
        "bytes_in": CounterMetricFamily("gwproxy_http_request_bytes", "Bytes of requests' bodies.", labels=_ROUTE),
        "bytes_out": CounterMetricFamily("gwproxy_http_response_bytes", "Bytes of responses' bodies that were sent.", labels=_ROUTE),
    }
    for worker in workers:
        seen: set[str] = set()
        for row in answered(worker):
            if row["route"] not in seen:
                seen.add(row["route"])
                at = [worker["id"], row["route"]]
                for status, count in counts(row, "statuses").items():
                    requests.add_metric([*at, status], count)
                for name, family in times.items():
                    _add(family, at, _histogram(row, name), _REQUEST_BUCKETS)
                for name, counter in sizes.items():
                    counter.add_metric(at, row[name] if isinstance(row.get(name), int) else 0)
    return iter((requests, *times.values(), *sizes.values()))


def _histogram(row: Row, name: str) -> Histogram:
    made = Histogram()
    made.merge(row.get(name))
    return made


def _add(family: HistogramMetricFamily, at: Sequence[str], histogram: Histogram, within: tuple[float, float]) -> None:
    buckets = [(str(bound), count) for bound, count in cumulative(histogram.buckets) if within[0] <= bound <= within[1]]
    family.add_metric(list(at), [*buckets, ("+Inf", histogram.count)], histogram.seconds)
