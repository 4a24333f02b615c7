"""docs/changing-configuration.md, done literally: its lines one after the other, and its pipeline on a gateway of two workers."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gwproxy.store.configuration import ConfigurationStore, Revision
from gwproxy.store.connection import connect
from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.running import clean_environment

pytestmark = pytest.mark.e2e

PAGE = (Path(__file__).parents[2] / "docs" / "changing-configuration.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(PIPELINE,) = [block for block in BLOCKS if block.startswith("#!")]
LINES = [line for block in BLOCKS if block != PIPELINE for line in block.splitlines()]
SETTING = "GW_LIMIT"  # a variable that workers lack and the pipeline has


class Repository:
    """A folder with ``gateway.yaml`` and ``deploy.sh``, and a gateway that runs the former as revision 1."""

    def __init__(self, folder: Path, server: RedisServer, echo: str, gateway: GatewayProcess) -> None:
        self.folder = folder
        self.echo = echo
        self.gateway = gateway
        self.client = server.client()
        self.store = ConfigurationStore(connect(server.url, timeout=5))
        tools = folder / "bin"
        tools.mkdir()
        # What a pipeline has on its PATH; "meanwhile" is what somebody else applies just before this pipeline does.
        program = f'"{sys.executable}" -m gwproxy'
        meanwhile = f'[ "$1" = apply ] && [ -e meanwhile ] && GWPROXY_ACTOR=bob {program} apply meanwhile'
        (tools / "gwproxy").write_text(f'#!/bin/sh\n{meanwhile}\nexec {program} "$@"\n')
        (tools / "gwproxy").chmod(0o755)
        (folder / "deploy.sh").write_text(PIPELINE)
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environ = clean_environment(
            folder / "state", {"GWPROXY_REDIS_URL": server.url, "GWPROXY_ACTOR": "pipeline", "PATH": path, SETTING: "7"}
        )
        self.write(100)
        assert self.run("gwproxy apply gateway.yaml --wait").returncode == 0

    def write(self, limit: object, name: str = "gateway.yaml") -> None:
        entries: list[dict[str, Any]] = [{"name": "access_log"}, {"name": "rate_limit", "config": {"limit": limit}}]
        (self.folder / name).write_text(json.dumps([{"id": "users", "path": "/api/users", "upstream": self.echo, "plugins": entries}]))

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            shlex.split(line, comments=True), cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=60
        )

    def deploy(self, comment: str = "a comment") -> subprocess.CompletedProcess[str]:
        return self.run(f"sh deploy.sh gateway.yaml {shlex.quote(comment)}")

    def limits(self) -> set[str]:
        """What both workers serve."""
        return {self.gateway.get("/api/users").headers["X-RateLimit-Limit"] for _ in range(8)}

    def newest(self) -> Revision:
        return self.store.history(1)[0]


@pytest.fixture(scope="module")
def repository(
    tmp_path_factory: pytest.TempPathFactory, start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str
) -> Repository:
    gateway = start_gateway(GWPROXY_REDIS_URL=redis_server.url)
    until(lambda: len(gateway.heartbeats(redis_server.client())) == 2, "two workers")
    repository = Repository(tmp_path_factory.mktemp("repository"), redis_server, echo, gateway)
    assert repository.limits() == {"100"}
    until(lambda: repository.client.llen("gw:access_log") == 8, "the access log")
    return repository


def test_every_line_of_the_page_does_what_it_says(repository: Repository) -> None:
    repository.write(200)
    said = {}
    for line in LINES:
        done = repository.run(line)
        assert done.returncode == 0, (line, done.stderr)
        said[line.split("#")[0].strip()] = done.stdout
    for line in ("gwproxy diff gateway.yaml", "gwproxy apply gateway.yaml --dry-run", "gwproxy diff 1 2"):
        assert "plugins.rate_limit.config.limit: 100 -> 200" in said[line]
    assert said["gwproxy replay live --config gateway.yaml"].startswith("0 of 8 requests go elsewhere")
    assert "all 2 workers on revision 2" in said["gwproxy apply gateway.yaml --wait --comment 'users: 200 a minute'"]
    assert "users: 200 a minute" in said["gwproxy blame users"]
    assert "all 2 workers on revision 3" in said["gwproxy rollback 1 --wait"]
    assert repository.limits() == {"100"}
    exported = repository.run("gwproxy export").stdout
    (repository.folder / "exported.yaml").write_text(exported)
    assert repository.run("gwproxy apply exported.yaml").stdout.startswith("nothing to change")


def test_the_pipeline_makes_a_change_live_on_every_worker(repository: Repository) -> None:
    repository.write(300)
    done = repository.deploy("limits, again")
    assert done.returncode == 0, done.stderr
    told = [
        "gateway.yaml: valid: 1 route",
        "plugins.rate_limit.config.limit: 100 -> 300",
        "requests go elsewhere",
        "all 2 workers on revision ",
    ]
    places = [done.stdout.index(text) for text in told]
    assert places == sorted(places)
    assert repository.limits() == {"300"}
    newest = repository.newest()
    assert (newest.actor, newest.comment) == ("pipeline", "limits, again")


@pytest.mark.parametrize(
    ("limit", "meanwhile", "reason"),
    [
        pytest.param("many", None, "found 'many', expected", id="invalid"),
        pytest.param(f"${{{SETTING}}}", None, SETTING, id="no-worker-can-run-it"),
        pytest.param(400, 500, "by bob at ", id="somebody-else-changed-it"),
    ],
)
def test_a_pipeline_that_fails_has_changed_nothing(repository: Repository, limit: object, meanwhile: int | None, reason: str) -> None:
    served = {str(meanwhile)} if meanwhile else repository.limits()
    revision = repository.newest().revision
    repository.write(limit)
    if meanwhile:
        repository.write(meanwhile, "meanwhile")
    done = repository.deploy()
    assert done.returncode == 1
    assert reason in done.stdout + done.stderr
    assert repository.newest().revision == revision + bool(meanwhile)
    until(lambda: repository.limits() == served, "what was live, or what somebody else has applied")
