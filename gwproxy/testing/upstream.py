"""The upstream of a test: behind socket pairs instead of ports, spoken to over the gateway's own transport."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from gwproxy.dataplane.connect import Origin, connect
from gwproxy.dataplane.failures import UpstreamFailed
from gwproxy.dataplane.transport import GatewayAdapter
from gwproxy.http.headers import Headers

#: Hosts below this are the test's own (RFC 6761: such a name never exists); all others are really connected to.
DOMAIN = ".test"
JOINING = 5.0  # seconds for the connections of an upstream to end


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as the upstream got it.

    :ivar target: path and query, as they came.
    """

    method: str
    target: str
    headers: Headers
    body: bytes

    @property
    def host(self) -> str:
        """The Host field."""
        return self.headers.get("Host") or ""

    def json(self) -> Any:
        """Return the body, read as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Reply:
    """What an upstream answers.

    :ivar body: sent with its length; an iterable of pieces is sent chunked, one piece after the other.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | Iterable[bytes] = b""


Answering = Callable[[Seen], Reply | None]


@dataclass(slots=True)
class FakeUpstream:
    """Answers requests to any host below ``.test``, and remembers them.

    :ivar seen: every request that came, oldest first.
    :ivar answering: called with each; returns what is answered, None to close the connection without an answer.
    :ivar refusing: True: nobody can connect.
    """

    seen: list[Seen] = field(default_factory=list)
    answering: Answering = lambda seen: Reply()
    refusing: bool = False
    _threads: list[threading.Thread] = field(default_factory=list)

    def reply(
        self, status: int = 200, *, json: Any = None, body: bytes | Iterable[bytes] = b"", headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Answer so from now on.

        :param json: sent as JSON, instead of ``body``, unless it is None.
        """
        if json is not None:
            body, headers = _dumps(json), [("Content-Type", "application/json"), *headers]
        answer = Reply(status, headers, body)
        self.answering = lambda seen: answer

    def adapter(self) -> type[GatewayAdapter]:
        """Return the transport that finds this upstream, and connects to every other as always."""
        upstream = self

        class InProcess(GatewayAdapter):
            def _dial(self, origin: Origin, until: float) -> socket.socket:
                if not origin.host.endswith(DOMAIN):
                    return connect(origin, self._context_for(origin), until)
                if upstream.refusing:
                    raise UpstreamFailed(f"connecting to {origin}: the test's upstream refuses", phase="connect")
                return upstream._accept()

        return InProcess

    def close(self) -> None:
        """Wait for the connections to end, once the gateway has closed its side of them."""
        for thread in self._threads:
            thread.join(JOINING)
        self._threads.clear()

    def _accept(self) -> socket.socket:
        theirs, ours = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(ours,), daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()]
        self._threads.append(thread)
        thread.start()
        return theirs

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            _Handler(sock, self)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, sock: socket.socket, upstream: FakeUpstream) -> None:
        self.upstream = upstream
        super().__init__(sock, ("", 0), None)  # type: ignore[arg-type]  # there is no server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        seen = Seen(self.command, self.path, Headers(self.headers.items()), self._body())
        self.upstream.seen.append(seen)
        reply = self.upstream.answering(seen)
        if reply is None:
            self.close_connection = True
            return
        body, bare = reply.body, self.command == "HEAD" or reply.status in (204, 304)
        framing = ("Content-Length", str(len(body))) if isinstance(body, bytes) else ("Transfer-Encoding", "chunked")
        fields = [*reply.headers] if reply.status in (204, 304) else [*reply.headers, framing]
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        start = f"HTTP/1.1 {reply.status} Answered\r\n{head}\r\n".encode("latin-1")
        if isinstance(body, bytes):
            self.wfile.write(start if bare else start + body)
            return
        self.wfile.write(start)
        for piece in () if bare else body:
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if not bare:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> bytes:
        if (self.headers.get("Transfer-Encoding") or "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while length := int(self.rfile.readline(), 16):
            data += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, *args: object) -> None:
        pass


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()
