"""What lies between a worker and Redis: it relays, delays, swallows, loses or cuts, and knows who connected when."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from pathlib import Path

MESSAGE = b"$7\r\nmessage\r\n"  # what is only in a message of a subscription


class Relay:
    """Relays a unix socket to another, connection by connection.

    :ivar delay: seconds by which each reply is late.
    :ivar mute: whether everything is swallowed that comes, of new connections too; nothing is closed.
    :ivar refusing: whether new connections are closed at once.
    :ivar losing: whether messages to subscribers are lost.
    :ivar attempts: who tried to connect when: process id, seconds.
    """

    def __init__(self, path: Path, target: str) -> None:
        self.url = f"unix://{path}"
        self.delay = 0.0
        self.mute = self.refusing = self.losing = False
        self.lost = 0
        self.attempts: list[tuple[int, float]] = []
        self._target = target
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(256)
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self, *, subscriptions_only: bool = False) -> int:
        """Swallow, from now on, what comes on the connections that there are: half-open, as after a lost NAT entry. How many."""
        with self._lock:
            links = [link for link in self._links if link.subscribed or not subscriptions_only]
        for link in links:
            link.silent = True
        return len(links)

    def cut(self) -> None:
        """Close all connections."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.close()

    def pace(self, since: float, until: float) -> dict[int, float]:
        """Return how often each process tried to connect, a second."""
        counts: dict[int, int] = {}
        for pid, at in self.attempts:
            if since <= at <= until:
                counts[pid] = counts.get(pid, 0) + 1
        return {pid: count / (until - since) for pid, count in counts.items()}

    def close(self) -> None:
        """Stop relaying."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                self.attempts.append((pid, time.monotonic()))
                server = socket.socket(socket.AF_UNIX)
                try:
                    if self.refusing:
                        raise ConnectionRefusedError
                    server.connect(self._target)
                except OSError:
                    client.close()
                    server.close()
                    continue
                link = _Link(client, server)
                with self._lock:
                    self._links.add(link)
                for args in ((link, client, server), (link, server, client)):
                    threading.Thread(target=self._pump, args=args, daemon=True).start()

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        replies = source is link.server
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self.mute:
                    link.silent = True  # what is lost now is missing for good: this connection is of no use any more
                if link.silent:
                    continue
                link.subscribed = link.subscribed or (not replies and b"\r\nSUBSCRIBE\r\n" in data)
                if replies and self.losing and MESSAGE in data:
                    self.lost += 1
                    continue
                if replies and self.delay:
                    time.sleep(self.delay)
                sink.sendall(data)
        if not (link.silent and replies):  # who swallows does not tell of an end either
            link.close()
            with self._lock:
                self._links.discard(link)


class _Link:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.silent = False
        self.subscribed = False

    def close(self) -> None:
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
