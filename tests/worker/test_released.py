"""A connection that is over is freed at once: nothing of it waits for a collection, which a worker under load puts off."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket as gevent_socket
from gunicorn.config import Config

from gwproxy.settings import Settings
from gwproxy.worker.connection import Connection, Service
from gwproxy.worker.environ import listener_environ
from gwproxy.worker.quick import QuickHeads
from gwproxy.worker.request import ParserLimits
from gwproxy.worker.standing import Standing

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


def play(service: Service, sent: bytes) -> bytes:
    """Serve one connection of a client that sends this and no more; return what it gets."""
    ours, theirs = gevent_socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = Connection(service, listener_environ(Config(), ("127.0.0.1", 80)), ours, ("127.0.0.1", 1))
    serving = gevent.spawn(connection.serve)
    with theirs:
        theirs.settimeout(20)
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: theirs.recv(65536), b""))
    serving.get(timeout=20)
    return got


@pytest.mark.parametrize("kind", SENT)
def test_nothing_of_a_connection_waits_for_a_collection(service: Service, kind: str) -> None:
    sent, begins = SENT[kind]
    play(service, sent)  # what is made once is made
    gc.collect()
    gc.disable()
    try:
        assert play(service, sent).startswith(begins)
        gevent.sleep(0)  # greenlets that have ended leave the hub's turn
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kept = [f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert kept == [], kept
