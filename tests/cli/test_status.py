from __future__ import annotations

import json
from datetime import UTC, datetime

import orjson
import redis

from gwproxy.controlplane.overview import overview
from gwproxy.store.configuration import ConfigurationStore, Live, digest_of

CONFIG = b'[{"path":"/a","upstream":"http://a"}]'
DIGEST = digest_of(CONFIG)


def heartbeat(**fields: object) -> dict[str, str]:
    made = {
        "host": "one",
        "pid": "7",
        "started": datetime.now(UTC).isoformat(),
        "plugins": '{"cors":"1.0"}',
        "revision": "1",
        "digest": DIGEST,
        "state": "ready",
        "error": "",
        "applied_at": "",
        "log_dropped": "0",
        "targets": "[]",
    }
    return made | {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in fields.items()}


def publish(store: redis.Redis, *workers: dict[str, str]) -> None:
    gateway = ConfigurationStore(store)
    gateway.publish(CONFIG, actor="test")
    for number, fields in enumerate(workers):
        gateway.heartbeat(f"w{number}", fields)


def test_all_workers_on_the_live_configuration(cli, store: redis.Redis) -> None:
    publish(store, heartbeat(), heartbeat(host="two", pid="8"))
    result = cli("status")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == f"live: revision 1, digest {DIGEST[:12]}"
    assert lines[2].split() == ["host", "pid", "state", "revision", "digest", "age", "error"]
    assert lines[3].split() == ["one", "7", "ready", "1", DIGEST[:12], "0s", "-"]
    assert lines[4].split()[:2] == ["two", "8"]
    assert "all 2 workers on the live configuration" in lines


def test_a_worker_that_does_not_run_it_is_named_with_its_reason(cli, store: redis.Redis) -> None:
    publish(store, heartbeat(), heartbeat(pid="9", digest="0" * 64, state="refused", error="routes[0]: found x\x1b[2J, expected y"))
    out = cli("status").out
    assert "1 of 2 workers not on the live configuration: one/9" in out
    assert r"routes[0]: found x\x1b[2J, expected y" in out
    assert json.loads(cli("status", "--json").out)["behind"] == ["w1"]


def test_broken_plugins_and_targets(cli, store: redis.Redis) -> None:
    def targets(healthy: bool) -> list[object]:
        return [
            {"upstream": "users", "url": "http://a", "healthy": healthy, "active": 2},
            {"upstream": "http://b", "url": "http://b", "healthy": True, "active": 0},
        ]

    publish(store, heartbeat(targets=targets(True), plugins={"pii": "broken"}), heartbeat(host="two", targets=targets(False)))
    out = cli("status").out
    assert "plugin pii does not load on one; " in out
    rows = [line.split() for line in out.splitlines()]
    assert ["users", "http://a", "healthy", "for", "1", "of", "2", "2", "4", "-"] in rows
    assert ["-", "http://b", "healthy", "2", "0", "-"] in rows


def test_how_targets_are_and_why(cli, store: redis.Redis) -> None:
    def target(host: str, state: str, why: str = "") -> dict[str, object]:
        up = state in ("healthy", "returning", "drained")
        return {"upstream": "users", "url": f"http://{host}", "healthy": up, "state": state, "active": 1, "why": why}

    one = [target("a", "ejected", "5 failures in a row"), target("b", "healthy"), target("c", "drained"), target("d", "unresolved")]
    two = [target("a", "returning"), target("b", "healthy"), target("c", "drained"), target("d", "unresolved")]
    publish(store, heartbeat(targets=one), heartbeat(host="two", targets=two))
    lines = [" ".join(line.split()) for line in cli("status").out.splitlines()]
    assert "users http://a healthy for 1 of 2 (ejected 1, returning 1) 2 2 5 failures in a row" in lines
    assert "users http://b healthy 2 2 -" in lines
    assert "users http://c drained 2 2 -" in lines
    assert "users http://d unresolved 2 2 -" in lines


def test_what_workers_have_counted(cli, store: redis.Redis) -> None:
    one = heartbeat(counters={"loop_blocked:pii": 2, "headers_dropped": 3, "budget_exceeded:pii": 0})
    publish(store, one, heartbeat(host="two", pid="8", counters={"loop_blocked:pii": 5}), heartbeat(host="three", pid="9"))
    rows = [line.split() for line in cli("status").out.splitlines()]
    assert ["loop_blocked", "pii", "7", "5", "in", "two/8"] in rows
    assert ["headers_dropped", "-", "3", "3", "in", "one/7"] in rows
    assert not any("budget_exceeded" in row for row in rows)
    held = json.loads(cli("status", "--json").out)
    assert [worker["counters"].get("loop_blocked:pii") for worker in held["workers"]] == [2, 5, None]


def test_nothing_is_shown_where_nothing_was_counted(cli, store: redis.Redis) -> None:
    publish(store, heartbeat(counters={}), heartbeat(counters={"x": "nonsense", "y": None}))
    assert "counter" not in cli("status").out


def test_a_worker_that_does_not_run_what_is_deployed_is_named_with_its_reason(cli, store: redis.Redis) -> None:
    publish(store, heartbeat(deployment="", deployment_error="no keys"), heartbeat(deployment="a" * 64))
    assert [line for line in cli("status").out.splitlines() if "deployed" in line] == [
        "one/7 does not run the plugins that are deployed: no keys",
    ]


def test_json_holds_it_all(cli, store: redis.Redis) -> None:
    target = {"upstream": "users", "url": "http://a", "healthy": False, "active": 1}
    load = {"upstream": "users", "in_flight": 3, "queued": 2, "refused": 1, "limit": 64, "adaptive": True, "circuit": "open"}
    publish(store, heartbeat(targets=[target], upstreams=[load], plugins={"x": "broken", "cors": "1.0"}))
    held = json.loads(cli("status", "--json").out)
    assert held["live"] == {"revision": 1, "digest": DIGEST}
    (worker,) = held["workers"]
    assert (worker["id"], worker["pid"], worker["revision"], worker["log_dropped"], worker["state"]) == ("w0", 7, 1, 0, "ready")
    assert worker["plugins"] == {"x": "broken", "cors": "1.0"}
    assert held["broken_plugins"] == {"x": ["one"]}
    assert held["targets"] == [
        {
            "upstream": "users",
            "url": "http://a",
            "name": None,
            "workers": 1,
            "healthy": 0,
            "active": 1,
            "states": {"unhealthy": 1},
            "why": "",
        }
    ]
    del load["circuit"]
    assert held["upstreams"] == [{**load, "circuits": {"open": 1}}]
    assert held["behind"] == []


def test_the_load_of_an_upstream_is_that_of_all_workers(cli, store: redis.Redis) -> None:
    loads = [{"upstream": "users", "in_flight": count, "queued": 0, "refused": 2} for count in (1, 4)]
    publish(store, *(heartbeat(upstreams=[load]) for load in loads))
    [shown] = json.loads(cli("status", "--json").out)["upstreams"]
    assert shown == {"upstream": "users", "in_flight": 5, "queued": 0, "refused": 4, "limit": 0, "adaptive": False, "circuits": {}}


def test_the_limit_and_the_circuit_of_an_upstream_where_they_say_something(cli, store: redis.Redis) -> None:
    def load(name: str, **keys: object) -> dict[str, object]:
        return {"upstream": name, "in_flight": 1, "queued": 0, "refused": 0, "limit": 40, "adaptive": False, **keys}

    one = [load("broken", circuit="open"), load("found", adaptive=True), load("plain"), load("narrow", queued=2, refused=3)]
    two = [load("broken", circuit="closed"), load("found", adaptive=True, limit=20), load("plain"), load("narrow")]
    publish(store, heartbeat(upstreams=one), heartbeat(host="two", upstreams=two))
    lines = [" ".join(line.split()) for line in cli("status").out.splitlines()]
    assert "broken closed 1, open 1 2 80 0 0" in lines
    assert "found - 2 60 0 0" in lines
    assert "narrow - 2 80 2 3" in lines
    assert not any(line.startswith("plain") for line in lines)


def test_nobody_there(cli, store: redis.Redis) -> None:
    result = cli("status")
    assert result.status == 0
    assert result.out.splitlines() == ["live: no configuration", "", "no worker is running"]


def test_what_others_write_into_a_heartbeat_does_no_harm() -> None:
    nonsense = [{"id": "a"}, {"id": "b", "pid": "x", "plugins": "{", "targets": "7"}]
    nonsense.append({"id": "c", "targets": '[1,{"active":"many"}]', "upstreams": '[1,{"queued":"many","circuit":1}]'})
    found = overview(Live(CONFIG, 3), nonsense)
    assert found["behind"] == ["a", "b", "c"]
    assert found["targets"] == [
        {"upstream": "", "url": "", "name": None, "workers": 1, "healthy": 0, "active": 0, "states": {"unhealthy": 1}, "why": ""}
    ]
    [load] = found["upstreams"]
    assert load == {"upstream": "", "in_flight": 0, "queued": 0, "refused": 0, "limit": 0, "adaptive": False, "circuits": {}}
    assert found["broken_plugins"] == {}
    assert overview(Live(None, 0), nonsense)["behind"] == []


def test_without_a_store_it_says_what_to_do(cli) -> None:
    result = cli("status")
    assert (result.status, result.out) == (1, "")
    assert "gwproxy run" in result.err
    assert "--redis" in result.err


def test_a_store_that_is_away(cli, tmp_path) -> None:
    result = cli("status", "--redis", f"unix://:hunter2@{tmp_path}/none")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("gwproxy: error: ")
    assert "hunter2" not in result.err
