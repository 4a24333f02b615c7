"""The worker process: told of its life, leaving without losing a request, over TLS."""

import os
import re
import select
import signal
import threading
import time

import pytest

REQUEST = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"


class Load:
    """Clients that ask without pause until told to stop, and count what fails."""

    def __init__(self, gateway, *, keep, clients=4):
        self.answered = 0
        self.failures = []
        self.pids = set()
        self._gateway = gateway
        self._keep = keep
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self):
        while not self._stop.is_set():
            try:
                self._converse()
            except (AssertionError, OSError) as error:
                self.failures.append(repr(error))

    def _converse(self):
        """Ask on one connection, once or 20 times, unless the gateway ends it before."""
        with self._gateway.client() as client:
            for _ in range(20):
                reply = client.get("/pid", *(() if self._keep else ("Connection: close",)))
                assert reply.status == 200
                self.answered += 1
                self.pids.add(reply.body)
                if reply.has("Connection") or self._stop.is_set():
                    return


@pytest.mark.parametrize("keep", [False, True])
def test_V01_hup_under_load_loses_nothing(gunicorn, wait_until, keep):
    gateway = gunicorn("--workers", "2")
    with Load(gateway, keep=keep) as load:
        wait_until(lambda: len(load.pids) >= 2 and load.answered > 50)
        before = set(load.pids)
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: len(load.pids - before) == 2)
        wait_until(lambda: sum(line.startswith("stop") for line in gateway.events()) == 2)
        enough = load.answered + 50
        wait_until(lambda: load.answered > enough)
    assert load.failures == []


@pytest.mark.parametrize("keep", [False, True])
def test_V02_sigterm_of_one_worker_under_load_loses_nothing(gunicorn, wait_until, keep):
    gateway = gunicorn("--workers", "2")
    with Load(gateway, keep=keep) as load:
        wait_until(lambda: len(load.pids) == 2)
        victim = sorted(load.pids)[0]
        os.kill(int(victim), signal.SIGTERM)
        wait_until(lambda: f"stop {victim.decode()}" in gateway.events())
        wait_until(lambda: len(load.pids) == 3)
    assert load.failures == []


def test_V04_max_requests_loses_nothing(gunicorn, wait_until):
    gateway = gunicorn("--workers", "2", "--max-requests", "40")
    with Load(gateway, keep=True) as load:
        wait_until(lambda: len(load.pids) >= 5)
    assert load.failures == []


def test_connections_waiting_to_be_accepted_are_served_when_everything_stops(gunicorn):
    """They come while the only worker stands still, and nobody accepts them after it."""
    gateway = gunicorn()
    pid = gateway.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    clients = [gateway.client().send(REQUEST % b"/echo") for _ in range(20)]
    gateway.signal(signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)
    assert [client.reply().status for client in clients] == [200] * 20
    assert all(client.closed() for client in clients)
    assert gateway.process.wait(10) == 0


def test_B05_the_longest_idle_connection_makes_room_for_a_new_one(gunicorn, wait_until):
    gateway = gunicorn("--worker-connections", "3", "--keep-alive", "60")
    with gateway.client() as busy, gateway.client() as first, gateway.client() as second:
        busy.send(REQUEST % b"/gated")
        assert first.get("/echo").status == 200
        assert second.get("/echo").status == 200
        with gateway.client() as new:
            assert new.get("/echo").status == 200  # within 10 seconds, and not a keep-alive time
            assert first.closed()
            assert second.get("/echo").status == 200
        gateway.gate.touch()
        assert busy.reply().body == b'"through"'


def test_B05_a_worker_with_nothing_idle_accepts_as_soon_as_a_request_is_over(gunicorn, wait_until):
    gateway = gunicorn("--worker-connections", "2", "--keep-alive", "60")
    with gateway.client() as busy, gateway.client() as streaming, gateway.client() as new:
        busy.send(REQUEST % b"/gated")
        streaming.send(REQUEST % b"/stream")
        streaming.until(b"data: 1\n\n\r\n")  # its head, which has left, said nothing of closing
        new.send(REQUEST % b"/echo")
        wait_until(lambda: "worker_full connections=2" in gateway.log())
        assert select.select([new.sock], [], [], 0)[0] == []
        gateway.gate.touch()
        assert busy.reply()["Connection"] == "close"  # somebody waits
        assert new.reply().status == 200
        streaming.until(b"0\r\n\r\n")
    with gateway.client() as client:
        assert not client.get("/echo").has("Connection")


def test_B05_a_connection_that_becomes_idle_is_given_up_for_who_waits(gunicorn, wait_until):
    gateway = gunicorn("--worker-connections", "1", "--keep-alive", "60")
    with gateway.client() as streaming, gateway.client() as new:
        streaming.send(REQUEST % b"/stream")
        streaming.until(b"data: 1\n\n\r\n")
        new.send(REQUEST % b"/echo")
        wait_until(lambda: "worker_full connections=1" in gateway.log())
        gateway.gate.touch()
        assert new.reply().status == 200
        streaming.until(b"0\r\n\r\n")
        assert streaming.closed()


def test_B05_no_request_is_lost_to_making_room(gunicorn, wait_until):
    """Five clients on four connections, each ending its own after 20 requests or when told to."""
    gateway = gunicorn("--worker-connections", "4", "--keep-alive", "60")
    with Load(gateway, keep=True, clients=5) as load:
        wait_until(lambda: load.answered > 500)
    assert load.failures == []


def test_B05_beyond_worker_connections_they_wait_for_another_worker(gunicorn, wait_until):
    """One connection fills the worker; the second is accepted by the one that replaces it."""
    gateway = gunicorn("--worker-connections", "1")
    first, second = gateway.client(), gateway.client()
    with first, second:
        first.send(REQUEST % b"/gated")
        second.send(REQUEST % b"/echo")
        wait_until(lambda: gateway.events() != [])
        os.kill(int(gateway.events()[0].split()[1]), signal.SIGTERM)
        wait_until(lambda: any(event.startswith("drain") for event in gateway.events()))
        gateway.gate.touch()
        assert first.reply().body == b'"through"'
        assert second.reply().status == 200


def test_whole_gateway_finishes_its_requests_on_sigterm(gunicorn, wait_until):
    gateway = gunicorn()
    with gateway.client() as busy, gateway.client() as idle, gateway.client() as streaming:
        idle.get("/echo")
        busy.send(REQUEST % b"/gated")
        streaming.send(REQUEST % b"/stream")
        streaming.until(b"data: 1\n\n\r\n")
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        assert idle.closed()
        assert time.monotonic() - began < 5  # not its keep-alive time, which is 15
        gateway.gate.touch()
        reply = busy.reply()
        assert (reply.body, reply["Connection"]) == (b'"through"', "close")
        streaming.until(b"data: 2\n\n\r\n0\r\n\r\n")
        assert busy.closed()
        assert streaming.closed()
    assert gateway.process.wait(5) == 0
    assert [event.split()[0] for event in gateway.events()] == ["start", "drain", "stop"]


def test_exit_is_quick_when_nothing_is_under_way(gunicorn):
    gateway = gunicorn()
    gateway.worker_pid()
    began = time.monotonic()
    gateway.signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert time.monotonic() - began < 3


def test_a_request_on_its_way_to_a_draining_worker_is_served(gunicorn, wait_until):
    gateway = gunicorn()
    with gateway.client() as busy, gateway.client() as late:
        busy.send(REQUEST % b"/gated")
        late.get("/echo")
        gateway.signal(signal.SIGTERM)
        wait_until(lambda: any(event.startswith("drain") for event in gateway.events()))
        assert late.get("/echo")["Connection"] == "close"
        assert late.closed()
        gateway.gate.touch()
        assert busy.reply().status == 200


def test_a_first_request_on_its_way_to_a_draining_worker_is_served(gunicorn, wait_until):
    """Whoever was accepted last may be slow to send; a connection that has been served is not waited for as long."""
    gateway = gunicorn()
    with gateway.client() as busy, gateway.client() as fresh, gateway.client() as idle:
        busy.send(REQUEST % b"/gated")
        idle.get("/echo")  # the one before it is accepted by now
        gateway.signal(signal.SIGTERM)
        assert idle.closed()
        assert fresh.get("/echo")["Connection"] == "close"
        gateway.gate.touch()
        assert busy.reply().status == 200


def test_V11_what_outlives_graceful_timeout_is_cut_and_never_looks_complete(gunicorn):
    gateway = gunicorn("--graceful-timeout", "1")
    with gateway.client() as chunked, gateway.client() as plain:
        chunked.send(REQUEST % b"/stream")
        chunked.until(b"data: 1\n\n\r\n")
        plain.send(b"GET /stream HTTP/1.0\r\n\r\n")
        plain.until(b"data: 1\n\n")
        gateway.signal(signal.SIGTERM)
        assert chunked.closed()
        with pytest.raises(ConnectionResetError):
            plain.sock.recv(100)
    gateway.process.wait(5)
    assert "worker_drain_cut connections=2" in gateway.log()
    assert gateway.events()[-1].startswith("stop")


def test_nothing_is_accepted_before_the_app_has_settled(gunicorn, wait_until):
    gateway = gunicorn(PROBE_SETTLES="1")
    with gateway.client() as client:
        client.send(REQUEST % b"/echo")
        wait_until(lambda: sum(event.startswith("asked") for event in gateway.events()) > 5)
        assert select.select([client.sock], [], [], 0)[0] == []
        gateway.gate.touch()
        assert client.reply().status == 200


def test_R33_what_the_app_raises_when_told_is_logged(gunicorn):
    gateway = gunicorn(PROBE_FAIL="1")
    pid = gateway.worker_pid()
    gateway.signal(signal.SIGTERM)
    assert gateway.process.wait(10) == 0
    assert re.findall(r"app_event_failed event=(\w+)", gateway.log()) == ["start", "drain", "stop"]
    assert gateway.events() == [f"start {pid}", f"drain {pid}", f"stop {pid}"]


def test_X03_a_request_that_blocks_the_worker_dies_alone(gunicorn, wait_until):
    gateway = gunicorn("--timeout", "1")
    with gateway.client() as spinning, gateway.client() as waiting:
        waiting.send(REQUEST % b"/gated")
        spinning.send(REQUEST % b"/spin")
        assert spinning.reply().status == 500
        gateway.gate.touch()
        assert waiting.reply().body == b'"through"'
    wait_until(lambda: len([event for event in gateway.events() if event.startswith("start")]) == 2)


@pytest.fixture(scope="module")
def secure(gunicorn, tmp_path_factory):
    """A gunicorn that speaks TLS, and a context that trusts it."""
    import ssl

    import trustme

    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "all.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    flags = ["--certfile", str(folder / "all.pem"), "--keyfile", str(folder / "all.pem"), "--keep-alive", "1"]
    return gunicorn(*flags, GWPROXY_HEADER_TIMEOUT="0.5"), context


def test_tls_requests(secure):
    gateway, context = secure
    with gateway.client(context=context) as client:
        assert b'"wsgi.url_scheme": "https"' in client.get("/echo").body
        assert client.get("/here").body == b"false"
        client.send(b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
        assert len(client.reply().body) > 300_000
        client.send(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
        assert client.reply().status == 401
        assert client.closed()


def test_tls_client_gone_and_timeouts(secure, wait_until):
    gateway, context = secure
    with gateway.client(context=context) as client:
        client.send(REQUEST % b"/gone")

    def seen():
        with gateway.client(context=context) as another:
            return re.search(rb'"gone": 1', another.get("/stats").body)

    wait_until(seen)
    with gateway.client(context=context) as client:
        client.send(b"GET / HT")
        assert client.reply().status == 408


def test_tls_handshake_has_a_deadline(secure):
    gateway, _ = secure
    with gateway.client() as client:
        assert client.closed()
    with gateway.client() as client:
        client.send(REQUEST % b"/echo")
        assert b"HTTP" not in (client.closed(), client.data)[1]
    assert "Traceback" not in gateway.log()


def test_tls_idle_connections_do_not_delay_a_stop(gunicorn, secure):
    gateway, context = secure
    with gateway.client(context=context) as client:
        assert client.get("/echo").status == 200
        gateway.signal(signal.SIGTERM)
        assert client.closed()
    assert gateway.process.wait(5) == 0
