"""A client that sends exactly the bytes it is given, and tells a complete response from one that was cut."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any

HOST = "gw.example"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as it came.

    :ivar raw: the head's bytes.
    :ivar fields: in order, repeated, as spelled.
    :ivar cut: whether the connection ended before the body did.
    :ivar closed: whether the connection has ended.
    """

    status: int
    raw: bytes
    fields: list[tuple[str, str]]
    body: bytes
    cut: bool = False
    closed: bool = False

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def json(self) -> Any:
        return json.loads(self.body)


def head(target: str, *fields: str, method: str = "GET", host: str = HOST) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode("latin-1")


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


class RawClient:
    """One connection to the gateway.

    :param preface: sent first, e.g. a PROXY header.
    """

    def __init__(self, port: int, preface: bytes = b"", timeout: float = 15.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self._buffer = bytearray()
        if preface:
            self.send(preface)

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, target: str, *fields: str, method: str = "GET", body: bytes = b"", host: str = HOST) -> Answer:
        """Send one request; a body gets its Content-Length."""
        sized = (f"Content-Length: {len(body)}",) if body else ()
        self.send(head(target, *fields, *sized, method=method, host=host) + body)
        return self.answer(method)

    def answer(self, method: str = "GET") -> Answer:
        """Read one final response.

        :raises EOFError: the connection ended before its head was complete.
        """
        raw = self.until(b"\r\n\r\n")
        lines = raw.decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ", 2)[1])
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:-2])]
        found = Answer(status, raw, fields, b"")
        if method == "HEAD" or status < 200 or status in (204, 304):
            return found
        try:
            if found.get("Transfer-Encoding") == "chunked":
                body = self._chunks()
            elif (length := found.get("Content-Length")) is not None:
                body = self.exactly(int(length))
            else:
                return Answer(status, raw, fields, self.rest(), closed=True)
        except EOFError:
            return Answer(status, raw, fields, bytes(self._buffer), cut=True, closed=True)
        return Answer(status, raw, fields, body, closed=found.get("Connection") == "close" and self.ended())

    def until(self, mark: bytes) -> bytes:
        """Read up to and with ``mark``.

        :raises EOFError: it did not come.
        """
        while (end := self._buffer.find(mark)) < 0:
            self._more()
        return self._taken(end + len(mark))

    def exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        return self._taken(size)

    def rest(self) -> bytes:
        """Read until the connection ends."""
        try:
            while True:
                self._more()
        except EOFError:
            return self._taken(len(self._buffer))

    def ended(self) -> bool:
        """Whether the gateway has ended the connection and nothing more came; waits for it."""
        return self.rest() == b""

    def _taken(self, size: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return data

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.until(b"\r\n"), 16):
            parts.append(self.exactly(size))
            assert self.exactly(2) == b"\r\n"
        assert self.until(b"\r\n") == b"\r\n"
        return b"".join(parts)

    def _more(self) -> None:
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        self._buffer += data
