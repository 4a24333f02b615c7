"""A service under the test's control: it keeps every request as bytes, and answers what the test says, when it says so."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from tests.e2e.raw import RawClient

#: Answers a request: with bytes, or None if it has sent for itself what there was to send; the connection then ends.
Script = Callable[["Seen"], bytes | None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Seen:
    """One request as the service got it.

    :ivar head: its bytes, the empty line included.
    :ivar number: of the connection, counted from 1.
    """

    def __init__(self, head: bytes, sock: socket.socket, reader: Callable[[int], bytes], number: int) -> None:
        self.head = head
        self.sock = sock
        self.number = number
        self._read = reader
        self._body: bytes | None = None
        self._reading = threading.Lock()  # the service reads what a test has not asked for, maybe at the same time
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.fields = [(name, value[1:]) for name, _, value in (line.partition(":") for line in lines[1:-2])]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    @property
    def body(self) -> bytes:
        """The body, decoded if it is chunked; read when first asked for."""
        with self._reading:
            if self._body is None:
                self._body = b"".join(self.pieces())
            return self._body

    def consumed(self) -> None:
        """Say that :meth:`pieces` has yielded everything."""
        self._body = b""

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes.

        :raises EOFError: the gateway ended the connection before the body's end.
        """
        if self.get("Transfer-Encoding") == "chunked":
            while size := int(self._line(), 16):
                yield self._exactly(size)
                self._line()
            self._line()
            return
        left = int(self.get("Content-Length") or 0)
        while left:
            piece = self._read(min(left, 1 << 16))
            if not piece:
                raise EOFError
            left -= len(piece)
            yield piece

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def gone(self) -> bool:
        """Wait until the gateway closes the connection."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def reset(self) -> None:
        """End the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += self._exactly(1)
        return line[:-2]

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._read(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


class ScriptedService:
    """Answers by path (without its query): :meth:`on` says what; any other path gets ``ok``.

    :ivar requests: those that came, in order, their heads complete.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        self._scripts: dict[str, Script] = {}
        self._connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def on(self, path: str, script: Script | bytes) -> None:
        """Answer requests for ``path`` by ``script``."""
        self._scripts[path] = script if callable(script) else lambda seen: script

    def next(self, path: str | None = None) -> Seen:
        """Return the next request (for ``path``: those for others are passed over), waiting for it."""
        while True:
            seen = self.requests.get(timeout=15)
            if path is None or seen.target.partition("?")[0] == path:
                return seen

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(30)
                self._connections += 1
                threading.Thread(target=self._serve, args=(sock, self._connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        stream = sock.makefile("rb")
        with contextlib.suppress(OSError, EOFError), sock, stream:
            while head := _head(stream.readline):
                seen = Seen(head, sock, stream.read1, number)
                self.requests.put(seen)
                script = self._scripts.get(seen.target.partition("?")[0], lambda seen: OK)
                data = script(seen)
                if data is None:
                    return
                _ = seen.body  # what the script did not read: else it would be taken for the next request
                sock.sendall(data)
                if b"\r\nconnection: close\r\n" in data.lower():
                    return


def _head(readline: Callable[[], bytes]) -> bytes:
    lines = []
    while line := readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def passed(service: ScriptedService, client: RawClient, target: str, *fields: str, **request: object) -> Seen:
    """Send a request; return what the service got."""
    while not service.requests.empty():
        service.requests.get()
    answer = client.ask(target, *fields, **request)  # type: ignore[arg-type]
    assert answer.status == 200, answer
    return service.next()
