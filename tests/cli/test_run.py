"""What ``gwproxy run`` refuses before it starts anything; the rest is in tests/e2e."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from gwproxy.cli.announcement import Listening, reachable
from gwproxy.cli.run import check_bind
from gwproxy.errors import CommandFailed

FREE = ("--bind", "127.0.0.1:0")


@pytest.mark.parametrize(
    "bind", ["nonsense", "", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:70000", "::1:8080", "127.0.0.1:\u0663"]
)
def test_a_bind_that_is_no_address(bind: str) -> None:
    with pytest.raises(CommandFailed, match="is no address to listen on; give HOST:PORT"):
        check_bind(bind)


@pytest.mark.parametrize(
    ("bind", "why"), [("192.0.2.1:8080", "Cannot assign requested address"), ("no-such-host.invalid:80", ""), ("a..b:80", "")]
)
def test_a_bind_that_is_not_this_machine(bind: str, why: str) -> None:
    with pytest.raises(CommandFailed, match=f"cannot listen on {bind}: {why}"):
        check_bind(bind)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", ":0", "[::1]:0", "localhost:0", "unix:/nowhere/there.sock"])
def test_a_bind_that_will_do(bind: str) -> None:
    check_bind(bind)


def test_a_port_that_was_used_a_moment_ago_will_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        port = listener.getsockname()[1]
        accepted, _ = listener.accept()
        accepted.close()  # first: its side waits in TIME_WAIT
    check_bind(f"127.0.0.1:{port}")


@pytest.mark.parametrize("argv", [("--workers", "0"), ("--workers", "many"), ("--nonsense",), ("a.yaml", "b.yaml"), ("--bind",)])
def test_wrong_usage(cli, argv: tuple[str, ...]) -> None:
    assert cli("run", *argv).status == 2


@pytest.mark.parametrize("argv", [("missing.yaml",), ("--gunicorn-conf", "missing.yaml")])
def test_a_file_that_is_not_there(cli, environment: Path, argv: tuple[str, ...]) -> None:
    result = cli("run", *argv, *FREE)
    assert (result.status, result.err) == (1, "gwproxy: error: missing.yaml is not there, or no file\n")
    assert not environment.exists()


def test_a_folder_is_no_file(cli, tmp_path: Path) -> None:
    assert cli("run", tmp_path, *FREE).err == f"gwproxy: error: {tmp_path} is not there, or no file\n"


def test_a_setting_that_makes_no_sense(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWPROXY_HEADER_TIMEOUT", "soon")
    result = cli("run", *FREE)
    assert (result.status, result.err[:48]) == (1, "gwproxy: error: GWPROXY_HEADER_TIMEOUT is 'soon'")


@pytest.mark.parametrize("url", ["nonsense", "http://me:hunter2@127.0.0.1", "redis://me:hunter2@127.0.0.1:x"])
def test_a_redis_url_that_makes_no_sense(cli, config: Path, url: str) -> None:
    result = cli("run", config, "--redis", url, *FREE)
    assert result.status == 1
    assert "Redis URL" in result.err
    assert "hunter2" not in result.err


def test_a_cluster_needs_a_hash_tag(cli) -> None:
    result = cli("run", "--redis", "redis+cluster://127.0.0.1:1", *FREE)
    assert result.status == 1
    assert "GWPROXY_PREFIX={gw}:" in result.err


def test_a_state_folder_that_cannot_be_made(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWPROXY_STATE_DIR", os.devnull)
    result = cli("run", *FREE)
    assert result.status == 1
    assert result.err.startswith("gwproxy: error: the state folder /dev/null cannot be used: ")
    assert "GWPROXY_STATE_DIR" in result.err


def test_listeners_are_shown_as_a_client_can_ask_them() -> None:
    assert reachable("http://0.0.0.0:8080") == "http://127.0.0.1:8080"
    assert reachable("https://[::]:8443") == "https://[::1]:8443"
    assert reachable("http://10.0.0.5:80") == "http://10.0.0.5:80"
    assert Listening(("https://10.0.0.5:8443", "unix:/s"), 2).bind == "10.0.0.5:8443"
