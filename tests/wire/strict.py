"""Readers that take only what is plainly HTTP/1.1, in one spelling: what the gateway itself may send, to either side."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.e2e.errors import TEXTS

_REQUEST = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Z-]{3,20}) (/[!\"$-\[\]-~]*) HTTP/1\.1\r\n")
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e]*\r\n")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\t\x20-\x7e\x80-\xff]*)\r\n")
_LENGTH = re.compile(rb"0|[1-9][0-9]*")
_ONCE = (b"host", b"via", b"x-request-id", b"forwarded", b"x-forwarded-for", b"x-real-ip")
_NEVER = (b"te", b"trailer", b"upgrade", b"expect", b"connection", b"keep-alive", b"proxy-authorization", b"x-user-id", b"x-consumer")
_CHUNK = re.compile(rb"(0|[1-9a-f][0-9a-f]*)\r\n")


class Broken(AssertionError):
    """What came is not what a gateway may send."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response.

    :ivar first: method and target, or the status.
    :ivar fields: names in lower case.
    :ivar body: decoded.
    """

    first: tuple[bytes, ...]
    fields: list[tuple[bytes, bytes]]
    body: bytes

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


class Stream:
    """Bytes to be read; ``more`` receives, and returns nothing at the end."""

    def __init__(self, more: Callable[[], bytes]) -> None:
        self._more = more
        self.data = bytearray()

    def line(self) -> bytes:
        """Return up to and with the next line end; nothing at the end.

        :raises EOFError: it ends within a line.
        """
        while (end := self.data.find(b"\n")) < 0:
            if not self._fill():
                if self.data:
                    raise EOFError
                return b""
        return self.take(end + 1)

    def take(self, size: int) -> bytes:
        """Return ``size`` bytes.

        :raises EOFError: there are fewer.
        """
        while len(self.data) < size:
            if not self._fill():
                raise EOFError
        taken = bytes(self.data[:size])
        del self.data[:size]
        return taken

    def starts(self, text: bytes) -> bool:
        """Whether ``text`` comes next; waits for as much of it as comes."""
        while len(self.data) < len(text) and text.startswith(self.data) and self._fill():
            pass
        return self.data.startswith(text)

    def _fill(self) -> bool:
        data = self._more()
        self.data += data
        return bool(data)


def read_request(stream: Stream) -> Message | None:
    """Read a request as an upstream gets it; None at the end.

    :raises Broken: it is none that the gateway may send.
    :raises EOFError: it ends within.
    """
    line = stream.line()
    if not line:
        return None
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise Broken(f"a request line: {line!r}")
    fields = _fields(stream)
    names = [name for name, _ in fields]
    if strange := [name for name in _ONCE if names.count(name) != 1] + [name for name in names if name in _NEVER or b"_" in name]:
        raise Broken(f"fields that are missing, repeated or not for an upstream: {strange}")
    return Message((match[1], match[2]), fields, _body(stream, fields))


def read_response(stream: Stream, method: bytes | None = None) -> Message | None:
    """Read a response as a client gets it; None at the end.

    :param method: of the request. None: told by the field ``X-Method``, or it is an error of the gateway's, with its text or without.
    :raises Broken: it is none that the gateway may send.
    :raises EOFError: it ends within.
    """
    line = stream.line()
    if not line:
        return None
    match = _STATUS.fullmatch(line)
    if match is None:
        raise Broken(f"a status line: {line!r}")
    status, fields = int(match[1]), _fields(stream)
    message = Message((match[1],), fields, b"")
    own = method is None and not message.all(b"x-method")
    if own and status >= 200 and len(message.all(b"date")) != 1:
        raise Broken("no date, or several")
    without = (method or b"".join(message.all(b"x-method"))) == b"HEAD" or (own and not stream.starts(b'{"'))
    if status < 200 or status in (204, 304) or without:
        return message
    message = Message((match[1],), fields, _body(stream, fields))
    if own and message.body not in (b'{"error":"%b"}' % TEXTS.get(status, "").encode(), b'{"status":"live"}'):
        raise Broken(f"an answer of the gateway's in other words: {message.body!r}")
    return message


def _fields(stream: Stream) -> list[tuple[bytes, bytes]]:
    fields = []
    while (line := stream.line()) != b"\r\n":
        match = _FIELD.fullmatch(line)
        if match is None:
            raise EOFError if not line else Broken(f"a field: {line!r}")
        fields.append((match[1].lower(), match[2]))
    return fields


def _body(stream: Stream, fields: list[tuple[bytes, bytes]]) -> bytes:
    framing = [(name, value) for name, value in fields if name in (b"content-length", b"transfer-encoding")]
    if not framing:
        return b""
    if len(framing) > 1:
        raise Broken(f"framed twice: {framing}")
    [(name, value)] = framing
    if name == b"content-length":
        if not _LENGTH.fullmatch(value):
            raise Broken(f"a length: {value!r}")
        return stream.take(int(value))
    if value != b"chunked":
        raise Broken(f"a coding: {value!r}")
    return b"".join(_chunks(stream))


def _chunks(stream: Stream) -> Iterator[bytes]:
    while True:
        line = stream.line()
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise EOFError if not line else Broken(f"a chunk size: {line!r}")
        size = int(match[1], 16)
        data = stream.take(size + 2)
        if data[size:] != b"\r\n":
            raise Broken("a chunk that does not end where it says")
        if not size:
            return
        yield data[:size]


class StrictUpstream:
    """Answers whatever is a request, with its number; keeps every request, and what was none.

    :ivar seen: complete requests, by number.
    :ivar broken: why what came was no request.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.authority = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.seen: dict[int, Message] = {}
        self.broken: list[str] = []
        self._number = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        stream = Stream(lambda: sock.recv(1 << 16))
        with contextlib.suppress(OSError, EOFError), sock:
            try:
                while (request := read_request(stream)) is not None:
                    sock.sendall(self._answer(request))
            except Broken as broken:
                self.broken.append(str(broken))

    def _answer(self, request: Message) -> bytes:
        with self._lock:
            self._number += 1
            number = self._number
            self.seen[number] = request
        head = b"HTTP/1.1 200 OK\r\nX-Number: %d\r\nX-Method: %b\r\nContent-Length: 2\r\n\r\n" % (number, request.first[0])
        return head if request.first[0] == b"HEAD" else head + b"ok"


class SayingUpstream:
    """Says :attr:`answer` to whatever is asked, and ends the connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.authority = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.answer = b""
        self.asked = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with contextlib.suppress(OSError), sock:
                    asked = b""
                    while not asked.endswith(b"\r\n\r\n") and (data := sock.recv(1 << 16)):
                        asked += data
                    self.asked += asked.endswith(b"\r\n\r\n")
                    sock.sendall(self.answer)
