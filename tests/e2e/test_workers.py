"""Workers die, crash while they start, and are replaced; disks refuse; what the clients see of it."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import HERE, GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient, head
from tests.e2e.scripted import ScriptedService, Seen
from tests.e2e.test_faults import Traffic

pytestmark = pytest.mark.e2e

CONF = HERE.parent.parent / "gunicorn.conf.py"


def children(gateway: GatewayProcess) -> set[int]:
    master = gateway.process.child.pid
    return set(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))


def is_ready(gateway: GatewayProcess) -> bool:
    return gateway.get("/.well-known/gwproxy/ready", timeout=1).status_code == 200


# ---- V12: what a plugin does to a worker that starts

CRASHES = {
    "import-exit": "if BAD.exists():\n    os._exit(1)\n",
    "started-segfault": "STARTED = lambda: os.kill(os.getpid(), signal.SIGSEGV)\n",
}
PLUGIN = """
import os, signal
from pathlib import Path
from gwproxy import Plugin, hookimpl
BAD = Path({bad!r})
STARTED = lambda: None
{crash}
class Crashing(Plugin):
    name = "crashing"
    @hookimpl
    def worker_started(self):
        if BAD.exists():
            STARTED()
"""


def install(folder: Path, text: str) -> str:
    information = folder / "crashing-1.0.dist-info"
    information.mkdir()
    (folder / "gwproxy_crashing.py").write_text(text)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: crashing\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gwproxy]\ncrashing = gwproxy_crashing:Crashing\n")
    return str(folder)


@pytest.mark.parametrize("crash", CRASHES)
def test_V12_a_crash_loop_slows_down_and_ends_with_its_cause(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, tmp_path: Path, crash: str
) -> None:
    bad = tmp_path / "bad"
    bad.touch()
    publish(redis_server, [{"path": "/plain", "upstream": service.url}], prefix="crash:")
    path = install(tmp_path, PLUGIN.format(bad=str(bad), crash=CRASHES[crash]))
    gateway = start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="crash:", PYTHONPATH=path)
    until(lambda: "worker_start_delayed seconds=0.50 failed=2" in gateway.output(), "the second delay")
    assert gateway.process.child.poll() is None
    with pytest.raises(OSError, match="timed out"):  # nobody accepts: not ready
        RawClient(gateway.port, timeout=0.2).ask("/.well-known/gwproxy/ready")
    bad.unlink()
    until(lambda: is_ready(gateway), "a worker that starts well")
    assert gateway.get("/plain").status_code == 200


def test_V12_gunicorns_own_exit_status_lets_the_master_give_up(start_gateway: Callable[..., GatewayProcess], tmp_path: Path) -> None:
    """As docs/operating.md says: nothing of Python's runs after it, so nothing can be done about it."""
    bad = tmp_path / "bad"
    bad.touch()
    path = install(tmp_path, PLUGIN.format(bad=str(bad), crash="STARTED = lambda: os._exit(3)\n"))
    gateway = start_gateway(workers=1, PYTHONPATH=path)
    assert gateway.process.child.wait(20) == 3
    assert "Worker failed to boot" in gateway.output()


def test_X03_X11_what_never_returns_to_python_is_named_and_costs_its_worker(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, strangers: str, tmp_path: Path
) -> None:
    conf = tmp_path / "conf.py"
    conf.write_text(f"exec(open({str(CONF)!r}).read())\ntimeout = 2\n")
    entry = {"name": "hostile", "config": {"phase": "pre_auth"}, "budget": 0.5}
    publish(redis_server, [{"path": "/", "upstream": service.url, "plugins": [entry]}], prefix="c-call:")
    settings = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_PREFIX": "c-call:", "PYTHONPATH": strangers}
    gateway = start_gateway(workers=1, conf=conf, **settings).ready()
    before = children(gateway)
    with RawClient(gateway.port) as client:
        client.send(head("/plain?do=compute_for_ever"))
        assert client.rest() == b""
    until(lambda: is_ready(gateway) and not before & children(gateway), "another worker")
    assert "worker_blocked plugin=hostile phase=pre_auth" in gateway.output()
    assert "WORKER TIMEOUT" in gateway.output()


# ---- V03, R33, R34: a replacement in bad times


def test_V03_R33_R34_a_replacement_boots_with_redis_away_and_a_corrupt_last_good_file(
    start_gateway: Callable[..., GatewayProcess], service: ScriptedService, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    store = RedisServer(tmp_path_factory.mktemp("r"))
    service.on("/plain", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    gateway = start_gateway(tmp_path, workers=2, GWPROXY_REDIS_URL=store.url)
    newest, before = (tmp_path / "state" / "last-good" / name for name in ("gw.json", "gw.previous.json"))
    for other in ("/first", "/second"):
        publish(store, [{"path": "/plain", "upstream": service.url}, {"path": other, "upstream": service.url}])
        gateway.ready()
        until(lambda path=other: gateway.get(path).status_code == 200, f"{other} to be served")  # type: ignore[misc]
    until(before.exists, "two generations on disk")

    def both(state: str) -> bool:
        return [beat["state"] for beat in gateway.heartbeats(store.client())] == [state] * 2

    until(lambda: both("ready"), "both to have begun")
    publish(store, {"routes": "none"})
    until(lambda: both("refused"), "both to refuse the next one: a worker that does has saved what came before")
    assert store.process is not None
    store.process.signal(signal.SIGKILL)
    store.process.child.wait()
    newest.write_bytes(newest.read_bytes()[:-10])
    for replaced in (1, 2):
        alive = children(gateway)
        with Traffic(gateway, keep=True) as traffic:
            os.kill(min(alive), signal.SIGKILL)
            until(lambda was=alive: len(children(gateway) - was) == 1, "a replacement")  # type: ignore[misc]
            traffic.more()
        assert len(traffic.failures) + traffic.turned_away <= 4  # what the killed worker had at that moment
        assert traffic.refused == 0
        until(lambda so_far=replaced: gateway.output().count("serving_last_good") == so_far, "it to serve from disk")  # type: ignore[misc]
    assert [gateway.get("/first").status_code for _ in range(10)] == [200] * 10  # the generation before


# ---- V04, V11: leaving


@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "new connections"])
def test_V04_recycling_under_traffic_loses_nothing(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    service: ScriptedService,
    tmp_path: Path,
    keep: bool,
) -> None:
    conf = tmp_path / "conf.py"
    conf.write_text(f"exec(open({str(CONF)!r}).read())\nmax_requests = 150\nmax_requests_jitter = 50\n")
    publish(redis_server, [{"path": "/plain", "upstream": service.url}], prefix="recycle:")
    gateway = start_gateway(workers=2, conf=conf, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="recycle:").ready()
    seen = children(gateway)

    def enough() -> bool:
        seen.update(children(gateway))
        return len(seen) >= 5

    with Traffic(gateway, keep=keep) as traffic:
        until(enough, "three workers to be replaced")
        traffic.more()
    assert (traffic.failures, traffic.refused, traffic.turned_away) == ([], 0, 0)
    assert "worker_start_delayed" not in gateway.output()  # they did not crash


FRAMINGS = {"length": b"Content-Length: 100000\r\n", "chunked": b"Transfer-Encoding: chunked\r\n", "until-close": b"Connection: close\r\n"}


def test_V11_a_stream_that_outlives_graceful_timeout_is_visibly_cut(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, tmp_path: Path
) -> None:
    gone: queue.SimpleQueue[str] = queue.SimpleQueue()

    def endless(framing: str) -> Callable[[Seen], None]:
        piece = b"5\r\nhello\r\n" if framing == "chunked" else b"hello"

        def script(seen: Seen) -> None:
            seen.send(b"HTTP/1.1 200 OK\r\n" + FRAMINGS[framing] + b"\r\n" + piece)
            seen.gone()
            gone.put(framing)

        return script

    for framing in FRAMINGS:
        service.on(f"/{framing}", endless(framing))
    conf = tmp_path / "conf.py"
    conf.write_text(f"exec(open({str(CONF)!r}).read())\ngraceful_timeout = 2\n")
    publish(redis_server, [{"path": "/", "upstream": service.url}], prefix="long:")
    gateway = start_gateway(workers=1, conf=conf, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="long:").ready()
    clients = {framing: RawClient(gateway.port) for framing in FRAMINGS}
    for framing, client in clients.items():
        client.send(head(f"/{framing}"))
        assert b"Content-Length: 100000" in client.until(b"\r\n\r\n") or framing != "length"
        client.until(b"hello")
    old = RawClient(gateway.port)
    old.send(b"GET /until-close HTTP/1.0\r\nHost: gw.example\r\n\r\n")  # nothing but the end of its connection tells where it ends
    old.until(b"hello")
    gateway.process.signal(signal.SIGTERM)
    for framing, client in clients.items():
        left = client.rest()
        assert b"0\r\n\r\n" not in left, framing
        assert len(left) < 100, framing
    with pytest.raises(ConnectionResetError):
        old.sock.recv(100)
    assert {gone.get(timeout=10) for _ in range(4)} == set(FRAMINGS)  # the upstreams' connections are given up, too
    assert gateway.process.stop() == 0
    assert "worker_drain_cut connections=4" in gateway.output()


# ---- V13: the disk


FULL = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_V13_a_disk_that_refuses_is_logged_and_changes_go_live(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, tmp_path: Path, disk: str
) -> None:
    """Full: no file may grow beyond what the configuration needs. Read-only: a file is where the folder should be."""
    conf = tmp_path / "conf.py"
    conf.write_text(f"exec(open({str(CONF)!r}).read())\n{FULL if disk == 'full' else ''}")
    if disk == "read-only":
        (tmp_path / "state").touch()
    prefix = f"disk-{disk}:"
    padding = [{"path": f"/{number:04}/{'x' * 100}", "upstream": service.url} for number in range(1000)]
    publish(redis_server, [{"path": "/one", "upstream": service.url}, *padding], prefix=prefix)
    gateway = start_gateway(tmp_path, workers=1, conf=conf, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX=prefix).ready()
    assert gateway.get("/one").status_code == 200
    until(lambda: "last_good_not_saved reason=" in gateway.output(), "the log")
    publish(redis_server, [{"path": "/two", "upstream": service.url}, *padding], prefix=prefix)
    until(lambda: gateway.get("/two").status_code == 200, "the change")
    (beat,) = gateway.heartbeats(redis_server.client(), prefix)
    assert beat["state"] == "ready"
    assert not list((tmp_path / "state").glob("last-good/*"))  # nothing half-written
