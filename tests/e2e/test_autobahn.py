"""WebSocket through the gateway as Autobahn's fuzzing client sees it: fragments, pings, bad UTF-8, closings, large messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.autobahn import environment, failed, fuzz, installed, interpreter
from tests.e2e.conftest import GatewayProcess, Process, RedisServer, publish, until
from tests.e2e.raw import RawClient
from tests.e2e.tunnels import HANDSHAKE, WebSocketService, tunnelled
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]  # the first run installs the suite

#: Framing, pings, reserved bits, opcodes, fragments, UTF-8, closings, messages up to 1 MiB, whole and in pieces.
FRAMES = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*")
#: Minutes of Autobahn's own work: 4 MiB and more, 1 MiB in thousands of pieces. ``AUTOBAHN_CASES=all`` plays every case there is.
LONG = ("9.1.4", "9.1.5", "9.1.6", "9.2.4", "9.2.5", "9.2.6", "9.3.*", "9.4.*", "9.5.*", "9.6.*", "9.7.*", "9.8.*")
COMPRESSED = ("12.1.1", "12.2.5", "13.3.1")  # each a thousand messages
EVERYTHING = os.environ.get("AUTOBAHN_CASES") == "all"


@pytest.fixture(scope="module")
def autobahn() -> str:
    python = interpreter()
    if python is None:
        pytest.skip("Autobahn's suite needs Python 2.7: AUTOBAHN_PYTHON, python2.7 or `pyenv install 2.7.18`")
    return installed(python)


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, autobahn: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    """A gateway before two services: Autobahn's own, which passes every case without compression, and one that compresses."""
    folder, port = tmp_path_factory.mktemp("autobahn"), free_port()
    command = [autobahn, "-m", "echoserver", "-w", f"ws://127.0.0.1:{port}"]
    services = [Process(command, folder / "echoserver.log", environment(), folder), WebSocketService(folder)]
    publish(redis_server, [tunnelled("/frames", f"http://127.0.0.1:{port}"), tunnelled("/compressed", services[1].url)])  # type: ignore[attr-defined]
    gateway = start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url).ready()
    until(lambda: upgrades(gateway, "/frames"), "Autobahn's echo server")
    yield gateway
    for service in services:
        service.stop()


def upgrades(gateway: GatewayProcess, path: str) -> bool:
    with RawClient(gateway.port) as client:
        return client.ask(path, *HANDSHAKE).status == 101


@pytest.mark.parametrize(
    ("path", "cases", "left_out", "count"),
    [("/frames", FRAMES, () if EVERYTHING else LONG, 250), ("/compressed", ("12.*", "13.*") if EVERYTHING else COMPRESSED, (), 3)],
    ids=["frames", "compressed"],
)
def test_every_case_passes(
    gateway: GatewayProcess, autobahn: str, tmp_path: Path, path: str, cases: Sequence[str], left_out: Sequence[str], count: int
) -> None:
    results = fuzz(autobahn, tmp_path, f"ws://127.0.0.1:{gateway.port}{path}", cases, left_out)
    assert failed(results) == {}
    assert len(results) >= count
