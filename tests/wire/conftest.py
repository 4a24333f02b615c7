"""Gateways to play the corpus against: each as in production, its configuration from a file, so that no store is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import GatewayProcess
from tests.ports import free_port
from tests.wire.cases import FOLDER
from tests.wire.player import Player
from tests.wire.upstream import Upstream

_DEFAULT = {"GWPROXY_HTTP_PARSER": "quick", "GWPROXY_TRANSPORT": "gateway"}  # whatever the tests as a whole run with

#: The variables that choose between parsers and transports of the gateway: the corpus has to pass with each.
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "default": _DEFAULT,
    "python-parser": _DEFAULT | {"GWPROXY_HTTP_PARSER": "python"},
    "requests-transport": _DEFAULT | {"GWPROXY_TRANSPORT": "requests"},
}

#: Those that differ in what a client sends, and in what an upstream answers: it takes too long to play every case with each of them.
PARSERS = ("default", "python-parser")
TRANSPORTS = ("default", "requests-transport")

#: What no gateway may say in its log, whatever clients and upstreams do.
FAILURES = ("Traceback", "app_failed", "connection_failed", "request_failed", "app_event_failed", "plugin_failed")

StartPlayer = Callable[[str, str], Player]


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.fixture(scope="session")
def player(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartPlayer]:
    """Return a player for one of ``corpus/gateways.yaml`` in one of :data:`ENVIRONMENTS`; each gateway is started once."""
    settings = yaml.safe_load((FOLDER / "gateways.yaml").read_text())
    text = (FOLDER / "routes.yaml").read_text()
    routes = text.replace("{upstream}", upstream.authority).replace("{nobody}", f"127.0.0.1:{free_port()}")
    running: dict[tuple[str, str], tuple[GatewayProcess, Player]] = {}

    def start(name: str, environment: str) -> Player:
        key = (name, environment)
        if key not in running:
            folder: Path = tmp_path_factory.mktemp(name)
            (folder / "routes.yaml").write_text(routes)
            env = {"GWPROXY_CONFIG": str(folder / "routes.yaml"), **settings[name], **ENVIRONMENTS[environment]}
            gateway = GatewayProcess(folder, env, workers=1).ready()
            running[key] = gateway, Player(gateway.port, upstream, {})
        return running[key][1]

    yield start
    for gateway, _ in running.values():
        gateway.process.stop()
    for gateway, _ in running.values():
        said = [word for word in FAILURES if word in gateway.output()]
        assert not said, gateway.output()
