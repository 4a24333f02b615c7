"""What the README tells a newcomer to do, done literally."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.e2e.conftest import GatewayProcess, Process, RedisServer, publish, until
from tests.ports import free_port

pytestmark = pytest.mark.e2e

README = (Path(__file__).parent.parent.parent / "README.md").read_text()


def blocks(heading: str, language: str) -> list[str]:
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [text for found, text in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL) if found == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def env(folder: Path) -> dict[str, str]:
    return {**os.environ, "GWPROXY_STATE_DIR": str(folder / "state"), "GWPROXY_ADMIN_BIND": f"127.0.0.1:{free_port()}"}


def gwproxy(line: str, folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command line of the README as it stands, comments and all."""
    words = line.split("#")[0].split()
    assert words[0] == "gwproxy"
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def running(folder: Path, env: dict[str, str], echo: str) -> Iterator[str]:
    """The first route, running as the README says, but before the echo service and on a free port."""
    (folder / "gateway.yaml").write_text(blocks("A first route", "yaml")[0].replace("http://127.0.0.1:8000", echo))
    check, run = blocks("A first route", "sh")[0].splitlines()
    checked = gwproxy(check, folder, env)
    assert checked.returncode == 0, checked.stderr
    bind = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", *run.split("#")[0].split(), "--bind", bind]
    process = Process(command, folder / "run.log", env=env, cwd=folder)
    until(lambda: requests.get(f"http://{bind}/api/users", timeout=5).status_code == 200, "the first route")
    yield bind
    assert process.stop() == 0


def test_the_first_route_serves_with_its_policies(running: str) -> None:
    answer = requests.get(f"http://{running}/api/users/7", headers={"Origin": "https://app.example.com"}, timeout=10)
    assert answer.json()["target"] == "/api/users/7"
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
    assert answer.headers["X-RateLimit-Limit"] == "100"


def test_an_edit_is_live_or_refused_with_a_reason(running: str, folder: Path) -> None:
    file = folder / "gateway.yaml"
    good = file.read_text()
    file.write_text(good.replace("limit: 100", "limit: 50"))
    until(lambda: requests.get(f"http://{running}/api/users", timeout=5).headers["X-RateLimit-Limit"] == "50", "the edit")
    file.write_text(good.replace("limit: 100", "limit: many"))
    until(lambda: "gateway.yaml:6:" in (folder / "run.log").read_text(), "the reason, with its line")
    assert requests.get(f"http://{running}/api/users", timeout=5).headers["X-RateLimit-Limit"] == "50"


def test_the_commands_that_tell_what_runs(running: str, folder: Path, env: dict[str, str]) -> None:
    status, explain = blocks("A first route", "sh")[1].splitlines()
    shown = gwproxy(status, folder, env)
    assert shown.returncode == 0, shown.stderr
    assert "ready" in shown.stdout
    explained = gwproxy(explain, folder, env)
    assert explained.returncode == 0, explained.stderr
    assert "cors" in explained.stdout
    assert "rate_limit" in explained.stdout


def test_the_first_plugin_takes_part(
    folder: Path, start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str
) -> None:
    package, site = folder / "package", folder / "site"
    package.mkdir()
    (package / "gwproxy_tenant.py").write_text(blocks("A first plugin", "python")[0])
    metadata = "[metadata]\nname = gwproxy-tenant-of-readme\nversion = 1.0\n[options]\npy_modules = gwproxy_tenant\n"
    (package / "setup.cfg").write_text(metadata + blocks("A first plugin", "ini")[0])
    (package / "setup.py").write_text("from setuptools import setup\n\nsetup()\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, str(package)], check=True, timeout=120)
    publish(redis_server, [{"path": "/", "upstream": echo, "plugins": [{"name": "tenant"}]}])
    gateway = start_gateway(GWPROXY_REDIS_URL=redis_server.url, PYTHONPATH=str(site)).ready()
    assert dict(gateway.get("/", headers={"Host": "acme.example.com"}).json()["headers"])["X-Tenant"] == "acme"
    refused = gateway.get("/", headers={"Host": "localhost"})
    assert (refused.status_code, refused.json()) == (403, {"error": "Unknown tenant"})
