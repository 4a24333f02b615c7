"""A service that answers each request with its nonce: ``python -m tests.e2e.nonce_service PORT``. Its output says what is wrong.

``/any/path/NONCE?size=N`` is answered with N bytes of the body that belongs to NONCE (nonces.py), and with what the request
said: ``X-Nonce``, ``X-Seen-User`` (of ``X-User-Id``), ``X-Seen-Size`` (of its body). The request must have the same nonce in
its header ``X-Nonce``, and its body must be that nonce's: anything else is a line ``violation`` in the output, and
``X-Violation`` in the answer. In the query:

* ``chunked=1``: the answer is chunked, in pieces of uneven sizes;
* ``pause=S``: S seconds between the head and the body, and in the middle of the body;
* ``fault=reset``: the connection is reset before the head; with ``once=1`` the next attempt of the nonce is answered;
* ``fault=cut``: half the body, then a reset; ``fault=short``: half the body, then the end;
* ``fault=vanish``: a whole answer, after which the connection is closed without a word; ``fault=close``: with one;
* ``fault=early``: answered (413) before the request's body is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from tests.e2e.nonces import content, difference

_RESET = struct.pack("ii", 1, 0)


class Asked(NamedTuple):
    """One request's head."""

    method: str
    nonce: str
    query: dict[str, str]
    fields: dict[str, str]


class NonceService:
    """Answers any number of connections."""

    def __init__(self) -> None:
        self._failed_once: set[str] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                while await self._serve_one(reader, writer):
                    pass
            except (ValueError, asyncio.LimitOverrunError) as error:
                print(f"violation: not a request: {error}", flush=True)
                reset(writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer the next request; False: the connection ends."""
        asked = read_head(await reader.readuntil(b"\r\n\r\n"))
        fault = asked.query.get("fault", "")
        if fault == "early":
            await self._answer(asked, writer, "413 Content Too Large", seen=b"", problem=None, last=True)
            return False
        body = await read_body(asked, reader)
        problem = self._problem(asked, body)
        if problem is not None:
            print(f"violation {asked.nonce}: {problem}", flush=True)
        if fault == "reset" and not (asked.query.get("once") and asked.nonce in self._failed_once):
            self._failed_once.add(asked.nonce)
            return reset(writer)
        self._failed_once.discard(asked.nonce)
        await self._answer(asked, writer, "200 OK", seen=body, problem=problem, last=fault == "close")
        return fault not in ("cut", "short", "vanish", "close")

    def _problem(self, asked: Asked, body: bytes) -> str | None:
        """Say what of the request belongs to another one."""
        if asked.fields.get("x-nonce") != asked.nonce:
            return f"the header's nonce is {asked.fields.get('x-nonce')!r}"
        wanted = int(asked.fields.get("x-size", "0"))
        return (why := difference(body, asked.nonce, wanted)) and f"the request's body differs: {why}"

    async def _answer(
        self, asked: Asked, writer: asyncio.StreamWriter, status: str, *, seen: bytes, problem: str | None, last: bool
    ) -> None:
        fault, chunked = asked.query.get("fault", ""), "chunked" in asked.query
        body = content(asked.nonce, int(asked.query.get("size", "0")))
        fields = [
            f"X-Nonce: {asked.nonce}",
            f"X-Seen-User: {asked.fields.get('x-user-id', '-')}",
            f"X-Seen-Size: {len(seen)}",
            "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}",
        ]
        if problem is not None:
            fields.append(f"X-Violation: {problem[:200]}")
        if last:
            fields.append("Connection: close")
        writer.write("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode("latin-1"))
        half = len(body) // 2
        parts = [] if asked.method == "HEAD" else [body[:half]] if fault in ("cut", "short") else [body[:half], body[half:]]
        for part in parts:
            await writer.drain()
            await asyncio.sleep(float(asked.query.get("pause", "0")))
            await send(writer, part, chunked=chunked)
        if parts and chunked and fault not in ("cut", "short"):
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        if fault == "cut":
            reset(writer)


def read_head(data: bytes) -> Asked:
    """Parse a request's head.

    :raises ValueError: it is none; the bytes of another request's body, say.
    """
    lines = data.decode("latin-1").split("\r\n")
    if lines[0].count(" ") != 2:
        raise ValueError(repr(data[:200]))
    method, target, _ = lines[0].split(" ")
    parts = urlsplit(target)
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:-2])}
    return Asked(method, parts.path.rpartition("/")[2], dict(parse_qsl(parts.query)), fields)


async def read_body(asked: Asked, reader: asyncio.StreamReader) -> bytes:
    if asked.fields.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(asked.fields.get("content-length", "0")))
    pieces = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(pieces)


async def send(writer: asyncio.StreamWriter, body: bytes, *, chunked: bool) -> None:
    if not chunked:
        writer.write(body)
    else:
        at, size = 0, 1
        while at < len(body):
            piece = body[at : at + size]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            at, size = at + size, min(size * 7, 200_000)
    await writer.drain()


def reset(writer: asyncio.StreamWriter) -> bool:
    """End the connection with a reset; return False, for: it serves no further request."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
    return False


async def main(port: int) -> None:
    server = await asyncio.start_server(NonceService().serve, "127.0.0.1", port, backlog=1024, limit=1 << 18)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every write to a connection that is gone
    asyncio.run(main(int(sys.argv[1])))
