"""The app behind the workers under test: each path is one way of using WSGI."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from urllib.parse import parse_qs

import gevent

GATE = Path(os.environ.get("PROBE_GATE", "/nonexistent"))
EVENTS = os.environ.get("PROBE_EVENTS")

stats = {"closed": 0, "pulled": 0, "gone": 0, "errors": []}


def wait_for_gate():
    while not GATE.exists():
        gevent.sleep(0.01)


class Chunks:
    """An iterable that counts how often it is asked and closed."""

    def __init__(self, chunks):
        self._chunks = iter(chunks)

    def __iter__(self):
        return self

    def __next__(self):
        stats["pulled"] += 1
        return next(self._chunks)

    def close(self):
        stats["closed"] += 1


class Probe:
    """A WSGI app that is told of start, drain and stop, and writes it down."""

    def _note(self, event):
        if EVENTS:
            with open(EVENTS, "a") as events:
                events.write(f"{event} {os.getpid()}\n")
        if os.environ.get("PROBE_FAIL"):
            raise OSError(f"{event} fails")

    def start(self):
        self._note("start")

    @property
    def settled(self):
        if "PROBE_SETTLES" not in os.environ:
            return True
        self._note("asked")
        return GATE.exists()

    def drain(self):
        self._note("drain")

    def stop(self):
        self._note("stop")

    def __call__(self, environ, start_response):
        name = environ["PATH_INFO"].strip("/").partition("/")[0] or "echo"
        query = {key: values[-1] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
        return globals().get(f"do_{name}", do_echo)(environ, start_response, query)


application = Probe()


def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"plain"]


def answer(start_response, value, status="200 OK"):
    body = json.dumps(value).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def do_echo(environ, start_response, query):
    shown = {key: value for key, value in environ.items() if isinstance(value, str)}
    shown["headers"] = [(name, value) for (_, name, value, _), _ in environ["gwproxy.fields"]]
    shown["dropped"] = environ.get("gwproxy.headers_dropped", 0)
    shown["started"] = environ["gwproxy.started"]
    shown["same_socket"] = environ["gwproxy.socket"] is environ["gunicorn.socket"]
    return answer(start_response, shown)


def do_stats(environ, start_response, query):
    return answer(start_response, stats)


def do_reset(environ, start_response, query):
    stats.update(closed=0, pulled=0, gone=0, errors=[])
    return answer(start_response, "reset")


def do_pid(environ, start_response, query):
    return answer(start_response, os.getpid())


def do_body(environ, start_response, query):
    pieces = list(iter(lambda: environ["wsgi.input"].read(65536), b""))
    return answer(start_response, {"body": b"".join(pieces).decode("latin-1"), "pieces": len(pieces)})


def do_lines(environ, start_response, query):
    return answer(start_response, [line.decode() for line in environ["wsgi.input"]])


def do_echoing(environ, start_response, query):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    yield b""
    while piece := environ["wsgi.input"].read(65536):
        yield piece


def do_forgiving(environ, start_response, query):
    """Note every error of the body, ask again, and answer all the same."""
    for _ in range(2):
        try:
            while environ["wsgi.input"].read(65536):
                pass
        except Exception as error:
            stats["errors"].append(type(error).__name__)
    return answer(start_response, "read")


def do_unread(environ, start_response, query):
    return answer(start_response, {"error": "Authentication required"}, "401 Unauthorized")


def do_begun(environ, start_response, query):
    """Begin the response, then read the body."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"begun "
    yield environ["wsgi.input"].read(100)


def do_gated(environ, start_response, query):
    wait_for_gate()
    return answer(start_response, "through")


def do_stream(environ, start_response, query):
    """Flush the head, one piece, and another one when the gate opens."""
    start_response("200 OK", [("Content-Type", "text/event-stream")])

    def pieces():
        yield b""
        yield b"data: 1\n\n"
        wait_for_gate()
        yield b"data: 2\n\n"

    return Chunks(pieces())


def do_endless(environ, start_response, query):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Chunks(iter(lambda: b"x" * 65536, b""))


def do_sized(environ, start_response, query):
    """``declared`` bytes, of which ``given`` come in two pieces."""
    given = int(query["given"])
    start_response("200 OK", [("Content-Length", query["declared"])])
    return Chunks([b"x" * (given // 2), b"x" * (given - given // 2)])


def do_status(environ, start_response, query):
    start_response(query["line"], [("X-A", "1"), *([("Content-Length", query["length"])] if "length" in query else [])])
    return Chunks([b"body"]) if "body" in query else Chunks([])


def do_fields(environ, start_response, query):
    headers = [
        ("x-Lower", "1"),
        ("Set-Cookie", "a=1"),
        ("X-Caf", "caf\xe9"),
        ("set-cookie", "b=2"),
        ("Connection", "X-Secret"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("Trailer", "X-T"),
        ("Upgrade", "h2c"),
        ("Server", "upstream/1"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Content-Length", "2"),
    ]
    start_response("200 Fine By Me", headers)
    return [b"ok"]


def do_close(environ, start_response, query):
    start_response("200 OK", [("Connection", "close"), ("Content-Length", "2")])
    return [b"ok"]


def do_inject(environ, start_response, query):
    start_response("200 OK", [(query.get("name", "X-A"), query.get("value", "1"))])
    return Chunks([b"never"])


def do_raise(environ, start_response, query):
    raise {"exit": SystemExit, "gevent": gevent.Timeout, "os": OSError}.get(query.get("what"), ValueError)("a secret")


def do_raise_late(environ, start_response, query):
    start_response("200 OK", [("Content-Type", "text/plain")])

    def pieces():
        yield b"some"
        raise ValueError("a secret")

    return Chunks(pieces())


def do_silent(environ, start_response, query):
    return [b"never started"]


def do_retry(environ, start_response, query):
    start_response("200 OK", [("X-Old", "1")])
    try:
        raise KeyError("late")
    except KeyError:
        start_response("503 Service Unavailable", [("X-New", "1")], sys.exc_info())
    return [b"second"]


def do_write(environ, start_response, query):
    write = start_response("200 OK", [("Content-Length", "4")])
    write(b"ab")
    write(b"cd")
    return []


def do_gone(environ, start_response, query):
    while not environ["gwproxy.client_gone"]():
        gevent.sleep(0.01)
    stats["gone"] += 1
    return answer(start_response, "gone")


def do_here(environ, start_response, query):
    return answer(start_response, environ["gwproxy.client_gone"]())


def do_hijack(environ, start_response, query):
    """Echo lines on the raw socket until the client says bye."""
    sock, read = environ["gwproxy.hijack"]()
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n")

    def tunnel():
        data = read
        while b"bye" not in data:
            if data:
                sock.sendall(data)
            data = sock.recv(100)
            yield b"" if data else b"ignored"
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)

    return Chunks(tunnel())


def do_spin(environ, start_response, query):
    while True:
        pass
