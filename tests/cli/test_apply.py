from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import redis

from gwproxy.cli import waiting
from gwproxy.cli.actor import actor
from gwproxy.controlplane.rollout import Standing
from gwproxy.settings import Settings
from gwproxy.store.audit import AuditLog
from gwproxy.store.configuration import ConfigurationStore, digest_of
from tests.conftest import Server

SECRET = "correct-horse-battery-staple-0123456789"


def route(path: str = "/a", **fields: Any) -> dict[str, Any]:
    return {"path": path, "upstream": "http://a", **fields}


@pytest.fixture
def apply(cli, store: redis.Redis, tmp_path):
    """Applies a list of routes."""

    def run(routes: object, *argv: str):
        file = tmp_path / "gateway.yaml"
        file.write_text(json.dumps(routes))
        return cli("apply", file, *argv)

    return run


def beat(store: redis.Redis, pid: int, data: bytes | None = None, **fields: str) -> None:
    """A worker's heartbeat."""
    live = ConfigurationStore(store).read()
    held = {"host": "one", "pid": str(pid), "state": "ready", "error": "", "plugins": "{}", "revision": str(live.revision)}
    if fields.get("state") == "refused":
        held["refused"] = digest_of(live.data or b"")
    ConfigurationStore(store).heartbeat(f"w{pid}", {**held, "digest": digest_of(data or live.data or b""), "build_ms": "2.5", **fields})


def later(function: Any, *args: Any, **options: Any) -> None:
    """Do something while a command waits."""
    timer = threading.Timer(0.3, function, args, options)
    timer.daemon = True
    timer.start()


def test_a_change_is_shown_and_published(apply, store: redis.Redis, monkeypatch) -> None:
    monkeypatch.setenv("GWPROXY_ACTOR", "ann@desk")
    first = apply([route()], "--comment", "first")
    assert (first.status, first.out) == (0, "+ route a added  /a -> http://a\npublished as revision 1\n")
    assert first.err == "gwproxy: warning: no worker is live: nobody runs it yet\n"
    jwt = {"name": "jwt_auth", "config": {"secret": SECRET}}
    assert apply([route(timeout=5, plugins=[jwt])]).out.splitlines() == [
        "~ route a changed",
        "    timeout: (not set) -> 5",
        '    plugins.jwt_auth: (not set) -> {"name":"jwt_auth","config":{"secret":"***"}}',
        "published as revision 2",
    ]
    jwt["config"] = {"secret": SECRET[::-1]}
    changed = apply([route(timeout=6, plugins=[jwt])])
    assert changed.out.splitlines() == [
        "~ route a changed",
        "    timeout: 5 -> 6",
        "    plugins.jwt_auth.config.secret: *** -> ***  (changed)",
        "published as revision 3",
    ]
    newest = ConfigurationStore(store).history()[-1]
    assert (newest.actor, newest.comment) == ("ann@desk", "first")


def test_nothing_to_change(apply, store: redis.Redis) -> None:
    apply([route()])
    again = apply([route()])
    assert (again.status, again.err) == (0, "")
    assert again.out.endswith("gateway.yaml is live already, as revision 1\n")
    rewritten = apply([dict(reversed(route().items()))])
    assert rewritten.out == "the same configuration, written differently\npublished as revision 2\n"
    assert len(ConfigurationStore(store).history()) == 2


def test_export_then_apply_changes_nothing(apply, cli, store: redis.Redis) -> None:
    jwt = {"name": "jwt_auth", "config": {"secret": SECRET, "leeway": 0.5}}
    store.set("gw:routes", json.dumps({"routes": [route(plugins=[jwt])], "consumers": []}, indent=3))
    exported = cli("export").out
    assert SECRET not in exported
    result = cli("apply", "-", stdin=exported)
    assert (result.status, result.out) == (0, "nothing to change: stdin is live already, as revision 1\n")
    assert [entry.actor for entry in ConfigurationStore(store).history()] == ["external"]
    edited = cli("apply", "-", stdin=exported.replace("leeway: 0.5", "leeway: 1.5"))
    assert edited.status == 0
    assert json.loads(store.get("gw:routes"))["routes"][0]["plugins"][0]["config"] == {"secret": SECRET, "leeway": 1.5}


def test_a_dry_run_changes_nothing(apply, store: redis.Redis) -> None:
    apply([route()])
    dry = apply([route("/b")], "--dry-run")
    assert (dry.status, dry.out.splitlines()[-1]) == (0, "nothing was changed: this is a dry run")
    assert "+ route b added" in dry.out
    told = json.loads(apply([route("/b")], "--dry-run", "--json").out)
    assert (told["outcome"], told["base"], [change["name"] for change in told["changes"]]) == ("dry_run", 1, ["b", "a"])
    assert apply([route("/b")], "--dry-run", "--based-on", "7").status == 1
    assert apply("nonsense", "--dry-run").status == 1
    assert len(ConfigurationStore(store).history()) == 1
    assert len(AuditLog(store).entries()) == 1


def test_a_conflict_says_who_changed_what(apply, store: redis.Redis, monkeypatch) -> None:
    apply([route()])
    monkeypatch.setenv("GWPROXY_ACTOR", "bob@desk")
    apply([route(), route("/b")], "--comment", "more")
    result = apply([route("/c")], "--based-on", "1")
    assert result.status == 1
    first, second = result.err.splitlines()
    assert first.startswith(
        "gwproxy: error: nothing was changed: this change was made from revision 1, and the configuration is at revision 2 now"
    )
    assert second.startswith("  revision 2 by bob@desk at ")
    assert second.endswith(" (more): route b added")
    told = json.loads(apply([route("/c")], "--based-on", "1", "--json").out)
    assert (told["outcome"], told["base"], told["revision"]) == ("conflict", 1, 2)
    assert [(one["revision"], one["actor"], one["summary"]) for one in told["since"]] == [(2, "bob@desk", "route b added")]
    assert apply([route("/c")], "--based-on", "2").status == 0


def test_an_invalid_file_is_refused_with_every_problem(apply, store: redis.Redis) -> None:
    result = apply([{"path": "/a"}, {"path": "b", "upstream": "http://b"}])
    assert (result.status, result.out) == (1, "")
    assert result.err.count("routes[") == 2
    told = json.loads(apply([{"path": "/a"}], "--json").out)
    assert (told["outcome"], told["problems"][0]["path"]) == ("invalid", "routes[0]")
    assert store.get("gw:routes") is None


def test_an_empty_one_must_be_meant(apply, store: redis.Redis) -> None:
    refused = apply([])
    assert refused.status == 1
    assert "--allow-empty" in refused.err
    assert apply([], "--allow-empty").status == 0
    assert store.get("gw:routes") == b"[]"


def test_waiting_for_the_workers(apply, store: redis.Redis, monkeypatch) -> None:
    apply([route()])
    beat(store, 7)
    new = json.dumps([route("/b")], separators=(",", ":")).encode()
    line = waiting._line

    def run_it_once_seen(standing: Standing) -> str:
        beat(store, 7, new, revision="2")
        return line(standing)

    monkeypatch.setattr(waiting, "_line", run_it_once_seen)
    result = apply([route("/b")], "--wait")
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[3].split() == ["host", "worker", "revision", "build", "time", "state", "reason"]
    assert lines[4].split() == ["one", "7", "2", "2", "ms", "done", "-"]
    assert lines[5].startswith("all 1 worker on revision 2, after ")
    assert "revision 2: 0 of 1 worker\n" in result.err
    again = apply([route("/b")], "--wait")
    assert (again.status, again.out.splitlines()[-1].split(",")[0]) == (0, "all 1 worker on revision 2")


def test_a_worker_that_refuses_is_named_and_what_was_before_is_put_back(apply, store: redis.Redis) -> None:
    apply([route()])
    beat(store, 7)
    old = store.get("gw:routes")
    later(beat, store, 7, old, state="refused", error="GW_X is not set")
    result = apply([route("/b")], "--wait")
    assert result.status == 1
    assert result.err.endswith("gwproxy: error: one/7 refuses it: GW_X is not set\n")
    assert [result.out.splitlines()[-1].split()[n] for n in (0, 1, 5)] == ["one", "7", "refused"]
    assert AuditLog(store).entries()[-1].outcome == "refused"
    beat(store, 7, store.get("gw:routes"))
    later(beat, store, 7, store.get("gw:routes"), state="refused", error="GW_Y is not set")
    threading.Timer(1.0, lambda: beat(store, 7, store.get("gw:routes"), revision="4")).start()
    told = json.loads(apply([route("/c")], "--wait", "--rollback-on-failure", "--json").out)
    assert (told["outcome"], told["revision"], told["rollout"]["reason"]) == ("refused", 3, "one/7 refuses it: GW_Y is not set")
    assert (told["rolled_back"]["revision"], told["rolled_back"]["rollout"]["outcome"]) == (4, "done")
    assert json.loads(store.get("gw:routes")) == [route("/b")]


def test_without_workers_waiting_fails_and_says_so(apply, store: redis.Redis) -> None:
    result = apply([route()], "--wait", "--timeout", "0.2")
    assert (result.status, result.out) == (1, "+ route a added  /a -> http://a\npublished as revision 1\n")
    assert "no worker is live, after 0." in result.err
    back = apply([route("/b")], "--wait", "--timeout", "0.2", "--rollback-on-failure")
    assert "rolled back: revision 3 is what revision 1 was" in back.out
    assert back.status == 1


def test_what_cannot_be_put_back_for_want_of_the_store_is_told(apply, store: redis.Redis, server: Server, monkeypatch) -> None:
    apply([route()])
    beat(store, 7)

    follow = waiting.follow

    def follow_without_store(*args: Any) -> Standing:
        server.kill()
        return follow(*args)

    monkeypatch.setattr("gwproxy.cli.changing.follow", follow_without_store)
    try:
        result = apply([route("/b")], "--wait", "--timeout", "0.2", "--rollback-on-failure", "--json")
    finally:
        server.start()
    told = json.loads(result.out)
    assert (result.status, told["outcome"], told["revision"], told["rolled_back"]) == (1, "late", 2, None)
    assert "the store cannot be asked" in told["rollout"]["reason"]
    assert "not rolled back: " in result.err


def test_the_first_one_cannot_be_rolled_back(apply, store: redis.Redis) -> None:
    result = apply([route()], "--wait", "--timeout", "0.2", "--rollback-on-failure")
    assert result.status == 1
    assert "not rolled back: there was no configuration before revision 1" in result.err


@pytest.mark.parametrize("argv", [("--rollback-on-failure",), ("--timeout", "0"), ("--based-on", "x")])
def test_wrong_usage(apply, argv: tuple[str, ...]) -> None:
    assert apply([route()], *argv).status == 2


def test_files_that_are_not_there(cli, store: redis.Redis) -> None:
    result = cli("apply", "nowhere.yaml")
    assert (result.status, result.err) == (1, "gwproxy: error: nowhere.yaml: No such file or directory\n")


def test_without_a_name_it_is_who_is_logged_in(apply, store: redis.Redis, monkeypatch) -> None:
    monkeypatch.setenv("LOGNAME", "carol")
    apply([route()])
    assert ConfigurationStore(store).history()[0].actor == actor(Settings())
    assert actor(Settings()).startswith("carol@")
