"""``wsgi.input``: the body of a request, as it comes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from time import monotonic
from typing import Any

from gunicorn.http.errors import NoMoreData, ParseException

from gwproxy.errors import BadRequest, ClientGone, GatewayError, RequestTimeout
from gwproxy.worker.quick import QuickHead
from gwproxy.worker.reader import ClientReader
from gwproxy.worker.request import Request

#: An unread body up to this many bytes, and this many seconds, is read away to keep the connection.
DRAIN_BYTES = 64 * 1024
DRAIN_SECONDS = 1.0

_PIECE = 16 * 1024


class Nothing(io.RawIOBase):
    """The body of every request without one, at its end from the start. PERF: 0.1 us less than a stream for each."""

    def readable(self) -> bool:
        """Answer yes: there is an end to read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read nothing."""
        return 0

    def close(self) -> None:
        """Do nothing: others have it, too."""


NOTHING = Nothing()


class Body(io.RawIOBase):
    """A body being received. ``read(n)`` returns as soon as there is a byte, and an empty string at the end only.

    Any read raises :class:`~gwproxy.errors.RequestTimeout` if the client is too slow,
    :class:`~gwproxy.errors.ClientGone` if it closed before the end, and :class:`~gwproxy.errors.BadRequest` if the
    chunks are malformed; and so does every later one: where the next request would begin is then unknown. A read that
    something else ends makes every later one raise :class:`~gwproxy.errors.ClientGone`.

    :param send_continue: called before the first read if the client awaits ``100 Continue``.

    :ivar ended: the whole body has been read.
    """

    def __init__(self, request: Request | QuickHead, reader: ClientReader, send_continue: Callable[[], None]) -> None:
        self._reader = reader
        self._pieces: Iterator[bytes] | None = request.pieces()
        self._left = request.length or 0
        self._spare = b""
        self._send_continue = send_continue if request.awaits_continue else None
        self._failure: Callable[[], GatewayError] | None = None  # not an error that was raised: its traceback would keep all of this
        self.ended = False
        reader.expect_body()

    @property
    def drainable(self) -> bool:
        """Whether what is unread may turn out short enough for :meth:`drain`."""
        if self.ended:
            return True
        return self._failure is None and self._send_continue is None and self._left <= DRAIN_BYTES

    def readable(self) -> bool:
        """Answer yes: it is a stream to read from."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read into ``buffer``; return how many bytes, 0 at the end."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to ``size`` bytes, at least one before the end; everything if ``size`` is None or negative."""
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        if self._failure is not None:
            raise self._failure()
        if self.ended or size == 0:
            return b""
        if self._send_continue is not None:
            send, self._send_continue = self._send_continue, None
            send()
        try:
            return self._sized(size) if self._pieces is None else self._chunked(size)
        except TimeoutError:
            self._failure = partial(RequestTimeout, "body")
        except OSError as error:
            self._failure = partial(ClientGone, type(error).__name__)
        except ParseException as error:
            self._failure = partial(BadRequest, type(error).__name__)
        except BaseException:  # its generator is over: a later read would take that for the body's end
            self._failure = partial(ClientGone, "the body was given up while it was read")
            raise
        raise self._failure()

    def watching(self, fileno: int, meanwhile: Callable[[], None], until: float | None) -> AbstractContextManager[None]:
        """Within this, whoever waits for the body waits for ``fileno``, too.

        :param meanwhile: called when that is readable, to read of it; what it raises is raised by ``read``.
        :param until: when the client is too slow in any case (:func:`time.monotonic`); None: no such time.
        """
        return self._reader.watching(fileno, meanwhile, until)

    def drain(self) -> bool:
        """Read the rest away if it is short and comes soon; return whether the body is then over."""
        self._reader.expect_until(monotonic() + DRAIN_SECONDS)
        room = DRAIN_BYTES
        try:
            while room >= 0 and self.drainable and not self.ended:
                room -= len(self.read(_PIECE))
        except GatewayError:
            return False
        return self.ended

    def _sized(self, size: int) -> bytes:
        size = min(size, self._left)
        data: bytes = self._reader.read(None, read_ahead=size)
        if not data:
            raise NoMoreData
        if len(data) > size:
            self._reader.unread(data[size:])
            data = data[:size]
        self._left -= len(data)
        self.ended = self._left == 0
        return data

    def _chunked(self, size: int) -> bytes:
        while not self._spare:
            piece = next(self._pieces, None) if self._pieces is not None else None
            if piece is None:
                self.ended = True
                return b""
            self._spare = piece
        data, self._spare = self._spare[:size], self._spare[size:]
        return data
