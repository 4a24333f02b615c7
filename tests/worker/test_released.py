"""A connection that is over is freed at once, and so is a request: nothing waits for a collection, which a worker under load puts off."""

from __future__ import annotations

import dataclasses
import gc
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import gevent
import jwt
import pytest
from gevent import socket as gevent_socket
from gunicorn.config import Config

from gwproxy import Context, Plugin, hookimpl
from gwproxy.dataplane.requests_transport import RequestsAdapter
from gwproxy.dataplane.transport import GatewayAdapter
from gwproxy.settings import Settings
from gwproxy.testing.gateway import InProcessGateway
from gwproxy.worker.connection import Connection, Service
from gwproxy.worker.environ import listener_environ
from gwproxy.worker.quick import QuickHeads
from gwproxy.worker.request import ParserLimits
from gwproxy.worker.standing import Standing
from tests.e2e.scripted import ScriptedService
from tests.ports import free_port

OURS = ("gwproxy.", "gevent.", "httptools.")

PLAIN = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"

#: What a client sends, and how its answer begins.
SENT = {
    "nothing": (b"", b""),
    "one": (PLAIN, b"HTTP/1.1 200"),
    "pipelined": (PLAIN * 3, b"HTTP/1.1 200"),
    "close": (PLAIN[:-2] + b"Connection: close\r\n\r\n", b"HTTP/1.1 200"),
    "http10": (b"GET /echo HTTP/1.0\r\n\r\n", b"HTTP/1.1 200"),
    "sized": (POST + b"Content-Length: 4\r\n\r\nbody", b"HTTP/1.1 200"),
    "chunked": (POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", b"HTTP/1.1 200"),
    "expecting": (POST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbody", b"HTTP/1.1 100"),
    "cut-body": (POST + b"Content-Length: 9\r\n\r\nbody", b""),
    "cut-head": (PLAIN[:-2], b""),
    "no-request": (b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 400"),
    "failing": (b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 500"),
    "failing-late": (b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200"),
    "unread": (b"POST /deaf HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", b"HTTP/1.1 200"),
    "taken-over": (b"GET /hijack HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"mine"),
}


def app(environ: dict[str, Any], start: Callable[..., object]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise ValueError("as asked")
    if path == "/hijack":
        sock, _ = environ["gwproxy.hijack"]()
        sock.sendall(b"mine")
        return ()
    start("200 OK", [("Content-Type", "text/plain")])
    if path == "/endless":
        return repeat(b"more")
    return _late() if path == "/late" else [b"" if path == "/deaf" else environ["wsgi.input"].read() or b"empty"]


def _late() -> Iterator[bytes]:
    yield b"some"
    raise ValueError("as asked")


@pytest.fixture(scope="module", params=["quick", "gunicorn"])
def service(request: pytest.FixtureRequest) -> Service:
    limits = ParserLimits(4094, 100, 8190, is_ssl=False, header_map="refuse")
    quick = QuickHeads(4094, 100, 8190) if request.param == "quick" else None
    return Service(
        app=app,
        settings=Settings(),
        limits=limits,
        keepalive=5.0,
        quick=quick,
        tls=None,
        tls_ragged_eofs=True,
        standing=Standing(),
        is_crowded=lambda: False,
        worn_out=lambda: None,
    )


@contextmanager
def served(service: Service) -> Iterator[tuple[Any, Any]]:
    """Serve one connection: yield its client's socket, and the greenlet, for which this waits in the end."""
    ours, theirs = gevent_socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = Connection(service, listener_environ(Config(), ("127.0.0.1", 80)), ours, ("127.0.0.1", 1))
    serving = gevent.spawn(connection.serve)
    del connection
    with theirs:
        theirs.settimeout(20)
        yield theirs, serving
    serving.get(timeout=20)


def rest(client: Any) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def play(service: Service, sent: bytes, *, stays: bool = False) -> bytes:
    """Return what a client gets that sends this and no more.

    :param stays: whether it says that there is no more only when the answer begins.
    """
    with served(service) as (client, _):
        client.sendall(sent)
        got = client.recv(65536) if stays else b""
        client.shutdown(socket.SHUT_WR)
        return bytes(got + rest(client))


def check_nothing_waits(act: Callable[[], bytes], begins: bytes) -> None:
    for _ in range(2):  # what is made once is made
        act()
    gc.collect()
    gc.disable()
    try:
        assert act().startswith(begins)
        gevent.sleep(0)  # greenlets that have ended leave the hub's turn
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kept = [f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert [name for name in kept if name.startswith(OURS)] == [], kept


@pytest.mark.parametrize("kind", SENT)
def test_nothing_of_a_connection_waits_for_a_collection(service: Service, kind: str) -> None:
    sent, begins = SENT[kind]
    check_nothing_waits(lambda: play(service, sent), begins)


def idle(service: Service) -> bytes:
    """The client waits until the gateway has had enough."""
    with served(dataclasses.replace(service, keepalive=0.02)) as (client, _):
        client.sendall(PLAIN)
        return rest(client)


def gone(service: Service) -> bytes:
    """The client leaves in the midst of a response."""
    with served(service) as (client, _):
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        return bytes(client.recv(65536))


def killed(service: Service) -> bytes:
    """The worker ends while it waits for a client that was refused to read that."""
    with served(service) as (client, serving):
        client.sendall(b"nonsense\r\n\r\n")
        got = rest(client)
        serving.kill()
        return got


@pytest.mark.parametrize(("act", "begins"), [(idle, b"HTTP/1.1 200"), (gone, b"HTTP/1.1 200"), (killed, b"HTTP/1.1 400")])
def test_nor_of_one_that_ends_otherwise(service: Service, act: Callable[[Service], bytes], begins: bytes) -> None:
    check_nothing_waits(lambda: act(service), begins)


# ---- through the whole gateway


SECRET = "a secret of at least thirty-two bytes"
TOKEN = jwt.encode({"sub": "u", "exp": 4_000_000_000}, SECRET, "HS256")
LARGE = 1 << 20

ANSWERS = {
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "/cut-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nbody\r\n",
    "/large": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE),
    "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nbody",
    "/nonsense": b"nonsense\r\n\r\n",
}
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def asked(path: str, *lines: str, method: str = "GET", body: str = "") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *lines, "", body]).encode()


#: What a client asks for, and how its answer begins.
ASKED = {
    **{
        path[1:]: (asked(path), b"HTTP/1.1 200") for path in ("/bare", "/chunked", "/cut-chunks", "/large", "/cut", "/mirrored", "/several")
    },
    "head": (asked("/bare", method="HEAD"), b"HTTP/1.1 200"),
    "sized": (asked("/bare", "Content-Length: 4", method="POST", body="body"), b"HTTP/1.1 200"),
    "chunks": (asked("/bare", "Transfer-Encoding: chunked", method="POST", body="4\r\nbody\r\n0\r\n\r\n"), b"HTTP/1.1 200"),
    "too-large": (asked("/small", "Content-Length: 4", method="POST", body="body"), b"HTTP/1.1 413"),
    "plugins": (asked("/plugins", "Origin: https://a.example", f"Authorization: Bearer {TOKEN}"), b"HTTP/1.1 200"),
    "refused": (asked("/plugins"), b"HTTP/1.1 401"),
    "crashing": (asked("/crashing"), b"HTTP/1.1 500"),
    "not-served": (asked("/nowhere"), b"HTTP/1.1 404"),
    "not-understood": (asked("/%zz"), b"HTTP/1.1 400"),
    "nonsense": (asked("/nonsense"), b"HTTP/1.1 502"),
    "dead": (asked("/dead"), b"HTTP/1.1 502"),
    "websocket": (
        asked(
            "/websocket",
            *("Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        ),
        b"HTTP/1.1 101",
    ),
}


class Crashing(Plugin):
    name = "crashing"
    version = "1.0"

    @hookimpl
    def post_auth(self, ctx: Context) -> None:
        raise ValueError("as asked")


def document(url: str) -> dict[str, Any]:
    names = ("cors", "rate_limit", "request_transform", "access_log")
    plugins = [{"name": "jwt_auth", "config": {"secret": SECRET, "algorithms": ["HS256"]}}, *({"name": name} for name in names)]
    routes = [
        *({"path": path, "upstream": url} for path in (*ANSWERS, "/bare")),
        {"path": "/mirrored", "upstream": url, "mirror": {"upstream": url}},
        {"path": "/several", "upstream": "several"},
        {"path": "/small", "upstream": url, "max_body": 2},
        {"path": "/plugins", "upstream": url, "plugins": plugins},
        {"path": "/crashing", "upstream": url, "plugins": [{"name": "crashing"}]},
        {"path": "/dead", "upstream": f"http://127.0.0.1:{free_port()}"},
        {"path": "/websocket", "upstream": url, "websocket": True},
    ]
    several = {"targets": [{"url": url}, {"url": f"{url}/x"}], "breaker": {}, "ejection": {}, "concurrency": {"limit": 9}}
    return {"routes": routes, "upstreams": {"several": several}}


@pytest.fixture(scope="module", params=[GatewayAdapter, RequestsAdapter])
def behind(request: pytest.FixtureRequest, service: Service) -> Iterator[Service]:
    """The whole gateway, in this process, before a service in another thread."""
    upstream = ScriptedService()
    for path, answer in ANSWERS.items():
        upstream.on(path, answer)
    upstream.on("/websocket", lambda seen: seen.send(SWITCHED))  # and ends the connection
    with InProcessGateway(Crashing) as gateway:
        gateway.app.upstreams.transport = request.param
        gateway.serve(document(upstream.url))
        yield dataclasses.replace(service, app=gateway.app)
    upstream.close()


@pytest.mark.parametrize("kind", ASKED)
def test_nothing_of_a_request_waits_for_a_collection(behind: Service, kind: str) -> None:
    sent, begins = ASKED[kind]
    check_nothing_waits(lambda: play(behind, sent, stays=True), begins)
