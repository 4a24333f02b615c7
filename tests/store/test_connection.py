from __future__ import annotations

import contextlib
import subprocess
import sys
import threading

import pytest
import redis

from gwproxy.errors import CommandFailed
from gwproxy.store.connection import check_prefix, connect, describe, mask_url
from tests.ports import free_port


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:hunter2@host/0", "redis://***@host/0"),
        ("redis://:hunter2@host", "redis://***@host"),
        ("redis://hunter2@host", "redis://***@host"),
        ("redis://:hun/ter2@host", "redis://***@host"),
        ("redis://:hun?ter2@host", "redis://***@host"),
        ("redis://:hunter2@x@host", "redis://***@host"),
        ("redis+sentinel://u:hunter2@a,b:1/name/0?sentinel_password=hunter2", "redis+sentinel://***@a,b:1/name/0?sentinel_password=***"),
        ("unix:///run/redis.sock?password=hunter2&db=1", "unix:///run/redis.sock?password=***&db=1"),
        ("unix:///run/redis.sock?password=hun@ter2", "unix:///run/redis.sock?password=***"),
    ],
)
def test_no_credential_survives_masking(url, masked):
    assert mask_url(url) == masked
    assert "ter2" not in mask_url(url)


def test_describe_is_one_line_without_secrets_and_never_empty():
    assert describe(redis.ConnectionError("Error 111 connecting to\nhost:1. Connection refused.")).endswith("Connection refused.")
    assert describe(redis.TimeoutError()) == "TimeoutError"
    assert describe(ValueError("bad redis://u:hunter2@h and redis://:x@i")) == "bad redis://***@h and redis://***@i"
    assert len(describe(ValueError("x" * 1000))) == 300


@pytest.mark.parametrize("prefix", ["{gw}:", "a{b}c:"])
def test_a_hash_tagged_prefix_fits_a_cluster(prefix):
    check_prefix("redis+cluster://h", prefix)


@pytest.mark.parametrize("prefix", ["gw:", "{}:", "{gw:"])
def test_a_cluster_needs_a_hash_tag(prefix):
    with pytest.raises(CommandFailed, match=r"GWPROXY_PREFIX=\{gw\}:"):
        check_prefix("redis+cluster://h", prefix)
    check_prefix("redis://h", prefix)


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "host:6379",
        "redis://:hunter2@host:port",
        "redis+sentinel://host",
        "redis+sentinel:///name",
        "redis+sentinel://host/name/first",
        "redis+cluster://",
        "redis://host?socket_read_size=x",
    ],
)
def test_a_senseless_url_is_refused_without_its_password(url):
    with pytest.raises(CommandFailed, match="Redis URL") as caught:
        connect(url)
    assert "hunter2" not in str(caught.value)


def test_making_a_client_sends_nothing_whatever_the_kind():
    for url in ("redis://192.0.2.1", "rediss://192.0.2.1", "redis+sentinel://192.0.2.1/m", "redis+cluster://192.0.2.1", "unix:///nowhere"):
        connect(url).close()


def test_bounds_cannot_be_undone_by_the_url():
    pool = connect("redis://host?socket_timeout=60&protocol=3", timeout=0.1).connection_pool
    assert pool.connection_kwargs["socket_timeout"] == 0.1
    assert pool.connection_kwargs["protocol"] == 2


def test_a_client_says_its_name(client):
    assert client.client_getname() in ("gwproxy", b"gwproxy")


def test_Q03_a_pooled_connection_is_replaced_after_a_restart(server):
    client = connect(server.url, timeout=1.0)
    client.ping()
    server.kill()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    server.start()
    assert client.ping()

    client.ping()  # idle in the pool while the server restarts: the very next command succeeds
    server.kill()
    server.start()
    assert client.incr("once") == 1
    client.close()


def test_a_command_is_never_sent_twice(server):
    """The reply is lost, the command is not repeated: it may have been done."""
    client = connect(server.url, timeout=0.05)
    client.ping()
    with server.frozen(), pytest.raises(redis.TimeoutError):
        client.incr("counter")
    patient = connect(server.url, timeout=5.0)
    assert patient.get("counter") == b"1"
    patient.close()
    client.close()


def test_a_full_pool_makes_commands_wait_then_fail(server):
    client = connect(server.url, timeout=0.2, max_connections=1)
    pubsub = client.pubsub()
    pubsub.subscribe("c")
    with pytest.raises(redis.ConnectionError, match="No connection available"):
        client.ping()
    threading.Timer(0.02, pubsub.close).start()
    assert client.ping()
    client.close()


@pytest.fixture
def password_server(shared_server, client):
    client.config_set("requirepass", "hunter2")
    yield shared_server
    client.execute_command("AUTH", "hunter2")
    client.config_set("requirepass", "")


def test_credentials_come_from_the_url(password_server):
    with contextlib.closing(connect(password_server.url + "?password=hunter2")) as right:
        assert right.ping()
    with contextlib.closing(connect(password_server.url)) as none, pytest.raises(redis.AuthenticationError):
        none.ping()


@pytest.fixture
def tcp(tmp_path):
    """Start a redis-server on a free TCP port; called with options it returns the port."""
    running = []

    def start(*options: str) -> int:
        port = free_port()
        command = ["redis-server", *options, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        running.append(process)
        return port

    yield start
    for process in running:
        process.kill()
        process.wait()


def succeeds(function):
    with contextlib.suppress(redis.RedisError, redis.exceptions.RedisClusterException, OSError):
        return function() is not False
    return False


def test_sentinel_finds_the_master(tcp, tmp_path, wait_until):
    master = tcp()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {master} 1\n")
    watcher = tcp(str(config), "--sentinel")
    client = connect(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{watcher}/main/2", timeout=2.0)  # the first one is dead
    wait_until(lambda: succeeds(client.ping))
    client.set("k", "v")
    with contextlib.closing(connect(f"redis://127.0.0.1:{master}/2", timeout=2.0)) as direct:
        assert direct.get("k") == b"v"
    client.close()


def test_Q06_a_sentinel_connection_left_in_the_middle_of_a_reply_is_not_used_again(tcp, tmp_path, wait_until):
    master = tcp()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {master} 1\n")
    client = connect(f"redis+sentinel://127.0.0.1:{tcp(str(config), '--sentinel')}/main", timeout=2.0, max_connections=1)
    wait_until(lambda: succeeds(client.ping))
    connection = client.connection_pool.get_connection()
    connection.send_command("ECHO", "of somebody else")

    class Killed(BaseException):
        pass

    def killed(*args, **kwargs):
        raise Killed

    connection._parser.read_response = killed
    with pytest.raises(Killed):
        connection.read_response()
    del connection._parser.read_response
    client.connection_pool.release(connection)
    assert client.echo("mine") == b"mine"
    client.close()


def test_a_cluster_is_found_at_the_first_command(tcp, tmp_path, wait_until):
    # Its bus: by default at 10000 above its port, which may be beyond 65535, or another's; it would not start.
    bus = ["--cluster-port", str(free_port())]
    port = tcp("--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / "nodes.conf"), *bus)
    with contextlib.closing(connect(f"redis://127.0.0.1:{port}", timeout=2.0)) as node:
        wait_until(lambda: succeeds(node.ping))
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: node.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
    script = f"""
import sys
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.connection import connect
from gwproxy.store.shared import RedisStore
url = "redis+cluster://127.0.0.1:{port}"
store = RedisStore.from_url(url, prefix="{{gw}}:")
print([store.take("a", limit=2, window=60, algorithm="sliding_window").allowed for _ in range(3)])
print(store.claim("c", ttl=5), store.claim("c", ttl=5), store.get("nothing"))
store.log("access_log", b"entry")
print(store.logs.flush())
configuration = ConfigurationStore(connect(url, timeout=2.0), "{{gw}}:")
print(configuration.publish(b"[]", actor="me").revision, configuration.read().data, configuration.access_log(5))
configuration.heartbeat("w", {{"state": "ready"}})
print(configuration.workers())
waiting = configuration.subscribe()
print(waiting.wait(1.0), configuration.publish(b"[ ]", actor="me").revision, waiting.wait(2.0))
waiting.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == [
        "[True, True, False]",
        "True False None",
        "1",
        "1 b'[]' [b'entry']",
        "[{'id': 'w', 'state': 'ready'}]",
        "True 2 True",
    ], done.stderr
