"""What holds whatever happens while the configuration changes, on real workers of two gateways that share a real Redis."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gwproxy.controlplane.publish import Overtaken, Publisher
from gwproxy.errors import StoreUnavailable
from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.test_workers import children
from tests.e2e.two_gateways import Gateways, Traffic, change_of

pytestmark = pytest.mark.e2e

CHANGES = 1000


@pytest.fixture(scope="module")
def gateways(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, echo: str, start_gateway: Callable[..., GatewayProcess]
) -> Gateways:
    return Gateways(tmp_path_factory.mktemp("people"), redis_server, echo, start_gateway)


def change_it(gateways: Gateways, people: list[Publisher], number: int) -> None:
    """Make a configuration live: every fifth by a bare SET, the others as people do."""
    data = gateways.document(number)
    if number % 5 == 0:
        gateways.client.set("gw:routes", data)
        return
    publisher = people[number % len(people)]
    publisher.commit(publisher.check(data, f"change {number}"))


def test_of_a_thousand_changes_under_traffic_none_is_lost_or_out_of_order_and_no_request_fails(gateways: Gateways) -> None:
    people = [gateways.publisher("ann"), gateways.publisher("bob")]
    numbers = [gateways.next() for _ in range(CHANGES)]
    before = int(gateways.client.get("gw:revision") or 0)
    with Traffic(gateways.each) as traffic:
        traffic.goes_on()
        for number in numbers:
            change_it(gateways, people, number)
        last = before + CHANGES
        people[0].live()  # notes the last one, if that was a bare SET and no worker has yet
        gateways.all_run(last, gateways.document(numbers[-1]))
        traffic.goes_on()
    assert traffic.failures == []
    history = gateways.store.history()[::-1]
    assert [revision.revision for revision in history] == list(range(before + 1, last + 1))
    assert [change_of(revision.configuration) for revision in history] == numbers
    assert [revision.actor == "external" for revision in history] == [number % 5 == 0 for number in numbers]
    assert [revision.at for revision in history] == sorted(revision.at for revision in history)
    noted = [entry for entry in people[0]._audit.entries(CHANGES + 10) if entry.actor == "external"]
    assert [entry.revision for entry in noted] == [revision.revision for revision in history if revision.actor == "external"]
    for served in traffic.served:  # a connection is one worker's
        assert served == sorted(served)
        assert served[-1] == numbers[-1]
        assert len(set(served)) > 20
    applied = gateways.applied()
    assert len(applied) == 4
    for revisions in applied.values():
        assert revisions == sorted(set(revisions))
        assert revisions[-1] == last


def test_of_many_people_at_once_one_wins_and_every_other_is_told_who_changed_what(gateways: Gateways) -> None:
    people = {name: gateways.publisher(name) for name in ("ann", "bob", "cy", "dee", "eve", "flo")}
    prepared = {name: person.check(gateways.document(gateways.next()), name) for name, person in people.items()}
    base = int(gateways.client.get("gw:revision") or 0)

    def commit(name: str) -> int | Overtaken:
        try:
            return people[name].commit(prepared[name]).revision
        except Overtaken as overtaken:
            return overtaken

    with ThreadPoolExecutor(len(people)) as pool:
        ended = dict(zip(people, pool.map(commit, people), strict=True))
    (winner,) = [name for name, end in ended.items() if end == base + 1]
    for name, end in ended.items():
        if name != winner:
            assert isinstance(end, Overtaken)
            assert (end.base, end.revision, end.actor) == (base, base + 1, winner)
            (since,) = end.since
            assert str(since).startswith(f"revision {base + 1} by {winner} at ")
            assert "changed" in since.summary
    gateways.all_run(base + 1, prepared[winner].data)
    entries = [(entry.actor, entry.outcome) for entry in people["ann"]._audit.entries(len(people))]
    assert sorted(entries) == sorted((name, "done" if name == winner else "refused") for name in people)


# ---- Redis fails in the middle of a rollout


def signalled(gateways: Gateways, number: int) -> None:
    assert gateways.server.process is not None
    gateways.server.process.signal(number)


def test_redis_restarted_in_the_middle_of_a_rollout_delays_it(gateways: Gateways) -> None:
    with Traffic(gateways.each[1:]) as traffic, gateways.rollout("--json") as (command, number):
        gateways.client.shutdown(save=True)
        assert gateways.server.process is not None
        gateways.server.process.child.wait(10)
        traffic.goes_on()
        gateways.server.start()
    done = command.ended()
    assert (done["status"], done["outcome"]) == (0, "done"), done
    assert [worker["state"] for worker in done["rollout"]["workers"]] == ["done"] * 4
    gateways.all_run(done["revision"], gateways.document(number))
    assert traffic.failures == []


def test_redis_frozen_in_the_middle_of_a_rollout_is_what_is_told_and_all_run_it_in_the_end(gateways: Gateways) -> None:
    with Traffic(gateways.each[1:]) as traffic, gateways.rollout("--timeout", "8") as (command, number):
        signalled(gateways, signal.SIGSTOP)
        try:
            traffic.goes_on()
            told = command.says("did not answer within")
        finally:
            signalled(gateways, signal.SIGCONT)
        assert "the store cannot be asked: " in told
        assert command.ended()["status"] == 1
    gateways.all_run(gateways.client.get("gw:revision") or "", gateways.document(number))
    again = gateways.apply(number, "--wait", "--json").ended()
    assert (again["status"], again["outcome"], len(again["rollout"]["workers"])) == (0, "unchanged", 4)
    assert traffic.failures == []


def test_redis_frozen_while_a_change_is_written_is_said_to_leave_it_unknown_and_it_is_made_once_at_most(gateways: Gateways) -> None:
    hasty = gateways.publisher("hasty", timeout=1.0)
    number = gateways.next()
    prepared = hasty.check(gateways.document(number), "hasty")
    signalled(gateways, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="whether the change was made is not known"):
            hasty.commit(prepared)
    finally:
        signalled(gateways, signal.SIGCONT)
    until(lambda: gateways.store.read().data == prepared.data, "what was sent to be done")
    assert hasty.check(gateways.document(number), "again").unchanged
    gateways.all_run(prepared.revision + 1, prepared.data)
    assert [revision.actor for revision in gateways.store.history(2)].count("hasty") == 1


def test_redis_emptied_in_the_middle_of_a_rollout_is_told_and_what_ran_is_served_until_the_next_change(gateways: Gateways) -> None:
    with Traffic(gateways.each[1:]) as traffic:
        with gateways.rollout("--rollback-on-failure", "--json") as (command, number):
            gateways.client.flushall()
            done = command.ended()
        assert (done["status"], done["outcome"]) == (1, "overtaken"), done
        assert done["rollout"]["reason"] == f"revision {done['revision']} was removed from the store before all workers ran it"
        until(lambda: [beat["error"] for beat in gateways.beats()] == ["gw:routes is missing or empty"] * 4, "all to say so")
        assert gateways.client.exists("gw:routes", "gw:history") == 0  # nobody puts back what somebody has removed
        traffic.goes_on()
        assert {served[-1] for served in traffic.served} >= {number}
        again = gateways.next()
        anew = gateways.apply(again, "--wait", "--json").ended()
        assert (anew["status"], anew["outcome"], anew["revision"]) == (0, "done", 1), anew
        gateways.all_run(1, gateways.document(again))
        traffic.goes_on()
    assert traffic.failures == []


# ---- clocks, and what dies


@pytest.fixture
def ahead(gateways: Gateways, start_gateway: Callable[..., GatewayProcess]) -> Iterator[GatewayProcess]:
    """A third gateway, whose machine's clock is an hour ahead."""
    gateway = start_gateway(GWPROXY_REDIS_URL=gateways.server.url, **shifted("+1h"))
    until(lambda: len(gateways.beats()) == 6, "six workers")
    yield gateway
    gateway.process.stop()
    until(lambda: len(gateways.beats()) == 4, "four workers")


def shifted(by: str) -> dict[str, str]:
    """The environment of a process whose clock is off; not the one that only measures."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1", "FAKE_UTIME": "0"}


def store_time(gateways: Gateways) -> str:
    seconds, microseconds = gateways.client.time()  # type: ignore[misc]
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds).isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_clocks_that_are_off_change_neither_the_rollout_nor_what_is_recorded(gateways: Gateways, ahead: GatewayProcess) -> None:
    began = store_time(gateways)
    done = gateways.apply(gateways.next(), "--wait", "--json").ended()
    assert (done["status"], done["outcome"]) == (0, "done"), done
    assert [worker["state"] for worker in done["rollout"]["workers"]] == ["done"] * 6
    done = gateways.apply(gateways.next(), "--json", actor="tomorrow", env=shifted("+1d")).ended()
    assert (done["status"], done["outcome"]) == (0, "done"), done
    number = gateways.next()
    with gateways.hanging():  # so that one with the wrong clock notes it
        gateways.client.set("gw:routes", gateways.document(number))
        until(lambda: int(gateways.client.get("gw:revision") or 0) == done["revision"] + 1, "it to be noted")
    gateways.all_run(done["revision"] + 1, gateways.document(number), workers=6)
    ended = store_time(gateways)
    ours = gateways.store.history(2)
    assert [revision.actor for revision in ours] == ["external", "tomorrow"]
    entry, noted = gateways.publisher("ann")._audit.entries(2)
    assert (entry.actor, noted.actor, noted.at) == ("tomorrow", "external", ours[0].at)
    assert began < ours[1].at < ours[0].at < ended
    assert began < entry.at < ended
    wrong = [beat for beat in gateways.beats() if beat["applied_at"] > ended]
    assert {int(beat["pid"]) for beat in wrong} == children(ahead)  # their clock is off indeed


def killed(gateway: GatewayProcess) -> set[int]:
    """Kill a gateway as a machine's loss of power does; return its workers."""
    lost = children(gateway)
    for pid in (gateway.process.child.pid, *lost):
        os.kill(pid, signal.SIGKILL)
    gateway.process.child.wait()
    return lost


def heartbeats_last(gateways: Gateways, lost: set[int], milliseconds: int) -> None:
    """Have the heartbeats of dead workers last for so long, instead of for the rest of ten seconds."""
    for key in gateways.client.scan_iter("gw:worker:*"):
        if int(gateways.client.hget(key, "pid") or 0) in lost:
            gateways.client.pexpire(key, milliseconds)


def again(gateways: Gateways, start_gateway: Callable[..., GatewayProcess]) -> GatewayProcess:
    """Start the first gateway again, with the state it had."""
    state = Path(gateways.each[0].env["GWPROXY_STATE_DIR"])
    gateways.each[0] = start_gateway(state.parent, GWPROXY_REDIS_URL=gateways.server.url).ready()
    return gateways.each[0]


def test_a_gateway_killed_in_the_middle_of_a_rollout_and_started_again_is_followed_to_its_new_workers(
    gateways: Gateways, start_gateway: Callable[..., GatewayProcess]
) -> None:
    dying, staying = gateways.each
    with Traffic([staying]) as traffic, gateways.rollout("--json", "--timeout", "55", of=dying) as (command, number):
        lost = killed(dying)  # the first of them hangs and has not acknowledged; the other one had
        heartbeats_last(gateways, lost, 100_000)  # however long it takes to start: who comes later cannot know of them
        new = again(gateways, start_gateway)
        done = command.ended()
    assert (done["status"], done["outcome"]) == (0, "done"), done
    states = {worker["pid"]: worker["state"] for worker in done["rollout"]["workers"]}
    assert states.keys() >= {min(lost)} | children(staying)
    assert states.pop(min(lost)) == "gone"
    assert {states[pid] for pid in children(staying)} == {"done"}
    assert {state for pid, state in states.items() if pid in children(new)} == {"done"}
    assert traffic.failures == []
    gateways.all_run(done["revision"], gateways.document(number))


def test_a_gateway_lost_in_the_middle_of_a_rollout_is_named_and_catches_up_when_it_is_back(
    gateways: Gateways, start_gateway: Callable[..., GatewayProcess]
) -> None:
    dying, staying = gateways.each
    with Traffic([staying]) as traffic, gateways.rollout("--json", "--timeout", "4", of=dying) as (command, number):
        lost = killed(dying)
        heartbeats_last(gateways, lost, 1)
        done = command.ended()
    assert (done["status"], done["outcome"]) == (1, "late"), done
    states = {worker["pid"]: worker["state"] for worker in done["rollout"]["workers"]}
    assert states.keys() == lost | children(staying)
    assert states[min(lost)] == "waiting"  # the other one had acknowledged; whether the command had looked by then is left open
    assert {states[pid] for pid in children(staying)} == {"done"}
    assert f"/{min(lost)} did not answer within 4." in done["rollout"]["reason"]
    assert "or its machine is down: see to it" in done["rollout"]["reason"]
    assert traffic.failures == []
    again(gateways, start_gateway)
    gateways.all_run(done["revision"], gateways.document(number))
