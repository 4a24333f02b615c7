from __future__ import annotations

import errno
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from redis.exceptions import ResponseError

import gwproxy
from gwproxy.cli import COMMANDS, failures
from gwproxy.cli import gwproxy as group
from gwproxy.errors import CommandFailed, ConfigurationRefused, StoreUnavailable
from gwproxy.model import Problem
from gwproxy.process import compiled

GROUPS = {"plugins": ("list", "info", "new"), "canary": ("status", "promote", "abort"), "token": ("create", "list", "revoke")}
BELOW = [(group, name) for group, names in GROUPS.items() for name in names]
#: They serve, or make something, and have no data to print.
WITHOUT_DATA = [("run",), ("demo",), ("admin",), ("plugins", "new"), ("token", "revoke")]


def _leaves() -> list[tuple[str, ...]]:
    return [(name,) for name in COMMANDS] + BELOW


def _with_data() -> list[tuple[str, ...]]:
    return [path for path in _leaves() if path not in WITHOUT_DATA and path[-1] not in GROUPS]


@pytest.mark.parametrize("path", _leaves(), ids=" ".join)
def test_every_command_has_help_with_examples(cli, path: tuple[str, ...]) -> None:
    result = cli(*path, "--help")
    assert result.status == 0
    assert f"gwproxy {' '.join(path)}" in result.out.partition("Examples:")[2]
    assert result.err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_overview_says_of_a_command_what_it_says_itself(name: str) -> None:
    command = importlib.import_module(COMMANDS[name][0]).command
    assert command.get_short_help_str(limit=200) == COMMANDS[name][1]


@pytest.mark.parametrize("path", _with_data(), ids=" ".join)
def test_every_command_that_prints_data_prints_json(path: tuple[str, ...]) -> None:
    command: click.Command = group
    for name in path:
        found = command.get_command(click.Context(command), name)  # type: ignore[attr-defined]
        assert found is not None
        command = found
    assert "--json" in [option for parameter in command.params for option in parameter.opts]


def test_the_overview_lists_every_command(cli) -> None:
    result = cli("--help")
    assert result.status == 0
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name} " in result.out
        assert summary in " ".join(result.out.split())


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_overview_and_version_import_no_command(argument: str) -> None:
    heavy = "{'gevent', 'redis', 'rich', 'yaml', 'requests', 'gwproxy.registry'}"
    code = f"import sys; from gwproxy.cli import main; assert main([{argument!r}]) == 0; print({heavy} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "set()\n"


def test_version(cli) -> None:
    assert cli("--version").out == f"gwproxy {gwproxy.__version__}{' (compiled)' if compiled() else ''}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["chek"], "there is no command 'chek'; did you mean 'check'?"),
        (["xyzzy"], "there is no command 'xyzzy'"),
        (["--bad"], "--bad"),
        (["check"], "CONFIG"),
        (["check", "a", "b"], "unexpected extra argument"),
        (["logs", "-n", "many"], "'many'"),
        (["logs", "-n", "-1"], "-1"),
        (["plugins", "inf"], "inf"),
        (["explain", "GET"], "URL"),
        (["explain", "GET", "/", "-H", "no colon"], "no header field"),
        (["explain", "GET", "/", "-H", "a b: c"], "no header field"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(cli, argv: list[str], said: str) -> None:
    result = cli(*argv)
    assert (result.status, result.out) == (2, "")
    assert said in result.err


SECRET = "redis://:hunter2@10.0.0.9/0 is away"


@pytest.mark.parametrize(
    ("error", "status", "err"),
    [
        (CommandFailed("do this\nnext"), 1, "gwproxy: error: do this next\n"),
        (StoreUnavailable(""), 1, "gwproxy: error: StoreUnavailable\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.yaml"), 1, "gwproxy: error: a.yaml: No such file or directory\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "gwproxy: error: No space left on device\n"),
        (ResponseError(SECRET), 1, "gwproxy: error: the store: redis://***@10.0.0.9/0 is away\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (click.ClickException("no"), 1, "Error: no\n"),
    ],
)
def test_what_stops_a_command_is_one_line(capsys, error: BaseException, status: int, err: str) -> None:
    assert failures.report(error) == status
    assert capsys.readouterr() == ("", err)


def test_every_problem_of_a_refused_configuration_is_a_line(capsys) -> None:
    problems = [Problem("routes", "nothing", "a list", 1, 2, "g.yaml"), Problem("", "\x1b[31mred", "text", file="g.yaml")]
    assert failures.report(ConfigurationRefused(problems)) == 1
    assert capsys.readouterr().err.splitlines() == [
        "g.yaml:1:2: routes: found nothing, expected a list",
        r"g.yaml: found \x1b[31mred, expected text",
        "gwproxy: error: the configuration has 2 problems",
    ]


def test_a_mistake_of_gwproxy_itself_is_one_line_and_its_place_is_there_for_debugging(capsys, caplog) -> None:
    with caplog.at_level(logging.DEBUG, "gwproxy.cli"):
        assert failures.report(KeyError("x")) == 1
    assert capsys.readouterr().err == "gwproxy: error: internal error: KeyError: 'x' (GWPROXY_LOG_LEVEL=debug shows where)\n"
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_a_setting_that_makes_no_sense_is_named(cli, monkeypatch) -> None:
    monkeypatch.setenv("GWPROXY_TRUSTED_PROXIES", "everybody")
    result = cli("status")
    assert result.status == 1
    assert result.err.startswith("gwproxy: error: GWPROXY_TRUSTED_PROXIES: 'everybody'")


def test_a_reader_that_is_gone_is_no_traceback(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    readable, writable = os.pipe()
    os.close(readable)
    process = spawn("plugins", "list", stdout=writable)
    os.close(writable)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["check", "/nowhere/gateway.yaml"], 1),
        (["status"], 1),
        (["export", "--redis", "http://x"], 1),
        (["check"], 2),
        (["plugins", "list"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_process_exits_with_the_status_and_no_traceback(spawn, argv: list[str], status: int) -> None:
    process = spawn(*argv)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in err
    assert (out == "") == (status != 0)
    assert (err == "") == (status == 0)
