"""The client's bytes: every wait for them ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from select import POLLIN
from time import monotonic

from gevent.select import poll

from gwproxy.settings import Settings
from gwproxy.stream import Stream

_SMALL = 8 * 1024
_LARGE = 1024 * 1024


class ClientReader:
    """Reads from one connection, keeps what was read too far, and bounds each wait by what is waited for.

    Between requests a client may be idle for ``keepalive`` seconds; from its first byte a head may take
    ``header_timeout`` seconds in all; a body may pause for ``body_timeout`` seconds, and beyond that many seconds of
    waiting must average ``body_rate`` bytes a second. Time in which nobody reads is not counted against the client.
    Gunicorn's parsers take it for one of their unreaders.

    :ivar held: what was read but not used: pipelined requests, or a body that came with its head.
    :ivar begun: whether a part of the head that is read has come.
    :ivar received: when the last bytes of a head came (:func:`time.monotonic`).
    :ivar idle_since: when the connection became idle (:func:`time.monotonic`); None while a request is under way.
    """

    __slots__ = (
        "_deadline",
        "_header_timeout",
        "_keepalive",
        "_meanwhile",
        "_other",
        "_received",
        "_settings",
        "_until",
        "_waited",
        "begun",
        "held",
        "idle_since",
        "received",
        "stream",
    )

    def __init__(self, stream: Stream, settings: Settings, keepalive: float) -> None:
        self.stream = stream
        self._settings = settings
        self._header_timeout: float = settings.header_timeout
        self._keepalive = keepalive
        self._deadline: float | None = None  # None: a body is read
        self._waited = 0.0
        self._received = 0
        self.held = b""
        self._other = -1
        self._meanwhile: Callable[[], None] | None = None
        self._until: float | None = None
        self.begun = False
        self.received = 0.0
        self.idle_since: float | None = monotonic()

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Return exactly ``size`` bytes, fewer at the end of the connection; None: what is held, else what comes next.

        :param read_ahead: how many bytes may be received at once for somebody who needs more than the next piece.
        """
        if size is None or size < 0:
            data, self.held = self.held, b""
            return data or self.chunk(read_ahead)
        while len(self.held) < size:
            more = self.chunk(max(size, read_ahead or 0) - len(self.held))
            if not more:
                break
            self.held += more
        data, self.held = self.held[:size], self.held[size:]
        return data

    def unread(self, data: bytes) -> None:
        """Put ``data`` back: it is read next."""
        self.held = bytes(data) + self.held

    def take_buffered(self) -> bytes:
        """Return what is held, without waiting."""
        data, self.held = self.held, b""
        return data

    def expect_head(self) -> None:
        """From here on, a head is read."""
        now = self.received = monotonic()
        self.begun = bool(self.held)
        self.idle_since = None if self.begun else now
        self._deadline = now + (self._header_timeout if self.begun else self._keepalive)

    def expect_body(self) -> None:
        """From here on, a body is read."""
        self._deadline = None
        self._waited = 0.0
        self._received = 0

    def expect_until(self, deadline: float) -> None:
        """From here on, whatever is read has to come until ``deadline`` (:func:`time.monotonic`)."""
        self.begun = True
        self._deadline = deadline

    @contextmanager
    def watching(self, fileno: int, meanwhile: Callable[[], None], until: float | None) -> Iterator[None]:
        """While a body is waited for, call ``meanwhile`` whenever ``fileno`` is readable; what it raises ends the wait.

        :param until: when to wait no longer (:func:`time.monotonic`); None: only the client's own deadlines count.
        """
        self._other, self._meanwhile, self._until = fileno, meanwhile, until
        try:
            yield
        finally:
            self._meanwhile = None

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Receive once, at most about ``size_hint`` bytes; empty at the end of the connection.

        :raises TimeoutError: nothing came in time, or a body comes too slowly.
        """
        size = min(max(size_hint or 0, _SMALL), _LARGE)
        return self._body_chunk(size) if self._deadline is None else self._timed_chunk(size, self._deadline)

    def _timed_chunk(self, size: int, deadline: float) -> bytes:
        if self.begun and monotonic() >= deadline:  # what trickles fast enough to be here always is late all the same
            raise TimeoutError
        data = self.stream.receive(size, deadline, awaited=not self.begun)
        now = self.received = monotonic()
        if not self.begun:
            self.begun = True
            self.idle_since = None
            self._deadline = now + self._header_timeout
        return data

    def _body_chunk(self, size: int) -> bytes:
        began = monotonic()
        if self._meanwhile is None:
            data = self.stream.receive(size, began + self._settings.body_timeout)
        else:
            until = began + self._settings.body_timeout
            data = self._watchful_chunk(size, until if self._until is None else min(until, self._until), self._meanwhile)
        self._waited += monotonic() - began
        self._received += len(data)
        if data and self._waited > self._settings.body_timeout and self._received < self._settings.body_rate * self._waited:
            raise TimeoutError
        return data

    def _watchful_chunk(self, size: int, until: float, meanwhile: Callable[[], None]) -> bytes:
        stream, waiter = self.stream, None
        while (data := stream.receive_now(size)) is None:
            left = until - monotonic()
            if left <= 0:
                raise TimeoutError
            if waiter is None:  # not select(): it knows 1,024 descriptors
                waiter = poll()
                waiter.register(stream.fileno(), POLLIN)
                waiter.register(self._other, POLLIN)
            if any(fileno == self._other for fileno, _ in waiter.poll(left * 1000)):
                meanwhile()
        return data
