from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from gwproxy.dataplane.connect import client_context
from gwproxy.dataplane.transport import GatewayAdapter, Origin, UpstreamFailed, UpstreamRequest, UpstreamTimedOut
from gwproxy.model import TLS, Timeouts
from tests.dataplane.conftest import Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PATIENT = Timeouts(connect=5.0, head=5.0, read=5.0)


class Authority:
    """A CA, and the files and contexts it signs."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, *names: str, asks: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            self._ca.configure_trust(context)
        return context

    def client(self) -> tuple[str, str]:
        issued = self._ca.issue_cert("gateway@example.com")
        cert, key = self._folder / "cert.pem", self._folder / "key.pem"
        issued.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return str(cert), str(key)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def get(adapter: GatewayAdapter, origin: Origin, timeouts: Timeouts = PATIENT) -> bytes:
    raw = adapter.send(UpstreamRequest("GET", origin, b"/", [("Host", "a")], timeouts=timeouts)).raw
    try:
        return b"".join(raw.stream())
    finally:
        raw.close()


def named(upstream: Any, host: str) -> Origin:
    return Origin("https", host, upstream.origin.port)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_verified_connection_is_used_again(transport: Transport, serve: Any, authority: Authority, host: str) -> None:
    upstream = serve([OK, OK, OK], context=authority.server("localhost", "127.0.0.1"), scheme="https")
    adapter = transport(tls=TLS(ca=authority.file))
    assert [get(adapter, named(upstream, host)) for _ in range(3)] == [b"ok"] * 3
    assert upstream.accepted == 1
    adapter.close()


def test_a_final_dot_of_the_host_is_no_part_of_its_name(serve: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = serve([OK], context=authority.server("users.example"), scheme="https")
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *args, **more: real("127.0.0.1", *args, **more))
    assert get(GatewayAdapter(tls=TLS(ca=authority.file)), named(upstream, "users.example.")) == b"ok"


def test_http_1_1_is_all_that_is_offered_and_the_name_is_sent(serve: Any, authority: Authority) -> None:
    seen: list[tuple[Any, str | None]] = []
    context = authority.server("localhost")
    context.sni_callback = lambda sock, name, _context: seen.append((sock, name))

    def script(peer: Any) -> None:
        peer.request()
        seen.append((peer.sock.selected_alpn_protocol(), None))
        peer.say(OK)

    upstream = serve(script, context=context, scheme="https")
    assert get(GatewayAdapter(tls=TLS(ca=authority.file)), named(upstream, "localhost")) == b"ok"
    assert seen[0][1] == "localhost"
    assert seen[1][0] == "http/1.1"


def refused(adapter: GatewayAdapter, origin: Origin) -> str:
    with pytest.raises(UpstreamFailed) as caught:
        get(adapter, origin)
    assert (caught.value.phase, caught.value.sent) == ("connect", False)
    return str(caught.value)


def test_an_unknown_authority_is_refused(transport: Transport, serve: Any, authority: Authority) -> None:
    upstream = serve([OK], context=authority.server("localhost"), scheme="https")
    assert "certificate verify failed" in refused(transport(), named(upstream, "localhost"))
    upstream.wait(ended=1)
    assert upstream.requests == []


def test_a_certificate_of_another_name_is_refused(serve: Any, authority: Authority) -> None:
    upstream = serve([OK], context=authority.server("other.example"), scheme="https")
    assert "localhost" in refused(GatewayAdapter(tls=TLS(ca=authority.file)), named(upstream, "localhost"))


def test_verify_false_accepts_both(serve: Any, authority: Authority) -> None:
    upstream = serve([OK], context=authority.server("other.example"), scheme="https")
    assert get(GatewayAdapter(tls=TLS(verify=False)), named(upstream, "localhost")) == b"ok"


def test_a_client_certificate_is_shown(transport: Transport, serve: Any, authority: Authority) -> None:
    cert, key = authority.client()
    upstream = serve([OK], context=authority.server("localhost", asks=True), scheme="https")
    assert get(transport(tls=TLS(ca=authority.file, cert=cert, key=key)), named(upstream, "localhost")) == b"ok"


def test_without_the_client_certificate_that_is_asked_for_it_fails(serve: Any, authority: Authority) -> None:
    upstream = serve([OK], context=authority.server("localhost", asks=True), scheme="https")
    with pytest.raises(UpstreamFailed):
        get(GatewayAdapter(tls=TLS(ca=authority.file)), named(upstream, "localhost"))
    upstream.wait(ended=1)
    assert upstream.requests == []


def test_plain_http_behind_https_is_refused(transport: Transport, serve: Any) -> None:
    upstream = serve([b"HTTP/1.1 400 Bad Request\r\n\r\n"])
    refused_by = transport(tls=TLS(verify=False))
    with pytest.raises((UpstreamFailed, UpstreamTimedOut)):
        get(refused_by, named(upstream, "127.0.0.1"), Timeouts(connect=0.3))


def test_a_handshake_that_stalls_is_504_at_the_connect_timeout(transport: Transport, serve: Any, authority: Authority) -> None:
    upstream = serve([])
    with pytest.raises(UpstreamTimedOut) as caught:
        get(transport(tls=TLS(ca=authority.file)), named(upstream, "127.0.0.1"), Timeouts(connect=0.3))
    assert (caught.value.phase, caught.value.sent) == ("connect", False)
    upstream.wait(ended=1)


def test_a_file_that_is_missing_fails_the_request_and_names_the_origin() -> None:
    assert "https://a.example:443" in refused(GatewayAdapter(tls=TLS(ca="/nowhere/ca.pem")), Origin("https", "a.example", 443))


def test_a_context_can_be_checked_before_it_is_needed(authority: Authority) -> None:
    assert client_context(TLS(ca=authority.file)).verify_mode == ssl.CERT_REQUIRED
    with pytest.raises(FileNotFoundError):
        client_context(TLS(cert="/nowhere/cert.pem"))


def test_large_bodies_both_ways_over_tls(transport: Transport, serve: Any, authority: Authority) -> None:
    size = 1 << 20
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"y" * size
    upstream = serve([answer, OK], context=authority.server("localhost"), scheme="https")
    adapter = transport(tls=TLS(ca=authority.file))
    origin = named(upstream, "localhost")
    raw = adapter.send(UpstreamRequest("PUT", origin, b"/", [("Host", "a")], b"x" * size, timeouts=PATIENT)).raw
    assert sum(map(len, raw.stream())) == size
    raw.close()
    assert get(adapter, origin) == b"ok"
    assert upstream.requests[0].endswith(b"\r\n\r\n" + b"x" * size)
    assert upstream.accepted == 1
    adapter.close()


def test_U19_stray_bytes_inside_tls_discard_the_connection(transport: Transport, serve: Any, authority: Authority) -> None:
    upstream = serve(
        [OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"], [OK], context=authority.server("localhost"), scheme="https"
    )
    adapter = transport(tls=TLS(ca=authority.file))
    assert [get(adapter, named(upstream, "localhost")) for _ in range(2)] == [b"ok", b"ok"]
    assert upstream.accepted == 2
    adapter.close()
