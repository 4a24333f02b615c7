"""What Prometheus is told, read by Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import redis
from prometheus_client.parser import text_string_to_metric_families

from gwproxy.admin.app import AdminApp
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.tokens import Role
from tests.admin.conftest import Api

BEAT = {
    "host": "a",
    "pid": "7",
    "state": "ready",
    "revision": "3",
    "build_ms": "2.5",
    "gauges": {"memory": 70_000_000, "No such name": 1, "said": "nothing"},
    "counters": {"heads_refused:431": 2, "heads_refused:400": 1, "retries": 5},
    "upstreams": [{"upstream": "users", "in_flight": 2, "queued": 1, "refused": 4, "limit": None, "circuit": "open"}],
    "targets": [
        {"upstream": "users", "url": "http://10.0.0.5:8000", "healthy": True, "state": "healthy", "active": 2},
        {"upstream": "users", "url": "http://10.0.0.6:8000", "healthy": False, "state": "ejected", "active": 0},
        {"upstream": "users", "url": "http://10.0.0.6:8000", "healthy": True, "state": "of a description before", "active": 0},
    ],
}


def beat(client: redis.Redis, name: str, **others: object) -> None:
    fields = {**BEAT, **others}
    client.hset(f"gw:worker:{name}", mapping={k: v if isinstance(v, str) else orjson.dumps(v) for k, v in fields.items()})


def scraped(api: Api) -> dict[str, dict[tuple[str, ...], float]]:
    """Every sample by its metric and the values of its labels, in the order of the labels' names."""
    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels[name] for name in sorted(sample.labels))] = sample.value
    return found


def test_every_worker_upstream_and_target_is_told_of(api: Api, client: redis.Redis) -> None:
    ConfigurationStore(client).publish(b"[]", actor="me")
    beat(client, "w1")
    beat(client, "w2", state="refused", gauges="nonsense", counters=[1], upstreams={}, targets="[1]")
    found = scraped(api)
    assert found["gwproxy_revision"] == {(): 1}
    assert found["gwproxy_worker_revision"] == {("w1",): 3, ("w2",): 3}
    assert found["gwproxy_worker_build_seconds"][("w1",)] == 0.0025
    states = {labels for labels, value in found["gwproxy_worker_state"].items() if value == 1}
    assert states == {("a", "ready", "w1"), ("a", "refused", "w2")}
    assert found["gwproxy_memory"] == {("w1",): 70_000_000}
    assert found["gwproxy_heads_refused_total"] == {("431", "w1"): 2, ("400", "w1"): 1}
    assert found["gwproxy_retries_total"] == {("", "w1"): 5}
    assert found["gwproxy_upstream_in_flight"] == {("users", "w1"): 2}
    assert found["gwproxy_upstream_refused_total"] == {("users", "w1"): 4}
    assert found["gwproxy_upstream_circuit_open"] == {("users", "w1"): 1}
    up = {("healthy", "http://10.0.0.5:8000", "users", "w1"): 1, ("ejected", "http://10.0.0.6:8000", "users", "w1"): 0}
    assert found["gwproxy_target_up"] == up
    assert not any("such" in name or "said" in name for name in found)


HISTOGRAM = {"seconds": 0.5, "buckets": {"0": 2, "20": 3}}
STEP = {"plugin": "cors", "version": "1", "phase": "pre_auth", "spent": HISTOGRAM, "decisions": {"aborted_4xx": 1}, "errors": {"raised": 1}}
MEASURED = {
    "plugin_measures": {
        "steps": [STEP, {**STEP, "version": "2", "over_budget": {"ran": 4}, "blocked": 7}, {"spent": 1}, 7],
        "off": [{"plugin": "cors", "version": "1", "route": "a", "entry": n, "phase": "pre_auth", "why": "raised"} for n in range(2)],
        "held": [{"plugin": "cors", "version": "1", "bytes": 1000, "grown": -10}, {"plugin": "x", "bytes": "many"}],
    },
    "answered": [
        {
            "route": "a",
            "statuses": {"2xx": 5},
            "total": HISTOGRAM,
            "upstream": HISTOGRAM,
            "gateway": "none",
            "bytes_in": 7,
            "bytes_out": "x",
        },
        {"route": "a", "statuses": {"2xx": 999}},
        {"statuses": {"2xx": 5}},
    ],
}


def test_what_is_measured_of_plugins_and_requests_is_told(api: Api, client: redis.Redis) -> None:
    beat(client, "w1", **MEASURED)
    beat(client, "w2", plugin_measures={"steps": {}, "off": 3}, answered={"route": 1})
    found = scraped(api)
    at = ("1", "w1")
    assert found["gwproxy_plugin_spent_seconds_count"][("pre_auth", "cors", *at)] == 5
    assert found["gwproxy_plugin_spent_seconds_bucket"][("1e-06", "pre_auth", "cors", *at)] == 2
    assert found["gwproxy_plugin_spent_seconds_bucket"][("0.001024", "pre_auth", "cors", *at)] == 5
    assert found["gwproxy_plugin_spent_seconds_sum"][("pre_auth", "cors", *at)] == 0.5
    decisions = {labels[0]: value for labels, value in found["gwproxy_plugin_decisions_total"].items() if labels[-2:] == at}
    assert decisions == {"went_on": 3, "aborted_4xx": 1}
    assert found["gwproxy_plugin_errors_total"][("raised", "pre_auth", "cors", *at)] == 1
    assert found["gwproxy_plugin_over_budget_total"] == {("ran", "pre_auth", "cors", "2", "w1"): 4}
    assert found["gwproxy_plugin_blocked_total"][("pre_auth", "cors", "2", "w1")] == 7
    assert found["gwproxy_plugin_switched_off"] == {("cors", "a", *at): 1}
    assert (found["gwproxy_plugin_held_bytes"], found["gwproxy_plugin_grown_bytes"]) == ({("cors", *at): 1000}, {("cors", *at): -10})
    assert found["gwproxy_http_requests_total"] == {("a", "2xx", "w1"): 5}
    assert found["gwproxy_http_request_seconds_count"] == {("a", "w1"): 5}
    assert found["gwproxy_http_request_bytes_total"] == {("a", "w1"): 7}


def test_a_plugin_that_is_switched_off_makes_the_gateway_degraded(api: Api, client: redis.Redis) -> None:
    beat(client, "w1", **MEASURED)
    answer = api.get("/v1/health").json
    assert answer["status"] == "degraded"
    why = "plugin cors 1 is switched off on route a, as it failed in pre_auth again and again in 1 of 1 workers"
    assert why in answer["reasons"]
    (off, _) = api.get("/v1/workers").json["plugins_off"]
    assert (off["plugin"], off["route"], off["workers"]) == ("cors", "a", ["w1"])


def test_without_a_gateway_there_are_metrics_too(api: Api) -> None:
    assert scraped(api)["gwproxy_revision"] == {(): 0}


def test_a_viewer_may_scrape_and_nobody_without_a_token(role: Callable[[Role], Api], app: AdminApp) -> None:
    assert role("viewer").get("/metrics").status_code == 200
    assert Api(app, None).get("/metrics").status_code == 401
