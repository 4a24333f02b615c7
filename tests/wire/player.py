"""Plays a case: a client that sends what it says, an upstream that does what it says, and both sides' bytes as they came."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import responses
from threading import Event

from tests.e2e.errors import TEXTS
from tests.wire import notation
from tests.wire.cases import Case, Exchange, Step
from tests.wire.upstream import PATIENCE, Part, Planned, Play, Upstream, reset

ADDED = """X-Request-ID: {id}
X-Forwarded-Proto: http
X-Forwarded-Host: gw.example
X-Forwarded-Port: 80
X-Forwarded-For: 127.0.0.1
X-Real-IP: 127.0.0.1
Forwarded: for=127.0.0.1;proto=http;host="gw.example"
Via: 1.1 gwproxy"""

OK = "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"

#: Sent on a connection that ought to be open: its answer has to follow at once, and nothing before it.
PROBE = b"GET /.well-known/gwproxy/live HTTP/1.1\r\nHost: gw.example\r\n\r\n"
PROBED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\nCache-Control: no-store\r\n"
    b'Date: {date}\r\n\r\n{"status":"live"}'
)


def spelled(answer: str, then: str) -> str:
    """Spell out what an answer of one word or three means: ``ok``, ``nothing``, ``400 by parser``, ``400 by gateway``.

    The parser's refusals come before the request is known to anything; the gateway's have passed the plugins of ``response``.
    """
    if answer == "nothing":
        return ""
    closing = [] if then == "open" else ["Connection: close"]
    if answer == "ok":
        return "\n".join(["HTTP/1.1 200 OK", "Content-Length: 2", "X-Request-ID: {id}", "Date: {date}", *closing, "", "ok"])
    status, by, who = answer.partition(" by ")
    if not by:
        return answer
    body = f'{{"error":"{TEXTS[int(status)]}"}}'
    lines = [f"HTTP/1.1 {status} {responses[int(status)]}", "Content-Type: application/json"]
    lines += ["X-Request-ID: {id}"] if who == "gateway" else []
    return "\n".join([*lines, f"Content-Length: {len(body)}", "Date: {date}", *closing, "", body])


class Player:
    """Plays cases against one gateway.

    :param names: what ``{name}`` stands for in the corpus.
    """

    def __init__(self, port: int, upstream: Upstream, names: Mapping[str, bytes]) -> None:
        self.port = port
        self._upstream = upstream
        self.names = {"upstream": upstream.authority.encode(), **names}
        self.names["added"] = notation.decode(ADDED, self.names)

    def expected(self, case: Case) -> str:
        """Return what the corpus says that will be said, by both sides."""
        parts = [Part(exchange.connection, self.bytes(exchange.gets), exchange.ends) for exchange in case.upstream]
        return transcript(parts, self._answer(case), case.then)

    def play(self, case: Case) -> str:
        """Return what was said."""
        play = self._upstream.play([self._planned(exchange) for exchange in case.upstream])
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Client(self, sock, play)
            client.run(case.send)
            then = client.conclude(case, notation.size(self._answer(case)))
        parts = play.finish()
        got = notation.normal(bytes(client.got))
        if not isinstance(case.answer, str):
            got = got[: len(self._answer(case))]
        return transcript(parts, got, then)

    def bytes(self, text: str) -> bytes:
        return notation.decode(text, self.names)

    def _answer(self, case: Case) -> bytes:
        written = case.answer if isinstance(case.answer, str) else case.answer["begins"]
        return self.bytes(spelled(written, case.then))

    def _planned(self, exchange: Exchange) -> Planned:
        steps = [OK if step == "ok" else step for step in exchange.sends]

        def send(sock: socket.socket) -> None:
            for step in steps:
                perform(self, sock, step)

        return Planned(notation.size(self.bytes(exchange.gets)), send, exchange.ends)


def perform(player: Player, sock: socket.socket, step: Step) -> None:
    """Do one step that either side can do."""
    match step:
        case "close":
            sock.close()
        case "end":
            sock.shutdown(socket.SHUT_WR)
        case "reset":
            reset(sock)
        case {"pause": seconds}:
            time.sleep(seconds)
        case {"drip": text, "every": seconds}:
            for byte in player.bytes(text):
                sock.sendall(bytes((byte,)))
                time.sleep(seconds)
        case str():
            sock.sendall(player.bytes(step))
        case _:
            raise AssertionError(f"no step: {step!r}")


class _Client:
    """The client of one case; :attr:`got` is all that it got."""

    def __init__(self, player: Player, sock: socket.socket, play: Play) -> None:
        self._player = player
        self._sock = sock
        self._play = play
        self._got: Iterator[Event] = iter(play.got)
        self._done: Iterator[Event] = iter(play.done)
        self.got = bytearray()

    def run(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            if step == "upstream got it":
                assert next(self._got).wait(PATIENCE), "the upstream did not get it"
            elif step == "upstream said it":
                assert next(self._done).wait(PATIENCE), "the upstream did not say it"
            elif step == "upstream is done":
                assert all(event.wait(PATIENCE) for event in self._play.done), "the upstream is not done"
            elif isinstance(step, Mapping) and "await" in step:
                awaited = self._player.bytes(step["await"])
                while awaited not in self.got and self._more():
                    pass
            else:
                with contextlib.suppress(ConnectionError):  # the gateway may have had enough; what it said is read later
                    perform(self._player, self._sock, step)

    def conclude(self, case: Case, size: int) -> str:
        """Read the rest; tell what became of the connection."""
        if case.then == "left":
            return "left"
        if case.then != "open":
            return self._read_to_the_end()
        while len(self.got) < size and self._more():
            pass
        before = len(self.got)
        with contextlib.suppress(ConnectionError):
            self._sock.sendall(PROBE)
        while len(self.got) - before < notation.size(PROBED) and self._more():
            pass
        if notation.normal(bytes(self.got[before:])) != PROBED:
            return "not in step"
        del self.got[before:]
        return "open"

    def _read_to_the_end(self) -> str:
        try:
            while data := self._sock.recv(1 << 16):
                self.got += data
        except TimeoutError:
            return "open"
        except ConnectionError:
            return "reset"
        return "closed"

    def _more(self) -> bool:
        try:
            data = self._sock.recv(1 << 16)
        except OSError:
            return False
        self.got += data
        return bool(data)


def transcript(parts: Sequence[Part], client: bytes, then: str) -> str:
    """Return in the corpus' notation what came to the upstream, exchange by exchange, and what to the client."""
    said = [f"= upstream, connection {part.connection}: =\n{notation.encode(notation.normal(part.got))}" for part in parts]
    said = [f"{text}= {part.ended} =\n" if part.ended else text for text, part in zip(said, parts, strict=True)]
    return "".join([*said, "= client: =\n", notation.encode(client), f"= {then} =\n"])
