"""``gwproxy plugins push`` and what goes with it, against a real store and workers that say what the test wants."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from gwproxy.cli import deploying
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.deployments import Change, DeploymentStore
from gwproxy.wheels.deployment import Deployment
from gwproxy.wheels.wheel import read
from tests.cli.conftest import Result
from tests.cli.reporting import Reporting
from tests.conftest import Server, until
from tests.wheels.made import make_wheel

Cli = Callable[..., Result]


class Workers(Reporting):
    """Two workers that run what is deployed, and build what is tried, as soon as they see it, until closed.

    :ivar refusing: versions that the second refuses.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.refusing: set[str] = set()
        self.plugins: dict[str, str] = {}
        self.store, self.live, self.candidates = DeploymentStore(client), ConfigurationStore(client), CandidateStore(client)
        self.audit = AuditLog(client)
        self.begin()

    def report(self) -> None:
        candidate, live = self.candidates.read(), self.store.live()
        wheels = json.loads(live.data or b'{"wheels": []}')["wheels"]
        pushed = {name: {"sha256": wheel["sha256"]} for wheel in wheels for name in wheel["plugins"]}
        for pid in ("1", "2"):
            said: dict[str, Any] = {}
            if candidate is not None:
                bad = pid == "2" and any(f'"version":"{version}"'.encode() in candidate.deployment for version in self.refusing)
                said = {"id": candidate.id, "state": "refused" if bad else "built", "error": "no luck" if bad else "", "build_ms": 3.0}
            beat = {"host": "gw-1", "pid": pid, "state": "ready", "candidate": json.dumps(said), "deployment": live.digest}
            plugins = {"cors": "1.0", **self.plugins, **dict.fromkeys(pushed, "1")}
            self.live.heartbeat(f"w{pid}", beat | {"plugins": json.dumps(plugins), "pushed": json.dumps(pushed)})


@pytest.fixture
def workers(client: redis.Redis, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Workers]:
    monkeypatch.setenv("GWPROXY_REDIS_URL", server.url)
    monkeypatch.setenv("GWPROXY_ACTOR", "ann")
    monkeypatch.chdir(tmp_path)
    ConfigurationStore(client).publish(b"[]", actor="alice")
    workers = Workers(client)
    yield workers
    workers.close()


def wheel(version: str, files: dict[str, str | bytes] | None = None, **options: Any) -> str:
    """Write a wheel, with something beside it for a signature, and return its name."""
    path = Path(f"gwproxy_tenant-{version}-py3-none-any.whl")
    path.write_bytes(make_wheel(files, version=version, **options))
    Path(f"{path}.minisig").write_text("signed")
    return str(path)


def deploy(workers: Workers, version: str, files: dict[str, str | bytes] | None = None, **options: Any) -> str:
    """Deploy a wheel without a command, which would load it first; return its name."""
    name = wheel(version, files, **options)
    held = read(Path(name).read_bytes())
    workers.store.put_wheel(Path(name).read_bytes(), "signed", distribution=held.distribution, version=version, actor="ann")
    base = workers.store.live()
    after = Deployment.load(base.data).with_(held.pinned)
    workers.store.publish(after.dump(), Change("push", held.distribution, version), base=base, actor="ann")
    return name


def deployed(workers: Workers) -> list[str]:
    live = json.loads(workers.store.live().data or b'{"wheels": []}')
    return [f"{pinned['distribution']} {pinned['version']}" for pinned in live["wheels"]]


def test_a_push_tells_what_changes_and_who_runs_it(cli: Cli, workers: Workers) -> None:
    done = cli("plugins", "push", wheel("1.0"), "--comment", "a first one")
    assert done.status == 0, done.err
    assert done.out.splitlines()[:2] == ["gwproxy-tenant none -> 1.0", "deployed, as plugins revision 1"]
    assert done.out.splitlines()[-1].startswith("all 2 workers on plugins revision 1, after ")
    assert "staged: 2 of 2 workers built it" in done.err
    newest = workers.store.history(1)[0]
    assert (newest.actor, newest.comment, deployed(workers)) == ("ann", "a first one", ["gwproxy-tenant 1.0"])
    again = cli("plugins", "push", wheel("1.0"), "--no-wait")
    assert (again.status, again.out) == (0, "nothing to change: it is live already\n")


def test_a_push_tells_it_in_json(cli: Cli, workers: Workers) -> None:
    deploy(workers, "1.0")
    told = json.loads(cli("plugins", "push", wheel("1.1"), "--json").out)
    assert (told["outcome"], told["revision"], told["changes"]) == ("done", 2, "gwproxy-tenant 1.0 -> 1.1")
    assert [len(told["staged"]), len(told["rollout"]["workers"])] == [2, 2]


def test_what_a_worker_refuses_changes_nothing(cli: Cli, workers: Workers) -> None:
    for version in ("1.0", "1.1"):
        deploy(workers, version)
    workers.refusing.add("1.0")
    done = cli("plugins", "rollback")
    assert done.status == 1
    assert done.err.splitlines()[-1] == "gwproxy: error: nothing was changed: gw-1/2 refuses it: no luck"
    told = json.loads(cli("plugins", "rollback", "gwproxy-tenant", "--to", "1.0", "--json").out)
    assert (told["outcome"], told["reason"], len(told["staged"])) == ("refused", "gw-1/2 refuses it: no luck", 2)
    assert deployed(workers) == ["gwproxy-tenant 1.1"]


RAISES = {"gwproxy_tenant.py": "print('noise')\nraise RuntimeError('no luck')"}
EXITS = {"gwproxy_tenant.py": "import os\nos._exit(3)"}
WANTS = {
    "gwproxy_tenant.py": """
        from gwproxy import Context, Plugin, PluginConfig, hookimpl

        class Config(PluginConfig):
            limit: int

        class Tenant(Plugin):
            name = "cors"
            config_model = Config

            @hookimpl
            def pre_auth(self, ctx: Context) -> None: ...
        """
}
HERE: list[tuple[str, dict[str, Any], str]] = [
    ("does not import", {"files": RAISES}, "gwproxy-tenant 1.0 .*RuntimeError: no luck"),
    ("ends the process", {"files": EXITS}, "importing it has ended the process in which it was tried, with status 3"),
    (
        "does not fit the configuration",
        {"files": WANTS, "plugins": {"cors": "gwproxy_tenant:Tenant"}},
        "expected the key 'limit', which is required",
    ),
    ("compiled", {"files": {"gwproxy_tenant.py": "", "fast.so": b"x"}}, r"fast\.so"),
]


@pytest.mark.parametrize(("made", "said"), [row[1:] for row in HERE], ids=[row[0] for row in HERE])
def test_what_is_seen_here_is_told_before_any_worker_is_asked(cli: Cli, workers: Workers, made: dict[str, Any], said: str) -> None:
    workers.live.publish(b'[{"path": "/", "upstream": "http://127.0.0.1:9", "plugins": [{"name": "cors"}]}]', actor="ann")
    done = cli("plugins", "push", wheel("1.0", **made))
    assert done.status == 1
    assert re.search(said, done.err), done.err
    assert "staged" not in done.err
    assert workers.store.wheel(hashlib.sha256(Path("gwproxy_tenant-1.0-py3-none-any.whl").read_bytes()).hexdigest()) is None
    entry = workers.audit.entries(1)[0]
    assert (entry.actor, entry.action, entry.outcome) == ("ann", "plugins push", "refused")


def test_what_only_the_workers_have_is_theirs_to_judge(cli: Cli, workers: Workers) -> None:
    done = cli("plugins", "push", wheel("1.0", requires=["no-such-thing>=2"]))
    assert done.status == 0
    assert "warning: it is not tried here, but by the workers only: " in done.err
    assert "no-such-thing" in done.err


def test_without_a_signature_it_says_how_to_make_one(cli: Cli, workers: Workers) -> None:
    name = wheel("1.0")
    Path(f"{name}.minisig").rename("elsewhere.minisig")
    done = cli("plugins", "push", name)
    assert (done.status, f"'gwproxy plugins sign {name} --key FILE' makes it" in done.err) == (1, True)
    assert cli("plugins", "push", name, "--signature", "elsewhere.minisig").status == 0
    assert cli("plugins", "push", "nowhere.whl").err == "gwproxy: error: nowhere.whl: No such file or directory\n"


def test_back_and_out(cli: Cli, workers: Workers) -> None:
    for version in ("1.0", "1.1"):
        deploy(workers, version)
    back = cli("plugins", "rollback", "gwproxy-tenant", "--comment", "too strict")
    assert (back.status, back.out.splitlines()[0], deployed(workers)) == (0, "gwproxy-tenant 1.1 -> 1.0", ["gwproxy-tenant 1.0"])
    assert cli("plugins", "rollback").status == 0
    assert deployed(workers) == ["gwproxy-tenant 1.1"]
    assert cli("plugins", "remove", "gwproxy_tenant").status == 0
    assert deployed(workers) == []
    none = cli("plugins", "rollback", "gwproxy-tenant", "--to", "7")
    assert none.err.endswith("the history has nothing of gwproxy-tenant 7 to go back to; it has had 1.1, 1.0\n")
    assert cli("plugins", "rollback", "--to", "1.0").status == 2
    told = json.loads(cli("plugins", "remove", "other", "--json").out)
    assert (told["outcome"], told["reason"]) == ("refused", "other is not deployed; deployed are: none")


@pytest.mark.parametrize("how", ["version", "file", "sha256"])
def test_what_is_revoked_is_told_and_taken_out(cli: Cli, workers: Workers, how: str) -> None:
    name = deploy(workers, "1.0")
    sha256 = hashlib.sha256(Path(name).read_bytes()).hexdigest()
    named = {"version": "gwproxy_tenant==1.0", "file": name, "sha256": sha256.upper()}[how]
    done = cli("plugins", "revoke", named, "--reason", "logs passwords")
    assert done.status == 0, done.err
    assert "gwproxy-tenant 1.0 -> none, as plugins revision 2" in done.out
    assert "all 2 workers on plugins revision 2" in done.out
    assert (deployed(workers), workers.store.revoked()[sha256].reason) == ([], "logs passwords")
    again = cli("plugins", "push", name)
    assert "gwproxy-tenant 1.0 was revoked by ann at " in again.err
    told = json.loads(cli("plugins", "revoke", sha256, "--reason", "again", "--json").out)
    assert (told["outcome"], told["revoked"], told["changes"]) == ("done", [sha256], "nothing")


@pytest.mark.parametrize(
    "argv", [["--reason", "x"], ["x", "--key", "1" * 16, "--reason", "x"], ["--key", "my key", "--reason", "x"], ["x"]]
)
def test_what_is_to_be_revoked_must_be_clear(cli: Cli, workers: Workers, argv: list[str]) -> None:
    assert cli("plugins", "revoke", *argv).status == 2


def test_what_was_never_deployed_is_named_otherwise(cli: Cli, workers: Workers) -> None:
    done = cli("plugins", "revoke", "tenant==9", "--reason", "x")
    assert done.err == "gwproxy: error: tenant 9 was never deployed, as far as the history goes; name its file, or its SHA-256\n"


def test_a_list_shows_which_wins_and_who_runs_it(cli: Cli, workers: Workers) -> None:
    files = {"mine.py": WANTS["gwproxy_tenant.py"]}
    deploy(workers, "2.0", files, plugins={"cors": "mine:Tenant"})
    until(lambda: all(beat["deployment"] for beat in workers.live.workers()))
    rows = [row for row in json.loads(cli("plugins", "list", "--json").out) if row["name"] in ("cors", "jwt_auth")]
    assert [(row["name"], row["source"], row["state"], row["version"], row["workers"]) for row in rows] == [
        ("cors", "pushed", "pushed", "2.0", {"running": 2, "all": 2}),
        ("cors", "installed", "replaced", "1.0", {"running": 0, "all": 2}),
        ("jwt_auth", "installed", "loaded", "1.0", {"running": 0, "all": 2}),
    ]
    listed = cli("plugins", "list")
    assert "replaced by gwproxy-tenant 2.0, which was pushed" in listed.out
    assert listed.out.splitlines()[-2:] == ["deployed: gwproxy-tenant 2.0, plugins revision 1", "all 2 workers run it"]


def test_a_list_names_who_does_not_run_it(cli: Cli, workers: Workers) -> None:
    deploy(workers, "2.0")
    until(lambda: all(beat["deployment"] for beat in workers.live.workers()))
    workers.close()
    live = workers.store.live()
    beat = {"host": "gw-2", "pid": "7", "state": "ready"}
    workers.live.heartbeat("w7", beat | {"deployment": "", "deployment_refused": live.digest, "deployment_error": "no keys"})
    workers.live.heartbeat("w8", beat | {"pid": "8"})
    workers.live.heartbeat("w9", beat | {"pid": "9", "deployment": ""})
    assert cli("plugins", "list").out.splitlines()[-3:] == [
        "gw-2/7 does not run it: refuses it: no keys",
        "gw-2/8 does not run it: its version of gwproxy knows no pushed plugins",
        "gw-2/9 does not run it: has not answered yet",
    ]


def test_a_list_without_the_store_shows_what_is_installed(cli: Cli, workers: Workers, server: Server) -> None:
    workers.close()
    server.kill()
    done = cli("plugins", "list")
    assert (done.status, done.out.splitlines()[1].split()[0]) == (0, "access_log")
    assert "warning: what was pushed is not known, only what is installed here: " in done.err
    assert cli("plugins", "list", "--redis", server.url).status == 1


def test_a_canary_is_begun_watched_and_ended(cli: Cli, workers: Workers, client: redis.Redis) -> None:
    deploy(workers, "1.0")
    rules = ("--abort-if", "errors > 0.5% or p99 > +20 ms", "--for", "5m")
    begun = cli("plugins", "push", wheel("1.1"), "--canary", "10%", *rules)
    assert begun.status == 0, begun.err
    assert begun.out.splitlines()[1:] == [
        "canary: 10% of clients; plugins revision 1 serves all others",
        "all 2 workers serve it",
        "how it does: gwproxy canary status --watch",
    ]
    status = cli("canary", "status").out
    assert "plugins push gwproxy-tenant 1.1, since " in status
    assert "ends: aborted if errors > 0.5% or p99 > +20 ms (from 100 requests), promoted after 300 s" in status
    promoted = cli("canary", "promote", "--wait")
    assert promoted.out.splitlines()[0].startswith("promoted: it is plugins revision 2 now")
    assert promoted.out.splitlines()[-1].startswith("all 2 workers on plugins revision 2")
    assert "plugins push gwproxy-tenant 1.1: promoted as plugins revision 2: by ann" in cli("canary", "status").out


@pytest.mark.parametrize(("outcome", "status"), [("aborted", 1), ("promoted", 0)])
def test_the_end_of_a_canary_is_waited_for_and_told(
    cli: Cli, workers: Workers, monkeypatch: pytest.MonkeyPatch, outcome: str, status: int
) -> None:
    monkeypatch.setattr(deploying, "LOOK_EVERY", 0.02)

    def end() -> None:
        while (held := workers.candidates.read(data=False)) is None:
            pass
        counts = {"live:requests": 200, "candidate:requests": 100, "candidate:5xx": 3}
        workers.candidates.report(held.id, "w1", 1, counts)
        if outcome == "promoted":
            workers.candidates.publish(held.id, outcome, "by itself", by="gateway")
        else:
            workers.candidates.finish(held.id, outcome, "errors 3% > 0.5% (3 of 100 requests)", by="gateway")

    thread = threading.Thread(target=end)
    thread.start()
    done = cli("plugins", "push", wheel("1.0"), "--canary", "10%", "--wait", "--timeout", "10")
    thread.join(10)
    reason = "errors 3% > 0.5% (3 of 100 requests)" if status else "by itself"
    if outcome == "aborted" and "has ended, aborted" in done.err:  # before all served it
        assert reason in done.err
        return
    assert done.status == status, done.err
    assert reason in done.out
    assert any(line.startswith("candidate") and " 3% " in line for line in done.out.splitlines())


def test_rules_need_a_canary(cli: Cli, workers: Workers) -> None:
    assert cli("plugins", "push", wheel("1.0"), "--for", "5m").status == 2
    assert cli("plugins", "push", wheel("1.0"), "--canary", "5%", "--abort-if", "errors > x").status == 2
