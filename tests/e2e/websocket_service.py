"""A WebSocket service: ``websocket_service.py PORT [CERT]`` (with CERT, a PEM file, over TLS). Its output says what happens.

``/forbidden`` is 403; ``/flood?count=N&size=S`` sends N messages of S bytes, and says ``sent TARGET`` after each; ``/about``
sends the head it got; ``/drop`` ends the connection without a word at the first message; anything else sends back what comes.
Each connection is a line ``open TARGET``, then ``end TARGET CODE`` with the code of the Close frame it got, 1006 for none.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import sys
from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")  # at once: other threads speak, too
    sys.stdout.flush()


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    if request.path.startswith("/forbidden"):
        say("refused", request.path)
        return connection.respond(HTTPStatus.FORBIDDEN, "not here\n")
    return None


def choose(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return next((name for name in offered if name.startswith("chat.")), None)


def converse(connection: ServerConnection) -> None:
    assert connection.request is not None
    target = connection.request.path
    parts = urlsplit(target)
    if parts.path == "/about":
        connection.send(json.dumps({"target": target, "headers": list(connection.request.headers.raw_items())}))
    if parts.path == "/flood":
        asked = parse_qs(parts.query)
        for number in range(int(asked["count"][0])):
            connection.send(bytes([number % 256]) * int(asked["size"][0]))
            say("sent", target)
    for message in connection:
        if parts.path == "/drop":
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            connection.send(message)


def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    say("open", connection.request.path)
    with contextlib.suppress(ConnectionClosed):
        converse(connection)
    connection.close()
    say("end", connection.request.path, connection.protocol.close_rcvd.code if connection.protocol.close_rcvd else 1006)


def main() -> None:
    context = None
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2])
    options = {"process_request": refuse, "select_subprotocol": choose, "max_size": None, "ping_interval": None}
    with serve(handle, "127.0.0.1", int(sys.argv[1]), ssl=context, **options) as server:  # type: ignore[arg-type]
        say("ready")
        server.serve_forever()


if __name__ == "__main__":
    main()
