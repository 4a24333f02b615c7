"""What deploy/ holds and no test can run, checked as far as it can be; tests/e2e/test_deploy.py runs the rest."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import yaml

from gwproxy.controlplane.parse import Environment, parse
from gwproxy.registry import Registry
from gwproxy.settings import Settings
from gwproxy.worker.proxy_protocol import is_from

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SETTINGS = ROOT / "gwproxy" / "settings.py"
GUNICORN_CONF = ROOT / "gwproxy" / "worker" / "gunicorn_conf.py"


def settings_of(env: dict[str, str]) -> Settings:
    """Read an environment as the gateway would; every GWPROXY_* name must be one that it knows."""
    known = set(re.findall(r'read\.\w+\("([A-Z_]+)"', SETTINGS.read_text())) | {"STATE_DIR"}
    assert {name.removeprefix("GWPROXY_") for name in env if name.startswith("GWPROXY_")} <= known
    return Settings.from_environment(env)


def environment_file() -> dict[str, str]:
    """The example, with what is commented out."""
    lines = re.findall(r"^#?([A-Z_]+)=(.*)$", (DEPLOY / "gwproxy.env").read_text(), re.MULTILINE)
    return dict(lines)


def test_the_example_environment_makes_sense() -> None:
    settings = settings_of(environment_file())
    assert settings.proxy_protocol == "v2"
    assert is_from("127.0.0.1", settings.proxy_from)
    assert not is_from("127.0.0.2", settings.proxy_from)
    assert settings.may_reference("JWT_SECRET")


def gunicorn_accepts(arguments: list[str], env: dict[str, str]) -> None:
    """Have gunicorn check a command line, with its own configuration of this checkout."""
    mine = [str(ROOT / "gunicorn.conf.py") if argument.endswith("gunicorn.conf.py") else argument for argument in arguments]
    command = [sys.executable, "-m", "gunicorn", "--check-config", *mine]
    checked = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=30, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_unit_is_what_systemd_accepts_and_gunicorn_too(tmp_path: Path) -> None:
    text = (DEPLOY / "gwproxy.service").read_text()
    [start] = re.findall(r"^ExecStart=/opt/gwproxy/bin/gunicorn (.*)$", text, re.MULTILINE)
    assert f"ExecReload=/opt/gwproxy/bin/gunicorn --check-config {start}\nExecReload=/bin/kill -HUP $MAINPID\n" in text
    gunicorn_accepts(start.split(), environment_file())
    has_few_rights(text)
    longest = int(re.search(r"graceful_timeout = (\d+)", GUNICORN_CONF.read_text())[1])  # type: ignore[index]
    assert int(re.search(r"TimeoutStopSec=(\d+)", text)[1]) > longest  # type: ignore[index]
    systemd_accepts(text.replace("/opt/gwproxy/bin/gunicorn", sys.executable), tmp_path / "gwproxy.service")


def test_the_unit_of_the_admin_listener_is_what_systemd_accepts_and_runs_beside_the_gateway(tmp_path: Path) -> None:
    text = (DEPLOY / "gwproxy-admin.service").read_text()
    assert "\nExecStart=/opt/gwproxy/bin/gwproxy admin\n" in text
    has_few_rights(text)
    shared = (
        "User=",
        "EnvironmentFile=",
        "Environment=",
        "StateDirectory=",
    )  # the token is in the state folder, the store in the environment
    gateway = (DEPLOY / "gwproxy.service").read_text()
    assert [line for line in text.splitlines() if line.startswith(shared)] == [
        line for line in gateway.splitlines() if line.startswith(shared)
    ]
    settings = Settings.from_environment(environment_file())
    assert settings.admin_bind == "127.0.0.1:8090"  # 8081 is a data listener behind haproxy.cfg
    systemd_accepts(text.replace("/opt/gwproxy/bin/gwproxy", sys.executable), tmp_path / "gwproxy-admin.service")


def has_few_rights(text: str) -> None:
    for line in ("Type=notify", "User=gwproxy", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "KillMode=mixed"):
        assert f"\n{line}\n" in text


def systemd_accepts(text: str, unit: Path) -> None:
    """Have systemd judge a unit, where there is one."""
    if shutil.which("systemd-analyze"):
        unit.write_text(text)
        verified = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False)
        assert (verified.returncode, verified.stderr) == (0, "")


def test_the_image_is_built_from_what_is_there_and_is_not_root() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, rest in steps:
        if name == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources)
            assert set(sources) <= allowed
    last = dict(steps)  # of each, the last one counts
    assert last["USER"] == "10001:10001"
    assert last["EXPOSE"] == "8080"
    gunicorn, *arguments = json.loads(last["CMD"])
    assert gunicorn == "gunicorn"
    gunicorn_accepts(arguments, {})
    [interpreter, script] = json.loads(last["HEALTHCHECK"].partition(" CMD ")[2])
    assert (interpreter, script) == ("python", "/etc/gwproxy/healthcheck.py")
    assert "deploy/healthcheck.py /etc/gwproxy/" in text


def test_compose_puts_together_what_fits_together() -> None:
    held = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = held["services"]
    assert set(services) == {"redis", "gateway-1", "gateway-2", "haproxy"}
    assert [name for name, service in services.items() if "ports" in service] == ["haproxy"]
    addresses = {name: service["networks"]["gateway"]["ipv4_address"] for name, service in services.items() if name != "redis"}
    [subnet] = [ip_network(one["subnet"]) for one in held["networks"]["gateway"]["ipam"]["config"]]
    assert all(ip_address(address) in subnet for address in addresses.values())
    balancer = services["haproxy"]["environment"]
    for number in (1, 2):
        gateway = services[f"gateway-{number}"]
        assert balancer[f"GATEWAY_{number}"] == f"{addresses[f'gateway-{number}']}:8080"
        settings = settings_of(gateway["environment"])
        assert settings.redis_url == "redis://redis:6379/0"
        assert is_from(addresses["haproxy"], settings.proxy_from)
        assert is_from("127.0.0.1", settings.proxy_from)  # the image's health check
        assert not is_from(str(subnet[1]), settings.proxy_from)
        assert (DEPLOY / gateway["build"]["context"] / gateway["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
        assert f"./gateway.yaml:{settings.config}:ro" in gateway["volumes"]
        assert f"gateway-{number}:/var/lib/gwproxy" in gateway["volumes"]
    sources = [volume.split(":")[0] for service in services.values() for volume in service["volumes"]]
    for source in sources:
        assert source in held["volumes"] if not source.startswith(".") else (DEPLOY / source).exists()


def test_the_first_routes_are_valid() -> None:
    environment = Environment({"GW_UPSTREAM": "http://10.0.0.5:8000"}, Settings().may_reference)
    parsed = parse((DEPLOY / "gateway.yaml").read_bytes(), file="gateway.yaml", plugins=Registry.discover(), environment=environment)
    assert [route.path for route in parsed.document.routes] == ["/"]
