"""A small HTTP service in a thread, and a gateway around it in the same process: for unit tests of the data plane."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from werkzeug.test import Client

from gwproxy import Plugin
from gwproxy.testing import InProcessGateway


class Service:
    """Answers 200 with what it saw; ``statuses`` are answered first, one a request; None drops the connection.

    :ivar fields: sent with every answer.
    """

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.statuses: list[int | None] = []
        self.fields: list[tuple[str, str]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for the first's acknowledgement

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    while length := int(self.rfile.readline(), 16):
                        body += self.rfile.read(length)
                        self.rfile.readline()
                    self.rfile.readline()
                seen = {"method": self.command, "target": self.path, "headers": self.headers.items(), "body": body.decode("latin-1")}
                service.seen.append(seen)
                status = service.statuses.pop(0) if service.statuses else 200
                if status is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                data = b"" if status in (204, 304) else json.dumps(seen).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                for name, value in service.fields:
                    self.send_header(name, value)
                self.send_header("Set-Cookie", "a=1")
                self.send_header("Set-Cookie", "b=2")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer  # noqa: N815

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a connection that the gateway or the script dropped

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Service]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield self
        self._server.shutdown()
        self._server.server_close()


class Gate:
    """The whole data plane in this process: an app with a snapshot, and a WSGI client."""

    def __init__(self, *plugins: Plugin) -> None:
        gateway = InProcessGateway(*plugins)
        self.registry = gateway.registry
        self.app = gateway.app
        self.client = Client(self.app)
        self.serve = gateway.serve
