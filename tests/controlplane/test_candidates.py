"""Staging and canaries, between people, a real store and workers of which everything but the sockets is real."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from gwproxy import Plugin, hookimpl
from gwproxy.context import Outcome
from gwproxy.controlplane.candidates import Acknowledgement, Candidates, NotStaged
from gwproxy.controlplane.fleet import Heartbeat
from gwproxy.controlplane.last_good import LastGoodFile
from gwproxy.controlplane.parse import Environment
from gwproxy.controlplane.referee import Referee
from gwproxy.controlplane.rules import Rules
from gwproxy.controlplane.sources import RedisSource
from gwproxy.controlplane.watch import Watcher
from gwproxy.dataplane.gateway import Gateway
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.errors import CommandFailed, StoreUnavailable
from gwproxy.registry import Registry
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import CandidateGone, CandidateStore
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.tally import Tally
from tests.conftest import Server


class Extra(Plugin):
    name = "extra"

    @hookimpl
    def pre_auth(self, ctx: Any) -> None: ...


def document(*paths: str, plugin: str = "") -> bytes:
    plugins = [{"name": plugin}] if plugin else []
    return json.dumps([{"path": path, "upstream": "http://127.0.0.1:9", "plugins": plugins} for path in paths]).encode()


ONE, TWO, THREE, EXTRA = document("/1"), document("/2"), document("/3"), document("/2", plugin="extra")


class Worker:
    """What a worker does beside requests, a turn at a time."""

    def __init__(self, client: redis.Redis, folder: Path, name: str, *plugins: Plugin) -> None:
        self.name, registry = name, Registry.of(*plugins)
        self.gateway = Gateway(Upstreams())
        self.live, self.candidates = ConfigurationStore(client), CandidateStore(client)
        source, environment = RedisSource(self.live, self.candidates, "gw:"), Environment({}, lambda name: True)
        last_good, upstreams = LastGoodFile(folder / name, "gw:"), self.gateway.upstreams
        noted = self.live.note_external
        self.watcher = Watcher(source, self.gateway, registry, upstreams, environment, last_good, revision_of=noted)
        standing, shown = (lambda: self.watcher.standing), self.watcher.beside.shown
        self.heartbeat = Heartbeat(self.live, name, standing, lambda: self.watcher.deployed, upstreams, lambda: 0, Tally(), 0.0, shown)
        self.referee = Referee(self.candidates, AuditLog(client), name, self.watcher.beside, self.gateway)
        self.turn()

    def turn(self) -> None:
        self.watcher.step()
        self.live.heartbeat(self.name, self.heartbeat.fields())
        self.referee.step()

    def answer(self, candidate: dict[int, int], live: dict[int, int] | None = None) -> None:
        """Count so many responses of each status."""
        canary = self.gateway.canary
        assert canary is not None
        for side, statuses in ((canary.candidate, candidate), (canary.live, live or {})):
            for status, count in statuses.items():
                for _ in range(count):
                    side.count(Outcome(status, 0, 0, 0.01, True))

    def path(self) -> str:
        assert self.gateway.snapshot is not None
        return self.gateway.snapshot.routes[0].route.path


class Fleet:
    """Two workers, of which the second has one plugin less."""

    def __init__(self, client: redis.Redis, folder: Path) -> None:
        self.client = client
        self.live = ConfigurationStore(client)
        self.live.publish(ONE, actor="alice")
        self.store, self.audit = CandidateStore(client), AuditLog(client)
        self.workers = [Worker(client, folder, "w1", Extra()), Worker(client, folder, "w2")]
        self.people = Candidates(self.store, self.live, self.audit, "bob")

    def turn(self, _seconds: float = 0.0) -> None:
        for worker in self.workers:
            worker.turn()

    def judge(self) -> None:
        """Let two seconds pass: somebody judges again."""
        if self.client.exists("gw:candidate"):
            self.client.hset("gw:candidate", "judged", 0)
        self.turn()

    def canary(self, *rules: str, data: bytes = TWO, **options: Any) -> None:
        made = Rules.of(rules, options.pop("promote_after", None), options.pop("min_requests", 100))
        self.people.canary(data, base=self.live.read().revision, rules=made, **{"share": 50.0, **options})
        self.turn()

    def paths(self) -> list[str]:
        return [worker.path() for worker in self.workers]

    def ended(self) -> tuple[str, str, str]:
        status = self.people.status()
        assert status.candidate is None
        assert status.last is not None
        return status.last.outcome, status.last.reason, status.last.by

    def audited(self) -> list[tuple[str, str, str]]:
        return [(entry.actor, entry.action, entry.outcome) for entry in self.audit.entries()]


@pytest.fixture
def fleet(client: redis.Redis, tmp_path: Path) -> Fleet:
    return Fleet(client, tmp_path)


# ---- staging


def test_what_all_have_built_goes_live_at_once_everywhere(fleet: Fleet) -> None:
    told: list[tuple[Acknowledgement, ...]] = []
    published = fleet.people.stage(TWO, base=1, comment="faster", tell=told.append, sleep=fleet.turn)
    assert [worker.state for worker in told[0]] == ["waiting", "waiting"]
    assert [(worker.state, worker.build_ms is not None) for worker in told[-1]] == [("built", True)] * 2
    built = [worker.gateway.beside for worker in fleet.workers]
    fleet.turn()
    assert [worker.gateway.snapshot for worker in fleet.workers] == built
    assert published.revision == 2
    assert (fleet.live.history(1)[0].actor, fleet.live.history(1)[0].comment) == ("bob", "faster")
    assert fleet.ended() == ("committed", "all workers have built it", "bob")
    assert fleet.audited() == [("bob", "apply", "done")]


def test_what_one_refuses_changes_nothing_and_names_it(fleet: Fleet) -> None:
    with pytest.raises(NotStaged, match=r"^[^/;]+/\d+ refuses it: 1 problem: candidate:1:\d+: .*extra[^;]*$") as caught:
        fleet.people.stage(EXTRA, base=1, sleep=fleet.turn)
    assert sorted(worker.state for worker in caught.value.workers) == ["built", "refused"]
    fleet.turn()
    assert fleet.paths() == ["/1", "/1"]
    assert [worker.gateway.beside for worker in fleet.workers] == [None, None]
    assert fleet.live.read().revision == 1
    assert fleet.ended()[0] == "refused"
    assert fleet.audited() == [("bob", "apply", "refused")]


def test_what_one_does_not_build_in_time_is_withdrawn(fleet: Fleet) -> None:
    with pytest.raises(NotStaged, match=r"^after 0.2 s [^;]*/\d+ has not built it$") as caught:
        fleet.people.stage(TWO, base=1, timeout=0.2, sleep=lambda seconds: fleet.workers[0].turn())
    assert [worker.state for worker in caught.value.workers] == ["built", "waiting"]
    assert fleet.ended()[0] == "refused"


def test_what_one_has_built_that_fell_silent_is_withdrawn(fleet: Fleet) -> None:
    def sleep(seconds: float) -> None:
        fleet.workers[0].turn()
        fleet.client.delete("gw:worker:w2")  # as if it had expired
        time.sleep(0.01)

    fleet.turn()
    with pytest.raises(NotStaged, match=r"^after 0.2 s [^;]*/\d+ has not built it: silent for 10 s$"):
        fleet.people.stage(TWO, base=1, timeout=0.2, sleep=sleep)


def test_nobody_can_stage_where_nobody_is(fleet: Fleet) -> None:
    fleet.live.forget("w1")
    fleet.live.forget("w2")
    with pytest.raises(NotStaged, match="no worker is there"):
        fleet.people.stage(TWO, base=1)
    assert fleet.live.read().revision == 1


def test_a_worker_that_is_about_to_stop_has_no_say(fleet: Fleet) -> None:
    fleet.workers[1].watcher.standing.state = "draining"
    fleet.workers[1].turn()
    assert fleet.people.stage(TWO, base=1, sleep=lambda seconds: fleet.workers[0].turn()).revision == 2


def test_who_changes_the_live_one_meanwhile_wins(fleet: Fleet) -> None:
    def sleep(seconds: float) -> None:
        fleet.live.publish(THREE, actor="carol")

    with pytest.raises(CandidateGone):
        fleet.people.stage(TWO, base=1, sleep=sleep)
    fleet.turn()
    assert fleet.paths() == ["/3", "/3"]
    assert fleet.ended() == ("superseded", "the live configuration is revision 2 now, by carol", "gateway")


def test_a_stage_that_is_interrupted_is_withdrawn(fleet: Fleet) -> None:
    def sleep(seconds: float) -> None:
        fleet.turn()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fleet.people.stage(TWO, base=1, sleep=sleep)
    assert fleet.ended() == ("aborted", "KeyboardInterrupt", "bob")


# ---- canaries


def test_a_rule_is_judged_on_what_all_workers_counted(fleet: Fleet) -> None:
    fleet.canary("5xx > 1%")
    assert [worker.gateway.canary is not None for worker in fleet.workers] == [True, True]
    for worker in fleet.workers:
        worker.answer({200: 58, 500: 2}, live={200: 600})  # neither has enough by itself
    fleet.judge()
    fleet.judge()
    assert fleet.ended() == ("aborted", "5xx 3.33% > 1% (4 of 120 requests)", "gateway")
    fleet.turn()
    assert [worker.gateway.canary for worker in fleet.workers] == [None, None]
    assert fleet.paths() == ["/1", "/1"]
    assert fleet.audited() == [("bob", "canary", "done"), ("gateway", "canary abort", "done")]
    last = fleet.people.status().as_data()["last"]
    assert (last["sides"]["candidate"]["requests"], last["sides"]["live"]["requests"], last["share_seen"]) == (120, 1200, 9.091)


def test_what_a_worker_counted_before_it_died_counts(fleet: Fleet) -> None:
    fleet.canary("5xx > 1%")
    fleet.workers[0].answer({500: 99})
    fleet.judge()
    fleet.live.forget("w1")
    del fleet.workers[0]
    fleet.workers[0].answer({200: 1})
    fleet.judge()
    fleet.judge()
    assert fleet.ended() == ("aborted", "5xx 99% > 1% (99 of 100 requests)", "gateway")


def test_a_worker_that_stops_tells_what_it_counted_last(fleet: Fleet) -> None:
    fleet.canary()
    fleet.workers[0].answer({200: 7})
    fleet.workers[0].referee.close()
    candidate = fleet.people.status().candidate
    assert candidate is not None
    assert candidate.counts["candidate:requests"] == 7


@pytest.mark.parametrize("reached", [True, False])
def test_numbers_are_told_once_whatever_becomes_of_an_answer(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, reached: bool) -> None:
    fleet.canary()
    worker = fleet.workers[0]
    worker.answer({200: 5, 500: 1})
    report = worker.candidates.report

    def lost(*arguments: Any) -> None:
        if reached:
            report(*arguments)
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(worker.candidates, "report", lost)
    with pytest.raises(StoreUnavailable):
        worker.referee.step()
    monkeypatch.undo()
    worker.answer({200: 3})
    worker.referee.step()
    worker.referee.step()
    candidate = fleet.people.status().candidate
    assert candidate is not None
    assert candidate.counts["candidate:requests"] == 9
    assert candidate.counts["candidate:5xx"] == 1


def test_it_promotes_itself_when_its_time_has_come_and_all_is_well(fleet: Fleet) -> None:
    fleet.canary("5xx > 1%", promote_after=0.0, min_requests=10)
    fleet.judge()
    assert fleet.people.status().candidate is not None  # without requests nothing is proved
    fleet.workers[0].answer({200: 10})
    built = [worker.gateway.beside for worker in fleet.workers]
    fleet.judge()
    fleet.judge()
    assert fleet.ended() == ("promoted", "after 0s: 5xx 0% (0 of 10 requests)", "gateway")
    assert None not in built
    assert [worker.gateway.snapshot for worker in fleet.workers] == built
    assert fleet.live.history(1)[0].actor == "bob"  # who said that it should
    assert fleet.audited()[-1] == ("gateway", "canary promote", "done")


def test_a_worker_that_refuses_it_ends_it(fleet: Fleet) -> None:
    fleet.canary(data=EXTRA)
    outcome, reason, by = fleet.ended()
    assert (outcome, by) == ("refused", "gateway")
    assert reason.startswith("w2 refuses it: 1 problem")
    fleet.turn()
    assert [worker.gateway.canary for worker in fleet.workers] == [None, None]


def test_people_promote_and_abort(fleet: Fleet) -> None:
    for end in (fleet.people.promote, fleet.people.abort):
        with pytest.raises(CommandFailed, match="there is no canary"):
            end()
    fleet.canary()
    assert fleet.people.abort("smells").reason == "smells"
    fleet.canary()
    assert fleet.people.promote().revision == 2
    fleet.turn()
    assert fleet.paths() == ["/2", "/2"]
    done = ["canary", "canary abort", "canary", "canary promote"]
    assert fleet.audited() == [("bob", action, "done") for action in done]


def test_the_same_again_is_another_share(fleet: Fleet) -> None:
    fleet.canary(share=5.0)
    canaries = [worker.gateway.canary for worker in fleet.workers]
    fleet.canary("5xx > 1%", share=25.0)
    assert [worker.gateway.canary for worker in fleet.workers] == canaries
    assert [canary.share for canary in canaries if canary is not None] == [25.0, 25.0]
    shown = fleet.people.status().as_data()["candidate"]
    assert (shown["share"], shown["rules"]["abort_if"]) == (25.0, ["5xx > 1%"])
    assert [worker["state"] for worker in shown["workers"]] == ["built", "built"]


@pytest.mark.parametrize("share", [0, -1, 100.1])
def test_a_share_is_a_percentage(fleet: Fleet, share: float) -> None:
    with pytest.raises(CommandFailed, match="percent"):
        fleet.canary(share=share)


def test_whoever_changes_the_live_one_ends_it_and_is_named(fleet: Fleet) -> None:
    fleet.canary()
    fleet.client.set("gw:routes", THREE)
    fleet.turn()
    assert fleet.ended() == ("superseded", "the live configuration is revision 2 now, by external", "gateway")
    assert fleet.paths() == ["/3", "/3"]
    assert fleet.audited()[-1] == ("gateway", "canary abort", "done")


def test_a_worker_that_starts_meanwhile_takes_part(fleet: Fleet, client: redis.Redis, tmp_path: Path) -> None:
    fleet.canary()
    late = Worker(client, tmp_path, "w3")
    assert late.gateway.canary is not None
    assert late.gateway.canary.share == 50.0


def test_Q03_with_the_store_away_all_goes_on_as_it_is(fleet: Fleet, server: Server, wait_until: Callable[..., None]) -> None:
    fleet.canary("5xx > 1%")
    worker = fleet.workers[0]
    server.kill()
    worker.answer({500: 100})
    worker.watcher.step()
    with pytest.raises(StoreUnavailable):
        worker.referee.step()
    assert worker.gateway.canary is not None
    server.start()  # with nothing in it: there is no candidate any more
    worker.watcher.step()
    assert worker.gateway.canary is None
    assert worker.path() == "/1"


def test_rules_that_nobody_understands_end_it(fleet: Fleet) -> None:
    fleet.canary()
    fleet.client.hset("gw:candidate", "rules", "[")
    fleet.client.hincrby("gw:candidate", "version", 1)
    fleet.judge()
    assert fleet.ended()[:2] == ("aborted", "the rules of the candidate are none of gwproxy's")
