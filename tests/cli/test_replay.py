from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from gwproxy.cli import replay as module
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect
from tests.conftest import Server

BEFORE = '[{"id": "a", "path": "/a", "upstream": "http://a"}, {"id": "b", "path": "/b", "upstream": "http://b"}]'
AFTER = BEFORE.replace("http://b", "http://c").replace(
    '"path": "/a"', '"path": "/a", "plugins": [{"name": "rate_limit", "config": {"limit": 7}}]'
)

GONE = "gwproxy: error: the history has no revision 3; 'gwproxy history' lists those that are kept\n"


def line(path: str, **fields: Any) -> str:
    return json.dumps({"method": "GET", "path": path, "host": "h", "route": "x", "status": 200, **fields}) + "\n"


LOG = line("/a") * 3 + line("/b/1") * 2 + line("/c", route=None, status=404)


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Path]:
    def put(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return put


@pytest.fixture
def argv(files: Callable[..., Path]) -> list[str | Path]:
    return [files("log", LOG), "--config", files("after.json", AFTER), "--against", files("before.json", BEFORE)]


def test_for_people(cli, argv: list[str | Path]) -> None:
    result = cli("replay", *argv)
    assert (result.status, result.err) == (0, "")
    assert [" ".join(text.split()) for text in result.out.splitlines()] == [
        "2 of 6 requests go elsewhere",
        "3 go where they went, with other plugins or settings",
        "from to requests elsewhere example target",
        "b b 2 2 GET //h/b/1 http://b/b/1 -> http://c/b/1",
        "a a 3 0 GET //h/a http://a/a",
        "b:",
        'upstream.targets: [["http://b",1]] -> [["http://c",1]]',
        "a:",
        "rate_limit: none -> post_auth",
    ]


def test_for_programs(cli, argv: list[str | Path]) -> None:
    held = json.loads(cli("replay", *argv, "--json").out)
    assert {name: held[name] for name in ("requests", "elsewhere", "otherwise", "unrouted")} == {
        **{"requests": 6, "elsewhere": 2, "otherwise": 3, "unrouted": 0},
    }
    assert held["cannot_tell"] == {"requests": 0, "reasons": {}}
    assert held["malformed"] == {"lines": 0, "first": []}
    assert held["changes"][0] == {
        **{"from": "b", "to": "b", "requests": 2, "elsewhere": 2},
        "example": {"method": "GET", "host": "h", "path": "/b/1"},
        "targets": {"from": ["http://b/b/1"], "to": ["http://c/b/1"]},
        "differences": [{"what": "upstream.targets", "before": [["http://b", 1]], "after": [["http://c", 1]]}],
    }


def test_the_exit_code_says_whether_anything_changes_or_might(cli, argv: list[str | Path], files: Callable[..., Path]) -> None:
    assert cli("replay", *argv, "--exit-code").status == 1
    assert cli("replay", argv[0], "--config", argv[4], "--against", argv[4], "--exit-code").status == 0
    maybe = files("maybe.json", BEFORE[:-1] + ', {"id": "h", "path": "/a", "headers": {"x": "1"}, "upstream": "http://a"}]')
    result = cli("replay", argv[0], "--config", maybe, "--against", argv[4], "--exit-code")
    assert result.status == 1
    assert "0 of 6 requests go elsewhere\n3 cannot be told: it depends on header conditions" in result.out


def test_the_live_log_the_live_configuration_and_revisions(cli, store: redis.Redis, server: Server, argv: list[str | Path]) -> None:
    past = ConfigurationStore(connect(server.url, timeout=5))
    for text in (BEFORE, AFTER):
        past.publish(text.encode(), actor="me")
    past.close()
    store.rpush("gw:access_log", *LOG.encode().splitlines())

    def elsewhere(*argv: str | Path) -> int:
        result = cli("replay", *argv, "--json")
        assert result.status == 0, result.err
        return int(json.loads(result.out)["elsewhere"])

    assert elsewhere("live", "--revision", "1") == 2
    assert elsewhere("live", "--revision", "2") == 0
    assert elsewhere("live", "--config", argv[4]) == 2
    assert elsewhere("live", "--config", argv[4], "--against", "1") == 0
    assert elsewhere(argv[0], "--revision", "2", "--against", "1") == 2
    assert cli("replay", "live", "--revision", "3").err == GONE


def test_what_export_prints_is_the_live_configuration(cli, store: redis.Redis, files: Callable[..., Path]) -> None:
    plugins = [{"name": "jwt_auth", "config": {"secret": "s" * 32}}]
    store.set("gw:routes", json.dumps([{"id": "a", "path": "/a", "upstream": "http://a", "plugins": plugins}]))
    exported = files("exported.yaml", cli("export").out)
    assert "***" in exported.read_text()
    result = cli("replay", files("log", LOG), "--config", exported, "--exit-code")
    assert (result.status, result.err, result.out) == (0, "", "0 of 6 requests go elsewhere\n")
    assert '{"secret":"***"' in cli("explain", "GET", "/a", "--config", exported).out


def test_stdin(cli, argv: list[str | Path]) -> None:
    assert cli("replay", "-", *argv[1:], stdin=LOG).out.startswith("2 of 6 requests go elsewhere\n")


def test_malformed_lines_are_shown(cli, argv: list[str | Path]) -> None:
    result = cli("replay", "-", *argv[1:], stdin=f"oops\n{LOG}" + "[]\n" * 9)
    assert "10 malformed lines: line 1: not JSON; line 8: no object;" in result.out
    assert result.status == 0


def test_a_log_without_any_entry_is_no_answer(cli, argv: list[str | Path]) -> None:
    result = cli("replay", "-", *argv[1:], stdin="127.0.0.1 - GET /a\n")
    assert (result.status, result.out, result.err) == (1, "", "gwproxy: error: - holds no access log entry; line 1: not JSON\n")
    empty = cli("replay", "-", *argv[1:], stdin="")
    assert (empty.status, empty.err) == (0, "gwproxy: warning: the log holds no requests\n")


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (("log",), 2, "say what to try"),
        (("-", "--config", "-"), 2, "stdin can be only one"),
        (("log", "--config", "x", "--revision", "1"), 2, "exclude each other"),
        (("nowhere.log", "--config", "{after}", "--against", "{after}"), 1, "nowhere.log: No such file"),
        (("log", "--config", "nowhere.yaml"), 1, "nowhere.yaml: No such file"),
    ],
)
def test_what_cannot_be_done(cli, files: Callable[..., Path], argv: tuple[str, ...], status: int, said: str) -> None:
    after = str(files("after.json", AFTER))
    result = cli("replay", *(part.replace("{after}", after) for part in argv))
    assert (result.status, result.out) == (status, "")
    assert said in result.err


@pytest.mark.parametrize(("terminal", "shown"), [(True, "\r2,000 lines"), (False, "gwproxy: 2,000 lines read\n")])
def test_a_long_log_shows_how_far_it_is(capsys, monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: str) -> None:
    clock = iter([0.0, 0.1, 60.0, 60.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: terminal, raising=False)
    tell = module._progress()
    tell(1000)
    tell(2000)
    assert capsys.readouterr().err == shown
