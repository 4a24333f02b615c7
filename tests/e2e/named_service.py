"""A service that says its name, and is well or not as it is told: ``named_service.py ADDRESS PORT NAME``.

``GET`` answers its name and the ``Host`` it was asked as; ``?wait=S`` takes S seconds. ``PUT /control`` sets ``status`` and ``wait`` of
requests and ``health``, the status of checks. ``GET /seen`` tells how many requests and checks came.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

NAME = sys.argv[3]
LOCK = threading.Lock()
SEEN = {"requests": 0, "checks": 0}
SAID = {"status": 200, "health": 200, "wait": 0.0}


class Named(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one piece: in two, the second waits for the first to be acknowledged

    def do_GET(self) -> None:
        if self.path == "/seen":
            self.answer(200, SEEN)
            return
        check = self.headers["User-Agent"] == "gwproxy-health"
        with LOCK:
            SEEN["checks" if check else "requests"] += 1
        asked = parse_qs(urlsplit(self.path).query)
        if not check:
            time.sleep(float(asked.get("wait", [SAID["wait"]])[0]))
        status = int(SAID["health" if check else "status"])
        self.answer(status, {"name": NAME, "host": self.headers["Host"], "path": self.path})

    def do_PUT(self) -> None:
        SAID.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(200, SAID)

    def answer(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    Server((sys.argv[1], int(sys.argv[2])), Named).serve_forever()
