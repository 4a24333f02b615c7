"""``history``, ``blame``, ``diff`` and ``rollback``: the commands that look back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from gwproxy.cli.diff import is_file
from gwproxy.store.configuration import ConfigurationStore

SECRET = "correct-horse-battery-staple-0123456789"


def route(path: str = "/a", **fields: Any) -> dict[str, Any]:
    return {"path": path, "upstream": "http://a", **fields}


@pytest.fixture
def past(store: redis.Redis) -> ConfigurationStore:
    """Three revisions: a route with a secret, its timeout, another route by a bare SET."""
    gateway = ConfigurationStore(store)
    jwt = {"name": "jwt_auth", "config": {"secret": SECRET}}
    gateway.publish(json.dumps([route(plugins=[jwt])]).encode(), actor="ann", comment="first")
    gateway.publish(json.dumps([route(plugins=[jwt], timeout=5)]).encode(), actor="bob", comment="x\x1b[2J")
    store.set("gw:routes", json.dumps([route(plugins=[jwt], timeout=5), route("/b")]))
    return gateway


def test_the_history_newest_first(cli, past: ConfigurationStore) -> None:
    result = cli("history")
    assert (result.status, result.err) == (0, "")
    rows = result.out.splitlines()
    assert rows[0].split() == ["revision", "at", "(UTC)", "actor", "comment", "changed"]
    assert [row.split()[0] for row in rows[1:]] == ["3", "2", "1"]
    assert rows[1].endswith("external  -         route b added")
    assert rows[2].endswith(r"bob       x\x1b[2J  route a changed (timeout)")
    assert rows[3].endswith("ann       first     route a added")
    assert len(cli("history", "-n", "1").out.splitlines()) == 2


def test_the_history_as_json_masks_secrets(cli, past: ConfigurationStore) -> None:
    result = cli("history", "--json")
    found = json.loads(result.out)
    assert [set(entry) for entry in found] == [{"revision", "digest", "at", "actor", "comment", "configuration"}] * 3
    assert [entry["revision"] for entry in found] == [3, 2, 1]
    assert found[2]["configuration"] == [route(plugins=[{"name": "jwt_auth", "config": {"secret": "***"}}])]
    assert SECRET not in result.out


def test_no_history_yet(cli, store: redis.Redis) -> None:
    assert (cli("history").status, cli("history").out) == (0, "no configuration was ever published\n")
    assert cli("history", "--json").out == "[]\n"


def test_blame(cli, past: ConfigurationStore) -> None:
    rows = {row.split()[0]: row.split() for row in cli("blame", "a").out.splitlines()[1:]}
    assert [(field, row[2], row[5]) for field, row in rows.items()] == [
        ("path", "1", "ann"),
        ("upstream", "1", "ann"),
        ("plugins.jwt_auth.name", "1", "ann"),
        ("plugins.jwt_auth.config.secret", "1", "ann"),
        ("timeout.read", "2", "bob"),
        ("timeout.head", "2", "bob"),
    ]
    assert rows["plugins.jwt_auth.config.secret"][1] == "***"
    found = json.loads(cli("blame", "b", "--json").out)
    assert {entry["field"]: (entry["value"], entry["revision"], entry["actor"]) for entry in found} == {
        "path": ("/b", 3, "external"),
        "upstream": ("http://a", 3, "external"),
    }
    missing = cli("blame", "c")
    assert (missing.status, missing.err) == (1, "gwproxy: error: the live configuration has no route 'c'\n")


def test_blame_beyond_what_is_kept(cli, past: ConfigurationStore, store: redis.Redis) -> None:
    (oldest, _), *_ = store.xrange("gw:history")
    store.xdel("gw:history", oldest)
    assert "<= 2" in next(row for row in cli("blame", "a").out.splitlines() if row.startswith("path"))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("1", "2"), "~ route a changed\n    timeout: (not set) -> 5\n"),
        (("2", "live"), "+ route b added  /b -> http://a\n"),
        (("2",), "- route b removed  /b -> http://a\n"),
        (("3",), "no difference\n"),
        (("live", "live"), "no difference\n"),
    ],
)
def test_diff_of_revisions(cli, past: ConfigurationStore, argv: tuple[str, ...], expected: str) -> None:
    cli("history")  # whoever looks first notes what was SET
    result = cli("diff", *argv)
    assert (result.status, result.out, result.err) == (0, expected, "")
    assert cli("diff", *argv, "--exit-code").status == (0 if expected == "no difference\n" else 1)
    assert bool(json.loads(cli("diff", *argv, "--json").out)["changes"]) == (expected != "no difference\n")


def test_diff_with_files(cli, past: ConfigurationStore, tmp_path) -> None:
    masked = [route(plugins=[{"name": "jwt_auth", "config": {"secret": "***"}}], timeout=6)]
    file, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    file.write_text(json.dumps(masked))
    other.write_text(json.dumps([route()]))
    assert cli("diff", file).out == "~ route a changed\n    timeout: 5 -> 6\n- route b removed  /b -> http://a\n"
    assert cli("diff", "2", file).out == "~ route a changed\n    timeout: 5 -> 6\n"
    assert cli("diff", file, "2").out == "~ route a changed\n    timeout: 6 -> 5\n"
    assert cli("diff", other, "-", stdin=json.dumps([route(priority=1)])).out == "~ route a changed\n    priority: (not set) -> 1\n"


@pytest.mark.parametrize(("argv", "status"), [(("9",), 1), (("nowhere.yaml",), 1), (("-", "-"), 2), ((), 2)])
def test_diff_of_what_is_not_there(cli, past: ConfigurationStore, argv: tuple[str, ...], status: int) -> None:
    result = cli("diff", *argv)
    assert (result.status, result.out) == (status, "")
    assert result.err


@pytest.mark.parametrize(
    ("name", "file"), [("1", False), ("live", False), ("0", True), ("./7", True), ("01", True), ("7.yaml", True), ("-", True), ("-1", True)]
)
def test_what_is_a_file(name: str, file: bool) -> None:
    assert is_file(name) is file


def test_a_rollback_is_a_new_revision(cli, past: ConfigurationStore, monkeypatch) -> None:
    monkeypatch.setenv("GWPROXY_ACTOR", "carol")
    dry = cli("rollback", "1", "--dry-run")
    assert dry.out.splitlines()[-1] == "nothing was changed: this is a dry run"
    result = cli("rollback", "1")
    assert (result.status, result.out.splitlines()[-1]) == (0, "published as revision 4")
    newest, *_, oldest = past.history()
    assert (newest.actor, newest.comment, newest.configuration) == ("carol", "rollback to revision 1", oldest.configuration)
    assert cli("rollback", "1").out == "nothing to change: revision 1 is live already, as revision 4\n"
    told = json.loads(cli("rollback", "2", "--comment", "why", "--json").out)
    assert (told["outcome"], told["base"], told["revision"]) == ("done", 4, 5)
    assert past.history()[0].comment == "why"


@pytest.mark.parametrize(("argv", "status"), [(("9",), 1), (("0",), 2), (("x",), 2)])
def test_a_rollback_to_nowhere(cli, past: ConfigurationStore, argv: tuple[str, ...], status: int) -> None:
    assert cli("rollback", *argv).status == status


@pytest.mark.parametrize(
    "argv", [("history",), ("blame", "a"), ("diff", "1"), ("rollback", "1"), ("apply", "-"), ("export", "--revision", "1")]
)
def test_a_store_that_is_away(cli, tmp_path, argv: tuple[str, ...]) -> None:
    result = cli(*argv, "--redis", f"unix://:hunter2@{tmp_path}/none", stdin="[]")
    assert (result.status, result.out) == (1, "")
    assert "hunter2" not in result.err
