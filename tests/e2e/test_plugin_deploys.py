"""Plugins pushed to two gateways of two workers, under traffic: what is promised of it, and what becomes of bad ones."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import pytest

from gwproxy.cli import main
from gwproxy.controlplane import candidates
from gwproxy.controlplane.candidates import NotStaged
from gwproxy.controlplane.rules import Rules
from gwproxy.dataplane.canary import Canary
from gwproxy.errors import StoreUnavailable, WheelRefused
from gwproxy.store.configuration import digest_of
from gwproxy.wheels.deployment import Pinned
from gwproxy.wheels.minisign import SecretKey, sign
from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.pushing import InThread, Pushing, seen, tag
from tests.e2e.raw import RawClient, head
from tests.e2e.two_gateways import Traffic

pytestmark = pytest.mark.e2e


class Durable(RedisServer):
    """One that has everything again when it is started again."""

    def start(self, *options: str) -> None:
        super().start("--appendonly", "yes", *options)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = Durable(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def started(
    redis_server: RedisServer, echo: str, start_gateway: Callable[..., GatewayProcess], tmp_path_factory: pytest.TempPathFactory
) -> Pushing:
    """Pushed before there was any configuration, which then uses it."""
    pushing = Pushing(tmp_path_factory.mktemp("pushing"), redis_server, echo, start_gateway)
    pushing.push("1.0")
    pushing.client.set("gw:routes", pushing.routes)
    until(lambda: {beat["digest"] for beat in pushing.beats()} == {digest_of(pushing.routes.encode())}, "all to have the routes")
    return pushing


@pytest.fixture
def pushing(started: Pushing) -> Pushing:
    started.back_to("1.0")
    return started


_numbers = itertools.count(1)


def fresh() -> str:
    """A version that was never there."""
    return f"2.{next(_numbers)}"


def in_order(served: list[str], told: list[str]) -> bool:
    """Whether one worker has served by what it was told to run, and by nothing else, in that order."""
    rest = iter(told)
    return all(version in rest for version, _ in groupby(served))


def built(pushing: Pushing) -> int:
    """How many workers have built the candidate."""
    return sum(json.loads(beat["candidate"]).get("state") == "built" for beat in pushing.beats())


# ---- good ones


def test_fifty_pushes_and_rollbacks_in_a_row_fail_no_request_and_no_worker_strays(pushing: Pushing) -> None:
    told = ["1.0"]
    with Traffic(pushing.each, seen) as traffic:
        traffic.goes_on()
        for number in range(50):
            planned = pushing.people.rollback("tag") if number % 3 == 2 else pushing.plan(tag(fresh()))
            pushing.make(planned)
            told.append(planned.change.version)
            assert pushing.running() == {planned.after.digest}
            if number % 10 == 0:
                traffic.goes_on()
        traffic.goes_on()
    assert traffic.failures == []
    assert [served for served in traffic.served if not in_order(served, told)] == []
    assert {served[-1] for served in traffic.served} == {told[-1]}
    assert len(set().union(*traffic.served)) > 20  # the clients have seen it happen
    actions = [past.change.action for past in pushing.people.store.history(50)]
    assert (actions.count("push"), actions.count("rollback")) == (34, 16)


def test_a_request_in_flight_ends_by_the_version_that_it_began_with(pushing: Pushing) -> None:
    version = fresh()
    with RawClient(pushing.each[0].port) as slow:
        slow.send(head("/asked?wait=1.5"))
        time.sleep(0.3)  # so that it has come as far as the service
        pushing.push(version)
        assert pushing.served() == {version}
        answer = slow.answer()
    assert (answer.status, seen(answer)) == (200, "1.0")


def test_a_worker_killed_in_the_middle_has_a_successor_that_runs_the_new_version(pushing: Pushing) -> None:
    version, victim, hangs = fresh(), pushing.each[0].worker_pids()[0], pushing.each[1].worker_pids()[0]
    planned = pushing.plan(tag(version))
    with Traffic(pushing.each[1:], seen) as traffic:
        with pushing.hanging(hangs):
            push = InThread(pushing.make, planned)
            until(lambda: built(pushing) == 3, "three to have built it")
            os.kill(victim, signal.SIGKILL)
        assert not isinstance(push.ended(), Exception), push.ended()
        pushing.all_run(version)
    assert traffic.failures == []
    assert victim not in pushing.pids()
    assert [served for served in traffic.served if not in_order(served, ["1.0", version])] == []


def test_redis_away_in_the_middle_leaves_all_on_what_was_live(pushing: Pushing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "LEASE", 1.0)  # seconds after which a push that nobody follows any more ends by itself
    version, people = fresh(), pushing.deployer("bob", timeout=0.5)
    planned = pushing.plan(tag(version), people=people)
    with Traffic(pushing.each, seen) as traffic:
        with pushing.hanging(pushing.pids()[0]):
            push = InThread(people.stage, planned)
            until(lambda: built(pushing) == 3, "three to have built it")
            with pushing.away():
                assert isinstance(push.ended(), StoreUnavailable)
                served = [len(served) for served in traffic.served]
                until(lambda: sum(len(s) > n + 5 for s, n in zip(traffic.served, served, strict=True)) >= 4, "requests to be served")
        until(lambda: pushing.people.candidates.status().candidate is None, "the push to end")
        pushing.all_run("1.0")
        pushing.make(pushing.plan(tag(version)))
        pushing.all_run(version)
    assert traffic.failures == []
    assert [served for served in traffic.served if not in_order(served, ["1.0", version])] == []


def test_who_starts_while_redis_is_away_has_the_same_version(pushing: Pushing) -> None:
    version = fresh()
    pushing.push(version)
    revision = pushing.people.store.live().revision
    pushing.server.stop()
    try:
        victim = pushing.each[0].worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        pushing.each[1].process.stop()
        pushing.each[1] = pushing.start(1).ready()
        until(lambda: victim not in pushing.pids() and len(pushing.pids()) == 4, "a successor")
        pushing.each[0].ready()
        assert pushing.served() == {version}
    finally:
        pushing.server.start()
    pushing.all_run(version)
    assert pushing.people.store.live().revision == revision


# ---- bad ones

STRANGER = SecretKey.generate()
HOOK = "from gwproxy import Plugin, hookimpl\nclass Tag(Plugin):\n    name = 'tag'\n    @hookimpl\n    def {}: ...\n"

#: What is wrong; the wheel; who has signed what, if not the right key this wheel; what is said of it.
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("a bad signature", {}, "of another wheel", "signature"),
    ("an unknown key", {}, "by a stranger", str(STRANGER.public.id)),
    ("compiled code", {"files": {"fast.cpython-311-x86_64-linux-gnu.so": b"\x7fELF"}}, "", r"fast\.cpython\S*\.so"),
    ("a dependency that is missing", {"requires": ["no-such-thing>=2", "redis>=2"]}, "", "no-such-thing"),
    ("a dependency of another version", {"requires": ["redis>=99"]}, "", "redis"),
    ("does not import", {"preamble": "raise RuntimeError('no luck')"}, "", "RuntimeError: no luck"),
    ("exits when imported", {"preamble": "raise SystemExit(3)"}, "", "SystemExit: 3"),
    ("a hook that there is none", {"files": {"tag.py": HOOK.format("preauth(self, ctx)")}}, "", "preauth"),
    ("a hook with other arguments", {"files": {"tag.py": HOOK.format("pre_auth(self, nonsense)")}}, "", "nonsense"),
    (
        "a model that refuses a live route",
        {"config": "limit: int"},
        "",
        r"routes\[0\]\.plugins\[0\]\.config: .* 'limit', which",
    ),
]
#: Of these the command is asked as well. It tries others in the same way (tests/cli/test_plugins_push.py), or leaves them to the workers.
BY_COMMAND = ("a bad signature", "an unknown key", "compiled code", "does not import", "a model that refuses a live route")


@pytest.mark.parametrize(("name", "made", "signed", "said"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_is_bad_is_refused_with_its_reason_and_the_fleet_untouched(
    pushing: Pushing,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    made: dict[str, Any],
    signed: str,
    said: str,
) -> None:
    before, version = pushing.people.store.live(), fresh()
    wheel = tag(version, **made)
    signatures = {"of another wheel": sign(tag("9.9"), pushing.key, "tag 9.9"), "by a stranger": sign(wheel, STRANGER, "tag")}
    signature = signatures.get(signed, sign(wheel, pushing.key, "tag"))
    # By workers, whoever has put it there and whatever he has checked.
    pushing.people.store.put_wheel(wheel, signature, distribution="tag", version=version, actor="mallory")
    planned = pushing.people.push(Pinned("tag", version, digest_of(wheel), ("tag",)))
    with pytest.raises(NotStaged, match=rf"\S+/\d+ refuses it: [^;]*{said}") as refused:
        pushing.people.stage(planned)
    assert {worker.state for worker in refused.value.workers} <= {"refused", "building", "waiting"}
    assert {worker.pid for worker in refused.value.workers} == {str(pid) for pid in pushing.pids()}
    if name in BY_COMMAND:
        for variable, value in {**pushing.env, "GWPROXY_ACTOR": "ann"}.items():
            monkeypatch.setenv(variable, value)
        assert main(["plugins", "push", str(pushing.file(wheel, signature))]) == 1
        told = capsys.readouterr().err
        assert re.search(said, told), told
        assert "error: nothing was changed: " in told
        assert "staged" not in told  # no worker was asked
        newest = pushing.people.audit.entries(1)[0]
        assert (newest.actor, newest.action, newest.outcome) == ("ann", "plugins push", "refused")
    assert pushing.people.store.live() == before
    assert pushing.running() == {before.digest}
    assert pushing.served() == {"1.0"}


#: What the hook does; how many requests it takes; by which rule.
BAD: list[tuple[str, str, int, str]] = [
    ("crashes in a hook", "raise RuntimeError('no luck')", 120, "errors 100% > 0.5% (1"),
    ("crashes where that is ignored", "raise RuntimeError('no luck')", 120, "errors 100% > 0.5% (1"),
    ("crashes after 1,000 requests", "if self.calls > 1000: raise RuntimeError('worn out')", 1100, "errors "),
    ("blocks for 5 s", "end = time.monotonic() + 5\n        while time.monotonic() < end: pass", 3, "errors 100% > 0.5%"),
    ("is slow", "time.sleep(0.4)", 3, "p99 "),
]
RULES = "errors > 0.5% or p99 > +300 ms"


def clients(pushing: Pushing) -> tuple[str, str]:
    """Two addresses: of a client that the canary serves, and of one that it does not."""
    running = pushing.people.candidates.running()
    decides = Canary(running.id, None, running.share)  # type: ignore[arg-type]
    sides = {decides.serves(address): address for address in (f"203.0.113.{number}" for number in range(100))}
    return sides[True], sides[False]


@pytest.mark.parametrize(("name", "body", "requests", "rule"), BAD, ids=[row[0] for row in BAD])
def test_a_canary_that_does_harm_is_taken_back_by_itself_and_says_why(
    pushing: Pushing, name: str, body: str, requests: int, rule: str
) -> None:
    version, before = fresh(), pushing.people.store.live()
    hook = "response" if name == "crashes where that is ignored" else "pre_proxy"
    rules = Rules.of([RULES], promote_after=600.0, min_requests=min(requests, 100))
    begun = pushing.people.canary(pushing.plan(tag(version, body=body, hook=hook)), share=50.0, rules=rules)
    pushing.people.candidates.confirm(begun)
    tried, spared = clients(pushing)
    port = pushing.each[0].port
    with RawClient(port, timeout=40) as one, RawClient(port, timeout=40) as other:
        for number in range(requests):
            answer = one.ask("/asked", f"X-Forwarded-For: {tried}")
            assert seen(answer) in (version, "1.0")  # of one worker, until it is taken back
            if number % 50 == 0 or requests < 50:
                untouched = other.ask("/asked", f"X-Forwarded-For: {spared}")
                assert (untouched.status, seen(untouched)) == (200, "1.0")
    until(lambda: pushing.people.candidates.status().candidate is None, "its end")
    ended = pushing.people.candidates.status().as_data()["last"]
    assert (ended["id"], ended["outcome"], ended["by"]) == (begun.id, "aborted", "gateway")
    assert ended["reason"].startswith(rule)
    assert ended["sides"]["live"]["errors"] == 0
    if hook == "response":
        assert ended["sides"]["candidate"]["5xx"] == 0
    until(lambda: pushing.people.audit.entries(1)[0].actor == "gateway", "the worker's note of it: it comes after the end")
    newest = pushing.people.audit.entries(1)[0]
    assert (newest.action, newest.detail) == ("plugins canary abort", f"aborted: {ended['reason']}")
    assert pushing.people.store.live() == before
    pushing.all_run("1.0")


def test_a_canary_that_does_well_is_promoted_by_itself_and_says_why(pushing: Pushing) -> None:
    version = fresh()
    options = ("--canary", "50%", "--abort-if", RULES, "--for", "1s", "--min-requests", "20", "--comment", "guests too", "--wait", "--json")
    push = InThread(pushing.command, "push", pushing.file(tag(version)), *options)
    until(lambda: sum('"share"' in beat["candidate"] for beat in pushing.beats()) == 4 or not push.goes_on(), "all to serve the canary")
    tried, spared = clients(pushing)
    with RawClient(pushing.each[0].port) as one, RawClient(pushing.each[1].port) as other:
        for _ in range(30):
            assert seen(one.ask("/asked", f"X-Forwarded-For: {tried}")) == version
            assert seen(other.ask("/asked", f"X-Forwarded-For: {spared}")) in ("1.0", version)
    done = push.ended()
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"]) == (0, "promoted")
    assert re.match(r"after 1s: 5xx 0% \(0 of \d+ requests\), live 0% \(0 of \d+\); p99 \S+, live \S+", told["reason"])
    assert {(row["plugin"], row["phase"]) for row in told["plugins"]} <= {("tag", "pre_proxy")}
    newest = pushing.people.store.history(1)[0]
    assert (newest.revision, newest.actor, newest.comment) == (told["revision"], "ann", "guests too")
    pushing.all_run(version)


def test_what_crashes_for_all_is_gone_back_from_at_once(pushing: Pushing) -> None:
    pushing.push(fresh(), body="raise RuntimeError('no luck')")
    assert {gateway.get("/asked").status_code for gateway in pushing.each} == {500}
    began = time.monotonic()
    done = pushing.command("rollback", "tag", "--comment", "crashes", "--json")
    took = time.monotonic() - began
    told = json.loads(done.stdout)
    assert (done.returncode, told["outcome"], [worker["state"] for worker in told["rollout"]["workers"]]) == (0, "done", ["done"] * 4)
    assert told["rollout"]["seconds"] < 2 < took + 2
    pushing.all_run("1.0")


# ---- the commands


def test_what_is_deployed_is_listed_and_what_is_used_cannot_be_removed(pushing: Pushing) -> None:
    listed = pushing.command("list").stdout
    assert re.search(r"^tag +1\.0 .* pushed +4 of 4$", listed, re.MULTILINE)
    assert "all 4 workers run it" in listed
    with pytest.raises(NotStaged, match=r"\S+/\d+ refuses it: .*'tag'"):
        pushing.people.stage(pushing.people.remove("tag"))
    pushing.all_run("1.0")


def test_what_is_revoked_is_out_at_once_and_cannot_be_pushed_again(pushing: Pushing) -> None:
    version = fresh()
    pushing.push(version)
    revoked = pushing.command("revoke", f"tag=={version}", "--reason", "logs passwords")
    assert revoked.returncode == 0, revoked.stderr
    assert {gateway.get("/asked").status_code for gateway in pushing.each for _ in range(4)} == {503}
    with pytest.raises(WheelRefused, match=f"tag {version} was revoked by ann at .*: logs passwords"):
        pushing.plan(tag(version))
    planned = pushing.plan(tag(fresh()))
    pushing.make(planned)
    pushing.all_run(planned.change.version)
    assert [entry.action for entry in pushing.people.audit.entries(3)] == ["plugins push", "plugins revoke", "plugins push"]


def test_nothing_is_loaded_where_no_keys_are_known(
    pushing: Pushing, start_gateway: Callable[..., GatewayProcess], tmp_path_factory: pytest.TempPathFactory
) -> None:
    third = start_gateway(tmp_path_factory.mktemp("third"), workers=1, GWPROXY_REDIS_URL=pushing.server.url)
    try:
        until(lambda: len(pushing.beats()) == 5, "a fifth worker")
        (pid,) = third.worker_pids()
        until(lambda: next(beat for beat in pushing.beats() if beat["pid"] == str(pid))["deployment_error"], "it to say so")
        with pytest.raises(NotStaged, match=rf"/{pid} refuses it: .*GWPROXY_PLUGIN_KEYS"):
            pushing.people.stage(pushing.plan(tag(fresh())))
        assert third.get("/asked").status_code == 503
    finally:
        third.process.stop()
    pushing.all_run("1.0")
