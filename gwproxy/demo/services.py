"""Three sample services: users, orders, and a receiver of webhooks. ``python -m gwproxy.demo.services``.

Prints their ports as one line of JSON, then serves until it is ended.
"""

from __future__ import annotations

import json
import threading

from werkzeug.exceptions import NotFound
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

USERS = {
    "1": {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"},
    "2": {"id": 2, "name": "Alan Turing", "email": "alan@example.com"},
}
ORDERS = [{"id": 17, "user": 1, "total": 42.5}, {"id": 18, "user": 2, "total": 7.0}]


class QuietHandler(WSGIRequestHandler):
    """A handler that keeps connections open and leaves logging to the gateway."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: object) -> None:
        """Log nothing."""


@Request.application
def users(request: Request) -> Response:
    """List users, or show one."""
    _, _, tail = request.path.partition("/users")
    if tail.strip("/"):
        found = USERS.get(tail.strip("/"))
        if found is None:
            raise NotFound
        return _json(found)
    return _json({"users": list(USERS.values())})


@Request.application
def orders(request: Request) -> Response:
    """List orders, and say who the gateway says is asking."""
    return _json({"orders": ORDERS, "asked_by": request.headers.get("X-User-Id"), "consumer": request.headers.get("X-Consumer")})


@Request.application
def webhooks(request: Request) -> Response:
    """Acknowledge an event."""
    return _json({"received": len(request.get_data()), "path": request.path})


def _json(body: object) -> Response:
    return Response(json.dumps(body) + "\n", mimetype="application/json")


def main() -> None:
    """Serve all three, each on a free port of the loopback address."""
    ports = {}
    for app in (users, orders, webhooks):
        server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
        ports[app.__name__] = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps(ports), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
