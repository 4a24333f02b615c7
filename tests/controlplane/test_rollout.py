from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from gwproxy.controlplane.rollout import ADVICE, Rollout, Standing
from gwproxy.controlplane.roster import Worker
from gwproxy.store.configuration import ConfigurationStore, Published
from tests.conftest import until as wait_until

OLD, NEW, THEIRS = b'["old"]', b'["new"]', b'["theirs"]'


class Fleet:
    """Workers under the test's control, and a clock that moves with each look.

    :ivar looks_for_others: whether so much that each look is for other workers, too.
    """

    looks_for_others = True

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.store = ConfigurationStore(client)
        self.store.publish(OLD, actor="before")
        self.now = 100.0
        self.told: list[Standing] = []

    def beat(self, pid: int, runs: Published | None = None, state: str = "ready", error: str = "", **fields: str) -> None:
        held = {"host": "one", "pid": str(pid), "state": state, "error": error, **fields}
        if runs is not None:
            held |= {"revision": str(runs.revision), "digest": runs.digest}
        self.store.heartbeat(f"w{pid}", held)

    def follow(self, published: Published, *steps: Callable[[], object], timeout: float = 5.0, known: Sequence[Worker] = ()) -> Standing:
        """Follow a revision; one step is taken between two looks."""
        pending = list(steps)

        def sleep(_: float) -> None:
            self.now += 0.6 if self.looks_for_others else 0.01
            if pending:
                pending.pop(0)()

        rollout = Rollout(self.store, published, timeout=timeout, known=known, clock=lambda: self.now, sleep=sleep)
        return rollout.follow(self.told.append)


@pytest.fixture
def fleet(client: redis.Redis) -> Fleet:
    return Fleet(client)


@pytest.fixture
def old(fleet: Fleet) -> Published:
    return Published(1, fleet.store.history()[0].digest)


def states(standing: Standing) -> dict[str, str]:
    return {worker.pid: worker.state for worker in standing.workers}


def test_it_is_done_when_every_worker_runs_it(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    fleet.beat(2, old)
    new = fleet.store.publish(NEW, actor="me")
    ended = fleet.follow(new, lambda: fleet.beat(1, new, build_ms="3.2"), lambda: fleet.beat(2, new))
    assert (ended.outcome, ended.reason(), states(ended)) == ("done", "", {"1": "done", "2": "done"})
    assert [worker.build_ms for worker in ended.workers] == [3.2, None]
    assert [standing.count("done") for standing in fleet.told] == [0, 1, 2]
    assert ended.seconds == pytest.approx(1.2)


def test_a_worker_that_refuses_it_ends_it_once_the_others_have_answered(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    fleet.beat(2, old)
    new = fleet.store.publish(NEW, actor="me")
    ended = fleet.follow(new, lambda: fleet.beat(2, old, "refused", "GW_X is not set", refused=new.digest), lambda: fleet.beat(1, new))
    assert (ended.outcome, states(ended)) == ("refused", {"1": "done", "2": "refused"})
    assert ended.reason() == "one/2 refuses it: GW_X is not set"
    assert fleet.told[-1].count("refused") == 1


def test_a_refusal_from_before_is_about_another_configuration(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old, "refused", "GW_X is not set", refused="another digest")
    new = fleet.store.publish(NEW, actor="me")
    assert fleet.follow(new, lambda: None, lambda: fleet.beat(1, new)).outcome == "done"
    fleet.beat(1, old, "refused", "GW_X is not set", refused="another digest")
    ended = fleet.follow(new)
    assert ended.outcome == "late"
    assert ended.reason().startswith("one/1 did not answer within ")
    assert ended.reason().endswith(": GW_X is not set")
    fleet.beat(1, old, "refused", "GW_X is not set", refused=new.digest)  # the same reason, of this one
    assert fleet.follow(new).outcome == "refused"


def test_a_worker_that_does_not_answer_is_named(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    new = fleet.store.publish(NEW, actor="me")
    fleet.beat(2, new)
    ended = fleet.follow(new, timeout=2.0)
    assert (ended.outcome, states(ended)) == ("late", {"1": "waiting", "2": "done"})
    assert ended.reason() == "one/1 did not answer within 2.4 s"


def test_workers_that_come_are_waited_for_and_those_that_go_are_not(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    fleet.beat(2, old)
    fleet.beat(3, old)
    new = fleet.store.publish(NEW, actor="me")

    def changes() -> None:
        fleet.store.forget("w1")  # its successor has found it dead
        fleet.beat(2, old, "draining")
        fleet.beat(4, None, "starting")

    ended = fleet.follow(new, changes, lambda: fleet.beat(3, new), lambda: fleet.beat(4, new))
    assert (ended.outcome, states(ended)) == ("done", {"1": "gone", "2": "gone", "3": "done", "4": "done"})
    assert [worker.pid for worker in ended.workers] == ["3", "4", "1", "2"]
    assert ended.live == 2


SILENT = [  # what it had said before its heartbeat expired, and what becomes of it
    pytest.param(lambda fleet, old, new: fleet.beat(1, old), "late", "waiting", "silent for 10 s", id="nothing"),
    pytest.param(lambda fleet, old, new: fleet.beat(1, new), "done", "gone", "silent for 10 s, after it ran it", id="ran-it"),
    pytest.param(lambda fleet, old, new: fleet.beat(1, old, "draining"), "done", "gone", "has stopped", id="was-about-to-stop"),
    pytest.param(
        lambda fleet, old, new: fleet.beat(1, old, "refused", "no GW_X", refused=new.digest),
        "refused",
        "refused",
        "no GW_X",
        id="refused-it",
    ),
]


@pytest.mark.parametrize(("says", "outcome", "state", "reason"), SILENT)
def test_a_worker_that_falls_silent_is_late_unless_it_has_answered(
    fleet: Fleet, old: Published, says: Callable[..., None], outcome: str, state: str, reason: str
) -> None:
    fleet.beat(1, old)
    fleet.beat(2, old)
    new = fleet.store.publish(NEW, actor="me")

    def expire() -> None:
        fleet.client.pexpire("gw:worker:w1", 1)
        wait_until(lambda: not fleet.client.exists("gw:worker:w1"))

    ended = fleet.follow(new, lambda: says(fleet, old, new), expire, lambda: fleet.beat(2, new))
    assert (ended.outcome, states(ended)) == (outcome, {"1": state, "2": "done"})
    assert {worker.pid: worker.reason for worker in ended.workers}["1"] == reason
    assert ended.reason().endswith(ADVICE) == (outcome == "late")


def test_a_silent_worker_is_waited_for_until_it_speaks_or_is_found_dead(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    fleet.beat(2, old)
    new = fleet.store.publish(NEW, actor="me")
    fleet.client.delete("gw:worker:w1", "gw:worker:w2")
    known = [{"id": worker, "host": "one", "pid": worker[1:]} for worker in ("w1", "w2")]
    ended = fleet.follow(new, lambda: None, lambda: fleet.beat(1, new), lambda: fleet.store.forget("w2"), known=known)
    assert (ended.outcome, states(ended)) == ("done", {"1": "done", "2": "gone"})
    assert states(fleet.told[0]) == {"1": "waiting", "2": "waiting"}
    assert fleet.follow(new, known=known, timeout=1).outcome == "done"


def test_who_takes_the_place_of_one_that_stopped_is_waited_for(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    new = fleet.store.publish(NEW, actor="me")
    fleet.looks_for_others = False
    ended = fleet.follow(new, lambda: fleet.beat(2, None, "starting"), lambda: fleet.store.forget("w1"), lambda: fleet.beat(2, new))
    assert (ended.outcome, states(ended)) == ("done", {"1": "gone", "2": "done"})


def test_without_workers_it_waits_for_one_to_come(fleet: Fleet) -> None:
    new = fleet.store.publish(NEW, actor="me")
    assert fleet.follow(new, lambda: None, lambda: fleet.beat(1, new)).outcome == "done"
    fleet.store.forget("w1")
    ended = fleet.follow(new, timeout=2.0)
    assert (ended.outcome, ended.reason()) == ("nobody", "no worker is live, after 2.4 s")


@pytest.mark.parametrize("how", ["publish", "set"])
def test_what_came_after_is_told(fleet: Fleet, old: Published, how: str) -> None:
    fleet.beat(1, old)
    new = fleet.store.publish(NEW, actor="me")
    theirs = {
        "publish": lambda: fleet.store.publish(THEIRS, actor="bob"),
        "set": lambda: fleet.client.set("gw:routes", THEIRS),
    }
    ended = fleet.follow(new, lambda: None, theirs[how])
    assert ended.outcome == "overtaken"
    by = {"publish": "bob", "set": "external"}[how]
    assert ended.by is not None
    assert (ended.by.revision, ended.by.actor) == (3, by)
    assert ended.reason().startswith(f"revision 2 was replaced by revision 3 by {by}")
    assert ended.as_data()["by"] == {"revision": 3, "actor": by, "at": ended.by.at}


def test_a_configuration_that_was_removed_is_told(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    new = fleet.store.publish(NEW, actor="me")
    ended = fleet.follow(new, lambda: fleet.client.delete("gw:routes"))
    assert (ended.outcome, ended.by) == ("overtaken", None)
    assert "removed" in ended.reason()


def test_of_an_emptied_store_it_does_not_conclude_that_those_who_have_spoken_since_are_all(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    fleet.beat(2, old)
    new = fleet.store.publish(NEW, actor="me")

    def emptied() -> None:
        fleet.client.flushall()
        fleet.beat(1, new)

    assert fleet.follow(new, emptied).outcome == "overtaken"


def test_the_same_content_again_is_no_replacement(fleet: Fleet, old: Published) -> None:
    fleet.beat(1, old)
    new = fleet.store.publish(NEW, actor="me")
    ended = fleet.follow(new, lambda: fleet.store.publish(NEW, actor="bob"), lambda: fleet.beat(1, new))
    assert ended.outcome == "done"


def test_a_store_that_is_away_for_a_while_is_waited_for(fleet: Fleet, old: Published, server: Any) -> None:
    fleet.beat(1, old)
    new = fleet.store.publish(NEW, actor="me")
    data = fleet.client.dump("gw:routes")

    def away() -> None:
        fleet.client.delete("gw:routes")
        fleet.client.rpush("gw:routes", "of a wrong type")  # any error will do

    def back() -> None:
        fleet.client.delete("gw:routes")
        fleet.client.restore("gw:routes", 0, data)

    assert fleet.follow(new, away, lambda: None, back, lambda: fleet.beat(1, new)).outcome == "done"
    fleet.beat(1, old)
    ended = fleet.follow(new, away, timeout=3.0)
    assert ended.outcome == "late"
    assert "the store cannot be asked: " in ended.reason()


def test_heartbeats_of_strangers_do_no_harm(fleet: Fleet) -> None:
    new = fleet.store.publish(NEW, actor="me")
    fleet.client.hset("gw:worker:odd", mapping={"revision": "x", "build_ms": "nan", "pid": "?"})
    ended = fleet.follow(new, timeout=1.0)
    (worker,) = ended.workers
    assert (ended.outcome, worker.state, worker.revision, worker.build_ms) == ("late", "waiting", 0, None)
    assert ended.as_data()["workers"][0]["pid"] is None
