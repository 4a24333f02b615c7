from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from gwproxy.dataplane.transport import GatewayAdapter, Origin, UpstreamFailed, UpstreamRequest, UpstreamTimedOut
from gwproxy.model import Timeouts
from tests.dataplane.conftest import Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(origin: Origin, **timeouts: Any) -> bytes:
    adapter = GatewayAdapter()
    try:
        raw = adapter.send(UpstreamRequest("GET", origin, b"/", [("Host", "a")], timeouts=Timeouts(**timeouts))).raw
        return b"".join(raw.stream())
    finally:
        adapter.close()


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Make every name resolve to ``addresses``; return the list of names that were asked for."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *args: Any, **more: Any) -> list[Any]:
        asked.append(host)
        return [entry for address in addresses for entry in real(address, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_U01_a_refused_connection_is_502(closed_port: int) -> None:
    with pytest.raises(UpstreamFailed) as caught:
        get(Origin("http", "127.0.0.1", closed_port))
    assert (caught.value.status, caught.value.phase, caught.value.sent, caught.value.reused) == (502, "connect", False, False)


@pytest.mark.parametrize("host", ["name.invalid", "a" * 64 + ".example", "\u00e9" * 70, ""])
def test_U01_a_name_that_does_not_resolve_is_502(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(name: str, *_args: Any, **_more: Any) -> list[Any]:
        name.encode("idna")  # as the real one does, first
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(UpstreamFailed) as caught:
        get(Origin("http", host, 80))
    assert caught.value.phase == "connect"


def test_U01_a_connect_that_hangs_is_504_at_the_connect_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = []
        for _ in range(4):  # a full backlog answers nothing
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        began = time.monotonic()
        with pytest.raises(UpstreamTimedOut) as caught:
            get(Origin("http", "127.0.0.1", address[1]), connect=0.3)
        assert 0.25 < time.monotonic() - began < 2
        assert caught.value.phase == "connect"
        for filler in fillers:
            filler.close()


def test_every_address_of_a_name_is_tried(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = serve([OK])
    asked = resolving_to(monkeypatch, "127.0.0.3", "127.0.0.2", "127.0.0.1")  # it listens on the last only
    assert get(Origin("http", "users.example", upstream.origin.port), connect=2.0) == b"ok"
    assert asked == ["users.example"]


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "::ffff:169.254.169.254"])
def test_G12_metadata_addresses_are_refused_after_resolution(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, address)
    with pytest.raises(UpstreamFailed, match="forbidden") as caught:
        get(Origin("http", "rebound.example", 80))
    assert (caught.value.phase, caught.value.sent) == ("connect", False)


def test_G12_other_spellings_are_refused_too() -> None:
    with pytest.raises(UpstreamFailed, match="forbidden"):
        get(Origin("http", "0xa9fea9fe", 80))


def test_G12_a_forbidden_address_among_others_is_passed_over(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = serve([OK])
    resolving_to(monkeypatch, "169.254.169.254", "127.0.0.1")
    assert get(Origin("http", "mixed.example", upstream.origin.port), connect=2.0) == b"ok"


def test_nothing_is_delayed_by_nagle(serve: Any) -> None:
    upstream = serve([b"HTTP/1.1 101 X\r\n\r\n"])
    adapter = GatewayAdapter()
    raw = adapter.send(UpstreamRequest("GET", upstream.origin, b"/", [("Host", "a")], timeouts=Timeouts(), upgrade=True)).raw
    assert raw.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    raw.close()


def test_R17_the_total_deadline_caps_connecting(serve: Any) -> None:
    upstream = serve([OK])
    past = UpstreamRequest("GET", upstream.origin, b"/", [], timeouts=Timeouts(), deadline=time.monotonic() - 1)
    with pytest.raises(UpstreamTimedOut) as caught:
        GatewayAdapter().send(past)
    assert caught.value.phase == "connect"


def test_origins_read_as_urls() -> None:
    assert [str(Origin("http", "a.example", 80)), str(Origin("https", "::1", 8443))] == ["http://a.example:80", "https://[::1]:8443"]


def in_a_worker(code: str, transport: Transport = GatewayAdapter) -> str:
    """Run ``code`` as in a worker, with gevent's sockets; return what it printed."""
    prelude = """
        from gevent import monkey
        monkey.patch_all()
        import socket, ssl, time, gevent, gevent.server
        from gwproxy.dataplane.requests_transport import RequestsAdapter
        from gwproxy.dataplane.transport import GatewayAdapter, Origin, UpstreamRequest, UpstreamTimedOut
        from gwproxy.model import TLS, Timeouts
        adapter = {transport}()
        def get(origin, **timeouts):
            return adapter.send(UpstreamRequest("GET", origin, b"/", [("Host", "a")], timeouts=Timeouts(**timeouts))).raw
    """
    program = textwrap.dedent(prelude).format(transport=transport.__name__) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def test_U01_in_a_worker_a_resolver_that_hangs_is_504_at_the_connect_timeout() -> None:
    code = """
        socket.getaddrinfo = lambda *args, **more: gevent.sleep(20)
        began = time.monotonic()
        try:
            get(Origin("http", "slow.example", 80), connect=0.2)
        except UpstreamTimedOut as error:
            print(error.phase, time.monotonic() - began < 2)
    """
    assert in_a_worker(code) == "connect True"


def test_in_a_worker_exchanges_run_at_once_and_share_connections(transport: Transport) -> None:
    code = """
        def serve(sock, address):
            while sock.recv(65536):
                gevent.sleep(0.2)
                sock.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n2\\r\\nok\\r\\n0\\r\\n\\r\\n")
        server = gevent.server.StreamServer(("127.0.0.1", 0), serve)
        server.start()
        origin = Origin("http", "127.0.0.1", server.server_port)
        def one():
            raw = get(origin, connect=2.0)
            body = b"".join(raw.stream())
            raw.close()
            return body
        for turn in range(2):
            began = time.monotonic()
            jobs = [gevent.spawn(one) for _ in range(20)]
            gevent.joinall(jobs)
            assert [job.value for job in jobs] == [b"ok"] * 20
            assert time.monotonic() - began < 2
        print(list(adapter.connections())[0][1])
    """
    assert in_a_worker(code, transport) == "20"


def test_R14_in_a_worker_a_killed_exchange_takes_its_connection_along(transport: Transport) -> None:
    code = """
        def serve(sock, address):
            sock.recv(65536)
            asked.set()
            print(sock.recv(1))
            over.set()
        asked, over = gevent.event.Event(), gevent.event.Event()
        server = gevent.server.StreamServer(("127.0.0.1", 0), serve)
        server.start()
        job = gevent.spawn(get, Origin("http", "127.0.0.1", server.server_port))
        assert asked.wait(5)
        job.kill()
        assert over.wait(5)
        print(list(adapter.connections())[0][1])
    """
    assert in_a_worker("import gevent.event\n" + textwrap.dedent(code), transport) == "b''\n0"
