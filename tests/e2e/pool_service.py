"""One service of several: ``pool_service.py PORT NAME``. It answers its name; for each POST its output has the line ``NAME TARGET``.

SIGUSR1 makes it slow, its health check too: three seconds an answer, until the next SIGUSR1.
"""

from __future__ import annotations

import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW = 3.0  # seconds


class Service(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 4  # one that is stopped soon takes no further connection: its kernel is silent, as in a partition
    name = ""
    slow = False

    def turn(self, *_: object) -> None:
        self.slow = not self.slow


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def answer(self) -> None:
        if self.command == "POST":
            self.rfile.read(int(self.headers["Content-Length"]))
            sys.stdout.write(f"{self.server.name} {self.path}\n")
            sys.stdout.flush()
        if self.server.slow:
            time.sleep(SLOW)
        name = self.server.name.encode()
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name))

    def log_message(self, *args: object) -> None:
        pass

    do_GET = do_POST = answer  # noqa: N815


if __name__ == "__main__":
    service = Service(("127.0.0.1", int(sys.argv[1])), Answer)
    service.name = sys.argv[2]
    signal.signal(signal.SIGUSR1, service.turn)
    service.serve_forever()
