"""One connection of a client that knows what it must get: raw bytes out, whole answers in, as slowly as it likes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass

_RESET = struct.pack("ii", 1, 0)
_READ = 1 << 16
PATIENCE = 60.0  # seconds for one read: a gateway that goes silent is a failure, not a wait for ever


@dataclass(slots=True)
class Got:
    """An answer as it came; ``cut``: its connection ended before it did."""

    status: int
    fields: dict[str, str]
    body: bytes
    cut: bool


class Ended(Exception):
    """The gateway ended the connection between two answers."""


class Wire:
    """One connection to the gateway.

    :param slow: read at most this many bytes, then wait a little; 0: as fast as they come. Also an attribute.
    """

    def __init__(self, port: int, slow: int = 0) -> None:
        self._port = port
        self.slow = slow
        self._buffer = bytearray()

    async def open(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        if self.slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # else the kernel reads for us
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=_READ)

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # what was answered before may still be read
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self, method: str) -> Got:
        """Read one final answer.

        :raises Ended: there is none.
        """
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not await self._more():
                raise Ended(bytes(self._buffer))
        lines = self._take(end + 4).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
        got = Got(int(lines[0].split(" ")[1]), fields, b"", False)
        if method != "HEAD" and got.status not in (204, 304):
            got.body, got.cut = await (self._chunks() if "transfer-encoding" in fields else self._sized(int(fields["content-length"])))
        return got

    async def _sized(self, size: int) -> tuple[bytes, bool]:
        while len(self._buffer) < size:
            if not await self._more():
                return self._take(len(self._buffer)), True
        return self._take(size), False

    async def _chunks(self) -> tuple[bytes, bool]:
        pieces = []
        while True:
            while (end := self._buffer.find(b"\r\n")) < 0:
                if not await self._more():
                    return b"".join(pieces), True
            size = int(self._take(end + 2), 16)
            piece, cut = await self._sized(size + 2)
            pieces.append(piece[:size])
            if cut or size == 0:
                return b"".join(pieces), cut

    async def stray(self) -> bytes:
        """Return what is here that nothing asked for; does not wait for more."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._more(), 0.001)
        return bytes(self._buffer[:200])

    async def peek(self) -> None:
        """Wait for the first bytes of an answer."""
        if not self._buffer:
            await self._more()

    def close(self, *, reset: bool = False) -> None:
        if reset:
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._writer.transport.abort()
        else:
            self._writer.close()

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return data

    async def _more(self) -> bool:
        if self.slow:
            await asyncio.sleep(0.005)
        try:
            data = await asyncio.wait_for(self._reader.read(self.slow or _READ), PATIENCE)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)
