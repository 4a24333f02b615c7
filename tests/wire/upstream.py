"""An upstream that plays one case at a time: it keeps every byte it gets, and does what the case says."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.wire import notation

#: Seconds in which whatever is awaited has to come.
PATIENCE = 15.0


@dataclass(slots=True)
class Part:
    """What one exchange of a case came to.

    :ivar connection: which, counted from 1 in each case.
    :ivar ended: how the gateway has ended the connection; None: that was not looked at.
    """

    connection: int
    got: bytes = b""
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """An exchange as the upstream plays it.

    :ivar gets: how many bytes to read before.
    :ivar send: what is done then, with the socket.
    :ivar ends: how the gateway is to end the connection then; None: that is not looked at.
    """

    gets: int
    send: Callable[[socket.socket], None]
    ends: str | None


@dataclass(slots=True)
class Play:
    """One case being played.

    :ivar parts: what came, exchange by exchange, in order; one more than planned is a request that should not have been.
    """

    plan: Sequence[Planned]
    parts: list[Part] = field(default_factory=list)
    got: list[threading.Event] = field(default_factory=list)
    done: list[threading.Event] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    sockets: list[socket.socket] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.got = [threading.Event() for _ in self.plan]
        self.done = [threading.Event() for _ in self.plan]

    def serve(self, sock: socket.socket, number: int) -> None:
        """Play what comes on one connection."""
        with contextlib.suppress(OSError):
            while self._exchange(sock, number):
                pass

    def _exchange(self, sock: socket.socket, number: int) -> bool:
        """Play the next exchange that begins here; False: the connection is over."""
        speaks_first = len(self.parts) < len(self.plan) and not self.plan[len(self.parts)].gets
        first = b"" if speaks_first else sock.recv(1)
        if not first and not speaks_first:
            return False
        with self.lock:
            index = len(self.parts)
            part = Part(number, first)
            self.parts.append(part)
        planned = self.plan[index] if index < len(self.plan) else None
        if planned is None:
            _read(sock, part, 1 << 30)
            return False
        if not _read(sock, part, planned.gets):
            return False
        self.got[index].set()
        try:
            with contextlib.suppress(OSError):  # the gateway may have had enough
                planned.send(sock)
            if planned.ends is not None:
                how = ending(sock)
                part.ended = "cut" if planned.ends == "cut" and how != "open" else how
        finally:
            self.done[index].set()
        return sock.fileno() >= 0

    def finish(self) -> list[Part]:
        """Wait for the planned exchanges to be over, end all connections, and tell what came."""
        for event in self.done:
            event.wait(PATIENCE if event is self.done[0] or self.done[0].is_set() else 0.1)
        for sock in self.sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
        return self.parts


class Upstream:
    """Listens for as long as it exists; :meth:`play` begins a case."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.authority = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._play = Play(())
        threading.Thread(target=self._accept, daemon=True).start()

    def play(self, plan: Sequence[Planned]) -> Play:
        """Play ``plan`` to whoever connects from now on."""
        self._play = Play(plan)
        return self._play

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(PATIENCE)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                play = self._play
                play.sockets.append(sock)
                thread = threading.Thread(target=self._serve, args=(play, sock, len(play.sockets)), daemon=True)
                play.threads.append(thread)
                thread.start()

    @staticmethod
    def _serve(play: Play, sock: socket.socket, number: int) -> None:
        with sock:
            play.serve(sock, number)


def _read(sock: socket.socket, part: Part, size: int) -> bool:
    """Read until ``part`` has ``size`` bytes; False if the connection ends before."""
    while (left := size - len(part.got)) > 0:
        data = sock.recv(min(left, 1 << 16))
        if not data:
            return False
        part.got += data
    return True


def ending(sock: socket.socket) -> str:
    """Wait for the other side to end the connection, and tell how it did; what it still sends is told, too."""
    extra, deadline = b"", time.monotonic() + PATIENCE
    try:
        while data := sock.recv(1 << 16):
            extra += data
            if time.monotonic() > deadline:
                return "open"
    except TimeoutError:
        return "open"
    except OSError:
        return "reset" if not extra else "reset after " + notation.encode(extra)
    return "closed" if not extra else "closed after " + notation.encode(extra)


def reset(sock: socket.socket) -> None:
    """End a connection with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
