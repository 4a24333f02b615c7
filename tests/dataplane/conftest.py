"""A raw upstream: answers as scripted, byte for byte, and records what it was sent."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from gwproxy.dataplane.requests_transport import RequestsAdapter
from gwproxy.dataplane.transport import GatewayAdapter, Origin

PATIENCE = 5.0  # seconds after which a test that waits has failed


@dataclass(frozen=True)
class Say:
    """Sent without waiting for a request."""

    data: bytes


CLOSE = object()  # the upstream closes here; else it waits until the gateway does
Step = bytes | Say | object
Script = Sequence[Step] | Callable[["Peer"], None]


class Peer:
    """One connection, from the upstream's side."""

    def __init__(self, upstream: ScriptedUpstream, sock: socket.socket) -> None:
        self.upstream = upstream
        self.sock = sock
        self.buffer = b""

    def request(self) -> bytes:
        """Read one request with its body; empty if the gateway closed instead."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._more():
                return b""
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lower = head.lower()
        body = b""
        if b"\r\ntransfer-encoding: chunked" in lower:
            body = self._until(b"0\r\n\r\n")
        elif b"\r\ncontent-length: " in lower:
            body = self._exactly(int(lower.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]))
        self.upstream.requests.append(head + b"\r\n\r\n" + body)
        return head

    def head(self) -> bytes:
        """Read the head of a request only."""
        while b"\r\n\r\n" not in self.buffer and self._more():
            pass
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def wait_closed(self) -> bytes:
        """Wait until the gateway closes; return what it sent until then."""
        while self._more():
            pass
        return self.buffer

    def _until(self, end: bytes) -> bytes:
        while end not in self.buffer and self._more():
            pass
        found, _, self.buffer = self.buffer.partition(end)
        return found + end

    def _exactly(self, count: int) -> bytes:
        while len(self.buffer) < count and self._more():
            pass
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionError:
            data = b""
        self.buffer += data
        return bool(data)


class ScriptedUpstream:
    """Serves the n-th connection by the n-th script, and closes the connections beyond.

    :ivar requests: the raw requests, complete ones only, in order.
    :ivar accepted: how many connections came.
    :ivar ended: how many of them are over.
    """

    def __init__(self, scripts: Sequence[Script], context: ssl.SSLContext | None = None, scheme: str = "http") -> None:
        self.requests: list[bytes] = []
        self.accepted = 0
        self.ended = 0
        self._changed = threading.Condition()
        self._scripts = list(scripts)
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._socks: list[socket.socket] = []
        self.origin = Origin("https" if scheme == "https" else "http", "127.0.0.1", self._listener.getsockname()[1])
        self._start(self._accept)

    def wait(self, *, accepted: int = 0, ended: int = 0) -> None:
        """Wait until so many connections were accepted, and are over."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.accepted >= accepted and self.ended >= ended, PATIENCE)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._socks.append(sock)
            script = self._scripts[self.accepted] if self.accepted < len(self._scripts) else [CLOSE]
            with self._changed:  # before anything is answered, so that a test that has its answer sees it
                self.accepted += 1
                self._changed.notify_all()
            self._start(self._serve, sock, script)

    def _serve(self, sock: socket.socket, script: Script) -> None:
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
            peer = Peer(self, sock)
            if callable(script):
                script(peer)
            else:
                self._play(peer, script)
        except OSError:
            pass  # the gateway closed first, or refused the certificate
        finally:
            sock.close()
            with self._changed:
                self.ended += 1
                self._changed.notify_all()

    @staticmethod
    def _play(peer: Peer, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Say):
                peer.say(step.data)
            elif isinstance(step, bytes):
                if not peer.request():
                    return
                peer.say(step)
            else:
                return
        peer.wait_closed()


Serve = Callable[..., ScriptedUpstream]
Transport = type[GatewayAdapter]


@pytest.fixture(params=[GatewayAdapter, RequestsAdapter], ids=["gateway", "requests"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each adapter that the setting ``GWPROXY_TRANSPORT`` chooses from; a test that asks for it runs with both."""
    chosen: Transport = request.param
    return chosen


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(script, ...)`` starts an upstream; a script is a list of answers, or a function of a peer."""
    started: list[ScriptedUpstream] = []

    def start(*scripts: Script, context: ssl.SSLContext | None = None, scheme: str = "http") -> ScriptedUpstream:
        upstream = ScriptedUpstream(scripts, context, scheme)
        started.append(upstream)
        return upstream

    yield start
    for upstream in started:
        upstream.stop()
