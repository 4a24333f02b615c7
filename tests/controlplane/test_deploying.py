"""Changes of the pushed plugins, with a real store and workers that say what the test wants."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from gwproxy.controlplane.candidates import Candidates, NotStaged
from gwproxy.controlplane.deploying import Bad, Deployer, DeploymentRollout, Planned
from gwproxy.controlplane.rules import Rules
from gwproxy.errors import CommandFailed, WheelRefused
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import CandidateGone, CandidateStore
from gwproxy.store.configuration import ConfigurationStore, Published
from gwproxy.store.deployments import DeploymentConflict, DeploymentStore
from gwproxy.wheels.deployment import Deployment, Pinned


class Fleet:
    """Two workers that build each candidate, and run what is deployed, as soon as they see it.

    :ivar refusing: what they refuse, by version.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.store, self.live = DeploymentStore(client), ConfigurationStore(client)
        self.candidates, self.audit = CandidateStore(client), AuditLog(client)
        self.live.publish(b"[]", actor="ann")
        people = Candidates(self.candidates, self.live, self.audit, "ann")
        self.deployer = Deployer(self.store, people, self.live, self.audit, "ann")
        self.refusing = ""
        self.fields: dict[str, str] = {}
        self.report()

    def report(self) -> None:
        candidate, live = self.candidates.read(), self.store.live()
        said: dict[str, Any] = {}
        if candidate is not None:
            bad = self.refusing and self.refusing.encode() in candidate.deployment
            said = {"id": candidate.id, "state": "refused" if bad else "built", "error": "it does not import" if bad else ""}
        for pid in ("1", "2"):
            beat = {"host": "gw", "pid": pid, "state": "ready", "deployment": live.digest, "candidate": json.dumps(said), **self.fields}
            self.live.heartbeat(f"w{pid}", {name: value for name, value in beat.items() if value != "absent"})

    def wheel(self, version: str, distribution: str = "tenant", plugin: str = "tenant") -> Pinned:
        data = f"{distribution} {version}".encode()
        self.store.put_wheel(data, "signed", distribution=distribution, version=version, actor="ann")
        return Pinned(distribution, version, hashlib.sha256(data).hexdigest(), (plugin,))

    def push(self, version: str, distribution: str = "tenant", plugin: str = "tenant") -> Published:
        return self.deployer.stage(self.deployer.push(self.wheel(version, distribution, plugin)))

    def make(self, planned: Planned) -> Published:
        return self.deployer.stage(planned)

    def deployed(self) -> list[str]:
        return list(map(str, self.deployer.live()[1]))

    def audited(self) -> tuple[str, str, str, int | None]:
        newest = self.audit.entries(1)[0]
        return newest.action, newest.outcome, newest.detail, newest.revision

    def bad(self, wheel: Pinned) -> Bad:
        return Bad(wheel.sha256, str(wheel), lambda pinned: pinned.sha256 == wheel.sha256)


@pytest.fixture
def fleet(client: redis.Redis) -> Iterator[Fleet]:
    fleet, closed = Fleet(client), threading.Event()

    def run() -> None:
        while not closed.wait(0.02):
            fleet.report()

    thread = threading.Thread(target=run)
    thread.start()
    yield fleet
    closed.set()
    thread.join(10)


def test_what_all_workers_have_built_is_live(fleet: Fleet) -> None:
    planned = fleet.deployer.push(fleet.wheel("1.0"))
    assert (planned.summary(), planned.unchanged) == ("tenant none -> 1.0", False)
    published = fleet.deployer.stage(planned, comment="a first one")
    assert (published.revision, published.digest) == (1, planned.after.digest)
    assert fleet.deployed() == ["tenant 1.0"]
    assert fleet.audited() == ("plugins push", "done", "staged: tenant none -> 1.0", 1)
    newest = fleet.store.history(1)[0]
    assert (newest.change.action, newest.actor, newest.comment) == ("push", "ann", "a first one")
    assert fleet.deployer.push(fleet.wheel("1.0")).unchanged
    assert DeploymentRollout(fleet.live, published, fleet.store, timeout=20).follow().outcome == "done"


def test_what_one_refuses_changes_nothing(fleet: Fleet) -> None:
    before = fleet.push("1.0")
    fleet.refusing = "1.1"
    with pytest.raises(NotStaged, match="gw/1 refuses it: it does not import"):
        fleet.push("1.1")
    assert fleet.store.live().revision == before.revision
    assert fleet.audited()[:2] == ("plugins push", "refused")
    assert fleet.candidates.read() is None


def test_a_worker_that_knows_no_pushed_plugins_is_named(fleet: Fleet) -> None:
    fleet.fields = {"deployment": "absent"}
    fleet.report()
    with pytest.raises(NotStaged, match="gw/1 refuses it: its version of gwproxy knows no pushed plugins"):
        fleet.push("1.0")


def test_nobody_overwrites_what_somebody_else_has_pushed_meanwhile(fleet: Fleet) -> None:
    planned = fleet.deployer.push(fleet.wheel("1.0"))
    fleet.push("1.1")
    with pytest.raises(DeploymentConflict, match="at revision 1 now, by ann"):
        fleet.deployer.stage(planned)
    assert fleet.deployed() == ["tenant 1.1"]


def test_two_wheels_of_one_plugin_name_do_not_go_together(fleet: Fleet) -> None:
    fleet.push("1.0")
    with pytest.raises(WheelRefused, match="the plugin 'tenant' is in two wheels"):
        fleet.push("7.0", "another")


def test_going_back_and_back_again(fleet: Fleet) -> None:
    def back(*what: str) -> list[str]:
        fleet.make(fleet.deployer.rollback(*what))
        return fleet.deployed()

    with pytest.raises(CommandFailed, match="the history has nothing to go back to"):
        fleet.deployer.rollback()
    for version in ("1.0", "1.1", "1.2"):
        fleet.push(version)
    fleet.push("3.0", "other", "other")
    assert back("Tenant") == ["other 3.0", "tenant 1.1"]
    assert back("tenant") == ["other 3.0", "tenant 1.2"]  # as it was before that
    assert back("tenant", "1.0") == ["other 3.0", "tenant 1.0"]
    assert back() == ["other 3.0", "tenant 1.2"]
    assert back("other") == ["tenant 1.2"]  # it had not been there
    newest = fleet.store.history(1)[0]
    assert (newest.change.action, newest.change.distribution, newest.change.version) == ("rollback", "other", "")
    assert back() == ["other 3.0", "tenant 1.2"]
    with pytest.raises(CommandFailed, match=r"nothing of tenant 9 to go back to; it has had 1.2, 1.0, 1.1$"):
        fleet.deployer.rollback("tenant", "9")


def test_before_the_first_there_was_none(fleet: Fleet) -> None:
    fleet.push("1.0")
    planned = fleet.deployer.rollback()
    published = fleet.make(planned)
    assert (planned.summary(), published.digest, fleet.deployed()) == ("tenant 1.0 -> none", "", [])
    fleet.fields = {"deployment_refused": ""}
    assert DeploymentRollout(fleet.live, published, fleet.store, timeout=20).follow().outcome == "done"


def test_what_is_taken_out_can_be_brought_back(fleet: Fleet) -> None:
    fleet.push("1.0")
    with pytest.raises(CommandFailed, match=r"other is not deployed; deployed are: tenant 1.0"):
        fleet.deployer.remove("other")
    fleet.make(fleet.deployer.remove("Tenant"))
    assert (fleet.deployed(), fleet.audited()[0]) == ([], "plugins remove")
    fleet.make(fleet.deployer.rollback())
    assert fleet.deployed() == ["tenant 1.0"]


def test_what_is_revoked_is_out_at_once_and_never_comes_back(fleet: Fleet) -> None:
    for version in ("1.0", "1.1", "1.2"):
        fleet.push(version)
    bad = fleet.wheel("1.2")
    fleet.refusing = "tenant"  # nobody is asked
    planned, live = fleet.deployer.revoke([fleet.bad(bad)], "it leaks")
    fleet.refusing = ""
    assert (planned.summary(), live.revision, fleet.deployed()) == ("tenant 1.2 -> none", 4, [])
    assert fleet.store.revoked()[bad.sha256].reason == "it leaks"
    assert fleet.audited() == ("plugins revoke", "done", "tenant 1.2: it leaks (tenant 1.2 -> none)", 4)
    with pytest.raises(WheelRefused, match=r"tenant 1.2 was revoked by ann at .*: it leaks"):
        fleet.deployer.push(bad)
    assert fleet.deployer.rollback("tenant").summary() == "tenant none -> 1.1"  # not the newest, which is revoked
    with pytest.raises(CommandFailed, match=r"nothing of tenant 1.2 to go back to; tenant 1.2 was revoked by ann: it leaks"):
        fleet.deployer.rollback("tenant", "1.2")


def test_revoking_what_is_not_live_changes_nothing_else(fleet: Fleet) -> None:
    fleet.push("1.0")
    fleet.push("1.1")
    planned, live = fleet.deployer.revoke([fleet.bad(fleet.wheel("1.0"))], "old")
    assert (planned.unchanged, live.revision, fleet.deployed()) == (True, 2, ["tenant 1.1"])


def test_a_candidate_with_what_is_revoked_ends(fleet: Fleet) -> None:
    fleet.push("1.0")
    bad = fleet.wheel("1.1")
    fleet.deployer.canary(fleet.deployer.push(bad), share=50, rules=Rules())
    fleet.deployer.revoke([fleet.bad(bad)], "it leaks")
    last = fleet.candidates.last()
    assert last is not None
    assert (fleet.candidates.read(), last.outcome, last.reason) == (None, "aborted", "revoked: it leaks")
    assert fleet.deployed() == ["tenant 1.0"]


def test_a_canary_of_plugins_is_told_as_one(fleet: Fleet) -> None:
    fleet.push("1.0")
    begun = fleet.deployer.canary(fleet.deployer.push(fleet.wheel("1.1")), share=10, rules=Rules.of(["errors > 1% or p99 > +20 ms"]))
    assert fleet.audited()[:2] == ("plugins canary", "done")
    fleet.deployer.candidates.confirm(begun)
    running = fleet.deployer.candidates.status().as_data()["candidate"]
    told = {"action": "push", "distribution": "tenant", "version": "1.1", "digest": begun.deployment_digest, "base": 1}
    assert (running["plugins"], running["rules"]["abort_if"]) == (told, ["errors > 1%", "p99 > +20 ms"])
    again = fleet.deployer.canary(fleet.deployer.push(fleet.wheel("1.1")), share=50, rules=Rules())
    assert (again.id, again.share) == (begun.id, 50)
    published = fleet.deployer.candidates.promote()
    assert (published.revision, published.digest, fleet.deployed()) == (2, begun.deployment_digest, ["tenant 1.1"])
    assert fleet.audited() == ("plugins canary promote", "done", f"digest {published.digest[:12]}", 2)


def test_a_change_of_the_configuration_ends_a_canary_of_plugins(fleet: Fleet) -> None:
    begun = fleet.deployer.canary(fleet.deployer.push(fleet.wheel("1.0")), share=10, rules=Rules())
    fleet.live.publish(b"[ ]", actor="bob")
    with pytest.raises(CandidateGone):
        fleet.deployer.candidates.confirm(begun)
    assert fleet.audited()[:2] == ("plugins canary abort", "done")


ROLLOUTS: list[tuple[str, dict[str, str], str, str]] = [
    ("refuses", {"deployment": "", "deployment_refused": "DIGEST", "deployment_error": "no keys"}, "refused", "gw/1 refuses it: no keys"),
    ("is late", {"deployment": "other"}, "late", "gw/1 did not answer within"),
    ("refuses a configuration", {"state": "refused", "error": "bad routes"}, "done", ""),
]


@pytest.mark.parametrize(("fields", "outcome", "reason"), [row[1:] for row in ROLLOUTS], ids=[row[0] for row in ROLLOUTS])
def test_every_worker_is_followed(fleet: Fleet, fields: dict[str, str], outcome: str, reason: str) -> None:
    published = fleet.push("1.0")
    fleet.fields = {name: value.replace("DIGEST", published.digest) for name, value in fields.items()}
    fleet.report()
    standing = DeploymentRollout(fleet.live, published, fleet.store, timeout=0.3).follow()
    assert standing.outcome == outcome
    assert standing.reason().startswith(reason)


@pytest.mark.parametrize("change", ["push", "remove the key"])
def test_what_came_after_is_told(fleet: Fleet, client: redis.Redis, change: str) -> None:
    published, later = fleet.push("1.0"), {"push": "plugins revision 1 was replaced by plugins revision 2 by ann"}
    fleet.fields = {"deployment": "other"}
    steps: dict[str, Callable[[], object]] = {"push": lambda: fleet.push("1.1"), "remove the key": lambda: client.delete("gw:plugins")}
    steps[change]()
    standing = DeploymentRollout(fleet.live, published, fleet.store, timeout=5).follow()
    assert standing.outcome == "overtaken"
    assert standing.reason().startswith(later.get(change, "plugins revision 1 was removed from the store"))


def test_a_deployment_is_read_whatever_is_written_there(fleet: Fleet, client: redis.Redis) -> None:
    client.set("gw:plugins", "[]")
    with pytest.raises(WheelRefused, match="the deployment is no object"):
        fleet.deployer.live()
    client.set("gw:plugins", Deployment().dump())
    assert fleet.deployed() == []
