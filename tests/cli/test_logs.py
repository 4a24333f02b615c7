from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable

import click
import orjson
import pytest
import redis

from gwproxy.cli import logs


def entry(path: str = "/a", **fields: object) -> bytes:
    made = {
        "method": "GET",
        "path": path,
        "status": 200,
        "user_id": None,
        "latency_ms": 1.26,
        "timestamp": "2026-11-22T22:17:00.123Z",
        "route": "a",
        "completed": True,
    }
    return orjson.dumps(made | fields)


def test_newest_last_as_lines(cli, store: redis.Redis) -> None:
    store.rpush("gw:access_log", entry("/1"), entry("/2", status=503, user_id="acme", route=None, completed=False))
    result = cli("logs")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [
        "2026-11-22T22:17:00.123Z 200 GET     /1  route=a user=- 1.3ms",
        "2026-11-22T22:17:00.123Z 503 GET     /2  route=- user=acme 1.3ms incomplete",
    ]


def test_how_many(cli, store: redis.Redis) -> None:
    store.rpush("gw:access_log", *(entry(f"/{number}") for number in range(120)))
    assert len(cli("logs").out.splitlines()) == 100
    assert [line.split()[3] for line in cli("logs", "-n", "2").out.splitlines()] == ["/118", "/119"]
    assert cli("logs", "-n", "0").out == ""


def test_json_is_one_object_a_line(cli, store: redis.Redis) -> None:
    store.rpush("gw:access_log", entry("/1", more={"x": [1]}), b"\xff{", b"[1]")
    lines = [json.loads(line) for line in cli("logs", "--json").out.splitlines()]
    assert lines[0]["path"] == "/1"
    assert lines[0]["more"] == {"x": [1]}
    assert lines[1:] == [{"malformed": "\\xff{"}, {"malformed": "[1]"}]


def test_what_is_no_entry_is_shown_raw_without_steering_the_terminal(cli, store: redis.Redis) -> None:
    store.rpush("gw:access_log", b"\x1b[2Jhello", b'{"status": "x", "path": "/\\u001b[31m", "latency_ms": []}', b"{}")
    result = cli("logs")
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0] == r"\x1b[2Jhello"
    assert r"/\x1b[31m" in lines[1]
    assert lines[2].split() == ["-", "-", "-", "-", "route=-", "user=-", "-"]


@pytest.mark.parametrize(("status", "colour"), [(200, "green"), (304, "cyan"), (404, "yellow"), (502, "red")])
def test_a_terminal_shows_the_status_in_colour(capsys, monkeypatch, status: int, colour: str) -> None:
    monkeypatch.setattr("gwproxy.cli.output.coloured", lambda stream: True)
    logs.show(entry(status=status), as_json=False)
    assert click.style(str(status), fg=colour) in capsys.readouterr().out


def test_following_goes_on_until_interrupted(spawn: Callable[..., subprocess.Popen[str]], store: redis.Redis) -> None:
    store.rpush("gw:access_log", entry("/1"), entry("/2"))
    process = spawn("logs", "-n", "1", "-f", "--json")
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["path"] == "/2"
        store.rpush("gw:access_log", entry("/3"))
        assert json.loads(process.stdout.readline())["path"] == "/3"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out, err.strip()) == (130, "", "")
