"""Parts fail while traffic goes on: Redis, disks, workers; and changes while requests are under way."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient, head
from tests.e2e.scripted import OK, ScriptedService, Seen

pytestmark = pytest.mark.e2e

STAMP = {"name": "stranger_stamp"}


@pytest.fixture(scope="module")
def document(service: ScriptedService) -> dict[str, object]:
    def limited(path: str, policy: str) -> dict[str, object]:
        config = {"limit": 2, "window_seconds": 600, "on_store_error": policy}
        return {"path": path, "upstream": service.url, "plugins": [{"name": "rate_limit", "config": config}]}

    return {
        "plugins": [{"name": "access_log"}],
        "routes": [
            {"path": "/plain", "upstream": service.url},
            limited("/local", "local"),
            limited("/allow", "allow"),
            limited("/deny", "deny"),
        ],
    }


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, document: dict[str, object], strangers: str
) -> GatewayProcess:
    publish(redis_server, document)
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, PYTHONPATH=strangers).ready()


def pids(gateway: GatewayProcess, server: RedisServer, digest: str | None = None) -> set[str]:
    """The workers that say in Redis that they live, and do; with ``digest``: those that run that configuration."""
    master = gateway.process.child.pid
    living = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    beats = gateway.heartbeats(server.client())
    return {beat["pid"] for beat in beats if beat["pid"] in living and digest in (None, beat["digest"])}


def settled(gateway: GatewayProcess, server: RedisServer, text: str) -> None:
    """Wait until every worker says that it runs this configuration."""
    digest = hashlib.sha256(text.encode()).hexdigest()

    def everywhere() -> bool:
        return len(pids(gateway, server, digest)) == gateway.workers == len(pids(gateway, server))

    until(everywhere, "every worker to run the configuration")


@pytest.fixture
def restored(gateway: GatewayProcess, redis_server: RedisServer, document: dict[str, object]) -> Iterator[None]:
    """Redis runs and every worker serves the module's configuration, before and after the test."""
    settled(gateway, redis_server, publish(redis_server, document))
    yield
    if redis_server.process is None or redis_server.process.child.poll() is not None:
        redis_server.start()
    settled(gateway, redis_server, publish(redis_server, document))


def status(gateway: GatewayProcess, path: str) -> int:
    return gateway.get(path).status_code


# ---- Redis dies while the gateway runs


@pytest.mark.usefixtures("restored")
def test_Q03_what_redis_does_while_it_is_away(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    with RawClient(gateway.port) as client:  # one connection, so one worker
        assert client.ask("/local").status == client.ask("/allow").status == client.ask("/deny").status == 200
        assert redis_server.process is not None
        redis_server.process.signal(signal.SIGKILL)
        redis_server.process.child.wait()
        assert [client.ask("/plain").status for _ in range(20)] == [200] * 20
        assert [client.ask("/local").status for _ in range(4)] == [200, 200, 429, 429]  # counted by the worker alone
        assert [client.ask("/allow").status for _ in range(4)] == [200] * 4
        assert [client.ask("/deny").status for _ in range(4)] == [503] * 4
        began = time.monotonic()
        for _ in range(20):
            client.ask("/allow")
        assert time.monotonic() - began < 1  # a store that is away costs nothing
        assert client.ask("/.well-known/gwproxy/ready").status == 200
        until(lambda: gateway.output().count("source_away") >= gateway.workers, "every worker to say that Redis is away")
        redis_server.start()
        until(lambda: client.ask("/deny").status == 200, "the store to be used again")
        assert gateway.output().count("source_away") == gateway.workers  # once each, not once a poll


@pytest.mark.usefixtures("restored")
def test_redis_may_hang_instead_of_dying(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    assert redis_server.process is not None
    redis_server.process.signal(signal.SIGSTOP)
    try:
        with RawClient(gateway.port) as client:
            for path, expected in (("/plain", 200), ("/allow", 200), ("/deny", 503)):
                began = time.monotonic()
                assert client.ask(path).status == expected
                assert time.monotonic() - began < 0.5  # 100 ms, and a busy machine
    finally:
        redis_server.process.signal(signal.SIGCONT)
    until(lambda: status(gateway, "/deny") in (200, 429), "the store to be used again")


@pytest.mark.usefixtures("restored")
def test_an_emptied_redis_changes_nothing_until_there_is_a_configuration(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService
) -> None:
    redis_server.client().flushall()
    until(
        lambda: [beat["state"] for beat in gateway.heartbeats(redis_server.client())] == ["refused"] * gateway.workers,
        "the workers to say that they have lost their configuration",
    )
    assert status(gateway, "/plain") == 200
    settled(gateway, redis_server, publish(redis_server, [{"path": "/after", "upstream": service.url}]))
    assert (status(gateway, "/after"), status(gateway, "/plain")) == (200, 404)


@pytest.mark.usefixtures("restored")
def test_logs_wait_for_redis(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    redis_server.stop()
    with RawClient(gateway.port) as client:
        for number in range(5):
            client.ask("/plain", f"X-Request-ID: while-away-{number}")
    redis_server.start()

    def logged() -> set[str]:
        return {json.loads(entry)["request_id"] for entry in redis_server.client().lrange("gw:access_log", 0, -1)}  # type: ignore[union-attr]

    until(lambda: logged() >= {f"while-away-{number}" for number in range(5)}, "what was logged meanwhile")


# ---- the last good configuration


def test_R34_a_start_without_redis(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, tmp_path: Path
) -> None:
    """Served from disk, from the generation before if the newest is damaged; 503 if there is nothing left."""
    settings = {"workers": 1, "GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_PREFIX": "good:"}
    away = {**settings, "GWPROXY_REDIS_URL": f"unix://{tmp_path}/nobody.sock"}

    def run(paths: list[str], **env: object) -> None:
        gateway = start_gateway(tmp_path, **env).ready()
        assert [status(gateway, path) for path in ("/one", "/two")] == [200 if path in paths else 404 for path in ("/one", "/two")]
        gateway.process.stop()

    for path in ("/one", "/two"):
        publish(redis_server, [{"path": path, "upstream": service.url}], prefix="good:")
        run([path], **settings)
    run(["/two"], **away)
    newest, before = (tmp_path / "state" / "last-good" / name for name in ("good.json", "good.previous.json"))
    newest.write_bytes(newest.read_bytes()[:-10])
    run(["/one"], **away)
    assert {path.stat().st_mode & 0o777 for path in (newest, before)} == {0o600}
    for path in (newest, before):
        path.write_bytes(b"\x00nonsense")
    gateway = start_gateway(tmp_path, **away)
    assert until(lambda: status(gateway, "/one"), "an answer") == 503
    assert gateway.get("/.well-known/gwproxy/ready").json() == {"status": "starting"}
    gateway.process.stop()


# ---- workers come and go


class Traffic:
    """Clients that ask without pause; every request that is not answered by 200 in full is a failure.

    :param keep: whether a connection is used for many requests, until the gateway ends it.

    :ivar refused: how many connections were refused: those have lost nothing if the gateway was told to stop.
    :ivar turned_away: how many were reset before they brought anything, the first request of each: accepted by the kernel
        and by nobody else. Only a listener that closes has those.
    """

    def __init__(self, gateway: GatewayProcess, *, keep: bool, clients: int = 4) -> None:
        self.answered = 0
        self.refused = 0
        self.turned_away = 0
        self.failures: list[str] = []
        self._port = gateway.port
        self._keep = keep
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def more(self, count: int = 100) -> None:
        """Wait for so many further answers."""
        enough = self.answered + count
        until(lambda: self.answered >= enough, f"{count} answers")

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._converse()
            except ConnectionRefusedError:
                self.refused += 1
                self._stop.wait(0.01)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))

    def _converse(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
        served = False
        try:
            while not self._stop.is_set():
                connection.request("POST", "/plain", body=b"hello", headers={} if self._keep else {"Connection": "close"})
                answer = connection.getresponse()
                served = True
                body = answer.read()
                if (answer.status, body) == (200, b"ok"):
                    self.answered += 1
                else:
                    self.failures.append(f"{answer.status} {body!r}")
                if answer.will_close:
                    return
        except ConnectionResetError:
            if served:
                raise
            self.turned_away += 1
        finally:
            connection.close()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "new connections"])
def test_V01_hup_under_traffic_loses_nothing(gateway: GatewayProcess, redis_server: RedisServer, keep: bool) -> None:
    before = pids(gateway, redis_server)
    with Traffic(gateway, keep=keep) as traffic:
        gateway.hup()
        until(lambda: len(now := pids(gateway, redis_server)) == gateway.workers and not now & before, "new workers only")
        traffic.more()
    assert (traffic.failures, traffic.refused, traffic.turned_away) == ([], 0, 0)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "new connections"])
def test_V02_sigterm_of_a_worker_under_traffic_loses_nothing(gateway: GatewayProcess, redis_server: RedisServer, keep: bool) -> None:
    before = pids(gateway, redis_server)
    with Traffic(gateway, keep=keep) as traffic:
        os.kill(int(min(before)), signal.SIGTERM)
        until(lambda: len(now := pids(gateway, redis_server)) == gateway.workers and now != before, "a new worker")
        traffic.more()
    assert (traffic.failures, traffic.refused, traffic.turned_away) == ([], 0, 0)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "new connections"])
def test_V03_a_killed_worker_loses_only_its_own(gateway: GatewayProcess, redis_server: RedisServer, keep: bool) -> None:
    before = pids(gateway, redis_server)
    with Traffic(gateway, keep=keep) as traffic:
        os.kill(int(min(before)), signal.SIGKILL)
        until(lambda: len(now := pids(gateway, redis_server)) == gateway.workers and now != before, "a new worker")
        traffic.more()
    assert len(traffic.failures) + traffic.turned_away <= 4  # one of each client at most: what the killed worker had at that moment
    assert traffic.refused == 0


@pytest.mark.parametrize("keep", [True, False], ids=["keep-alive", "new connections"])
def test_sigterm_of_the_gateway_under_traffic_loses_nothing(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, document: dict[str, object], keep: bool
) -> None:
    publish(redis_server, document, prefix="term:")
    gateway = start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="term:").ready()
    with Traffic(gateway, keep=keep) as traffic:
        assert gateway.process.stop() == 0
        until(lambda: traffic.refused > 10, "nobody to be there")
    assert traffic.failures == []
    assert traffic.turned_away <= 4  # between a worker's last look at the backlog and its close


def test_a_gateway_that_is_stopped_finishes_what_it_has_begun(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, document: dict[str, object]
) -> None:
    publish(redis_server, document, prefix="stopped:")
    gateway = start_gateway(GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="stopped:").ready()
    permission: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    service.on("/plain/slow", lambda seen: permission.get(timeout=20))
    service.on("/plain/stream", lambda seen: seen.send(permission.get(timeout=20)))  # type: ignore[func-returns-value]
    clients = [RawClient(gateway.port) for _ in range(6)]
    for client in clients[:4]:
        client.send(head("/plain/slow"))
    clients[4].send(head("/plain/stream"))
    for _ in range(5):
        service.next()
    assert clients[5].ask("/plain").status == 200  # and then it is idle
    gateway.process.signal(signal.SIGTERM)
    assert clients[5].ended()  # only now is it sure that the gateway drains
    until(lambda: refuses(gateway.port), "no new connections")
    for _ in range(4):
        permission.put(OK)
    permission.put(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
    answers = [client.answer() for client in clients[:5]]
    assert [(answer.status, answer.body, answer.closed) for answer in answers] == [(200, b"ok", True)] * 5
    assert gateway.process.stop() == 0
    assert gateway.heartbeats(redis_server.client(), "stopped:") == []


def refuses(port: int) -> bool:
    try:
        RawClient(port).sock.close()
    except ConnectionRefusedError:
        return True
    return False


# ---- configurations come and go


@pytest.mark.usefixtures("restored")
def test_a_request_ends_by_the_configuration_it_began_with(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService
) -> None:
    permission: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    chunks: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def stream(seen: Seen) -> None:
        seen.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(2):
            seen.send(chunks.get(timeout=20))

    service.on("/leaving/waits", lambda seen: permission.get(timeout=20))
    service.on("/leaving/streams", stream)
    there = [{"path": "/leaving", "upstream": service.url, "plugins": [STAMP]}, {"path": "/plain", "upstream": service.url}]
    settled(gateway, redis_server, publish(redis_server, there))
    with RawClient(gateway.port) as waiting, RawClient(gateway.port) as streaming:
        waiting.send(head("/leaving/waits"))
        service.next("/leaving/waits")
        streaming.send(head("/leaving/streams"))
        assert b"X-Stamp: 200" in streaming.until(b"\r\n\r\n")
        settled(gateway, redis_server, publish(redis_server, there[1:]))
        assert status(gateway, "/leaving/waits") == 404
        chunks.put(b"5\r\nfirst\r\n")
        assert streaming.until(b"first") == b"5\r\nfirst"
        chunks.put(b"0\r\n\r\n")
        assert streaming.until(b"0\r\n\r\n") == b"\r\n0\r\n\r\n"
        permission.put(OK)
        answer = waiting.answer()
        assert (answer.status, answer.body, answer.get("X-Stamp")) == (200, b"ok", "200")
        assert waiting.ask("/leaving/waits").status == 404  # the next one on the same connection begins anew


@pytest.mark.usefixtures("restored")
def test_Q13_a_storm_of_changes_ends_with_the_last(gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService) -> None:
    with Traffic(gateway, keep=True) as traffic:
        for number in range(100):
            routes = [{"path": "/plain", "upstream": service.url}, {"path": f"/change/{number}", "upstream": service.url}]
            text = publish(redis_server, routes)
        settled(gateway, redis_server, text)
        traffic.more()
    assert (traffic.failures, traffic.refused, traffic.turned_away) == ([], 0, 0)
    for _ in range(10):  # each on a connection of its own: of any worker
        assert (status(gateway, "/change/99"), status(gateway, "/change/98")) == (200, 404)
    history = [entry for _, entry in redis_server.client().xrange("gw:history")]  # type: ignore[union-attr]
    assert [entry["configuration"] for entry in history].count(text) == 1
    assert history[-1]["configuration"] == text
