"""A service that answers with what it saw, in JSON: method, raw target, headers in order, body. ``echo_service.py PORT``.

``?status=N`` answers N, ``?wait=S`` takes S seconds, ``?size=N`` sends N bytes, ``?chunks=N`` sends N lines of a stream
with a pause between them, ``?header=Name:value`` (repeatable) adds a response header.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms for the first to be acknowledged

    def answer(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        body, digest, size = self.read_body()
        if "wait" in asked:
            time.sleep(float(asked["wait"][0]))
        if "chunks" in asked:
            self.stream(int(asked["chunks"][0]))
            return
        if "size" in asked:
            self.send_bytes(int(asked["size"][0]))
            return
        seen = {
            "method": self.command,
            "target": self.path,
            "headers": [list(pair) for pair in self.headers.items()],
            "body": body.decode("latin-1"),
            "sha256": digest,
            "size": size,
        }
        data = json.dumps(seen).encode()
        self.send_response(int(asked.get("status", ["200"])[0]))
        for header in asked.get("header", []):
            name, _, value = header.partition(":")
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def read_body(self) -> tuple[bytes, str, int]:
        """Return the first KiB of the body, and the digest and size of all of it."""
        digest, head, size = hashlib.sha256(), b"", 0
        for chunk in self.chunks():
            digest.update(chunk)
            head, size = (head + chunk)[:1024], size + len(chunk)
        return head, digest.hexdigest(), size

    def chunks(self):  # type: ignore[no-untyped-def]
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                yield self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            chunk = self.rfile.read(min(left, 1 << 16))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk

    def stream(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(count):
            line = f"data: {number}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
            self.wfile.flush()
            time.sleep(0.3)
        self.wfile.write(b"0\r\n\r\n")

    def send_bytes(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        block = b"x" * (1 << 16)
        while size:
            self.wfile.write(block[:size])
            size -= min(size, len(block))

    def log_message(self, *args: object) -> None:
        pass

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo)
    server.daemon_threads = True
    server.serve_forever()
