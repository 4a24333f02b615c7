"""What the tests of WebSockets share: a real service in a process, a real client."""

from __future__ import annotations

import socket
import ssl
import sys
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.e2e.conftest import GatewayProcess, Process, until
from tests.ports import free_port

HANDSHAKE = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class WebSocketService(Process):
    """``websocket_service.py`` in a process.

    :param cert: a PEM file with key and certificates; None: no TLS.
    """

    def __init__(self, folder: Path, cert: Path | None = None) -> None:
        self.port = free_port()
        script = Path(__file__).parent / "websocket_service.py"
        super().__init__([sys.executable, str(script), str(self.port), *([str(cert)] if cert else [])], folder / "websocket.log")
        self.url = f"{'https' if cert else 'http'}://{'localhost' if cert else '127.0.0.1'}:{self.port}"
        until(lambda: self.said("ready"), "the WebSocket service")

    def said(self, line: str) -> int:
        """How often it said so."""
        return self.output().splitlines().count(line)


def tunnelled(path: str, upstream: str, **keys: Any) -> dict[str, Any]:
    """A route; the service does not see its path."""
    return {"path": path, "upstream": upstream, "strip_path": True, "websocket": True, **keys}


def dial(gateway: GatewayProcess, path: str, context: ssl.SSLContext | None = None, **options: Any) -> ClientConnection:
    """Connect; a socket of our own, so that no proxy of the environment is asked."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), 10)
    scheme, name = ("wss", "localhost") if context else ("ws", "127.0.0.1")
    options = {"max_size": None, "ping_interval": None, "open_timeout": 10, "close_timeout": 10, **options}
    try:
        return connect(f"{scheme}://{name}:{gateway.port}{path}", sock=sock, ssl=context, **options)
    except BaseException:
        sock.close()
        raise


def ending(client: ClientConnection) -> ConnectionClosed:
    """Read until the connection is over; say how it ended."""
    try:
        while True:
            client.recv(timeout=20)
    except ConnectionClosed as ended:
        return ended


def code(client: ClientConnection) -> tuple[int, str]:
    """Code and reason of the Close frame that ended a connection; 1006 for none."""
    received = ending(client).rcvd
    return (received.code, received.reason) if received is not None else (1006, "")
