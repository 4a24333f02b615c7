"""TLS on both sides through running workers: whom the gateway believes, who it says it is, and how seldom it shakes hands."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient
from tests.e2e.scripted import ScriptedService
from tests.e2e.secure import Authority, SecureService

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def services(authority: Authority) -> Iterator[dict[str, SecureService]]:
    services = {
        "known": SecureService(authority.issue("localhost", "127.0.0.1")),
        "other": SecureService(authority.issue("other.example")),
        "expired": SecureService(authority.issue("localhost", expired=True)),
        "mutual": SecureService(authority.issue("localhost"), clients=authority.file),
    }
    yield services
    for service in services.values():
        service.close()


@pytest.fixture(scope="module")
def document(authority: Authority, services: dict[str, SecureService]) -> dict[str, Any]:
    ours = authority.issue("gateway.example")
    known, mutual = services["known"].url(), services["mutual"].url()
    believed: dict[str, Any] = {"ca": authority.file}
    upstreams = {
        "verified": (known, believed),
        "by-address": (services["known"].url("127.0.0.1"), believed),
        "system": (known, {}),
        "other": (services["other"].url(), believed),
        "expired": (services["expired"].url(), believed),
        "unverified": (services["other"].url(), {"verify": False}),
        "mutual": (mutual, {**believed, "cert": ours, "key": ours}),
        "nobody": (mutual, believed),
        "missing": (known, {"ca": str(authority.folder / "missing.pem")}),
        "plain": (services["known"].url().replace("https", "http"), {}),
    }
    described: dict[str, Any] = {name: {"targets": [{"url": url}], "tls": tls} for name, (url, tls) in upstreams.items()}
    described["each-its-own"] = {"targets": [{"url": known}], "tls": believed, "keepalive": False}
    routes: list[dict[str, Any]] = [{"path": f"/{name}", "upstream": name} for name in described]
    routes += [{"path": "/their-host", "upstream": "verified", "preserve_host": True}, {"path": "/url", "upstream": known}]
    return {"upstreams": described, "routes": routes}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, document: dict[str, Any]) -> GatewayProcess:
    publish(redis_server, document)
    return start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url).ready()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/verified", {"name": "localhost", "peer": None, "host": "localhost:{port}", "protocol": "http/1.1"}),
        ("/by-address", {"name": None, "peer": None, "host": "127.0.0.1:{port}", "protocol": "http/1.1"}),
        ("/their-host", {"name": "localhost", "peer": None, "host": "gw.example", "protocol": "http/1.1"}),
        ("/unverified", {"name": "localhost", "peer": None, "host": "localhost:{port}", "protocol": "http/1.1"}),
        ("/mutual", {"name": "localhost", "peer": "gateway.example", "host": "localhost:{port}", "protocol": "http/1.1"}),
    ],
)
def test_who_is_asked_for_and_who_asks(
    gateway: GatewayProcess, services: dict[str, SecureService], path: str, told: dict[str, str | None]
) -> None:
    service = services[{"/unverified": "other", "/mutual": "mutual"}.get(path, "known")]
    with RawClient(gateway.port) as client:
        answer = client.ask(path)
    assert (answer.status, answer.json()) == (200, {**told, "host": str(told["host"]).format(port=service.port)})


@pytest.mark.parametrize("path", ["/system", "/url", "/other", "/expired", "/nobody", "/missing", "/plain"])
def test_who_cannot_be_believed_is_502_and_gets_no_request(gateway: GatewayProcess, path: str) -> None:
    with RawClient(gateway.port) as client:
        answer = client.ask(path)
    assert (answer.status, answer.json()) == (502, {"error": "Bad Gateway"})


def shaken(service: SecureService, ask: Callable[[], object]) -> int:
    before = service.handshakes
    ask()
    return service.handshakes - before


def test_hands_are_shaken_once_a_connection_not_once_a_request(
    gateway: GatewayProcess, services: dict[str, SecureService], document: dict[str, Any], redis_server: RedisServer
) -> None:
    def ask(path: str = "/verified", count: int = 100) -> None:
        with RawClient(gateway.port) as client:
            assert [client.ask(path).status for _ in range(count)] == [200] * count

    known = services["known"]
    ask()
    assert shaken(known, ask) == 0
    assert shaken(known, lambda: ask("/their-host")) == 0  # another route, the same upstream
    with ThreadPoolExecutor(8) as pool:
        crowd = shaken(known, lambda: list(pool.map(lambda _: ask(), range(8))))
    assert crowd <= 7  # at most a connection for each that asks at the same time
    publish(redis_server, {**document, "routes": [*document["routes"], {"path": "/new", "upstream": "verified"}]})
    until(lambda: gateway.get("/new").status_code == 200, "the change")
    assert shaken(known, ask) == 0  # connections survive a change of the configuration
    assert shaken(known, lambda: ask("/each-its-own", 10)) == 10


# ---- the listener


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> str:
    return authority.issue("localhost")


@pytest.fixture(scope="module")
def listener(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    authority: Authority,
    certificate: str,
    service: ScriptedService,
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    """A gateway that speaks TLS by gunicorn's settings alone, to whom the authority knows."""
    publish(redis_server, [{"path": "/", "upstream": service.url}], prefix="listener:")
    conf = tmp_path_factory.mktemp("conf") / "gunicorn.conf.py"
    conf.write_text(f"""
from gevent import monkey; monkey.patch_all()
import ssl
from gwproxy.worker.gunicorn_conf import *
certfile = keyfile = {certificate!r}
ca_certs = {authority.file!r}
cert_reqs = ssl.CERT_REQUIRED

def ssl_context(conf, default):
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
""")
    gateway = start_gateway(workers=1, conf=conf, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_PREFIX="listener:")
    gateway.url = f"https://localhost:{gateway.port}"
    return gateway


@pytest.fixture
def allowed(listener: GatewayProcess, authority: Authority) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env, session.verify, session.cert = False, authority.file, authority.issue("client.example")
        until(lambda: session.get(f"{listener.url}/.well-known/gwproxy/ready", timeout=5).ok, "the gateway")
        yield session


def offering(authority: Authority, *protocols: str, certificate: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(protocols)
    if certificate:
        context.load_cert_chain(certificate)
    return context


def shake(listener: GatewayProcess, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(socket.create_connection(("127.0.0.1", listener.port), 10), server_hostname="localhost")


def test_a_listener_within_tls_serves_and_says_so(listener: GatewayProcess, allowed: requests.Session, service: ScriptedService) -> None:
    assert [allowed.get(f"{listener.url}/secure", timeout=10).text for _ in range(3)] == ["ok"] * 3
    seen = service.next("/secure")
    assert (seen.get("X-Forwarded-Proto"), seen.get("X-Forwarded-Port")) == ("https", str(listener.port))
    assert len(allowed.get_adapter(listener.url).poolmanager.pools) == 1  # type: ignore[attr-defined]


@pytest.mark.usefixtures("allowed")
def test_clients_without_a_certificate_or_with_an_old_protocol_are_refused(listener: GatewayProcess, authority: Authority) -> None:
    old = offering(authority, "http/1.1", certificate=authority.issue("client.example"))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        shake(listener, old)
    refused = pytest.raises(OSError, match=r"(?i)certificate.required|EOF occurred|reset by peer")
    with shake(listener, offering(authority, "http/1.1")) as sock, refused:
        sock.recv(1)  # in TLS 1.3 a client is told after its handshake


@pytest.mark.usefixtures("allowed")
def test_who_offers_http_2_is_answered_in_http_1_1(listener: GatewayProcess, authority: Authority, service: ScriptedService) -> None:
    with shake(listener, offering(authority, "h2", "http/1.1", certificate=authority.issue("client.example"))) as sock:
        assert sock.selected_alpn_protocol() in (None, "http/1.1")
        sock.sendall(b"GET /either HTTP/1.1\r\nHost: gw.example\r\n\r\n")
        assert sock.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_a_renewed_certificate_is_used_after_a_reload(
    listener: GatewayProcess, allowed: requests.Session, authority: Authority, certificate: str
) -> None:
    def serial() -> object:
        with shake(listener, offering(authority, certificate=authority.issue("client.example"))) as sock:
            return (sock.getpeercert() or {})["serialNumber"]

    before = serial()
    shutil.copy(authority.issue("localhost"), certificate)
    listener.hup()
    until(lambda: serial() != before, "the new certificate")
    assert allowed.get(f"{listener.url}/after", timeout=10).status_code == 200


def test_the_documented_proxy_for_http_2_is_one_that_haproxy_takes(certificate: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocols.md").read_text()
    (example,) = re.findall(r"```text\n(frontend .*?)```", page, re.DOTALL)
    shown = example.replace(":443", "127.0.0.1:8443").replace("/etc/haproxy/site.pem", certificate)
    config = tmp_path / "haproxy.cfg"
    config.write_text(f"global\ndefaults\n    timeout connect 2s\n    timeout client 10m\n    timeout server 10m\n{shown}")
    ran = subprocess.run(["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, timeout=20, check=False)
    assert (ran.returncode, "warning" in ran.stderr.lower()) == (0, False), ran.stderr
