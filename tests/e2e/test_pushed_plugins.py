"""What a running worker makes of code that comes and goes: none of it is left, whatever it had begun."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gwproxy.store.configuration import digest_of
from gwproxy.store.connection import connect
from gwproxy.store.deployments import Change, DeploymentStore
from gwproxy.wheels.deployment import Deployment
from gwproxy.wheels.minisign import SecretKey, sign
from gwproxy.wheels.wheel import read
from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.raw import RawClient, head
from tests.wheels.made import make_wheel

pytestmark = pytest.mark.e2e

DEPLOYS = 200
WARM = 60  # of these, before memory is measured: caches fill

#: A plugin that has something in the background, and says in each response what of all its versions is still there.
SOURCE = """
from __future__ import annotations
import builtins, json, logging, time, weakref
from typing import Any, Optional
from gwproxy import Context, Plugin, PluginConfig, hookimpl

log = logging.getLogger(__name__)
# Of the process, and so of all versions:
seen = vars(builtins).setdefault("seen_by_tests", {{"classes": weakref.WeakSet(), "events": {{}}, "beating": set()}})
ballast = [object() for _ in range(20_000)]  # some 400 KiB a version

class Rule(PluginConfig):
    name: str = "n"

class Config(PluginConfig):
    rule: Optional[Rule] = None
    rules: tuple[Rule, ...] = (Rule(),)

class Life(Plugin):
    name = "life"
    version = "{version}"
    config_model = Config

    def __init__(self) -> None:
        self.itself, self.configs = self, {{}}
        seen["classes"].update((type(self), Config, Rule))

    def tell(self, event: str, change: int = 1) -> None:
        seen["events"][event] = seen["events"].get(event, 0) + change

    @hookimpl
    def worker_started(self, gateway: Any) -> None:
        self.tell("started")
        gateway.spawn(self.beat)

    def beat(self) -> None:
        seen["beating"].add(self.version)
        try:
            while True:
                time.sleep(0.05)
        finally:
            seen["beating"].discard(self.version)

    @hookimpl
    def configuration_applied(self, revision: int) -> None:
        self.tell("applied")

    @hookimpl
    def worker_stopping(self) -> None:
        self.tell("stopping")

    @hookimpl
    def pre_proxy(self, ctx: Context, config: Config) -> None:
        self.configs[0] = config
        self.tell("open")
        ctx.on_finish(lambda outcome: self.tell("open", -1))
        told = {{"version": self.version, "classes": len(seen["classes"]), "beating": sorted(seen["beating"]), **seen["events"]}}
        ctx.response_headers["X-Life"] = json.dumps(told)
"""


class Fleet:
    """One worker, and what is pushed to it without anybody being asked before."""

    def __init__(self, server: RedisServer, gateway: GatewayProcess, key: SecretKey) -> None:
        self.gateway, self.key = gateway, key
        self.client = server.client()
        self.store = DeploymentStore(connect(server.url, timeout=5.0))

    def push(self, version: str) -> None:
        """Deploy a version, and wait until the worker runs it."""
        data = make_wheel({"life.py": SOURCE.format(version=version)}, version=version, plugins={"life": "life:Life"})
        wheel = read(data)
        self.store.put_wheel(data, sign(data, self.key, "test"), distribution=wheel.distribution, version=version, actor="test")
        base = self.store.live()
        after = Deployment.load(base.data).with_(wheel.pinned)
        self.store.publish(after.dump(), Change("push", wheel.distribution, version), base=base, actor="test")
        until(lambda: self.beat()["deployment"] == after.digest, f"the worker to run {version}")

    def beat(self) -> dict[str, str]:
        (found,) = self.gateway.heartbeats(self.client)
        return found

    def life(self) -> dict[str, object]:
        with RawClient(self.gateway.port) as client:
            answer = client.ask("/life")
        assert answer.status == 200
        found: dict[str, object] = json.loads(answer.get("X-Life") or "{}")
        return found

    def resident(self) -> int:
        (pid,) = self.gateway.worker_pids()
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.fixture(scope="module")
def fleet(
    redis_server: RedisServer, echo: str, start_gateway: Callable[..., GatewayProcess], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    key = SecretKey.generate()
    env = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_PLUGIN_KEYS": str(key.public)}
    gateway = start_gateway(tmp_path_factory.mktemp("pushed"), workers=1, **env)
    made = Fleet(redis_server, gateway, key)
    until(lambda: gateway.heartbeats(made.client), "the worker")
    made.push("0.1")
    routes = json.dumps([{"path": "/life", "upstream": echo, "plugins": [{"name": "life"}]}])
    made.client.set("gw:routes", routes)
    until(lambda: made.beat()["digest"] == digest_of(routes.encode()), "the worker to have the route")
    yield made
    gateway.process.stop()


def test_S07_two_hundred_deploys_leave_one_version_and_flat_memory(fleet: Fleet) -> None:
    resident = 0
    for number in range(DEPLOYS):
        if number == WARM:
            resident = fleet.resident()
        fleet.push(f"1.{number}")
        assert fleet.life()["version"] == f"1.{number}"
    until(lambda: fleet.life()["classes"] == 3, "the code of all versions but one to be gone")
    until(lambda: json.loads(fleet.beat()["gauges"])["wheels_lingering"] == 0, "the heartbeat to say so")
    life, beat = fleet.life(), fleet.beat()
    assert life["beating"] == [f"1.{DEPLOYS - 1}"]  # what the others had in the background has ended
    assert (life["started"], life["stopping"]) == (DEPLOYS + 1, DEPLOYS)
    assert int(str(life["applied"])) >= DEPLOYS
    assert json.loads(beat["pushed"])["life"]["version"] == f"1.{DEPLOYS - 1}"
    assert json.loads(beat["plugins"])["life"] == f"1.{DEPLOYS - 1}"
    grown = fleet.resident() - resident
    print(f"resident {grown / 1024:+.0f} KiB")
    assert grown < 16 << 20  # 140 versions would be 100 MiB


def test_the_code_of_a_version_lives_as_long_as_the_last_request_that_it_serves(fleet: Fleet) -> None:
    fleet.push("2.0")
    until(lambda: fleet.life()["classes"] == 3, "one version to be there")
    stopped = fleet.life().get("stopping", 0)
    with RawClient(fleet.gateway.port) as slow:
        slow.send(head("/life?wait=3"))
        until(lambda: fleet.life()["open"] == 2, "the request to be on its way")
        fleet.push("2.1")
        life = fleet.life()
        assert (life["version"], life["classes"], life.get("stopping", 0)) == ("2.1", 6, stopped)
        answer = slow.answer()
    assert answer.status == 200
    assert json.loads(answer.get("X-Life") or "{}")["version"] == "2.0"
    until(lambda: fleet.life()["classes"] == 3, "the old version to be gone")
    assert fleet.life()["stopping"] == int(str(stopped)) + 1


def test_an_import_that_computes_for_ever_is_cut_off_and_the_worker_goes_on(fleet: Fleet) -> None:
    before = fleet.life()
    data = make_wheel({"life.py": "while True: pass"}, version="6.6", plugins={"life": "life:Life"})
    wheel, base = read(data), fleet.store.live()
    fleet.store.put_wheel(data, sign(data, fleet.key, "test"), distribution=wheel.distribution, version="6.6", actor="test")
    after = Deployment.load(base.data).with_(wheel.pinned)
    fleet.store.publish(after.dump(), Change("push", wheel.distribution, "6.6"), base=base, actor="test")
    until(lambda: fleet.beat()["deployment_refused"] == after.digest, "it to be refused", within=30)
    assert "was not imported after 5 s (life.py:1)" in fleet.beat()["deployment_error"]
    assert fleet.life()["version"] == before["version"]
