"""A service whose answers take a while: ``delayed.py PORT SECONDS``. ``/count`` says at once how many others it has answered."""

from __future__ import annotations

import asyncio
import sys


class Delayed(asyncio.Protocol):
    """Answers each request after the delay; requests of one connection come one after the other."""

    delay = 0.0
    answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            if head.startswith(b"GET /count "):
                self._answer(str(Delayed.answered).encode())
            else:
                asyncio.get_running_loop().call_later(self.delay, self._answered)

    def _answered(self) -> None:
        Delayed.answered += 1
        self._answer(b"ok")

    def _answer(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


async def main(port: int, delay: float) -> None:
    Delayed.delay = delay
    server = await asyncio.get_running_loop().create_server(Delayed, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
