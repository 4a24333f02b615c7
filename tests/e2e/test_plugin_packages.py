"""Plugins from pip packages, really installed, in real traffic; and what happens when one does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until

pytestmark = pytest.mark.e2e

PACKAGES = Path(__file__).parent.parent / "packages"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed both packages."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    subprocess.run([*command, str(PACKAGES / "tenant"), str(PACKAGES / "broken")], check=True, timeout=120)
    return folder


def gwproxy(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "gwproxy", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str, installed: Path) -> GatewayProcess:
    publish(
        redis_server,
        [
            {"path": "/tenant", "upstream": echo, "plugins": [{"name": "tenant", "config": {"per_minute": 3}}]},
            {"path": "/broken", "upstream": echo, "plugins": [{"name": "broken"}]},
            {"path": "/plain", "upstream": echo},
        ],
    )
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, PYTHONPATH=str(installed)).ready()


def test_a_plugin_from_a_package_takes_part(gateway: GatewayProcess) -> None:
    answer = gateway.get("/tenant", headers={"Host": "acme.example.com"})
    assert answer.status_code == 200
    assert dict(answer.json()["headers"])["X-Tenant"] == "acme"
    assert answer.headers["X-Served-For"] == "acme"
    refused = gateway.get("/tenant", headers={"Host": "localhost"})
    assert (refused.status_code, refused.json()) == (403, {"error": "Forbidden"})
    assert refused.headers["X-Served-For"] == "nobody"


def test_its_counters_are_shared_by_all_workers(gateway: GatewayProcess) -> None:
    def status() -> int:
        return gateway.get("/tenant", headers={"Host": "shared.example.com"}).status_code

    # 503: on a busy machine Redis may take longer than the 100 ms a request waits for it.
    def decided() -> int | None:
        return None if (said := status()) == 503 else said

    statuses = [until(decided, "an answer of the store") for _ in range(6)]
    assert statuses == [200, 200, 200, 429, 429, 429]


def test_heartbeats_name_its_version(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    until(lambda: gateway.heartbeats(redis_server.client()), "heartbeats")
    for beat in gateway.heartbeats(redis_server.client()):
        assert '"tenant":"1.0"' in beat["plugins"]


def test_X09_a_package_that_does_not_import_costs_only_the_routes_that_need_it(gateway: GatewayProcess) -> None:
    answer = gateway.get("/broken")
    assert (answer.status_code, answer.json()) == (503, {"error": "Service Unavailable"})
    assert gateway.get("/plain").status_code == 200
    assert "a_module_that_is_not_there" in gateway.output()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text("routes:\n  - path: /\n    upstream: http://127.0.0.1:9\n    plugins:\n      - name: broken\n")
    return path


def test_check_refuses_a_package_that_does_not_import_by_name(installed: Path, config: Path) -> None:
    done = gwproxy(installed, "check", str(config))
    assert done.returncode == 1
    assert f"{config}:5:" in done.stderr
    assert "broken" in done.stderr
    assert "a_module_that_is_not_there" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_refuses_it_too(installed: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GWPROXY_STATE_DIR", str(tmp_path / "state"))
    done = gwproxy(installed, "run", str(config), "--bind", "127.0.0.1:0")
    assert done.returncode == 1
    assert "a_module_that_is_not_there" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_only_warns_if_it_is_not_used(installed: Path, config: Path) -> None:
    config.write_text(config.read_text().replace("broken", "tenant"))
    done = gwproxy(installed, "check", str(config))
    assert done.returncode == 0
    assert "broken" in done.stderr + done.stdout


def test_plugins_list_shows_both(installed: Path) -> None:
    done = gwproxy(installed, "plugins", "list", "--json")
    assert done.returncode == 0
    assert '"tenant"' in done.stdout
    assert "a_module_that_is_not_there" in done.stdout
