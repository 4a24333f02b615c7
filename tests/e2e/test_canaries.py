"""A configuration beside the live one, on real workers of two gateways: staged, tried on some clients, promoted, aborted, superseded."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gwproxy.controlplane.candidates import Candidates
from gwproxy.controlplane.rules import Rules
from gwproxy.dataplane.canary import Canary
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect
from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.running import call
from tests.e2e.scripted import ScriptedService
from tests.e2e.test_workers import children

pytestmark = pytest.mark.e2e

CLIENTS = [f"203.0.113.{number}" for number in range(60)]


def answer(text: str, status: int = 200) -> bytes:
    return f"HTTP/1.1 {status} Some\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


class Fleet:
    """Two gateways of two workers and one, of which the second lacks a variable; behind them a service that has an old and a new side."""

    def __init__(self, store: RedisServer, service: ScriptedService, start: Callable[..., GatewayProcess], folder: Path) -> None:
        self.service, self.folder, self.url = service, folder, store.url
        client = connect(store.url, timeout=10.0)
        self.live, self.store, self.audit = ConfigurationStore(client), CandidateStore(client), AuditLog(client)
        self.people = Candidates(self.store, self.live, self.audit, "ann")
        self.client = store.client()
        self.revision = self.live.publish(self.document("old"), actor="ann").revision
        env = {"GWPROXY_REDIS_URL": store.url, "GWPROXY_TRUSTED_PROXIES": "127.0.0.0/8"}
        self.gateways = [start(workers=2, GW_KEY="some", **env), start(workers=1, **env)]
        for gateway in self.gateways:
            gateway.ready()
        until(lambda: len(self.beats()) == 3, "three workers")

    def document(self, side: str, *plugins: dict[str, Any]) -> bytes:
        return json.dumps([{"path": "/x", "upstream": f"{self.service.url}/{side}", "plugins": plugins}]).encode()

    def renew(self) -> None:
        """Begin anew: the old side is live, both answer well, and there is no candidate."""
        for side in ("old", "new"):
            self.service.on(f"/{side}/x", answer(side))
        published = self.live.publish(self.document("old"), actor="ann")
        self.revision = published.revision
        until(lambda: {beat["digest"] for beat in self.beats()} == {published.digest}, "all to run the old side")

    def canary(self, *rules: str, share: float = 50.0, **options: Any) -> str:
        made = Rules.of(rules, options.get("promote_after"), options.get("min_requests", 20))
        ident = self.people.canary(self.document("new"), base=self.revision, share=share, rules=made).id
        until(lambda: {beat.get("share") for beat in self.said()} == {share}, "all to serve the canary")
        return ident

    def apply(self, document: bytes, *options: str) -> subprocess.CompletedProcess[str]:
        """Run ``gwproxy apply``."""
        (self.folder / "gateway.json").write_bytes(document)
        return call(self.folder, "apply", "gateway.json", *options, env={"GWPROXY_REDIS_URL": self.url, "GWPROXY_ACTOR": "ann"})

    def beats(self) -> list[dict[str, str]]:
        return [beat for beat in self.gateways[0].heartbeats(self.client) if beat["state"] != "draining"]

    def said(self) -> list[dict[str, Any]]:
        """What each worker says of the candidate."""
        return [json.loads(beat["candidate"]) for beat in self.beats()]

    def side(self, client: str, gateway: int = 0) -> str:
        return self.gateways[gateway].get("/x", headers={"X-Forwarded-For": client}).text

    def sides(self) -> dict[str, str]:
        """The side of each client, which is the same each time it asks, whichever gateway and worker answers."""
        found = {}
        for client in CLIENTS:
            seen = {self.side(client, number % 2) for number in range(3)}
            assert len(seen) == 1, client
            found[client] = seen.pop()
        return found

    def ended(self) -> tuple[str, str, str]:
        """Wait for the end, while clients ask."""

        def end() -> object:
            for client in CLIENTS[:10]:
                self.side(client)
            return self.people.status().candidate is None

        until(end, "an end")
        last = self.people.status().last
        assert last is not None
        return last.outcome, last.reason, last.by

    def all_serve(self, side: str) -> None:
        until(lambda: self.said() == [{}] * 3, "nobody to serve a canary")
        assert set(self.sides().values()) == {side}


@pytest.fixture(scope="module")
def started(
    redis_server: RedisServer,
    service: ScriptedService,
    start_gateway: Callable[..., GatewayProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Fleet]:
    fleet = Fleet(redis_server, service, start_gateway, tmp_path_factory.mktemp("apply"))
    with closing(fleet.store):
        yield fleet


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    started.renew()
    return started


# ---- staging


def test_a_stage_that_all_have_built_is_live_without_being_built_again(fleet: Fleet) -> None:
    applied = fleet.apply(fleet.document("new"), "--stage", "--wait", "--json", "--comment", "faster")
    told = json.loads(applied.stdout)
    assert (applied.returncode, told["outcome"], told["revision"]) == (0, "done", fleet.revision + 1)
    assert [worker["state"] for worker in told["staged"]] == ["built"] * 3
    built = {worker["id"]: str(worker["build_ms"]) for worker in told["staged"]}
    assert {beat["id"]: beat["build_ms"] for beat in fleet.live.workers()} == built
    newest = fleet.live.history(1)[0]
    assert (newest.revision, newest.actor, newest.comment) == (fleet.revision + 1, "ann", "faster")
    fleet.all_serve("new")


def test_a_stage_that_one_worker_refuses_changes_nothing(fleet: Fleet) -> None:
    needs = {"name": "request_transform", "config": {"add_headers": {"X-Key": "${GW_KEY}"}}}
    applied = fleet.apply(fleet.document("new", needs), "--stage", "--timeout", "20")
    assert applied.returncode == 1
    refusing = re.search(r"error: nothing was changed: \S+/(\d+) refuses it: .*GW_KEY.*", applied.stderr)
    assert refusing is not None
    assert {int(refusing[1])} == children(fleet.gateways[1])
    assert {beat["state"] for beat in fleet.beats()} == {"ready"}
    assert fleet.live.read().revision == fleet.revision
    fleet.all_serve("old")
    audited = fleet.audit.entries(1)[0]
    assert (audited.actor, audited.action, audited.outcome) == ("ann", "apply", "refused")


ORPHAN = """
import sys
from gwproxy.controlplane import candidates
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect

candidates.LEASE = 1.0
client = connect(sys.argv[1], timeout=10.0)
people = candidates.Candidates(CandidateStore(client), ConfigurationStore(client), AuditLog(client), "orphan")
people.stage(sys.argv[2].encode(), base=int(sys.argv[3]), timeout=60.0)
"""


def test_a_stage_whose_owner_is_killed_ends_by_itself(fleet: Fleet, redis_server: RedisServer) -> None:
    asleep = int(next(beat["pid"] for beat in fleet.beats()))
    os.kill(asleep, signal.SIGSTOP)  # so that it never comes to its end
    try:
        command = [sys.executable, "-c", ORPHAN, redis_server.url, fleet.document("new").decode(), str(fleet.revision)]
        owner = subprocess.Popen(command)
        until(lambda: sum(said.get("state") == "built" for said in fleet.said()) == 2, "two to build it")
        owner.kill()
        owner.wait()
        until(lambda: [said for said in fleet.said() if said] == [], "all to let go of it")
    finally:
        os.kill(asleep, signal.SIGCONT)
    assert fleet.ended() == ("aborted", "who staged it did not say any more that it is wanted", "gateway")
    fleet.all_serve("old")


# ---- canaries


def test_a_client_stays_on_its_side_on_every_worker_and_growth_adds_clients(fleet: Fleet) -> None:
    ident = fleet.canary(share=20.0)
    first = fleet.sides()
    decides = Canary(ident, None, 20.0)  # type: ignore[arg-type]
    assert first == {client: "new" if decides.serves(client) else "old" for client in CLIENTS}
    assert fleet.canary(share=60.0) == ident
    second = fleet.sides()
    assert [client for client in CLIENTS if first[client] == "new" and second[client] == "old"] == []
    assert 0 < list(first.values()).count("new") < list(second.values()).count("new") < len(CLIENTS)
    asked = {"candidate": 0, "live": 0}
    for sides in (first, second):
        for side in sides.values():
            asked["candidate" if side == "new" else "live"] += 3

    def counted() -> dict[str, int]:
        candidate = fleet.people.status().candidate
        assert candidate is not None
        return {side: candidate.counts.get(f"{side}:requests", 0) for side in asked}

    until(lambda: counted() == asked, f"the numbers of all workers to be {asked}")
    assert all(said["sides"]["candidate"]["requests"] for said in fleet.said())
    fleet.people.abort()
    fleet.all_serve("old")


def test_a_canary_that_breaks_its_rule_is_aborted_with_nobody_looking(fleet: Fleet) -> None:
    fleet.service.on("/new/x", answer("new", 500))
    options = ("--canary", "50%", "--abort-if", "5xx > 1%", "--min-requests", "20", "--wait")
    applied = fleet.apply(fleet.document("new"), *options)
    assert (applied.returncode, "all 3 workers serve it" in applied.stdout) == (0, True)
    outcome, reason, by = fleet.ended()
    assert (outcome, by) == ("aborted", "gateway")
    assert re.fullmatch(r"5xx 100% > 1% \((\d+) of \1 requests\)", reason)
    assert any("canary_ended" in gateway.output() for gateway in fleet.gateways)
    assert fleet.live.read().revision == fleet.revision
    fleet.all_serve("old")


def test_a_canary_that_does_well_is_promoted_with_nobody_looking(fleet: Fleet) -> None:
    fleet.canary("5xx > 1%", promote_after=1.0)
    outcome, reason, by = fleet.ended()
    assert (outcome, by) == ("promoted", "gateway")
    assert re.fullmatch(r"after 1s: 5xx 0% \(0 of \d+ requests\), live 0% \(0 of \d+\); p99 \S+, live \S+", reason)
    newest = fleet.live.history(1)[0]
    assert (newest.revision, newest.actor, newest.configuration) == (fleet.revision + 1, "ann", fleet.document("new"))
    fleet.all_serve("new")


def test_a_canary_that_one_worker_refuses_is_taken_back_and_the_worker_named(fleet: Fleet) -> None:
    needs = {"name": "request_transform", "config": {"add_headers": {"X-Key": "${GW_KEY}"}}}
    applied = fleet.apply(fleet.document("new", needs), "--canary", "50%", "--timeout", "20")
    assert applied.returncode == 1
    # By who waits, from its heartbeat, or by the worker itself, by its id: whoever was first.
    refusing = re.search(r"error: nothing was changed: \S+?[/-](\d+)(-[0-9a-f]+)? refuses it: .*GW_KEY", applied.stderr)
    assert refusing is not None
    assert {int(refusing[1])} == children(fleet.gateways[1])
    assert fleet.ended()[0] == "refused"
    assert fleet.live.read().revision == fleet.revision
    fleet.all_serve("old")


def test_a_canary_promoted_with_wait_is_followed_to_every_worker(fleet: Fleet) -> None:
    assert fleet.apply(fleet.document("new"), "--canary", "5%").returncode == 0
    assert [said["state"] for said in fleet.said()] == ["built"] * 3
    done = call(fleet.folder, "canary", "promote", "--wait", "--json", env={"GWPROXY_REDIS_URL": fleet.url})
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], told["revision"]) == (0, "promoted", fleet.revision + 1)
    assert [worker["state"] for worker in told["rollout"]["workers"]] == ["done"] * 3
    fleet.all_serve("new")


def test_a_change_of_the_live_configuration_supersedes_it(fleet: Fleet) -> None:
    fleet.service.on("/other/x", answer("other"))
    fleet.canary()
    fleet.client.set("gw:routes", fleet.document("other"))
    outcome, reason, _ = fleet.ended()
    assert (outcome, reason) == ("superseded", f"the live configuration is revision {fleet.revision + 1} now, by external")
    fleet.all_serve("other")


def test_V03_a_worker_that_is_killed_takes_nothing_along_and_its_successor_takes_part(fleet: Fleet) -> None:
    fleet.canary(share=50.0)
    before = fleet.sides()

    def counted() -> int:
        candidate = fleet.people.status().candidate
        assert candidate is not None
        return sum(count for name, count in candidate.counts.items() if name.endswith(":requests"))

    until(lambda: counted() == 3 * len(CLIENTS), "all to be counted")
    victim = next(beat for beat in fleet.live.workers() if int(beat["pid"]) in children(fleet.gateways[0]))
    os.kill(int(victim["pid"]), signal.SIGKILL)

    def replaced() -> bool:
        now = {beat["id"]: json.loads(beat["candidate"]).get("state") for beat in fleet.live.workers() if beat["id"] != victim["id"]}
        return list(now.values()) == ["built"] * 3

    until(replaced, "a successor that has built it")
    assert fleet.sides() == before
    assert counted() >= 3 * len(CLIENTS)
    until(lambda: counted() == 6 * len(CLIENTS), "all to be counted again")
    promoted = fleet.people.promote()
    assert promoted.revision == fleet.revision + 1

    def run_it() -> bool:
        return {beat["digest"] for beat in fleet.live.workers() if beat["id"] != victim["id"]} == {promoted.digest}

    until(run_it, "all to run it")
    assert set(fleet.sides().values()) == {"new"}
