"""Commands in this process, commands as processes of their own, and a real Redis for those that ask one."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from gwproxy.cli import main
from tests.conftest import Server

JWT_SECRET = "correct-horse-battery-staple-0123456789"

CONFIG = f"""\
upstreams:
  users:
    targets: [{{url: "http://10.0.0.5:8000/base"}}, {{url: "http://10.0.0.6:8000"}}]
plugins:
  - {{name: access_log}}
routes:
  - id: users
    path: /api/users/{{id}}
    methods: [GET, POST]
    upstream: users
    plugins:
      - {{name: jwt_auth, config: {{secret: {JWT_SECRET}}}, mode: shadow}}
      - {{name: rate_limit, config: {{limit: 5, windowSeconds: 10}}}}
      - {{name: rate_limit, config: {{limit: 7}}}}
  - id: health
    path: =/health
    hosts: [api.example.com]
    headers: {{x-version: "2"}}
    upstream: http://127.0.0.1:9000/status
    strip_path: true
"""


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which nothing is set and nothing runs; returns the state folder, which is not there yet."""
    for name in [name for name in os.environ if name.startswith(("GWPROXY_", "GW_", "JWT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GWPROXY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "state"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command line in this process."""

    def run(*argv: str | Path, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        status = main([str(argument) for argument in argv])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """Starts a command line as a process of its own."""

    def start(*argv: str | Path, **options: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "gwproxy", *map(str, argv)]
        return subprocess.Popen(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options})  # type: ignore[call-overload]

    return start


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A valid configuration file."""
    path = tmp_path / "gateway.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def store(server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    """An empty Redis, which commands find by ``GWPROXY_REDIS_URL``."""
    monkeypatch.setenv("GWPROXY_REDIS_URL", server.url)
    return client


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Installs a plugin package as pip would, with the module text given."""
    site = tmp_path / "site"

    def put(name: str, source: str, cls: str = "P") -> None:
        info = site / f"gw_{name}-1.2.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: gw-{name}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[gwproxy]\n{name} = gw_{name}:{cls}\n")
        (site / f"gw_{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, f"gw_{name}", raising=False)

    return put
