"""Changes that are followed to the workers of two gateways: who runs it, who refuses, who does not answer, and what then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, until
from tests.e2e.running import COMMAND, clean_environment

pytestmark = pytest.mark.e2e


class Desk:
    """A person at a terminal, two gateways of two workers each that share a Redis.

    Only ``rich`` has the variable GW_SET, and the plugins of strangers.py: ``poor`` has a package of which one does not load.
    """

    def __init__(self, folder: Path, server: RedisServer, echo: str, rich: GatewayProcess, poor: GatewayProcess) -> None:
        self.folder = folder
        self.server = server
        self.echo = echo
        self.rich = rich
        self.poor = poor

    def file(self, *paths: str, **fields: Any) -> Path:
        file = self.folder / f"{'-'.join(path.strip('/') for path in paths)}-{len(list(self.folder.glob('*.yaml')))}.yaml"
        file.write_text(json.dumps([{"path": path, "upstream": self.echo, **fields} for path in paths]))
        return file

    def start(self, *argv: str | Path, actor: str = "ann", **env: str) -> subprocess.Popen[str]:
        environ = clean_environment(self.folder / "state", {"GWPROXY_REDIS_URL": self.server.url, "GWPROXY_ACTOR": actor, **env})
        command = [*COMMAND, *map(str, argv)]
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *argv: str | Path, actor: str = "ann", **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*argv, actor=actor, **env)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def told(self, *argv: str | Path) -> tuple[int, dict[str, Any]]:
        """Run a command with --json; return its status and what it told."""
        done = self.run(*argv, "--json")
        return done.returncode, json.loads(done.stdout)

    def workers(self) -> list[dict[str, str]]:
        return self.rich.heartbeats(self.server.client())

    def everybody(self) -> set[str]:
        return self.pids(self.rich) | self.pids(self.poor)

    def acknowledged(self) -> int:
        """How many workers say that they run the newest revision."""
        revision = self.server.client().get("gw:revision")
        return sum(worker["revision"] == revision for worker in self.workers())

    def expire(self, pid: str) -> None:
        """Let a worker's heartbeat expire now, instead of in ten seconds."""
        client = self.server.client()
        (key,) = client.scan_iter(f"gw:worker:*-{pid}-*")
        client.pexpire(key, 1)
        until(lambda: not client.exists(key), "it to expire")

    def pids(self, gateway: GatewayProcess) -> set[str]:
        """The workers of one gateway, as the kernel knows them."""
        master = gateway.process.child.pid
        return set(Path(f"/proc/{master}/task/{master}/children").read_text().split())

    def status(self, gateway: GatewayProcess, path: str) -> set[int]:
        return {gateway.get(path).status_code for _ in range(8)}


def damaged(folder: Path) -> str:
    """A ``PYTHONPATH`` with a package whose one plugin does not import."""
    information = folder / "gwproxy_strangers-1.0.dist-info"
    information.mkdir()
    (folder / "gwproxy_strangers.py").write_text("raise ImportError('damaged')\n")
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gwproxy-strangers\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gwproxy]\nstranger_stamp = gwproxy_strangers:Stamp\n")
    return str(folder)


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory,
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    echo: str,
    strangers: str,
) -> Desk:
    rich = start_gateway(GWPROXY_REDIS_URL=redis_server.url, GW_SET="set", PYTHONPATH=strangers)
    poor = start_gateway(GWPROXY_REDIS_URL=redis_server.url, PYTHONPATH=damaged(tmp_path_factory.mktemp("damaged")))
    desk = Desk(tmp_path_factory.mktemp("desk"), redis_server, echo, rich, poor)
    until(lambda: len(desk.workers()) == 4, "four workers")
    assert desk.run("apply", desk.file("/start"), "--wait").returncode == 0
    return desk


def reference(name: str) -> dict[str, Any]:
    return {"plugins": [{"name": "request_transform", "config": {"add_headers": {"X-Set": f"${{{name}}}"}}}]}


def test_apply_waits_until_every_worker_of_every_gateway_serves_it(desk: Desk) -> None:
    done = desk.run("apply", desk.file("/start", "/waited"), "--wait", "--comment", "one more")
    assert done.returncode == 0, done.stderr
    assert desk.status(desk.rich, "/waited") == desk.status(desk.poor, "/waited") == {200}
    revision = desk.server.client().get("gw:revision")
    rows = [line.split() for line in done.stdout.splitlines()]
    table = rows.index(["host", "worker", "revision", "build", "time", "state", "reason"])
    assert {row[1] for row in rows[table + 1 : -1]} == desk.pids(desk.rich) | desk.pids(desk.poor)
    assert {(row[2], row[5]) for row in rows[table + 1 : -1]} == {(revision, "done")}
    assert all(float(row[3]) >= 0 and row[4] == "ms" for row in rows[table + 1 : -1])
    assert done.stdout.splitlines()[-1].startswith(f"all 4 workers on revision {revision}, after ")
    assert f"revision {revision}: " in done.stderr


def test_workers_that_refuse_it_are_named_and_what_was_before_is_put_back(desk: Desk) -> None:
    before = desk.server.client().get("gw:routes")
    status, told = desk.told("apply", desk.file("/start", "/refused", **reference("GW_SET")), "--wait", "--rollback-on-failure")
    assert (status, told["outcome"]) == (1, "refused")
    answers = {str(worker["pid"]): (worker["state"], worker["reason"]) for worker in told["rollout"]["workers"]}
    assert {pid for pid, (state, _) in answers.items() if state == "done"} == desk.pids(desk.rich)
    refusing = {pid: reason for pid, (state, reason) in answers.items() if state == "refused"}
    assert refusing.keys() == desk.pids(desk.poor)
    assert {reason for reason in refusing.values() if "GW_SET" not in reason} == set()
    back = told["rolled_back"]
    assert back["revision"] == told["revision"] + 1
    assert (back["rollout"]["outcome"], len(back["rollout"]["workers"])) == ("done", 4)
    assert desk.server.client().get("gw:routes") == before
    assert desk.status(desk.rich, "/refused") == {404}
    newest = json.loads(desk.run("history", "--json", "-n", "1").stdout)[0]
    assert newest["comment"].startswith(f"back to revision {told['base']}, because of revision {told['revision']}: ")
    audit = [(fields["outcome"], fields["revision"]) for _, fields in desk.server.client().xrange("gw:audit")]  # type: ignore[union-attr]
    assert audit[-3:] == [("done", str(told["revision"])), ("refused", str(told["revision"])), ("done", str(back["revision"]))]


def test_without_a_rollback_those_that_can_run_it_do(desk: Desk) -> None:
    done = desk.run("apply", desk.file("/start", "/half", **reference("GW_SET")), "--wait")
    assert done.returncode == 1
    assert all(f"/{pid} refuses it: " in done.stderr for pid in desk.pids(desk.poor))
    assert desk.status(desk.rich, "/half") == {200}
    assert desk.status(desk.poor, "/half") == {404}
    back = desk.run("rollback", str(json.loads(desk.run("history", "--json").stdout)[1]["revision"]), "--wait")
    assert back.returncode == 0, back.stderr
    assert desk.status(desk.rich, "/half") == {404}


def test_what_no_worker_can_run_is_refused_before_it_is_written(desk: Desk) -> None:
    revision = desk.server.client().get("gw:revision")
    done = desk.run("apply", desk.file("/start", plugins=[{"name": "nowhere"}]), "--wait")
    assert done.returncode == 1
    assert "routes[0].plugins[0].name: found the unknown plugin 'nowhere'" in done.stderr
    assert desk.server.client().get("gw:revision") == revision


@pytest.mark.parametrize(
    ("plugin", "why", "here"),
    [
        ("stranger_members", "is not installed on", False),
        ("stranger_members", "is not installed on", True),
        ("stranger_stamp", "does not load on", False),
    ],
)
def test_a_plugin_that_one_gateway_cannot_run_is_refused_before_anything_is_changed(
    desk: Desk, strangers: str, plugin: str, why: str, here: bool
) -> None:
    client = desk.server.client()
    before = client.mget("gw:routes", "gw:revision"), client.xlen("gw:history")
    file = desk.file("/start", plugins=[{"name": plugin}])
    done = desk.run("apply", file, "--wait", **({"PYTHONPATH": strangers} if here else {}))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if f"plugin '{plugin}', which {why} " in line]
    assert "routes[0].plugins[0].name" in line
    assert {pid for pid in desk.everybody() if f"/{pid}" in line} == desk.pids(desk.poor)
    assert (client.mget("gw:routes", "gw:revision"), client.xlen("gw:history")) == before


def test_a_worker_that_hangs_is_named_when_the_time_is_over(desk: Desk) -> None:
    hanging = min(desk.pids(desk.poor))
    os.kill(int(hanging), signal.SIGSTOP)
    try:
        done = desk.run("apply", desk.file("/start", "/late"), "--wait", "--timeout", "2")
    finally:
        os.kill(int(hanging), signal.SIGCONT)
    assert done.returncode == 1
    assert f"/{hanging} did not answer within 2." in done.stderr
    rows = {row[1]: row for line in done.stdout.splitlines() if len(row := line.split()) > 5}
    assert {pid: "waiting" in rows[pid] for pid in desk.pids(desk.rich) | desk.pids(desk.poor)} == {
        pid: pid == hanging for pid in desk.pids(desk.rich) | desk.pids(desk.poor)
    }
    # It goes on, and runs it: the same file again only waits.
    again = desk.run("apply", desk.file("/start", "/late"), "--wait")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("nothing to change: ")


def test_a_worker_whose_heartbeat_expires_is_late_and_not_taken_for_gone(desk: Desk) -> None:
    hanging = min(desk.pids(desk.poor))
    os.kill(int(hanging), signal.SIGSTOP)
    try:
        rollout = desk.start("apply", desk.file("/start", "/silent"), "--wait", "--timeout", "4")
        until(lambda: desk.acknowledged() == 3, "three workers")
        desk.expire(hanging)
        out, err = rollout.communicate(timeout=60)
    finally:
        os.kill(int(hanging), signal.SIGCONT)
    assert rollout.returncode == 1
    assert f"/{hanging} did not answer within 4." in err
    assert "see to it, then do the same again with --wait" in err
    (row,) = [line.split(maxsplit=5) for line in out.splitlines() if hanging in line.split()]
    assert row[-1].split(maxsplit=1) == ["waiting", "silent for 10 s"]
    again = desk.run("apply", desk.file("/start", "/silent"), "--wait")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("silent", [False, True], ids=["killed", "killed-after-its-heartbeat-expired"])
def test_a_worker_that_is_killed_is_not_waited_for_and_its_successor_is(desk: Desk, silent: bool) -> None:
    killed = max(desk.pids(desk.poor))
    os.kill(int(killed), signal.SIGSTOP)  # so that it has not answered when it dies
    rollout = desk.start("apply", desk.file("/start", f"/killed-{silent}"), "--wait", "--timeout", "40", "--json")
    until(lambda: desk.acknowledged() == 3, "three workers")
    if silent:
        desk.expire(killed)
    os.kill(int(killed), signal.SIGKILL)
    out, err = rollout.communicate(timeout=60)
    assert rollout.returncode == 0, (out, err)
    told = json.loads(out)["rollout"]
    states = {str(worker["pid"]): worker["state"] for worker in told["workers"]}
    assert states.pop(killed) == "gone"
    assert {pid for pid, state in states.items() if state == "done"} == desk.pids(desk.rich) | desk.pids(desk.poor)
    assert told["seconds"] < 9  # its heartbeat would have lived for longer than that


def test_of_a_worker_that_died_before_nobody_speaks_once_its_successor_is_there(desk: Desk) -> None:
    killed = max(desk.pids(desk.poor))
    os.kill(int(killed), signal.SIGKILL)
    until(
        lambda: len(desk.pids(desk.poor) - {killed}) == 2 and {beat["pid"] for beat in desk.workers()} == desk.everybody(), "its successor"
    )
    done, told = desk.told("apply", desk.file("/start", "/died-before"), "--wait")
    assert (done, told["outcome"]) == (0, "done")
    assert {str(worker["pid"]) for worker in told["rollout"]["workers"]} == desk.everybody()


def test_of_two_at_once_one_wins_and_the_other_is_told(desk: Desk) -> None:
    base = desk.server.client().get("gw:revision")
    files = {actor: desk.file("/start", f"/of-{actor}") for actor in ("ann", "bob")}
    processes = {actor: desk.start("apply", file, "--based-on", str(base), "--wait", actor=actor) for actor, file in files.items()}
    ended = {actor: (process.communicate(timeout=60), process.returncode) for actor, process in processes.items()}
    assert sorted(status for _, status in ended.values()) == [0, 1]
    winner = next(actor for actor, (_, status) in ended.items() if status == 0)
    ((_, told), _) = next(end for actor, end in ended.items() if actor != winner)
    assert (
        f"nothing was changed: this change was made from revision {base}, and the configuration is at revision {int(base) + 1} now" in told
    )
    assert f"  revision {int(base) + 1} by {winner} at " in told
    assert f"route of-{winner} added" in told
    assert desk.server.client().get("gw:revision") == str(int(base) + 1)
    assert desk.status(desk.rich, f"/of-{winner}") == desk.status(desk.poor, f"/of-{winner}") == {200}


def test_a_rollout_that_is_replaced_meanwhile_says_by_whom(desk: Desk) -> None:
    hanging = desk.pids(desk.poor)
    for pid in hanging:
        os.kill(int(pid), signal.SIGSTOP)
    try:
        first = desk.start("apply", desk.file("/start", "/first"), "--wait", "--rollback-on-failure")
        until(lambda: b"first" in (desk.server.client().get("gw:routes") or "").encode(), "the first to be written")
        assert desk.run("apply", desk.file("/start", "/second"), actor="bob").returncode == 0
        _, err = first.communicate(timeout=60)
    finally:
        for pid in hanging:
            os.kill(int(pid), signal.SIGCONT)
    assert first.returncode == 1
    assert "was replaced by revision" in err
    assert " by bob at " in err
    assert "/second" in desk.server.client().get("gw:routes")  # type: ignore[operator]
    until(lambda: desk.status(desk.poor, "/second") == {200}, "the second to be served")


def test_a_bare_set_is_in_the_way_of_who_did_not_see_it(desk: Desk) -> None:
    client = desk.server.client()
    base = client.get("gw:revision")
    client.set("gw:routes", desk.file("/start", "/bare").read_text())
    until(lambda: client.get("gw:revision") != base, "a worker to note it")
    refused = desk.run("apply", desk.file("/start"), "--based-on", str(base))
    assert refused.returncode == 1
    assert "by external at " in refused.stderr
    entries = [json.loads(line) for line in desk.run("audit", "--json").stdout.splitlines()]
    told = [(entry["action"], entry["outcome"], entry["revision"]) for entry in entries if entry["actor"] == "external"]
    assert told == [("set", "done", int(client.get("gw:revision") or 0))]
    assert "route bare added" in refused.stderr
