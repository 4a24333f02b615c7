"""What plugins do and cost, of all workers together."""

from __future__ import annotations

import json
from typing import Any

import orjson
import redis

from gwproxy.controlplane.measured import StepSum, steps
from gwproxy.dataplane.histogram import Histogram


def histogram(*seconds: float) -> dict[str, object]:
    made = Histogram()
    for one in seconds:
        made.add(one)
    return made.shown()


def row(plugin: str, *spent: float, **others: Any) -> dict[str, Any]:
    return {"plugin": plugin, "version": "1.0", "phase": "auth", "spent": histogram(*spent), **others}


def beat(store: redis.Redis, name: str, **measures: Any) -> None:
    fields = {"host": name, "pid": "7", "state": "ready", "plugin_measures": orjson.dumps(measures).decode()}
    store.hset(f"gw:worker:{name}", mapping=fields)


HELD = {"plugin": "slow", "version": "1.0", "bytes": 3 << 20, "grown": 2 << 20}
OFF = {"plugin": "slow", "version": "1.0", "route": None, "entry": 0, "phase": "auth", "why": "over_budget"}


def publish(store: redis.Redis) -> None:
    slow = row("slow", 0.5, 0.5, waited=histogram(1.0), decisions={"aborted_4xx": 1, "skipped": 5}, errors={"raised": 1})
    beat(store, "w1", steps=[row("quick", 0.00001), slow], held=[HELD], off=[OFF])
    other = row("slow", 0.5, decisions={"aborted_4xx": 1}, blocked=2, blocked_at="/a/b.py:7 on orders")
    beat(store, "w2", steps=[other], held=[{**HELD, "bytes": 1, "grown": 1}])
    beat(store, "w3", steps="nonsense", held=7)


def test_workers_are_summed_and_who_takes_most_is_first(cli: Any, store: redis.Redis) -> None:
    publish(store)
    told = json.loads(cli("plugins", "top", "--once", "--json").out)
    assert (told["workers"], told["seconds"]) == (3, None)
    assert [step["plugin"] for step in told["steps"]] == ["slow", "quick"]
    slow = told["steps"][0]
    assert (slow["hooks"], slow["went_on"], slow["decisions"], slow["errors"]) == (3, 0, {"aborted_4xx": 2, "skipped": 5}, {"raised": 1})
    assert slow["spent"]["seconds"] == 1.5
    assert 0.35 < slow["spent"]["p50"] < 0.71
    assert slow["waited"]["count"] == 1
    assert told["memory"] == [{"plugin": "slow", "version": "1.0", "bytes": 3 << 20, "grown": 2 << 20, "workers": 2}]
    assert [(off["plugin"], off["workers"]) for off in told["off"]] == [("slow", ["w1"])]


def test_people_see_a_table_and_what_is_wrong(cli: Any, store: redis.Redis) -> None:
    publish(store)
    result = cli("plugins", "top", "--once")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "3 workers, since they started"
    assert lines[2].split()[:5] == ["plugin", "version", "phase", "hooks", "spent"]
    assert lines[3].split()[:6] == ["slow", "1.0", "auth", "3", "1.500", "s"]
    assert "aborted_4xx 2, skipped 5" in lines[3]
    assert "slow 1.0 held a worker 2 times, last at /a/b.py:7 on orders" in lines
    assert "plugin slow 1.0 is switched off on all routes, as it ran out of its budget in auth again and again; in 1 worker" in lines
    assert lines[-1].split() == ["slow", "1.0", "3.0", "MiB", "2.0", "MiB", "2"]


def test_without_a_gateway_nothing_has_run(cli: Any, store: redis.Redis) -> None:
    assert cli("plugins", "top", "--once").out.splitlines() == ["0 workers, since they started", "", "no plugin has run"]


def test_what_came_since_is_never_less_than_nothing() -> None:
    def told(*rows: dict[str, Any]) -> StepSum:
        return steps([{"id": "w", "plugin_measures": orjson.dumps({"steps": rows}).decode()}])["a", "1.0", "auth"]

    before = told(row("a", 0.1, 0.1, errors={"raised": 2}), row("a", 0.1, blocked=3))
    after = told(row("a", 0.1, 0.1, 0.2, errors={"raised": 1, "store_away": 1}))
    since = after.minus(before)
    assert (since.spent.count, since.counts["errors"], since.blocked) == (1, {"store_away": 1}, 0)
    assert since.went_on == 0
