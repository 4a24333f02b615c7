"""Asking a gateway: once; and again and again on one connection, with how long each answer took."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from harness.process import Failed

PAUSE = 0.002  # seconds between two requests: the worker has work of its own


def ask(port: int, path: str, headers: Mapping[str, str], within: float = 10.0) -> tuple[int, dict[str, str], bytes]:
    """Ask once; return status, headers (names in lower case) and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=within)
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"GET {path} on port {port}: {error!r}") from None
    finally:
        connection.close()


class Prober:
    """Asks on one keep-alive connection.

    :param path: what :meth:`longest` asks for.
    """

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(("127.0.0.1", self._port), 30)
        self._file = self._socket.makefile("rb")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, path: str) -> tuple[int, float]:
        """Return the status, and the seconds that it took.

        :raises Failed: the connection was closed.
        """
        began = time.perf_counter()
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        status = self._file.readline().split()
        length = 0
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        self._file.read(length)
        if len(status) < 2:
            raise Failed(f"the gateway on port {self._port} closed a connection")
        return int(status[1]), time.perf_counter() - began

    def longest(self, seconds: float) -> float:
        """Ask for so many seconds; return the longest wait."""
        until, worst = time.perf_counter() + seconds, 0.0
        while time.perf_counter() < until:
            worst = max(worst, self.ask(self._path)[1])
            time.sleep(PAUSE)
        return worst
