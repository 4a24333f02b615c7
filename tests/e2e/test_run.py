"""``gwproxy run`` as a real process: what it publishes, what it keeps alive, what it leaves behind, what it says."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import RedisServer, publish, until
from tests.e2e.raw import RawClient, head
from tests.e2e.running import Running, call, started_in
from tests.e2e.scripted import OK, ScriptedService
from tests.ports import free_port

pytestmark = pytest.mark.e2e

ANY = ("--bind", "127.0.0.1:0", "--workers", "1")


def config(path: Path, upstream: str, *routes: str) -> Path:
    """Write a configuration of routes to one upstream, as an editor does: all of it, in place."""
    path.write_text("routes:\n" + "".join(f"  - path: {route}\n    upstream: {upstream}\n" for route in routes))
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts ``gwproxy run``, and sees to its end."""
    started: list[Running] = []

    def run(folder: Path, *argv: str | Path, **env: str) -> Running:
        started.append(Running(folder, "run", *argv, env=env))
        return started[-1]

    yield run
    for one in started:
        one.kill()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, echo: str) -> Iterator[Running]:
    """A gateway of two workers with the embedded store, following ``gateway.yaml``."""
    folder = tmp_path_factory.mktemp("run")
    config(folder / "gateway.yaml", echo, "/first")
    gateway = Running(folder, "run", "gateway.yaml", "--bind", "127.0.0.1:0", "--workers", "2").ready()
    yield gateway
    gateway.kill()


def edited(gateway: Running, upstream: str, *routes: str) -> None:
    """Edit the file and wait until it is live on every worker."""
    config(gateway.folder / "gateway.yaml", upstream, *routes)

    def live() -> bool:
        data = str(gateway.store().get("gw:routes"))
        digest = hashlib.sha256(data.encode()).hexdigest()
        workers = gateway.workers()
        published = [route["path"] for route in json.loads(data)["routes"]]
        return published == list(routes) and [worker["digest"] for worker in workers] == [digest] * 2

    until(live, "the edit to be live on every worker")


# ---- what it publishes


def test_a_file_is_published_and_served(gateway: Running) -> None:
    assert gateway.get("/first").json()["target"] == "/first"
    entries = [fields for _, fields in gateway.store().xrange("gw:history")]  # type: ignore[union-attr]
    assert [(entry["actor"], entry["comment"]) for entry in entries] == [("run", "from gateway.yaml")]


def test_it_says_what_is_served_where_and_what_to_do_next(gateway: Running) -> None:
    gateway.said("gwproxy explain GET ")
    lines = [line for line in gateway.output().splitlines() if line.startswith("gwproxy: ")]
    assert lines[:6] == [
        f"gwproxy: store: embedded, in {gateway.state}",
        "gwproxy: published gateway.yaml as revision 1",
        f"gwproxy: ready: {gateway.url} serves 1 route (revision 1), 2 workers",
        "gwproxy: an edit of gateway.yaml is live on save",
        "gwproxy: what runs: gwproxy status; the access log: gwproxy logs -f",
        f"gwproxy: where a request goes, and why: gwproxy explain GET {gateway.url}/",
    ]


def test_an_edit_is_live_on_every_worker(gateway: Running, echo: str) -> None:
    assert gateway.get("/edited").status_code == 404
    edited(gateway, echo, "/first", "/edited")
    assert gateway.get("/edited").status_code == 200


def test_an_edit_that_replaces_the_file_is_live_too(gateway: Running, echo: str) -> None:
    new = config(gateway.folder / "new.yaml", echo, "/first", "/replaced")
    new.replace(gateway.folder / "gateway.yaml")
    until(lambda: gateway.get("/replaced").status_code == 200, "the replaced file to be live")


def test_an_invalid_edit_is_reported_with_its_place_and_the_last_good_one_serves_on(gateway: Running, echo: str) -> None:
    edited(gateway, echo, "/first", "/good")
    before = gateway.store().get("gw:revision")
    (gateway.folder / "gateway.yaml").write_text(f"routes:\n  - path: /first\n    upstream: {echo}\n    metods: [GET]\n")
    line = gateway.said("gateway.yaml:4:5: ")
    assert "routes[0].metods" in line
    assert "methods" in line
    gateway.said("gateway.yaml was not published, for 1 problem: the last good one serves on")
    assert gateway.get("/good").status_code == 200
    assert gateway.store().get("gw:revision") == before
    edited(gateway, echo, "/first", "/good", "/mended")


def test_a_file_that_is_only_touched_is_no_revision(gateway: Running, echo: str) -> None:
    edited(gateway, echo, "/first", "/touched")
    before = gateway.store().get("gw:revision")
    os.utime(gateway.folder / "gateway.yaml", ns=(1, 1))
    gateway.said(f"gateway.yaml is live already, as revision {before}")
    assert gateway.store().get("gw:revision") == before


def test_the_state_folder_is_its_owners_alone(gateway: Running) -> None:
    found = [gateway.state, *gateway.state.rglob("*")]
    assert {path.name for path in found} >= {"run.json", "run.lock", "published.json", "last-good", "store"}
    for path in found:
        mode = path.lstat().st_mode
        if not stat.S_ISSOCK(mode):
            assert stat.S_IMODE(mode) == (0o700 if path.is_dir() else 0o600), path


# ---- what it keeps alive


def test_a_second_one_on_the_same_state_folder_names_the_first(gateway: Running) -> None:
    second = call(gateway.folder, "run", "gateway.yaml", "--bind", "127.0.0.1:0")
    assert second.returncode == 1
    bind = gateway.url.removeprefix("http://")
    assert f"{gateway.state} is in use by gwproxy run, process {gateway.child.pid}, on {bind}; " in second.stderr
    assert second.stderr.count("\n") == 1
    assert gateway.get("/first").status_code == 200


def test_an_embedded_store_that_is_killed_is_started_again_with_its_data(gateway: Running, echo: str) -> None:
    edited(gateway, echo, "/first", "/kept")
    [store] = gateway.processes("gwproxy-store")
    held = gateway.store().get("gw:routes")
    os.kill(store, signal.SIGKILL)
    statuses = []

    def restarted() -> bool:
        statuses.append(gateway.get("/kept").status_code)
        return "the embedded store had ended and was started again" in gateway.output()

    until(restarted, "the store to be started again")
    assert set(statuses) == {200}
    assert gateway.store().get("gw:routes") == held
    edited(gateway, echo, "/first", "/kept", "/after")


def test_SIGHUP_is_passed_on(gateway: Running) -> None:
    before = {worker["pid"] for worker in gateway.workers()}
    gateway.child.send_signal(signal.SIGHUP)
    gateway.said("reloading")
    until(
        lambda: (
            len(now := {worker["pid"] for worker in gateway.workers()}) == 2
            and not now & before
            and all(worker["state"] == "ready" for worker in gateway.workers())
        ),
        "all workers to be replaced",
    )
    assert gateway.get("/first").status_code == 200


def test_SIGTERM_lets_requests_finish_and_leaves_nothing(start: Callable[..., Running], tmp_path: Path) -> None:
    service = ScriptedService()
    gateway = start(tmp_path, config(tmp_path / "gateway.yaml", service.url, "/slow"), *ANY).ready()
    finish = threading.Event()
    service.on("/slow", lambda seen: OK if finish.wait(30) else b"")
    with RawClient(int(gateway.url.rpartition(":")[2])) as client:
        client.send(head("/slow"))
        service.next("/slow")
        gateway.child.send_signal(signal.SIGTERM)
        gateway.said("Handling signal: term")
        finish.set()
        answer = client.answer()
    assert (answer.status, answer.body, answer.get("Connection")) == (200, b"ok", "close")
    assert gateway.stop() == 0
    assert not (gateway.state / "run.json").exists()


def test_SIGINT_twice_ends_at_once(start: Callable[..., Running], tmp_path: Path) -> None:
    service = ScriptedService()
    gateway = start(tmp_path, config(tmp_path / "gateway.yaml", service.url, "/slow"), *ANY).ready()
    service.on("/slow", lambda seen: None if seen.gone() else b"")
    with RawClient(int(gateway.url.rpartition(":")[2])) as client:
        client.send(head("/slow"))
        service.next("/slow")
        gateway.child.send_signal(signal.SIGINT)
        gateway.said("Handling signal: term")
        assert gateway.stop(signal.SIGINT, within=10) == 0
        assert client.ended()


def test_SIGKILL_of_the_supervisor_or_of_gunicorn_leaves_nothing_behind(start: Callable[..., Running], tmp_path: Path, echo: str) -> None:
    gateway = start(tmp_path, config(tmp_path / "gateway.yaml", echo, "/first"), *ANY).ready()
    assert len(gateway.processes()) == 3  # store, master, worker
    gateway.stop(signal.SIGKILL)  # which awaits their death
    again = start(tmp_path, tmp_path / "gateway.yaml", *ANY).ready()
    assert again.get("/first").status_code == 200
    again.said("gateway.yaml is live already, as revision 1")

    [master] = [pid for pid in again.processes("gunicorn") if parent(pid) == again.child.pid]
    os.kill(master, signal.SIGKILL)
    assert again.child.wait(20) == 1
    assert "gwproxy: gunicorn ended by signal 9" in again.output()
    until(lambda: not started_in(again.state), "nothing to be left behind")


def parent(pid: int) -> int:
    return int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]


# ---- somebody else's store


def test_a_restart_does_not_undo_what_was_published_since_but_an_edit_does(
    start: Callable[..., Running], tmp_path: Path, redis_server: RedisServer, echo: str
) -> None:
    file = config(tmp_path / "gateway.yaml", echo, "/mine")
    argv = (file, "--redis", redis_server.url, *ANY)
    gateway = start(tmp_path, *argv).ready()
    assert gateway.get("/mine").status_code == 200
    assert gateway.stop() == 0
    theirs = publish(redis_server, [{"path": "/theirs", "upstream": echo}])
    gateway = start(tmp_path, *argv).ready()
    assert [gateway.get(path).status_code for path in ("/mine", "/theirs")] == [404, 200]
    gateway.said("has not changed since it was published")
    assert gateway.stop() == 0
    assert redis_server.client().get("gw:routes") == theirs
    config(file, echo, "/mine", "/edited")
    gateway = start(tmp_path, *argv).ready()
    assert [gateway.get(path).status_code for path in ("/mine", "/theirs", "/edited")] == [200, 404, 200]
    history = [fields["actor"] for _, fields in redis_server.client().xrange("gw:history")]  # type: ignore[union-attr]
    assert history == ["run", "external", "run"]


def test_another_store_gets_the_file_too(start: Callable[..., Running], tmp_path: Path, redis_server: RedisServer, echo: str) -> None:
    file = config(tmp_path / "gateway.yaml", echo, "/everywhere")
    assert start(tmp_path, file, *ANY).ready().stop() == 0
    publish(redis_server, [{"path": "/theirs", "upstream": echo}])
    gateway = start(tmp_path, file, *ANY, "--redis", redis_server.url, GWPROXY_REDIS_URL="unix:///not-used").ready()
    assert gateway.get("/everywhere").status_code == 200
    assert not gateway.processes("gwproxy-store")


def test_without_a_configuration_it_says_what_it_waits_for(
    start: Callable[..., Running], tmp_path: Path, redis_server: RedisServer, echo: str
) -> None:
    gateway = start(tmp_path, *ANY, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="waiting:")
    gateway.said("waiting for a configuration: SET waiting:routes in the store")
    publish(redis_server, [{"path": "/late", "upstream": echo}], prefix="waiting:")
    assert gateway.ready().get("/late").status_code == 200


# ---- gunicorn's settings


def test_settings_come_from_the_packaged_ones_then_a_file_then_the_flags(
    start: Callable[..., Running], tmp_path: Path, redis_server: RedisServer, echo: str
) -> None:
    publish(redis_server, [{"path": "/any", "upstream": echo}], prefix="conf:")
    port = free_port()
    other = "from gevent import monkey; monkey.patch_all()\nfrom gwproxy.worker.gunicorn_conf import *\n"
    (tmp_path / "gunicorn.conf.py").write_text("workers = 1\n")
    (tmp_path / "other.py").write_text(other + f"bind = '127.0.0.1:{port}'\nworkers = 2\n")
    argv = ("--gunicorn-conf", "other.py", "--workers", "3", "--redis", redis_server.url)
    gateway = start(tmp_path, *argv, GWPROXY_PREFIX="conf:").ready()
    assert gateway.said("ready: ").endswith(f" http://127.0.0.1:{port} serves 1 route (revision 1), 3 workers")
    gateway.said("Using worker: gwproxy.worker.GatewayWorker")


def test_SIGHUP_reads_the_settings_again_but_not_broken_ones(
    start: Callable[..., Running], tmp_path: Path, redis_server: RedisServer, echo: str
) -> None:
    publish(redis_server, [{"path": "/any", "upstream": echo}], prefix="hup:")
    file = tmp_path / "gunicorn.conf.py"
    file.write_text("workers = 1\n")
    gateway = start(tmp_path, "--bind", "127.0.0.1:0", "--redis", redis_server.url, GWPROXY_PREFIX="hup:").ready()
    assert gateway.said("ready: ").endswith(" 1 worker")
    file.write_text("workers = 2\nkeepalive = (\n")
    gateway.child.send_signal(signal.SIGHUP)
    assert "gunicorn.conf.py:2: SyntaxError" in gateway.said("not reloaded: ")
    assert gateway.get("/any").status_code == 200
    file.write_text("workers = 2\n")
    gateway.child.send_signal(signal.SIGHUP)
    client = redis_server.client()
    until(lambda: len(list(client.scan_iter("hup:worker:*"))) == 2, "the new number of workers")
    assert gateway.get("/any").status_code == 200
