"""Message bodies: streamed unless somebody reads them, counted always, bounded where they are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from mypy_extensions import mypyc_attr

from gwproxy.errors import BadGateway, ClientGone, PayloadTooLarge

CHUNK = 64 * 1024


class Readable(Protocol):
    """A ``wsgi.input``: ``read(n)`` returns at most n bytes, empty at the end of the body."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes."""


@mypyc_attr(allow_interpreted_subclasses=True)
class RequestBody:
    """The body of one request: an iterable of chunks, read from the client at most once.

    :param stream: where the bytes come from.
    :param length: the declared length in bytes; None if chunked.
    :param limit: the most bytes accepted; None for no limit. A declared length beyond it is refused at once.

    :ivar tap: called with each chunk as it comes; None: nobody else wants it.
    """

    __slots__ = ("_failure", "_kept", "_stream", "ended", "length", "limit", "received", "tap", "waited", "waiting_since")

    def __init__(self, stream: Readable, length: int | None, limit: int | None = None) -> None:
        self._stream = stream
        self._kept: list[bytes] = []
        self._failure: Exception | None = None  # what is torn stays torn, whoever caught it first
        self.tap: Callable[[bytes], None] | None = None
        self.length = length
        self.limit: int | None = None
        self.received = 0
        self.ended = length == 0  # all of it has come
        self.waited = 0.0  # seconds spent waiting for the client: no plugin's budget pays for them
        self.waiting_since: float | None = None
        self.restrict(limit)

    def restrict(self, limit: int | None) -> None:
        """Accept at most ``limit`` bytes from here on (None: any number).

        :raises PayloadTooLarge: more is declared, or was received.
        """
        self.limit = limit
        if limit is not None and max(self.length or 0, self.received) > limit:
            raise PayloadTooLarge(f"over {limit} bytes")

    def read_all(self, limit: int) -> bytes:
        """Read and keep the whole body; it is still sent upstream.

        :raises PayloadTooLarge: it is longer than ``limit`` bytes.
        :raises ClientGone: the client closed before its end.
        """
        if max(self.length or 0, self.received) > limit:
            raise PayloadTooLarge(f"a plugin may read {limit} bytes, {self.length or self.received} are declared or came")
        self._begin()
        while not self.ended:
            chunk = self._next()
            if chunk:
                self._kept.append(chunk)
            if self.received > limit:
                raise PayloadTooLarge(f"a plugin may read {limit} bytes")
        if len(self._kept) > 1:
            self._kept = [b"".join(self._kept)]
        return self._kept[0] if self._kept else b""

    def replayable(self, limit: int) -> bytes | None:
        """Return the whole body if it is here already and at most ``limit`` bytes, else None."""
        if not self.ended or self.received > limit:
            return None
        data = b"".join(self._kept)
        return data if len(data) == self.received else None

    def __iter__(self) -> Iterator[bytes]:
        """Yield what was kept, then what comes; a second time only what was kept whole.

        :raises PayloadTooLarge: beyond the limit, before the chunk that exceeds it is passed on.
        :raises ClientGone: the client closed before the end.
        """
        self._begin()
        yield from self._kept
        while not self.ended:
            chunk = self._next()
            if chunk:
                yield chunk

    def watching(self, fileno: int, meanwhile: Callable[[], None], until: float | None) -> AbstractContextManager[None]:
        """Within this, whoever waits for the client calls ``meanwhile`` when ``fileno`` is readable; what that raises, iterating raises.

        Under a WSGI server whose bodies cannot do this it does nothing.

        :param until: when the client is too slow in any case (:func:`time.monotonic`); None: no such time.
        """
        watching = getattr(self._stream, "watching", None)
        return nullcontext() if watching is None else watching(fileno, meanwhile, until)

    def _begin(self) -> None:
        """Let nobody take a part for the whole."""
        if self._failure is not None:
            raise self._failure
        if sum(map(len, self._kept)) != self.received:
            raise RuntimeError("the body has been streamed and was not kept")

    def _next(self) -> bytes:
        try:
            chunk = self._wait()
            self.received += len(chunk)
            if self.limit is not None and self.received > self.limit:
                raise PayloadTooLarge(f"over {self.limit} bytes")
            if not chunk and self.length is not None:
                raise ClientGone(f"{self.received} of {self.length} bytes came")
        except Exception as error:
            self._failure = error
            raise
        except BaseException:  # a budget ended the read midway: bytes may be lost
            self._failure = ClientGone("the body was given up while it was read")
            raise
        self.ended = not chunk if self.length is None else self.received >= self.length
        if self.tap is not None:
            self.tap(chunk)
        return chunk

    def _wait(self) -> bytes:
        size = CHUNK if self.length is None else min(CHUNK, self.length - self.received)
        if self.limit is not None:
            size = min(size, self.limit - self.received + 1)  # one byte too many is enough to know
        self.waiting_since = began = time.monotonic()
        try:
            return self._stream.read(size)
        finally:
            self.waiting_since = None
            self.waited += time.monotonic() - began


class NoBody(RequestBody):
    """The body of a request that has none: nothing of it is ever waited for, received or refused, so that many can share one."""

    __slots__ = ()

    def __init__(self) -> None:
        self._kept = []
        self._failure = self.tap = None
        self.length = self.received = 0
        self.limit = self.waiting_since = None
        self.waited = 0.0
        self.ended = True

    def restrict(self, limit: int | None) -> None:
        """Accept: there is nothing."""


#: For every request without a body, as long as none follows it (a tunnel counts what does).
NO_BODY = NoBody()


@mypyc_attr(allow_interpreted_subclasses=True)
class ResponseBody:
    """The body of one response: bytes, or a stream of chunks that may be looked into up to a bound.

    :param chunks: the stream; None for a body that is all in ``data``.
    :param length: of the whole stream in bytes, where it was declared; None if it is not known.
    :param close: called once when the body is finished with, complete or not.
    """

    __slots__ = ("_chunks", "_close", "_failure", "_length", "data", "waited", "waiting_since")

    def __init__(
        self,
        data: bytes = b"",
        chunks: Iterator[bytes] | None = None,
        close: Callable[[], None] | None = None,
        length: int | None = None,
    ) -> None:
        self.data = data  # what was read ahead, or everything
        self._length = length
        self._chunks = chunks
        self._close = close
        self._failure: BaseException | None = None
        self.waited = 0.0  # seconds a plugin has waited here for the upstream, which no budget pays for
        self.waiting_since: float | None = None

    @property
    def complete(self) -> bool:
        """Whether ``data`` is all of it."""
        return self._chunks is None

    @property
    def length(self) -> int | None:
        """How many bytes the body has; None if only its end will tell."""
        return len(self.data) if self._chunks is None else self._length

    def read_ahead(self, limit: int) -> bytes | None:
        """Read the whole body if it is at most ``limit`` bytes; None leaves it to be streamed, nothing lost.

        What the stream raises is raised here, and whoever iterates later gets :class:`BadGateway`: never a part for the whole.
        """
        self._check()
        if self._chunks is not None and (self._length or 0) > limit:
            return None
        parts, size = [self.data], len(self.data)
        self.waiting_since = began = time.monotonic()
        try:
            while self._chunks is not None and size <= limit:
                chunk = next(self._chunks, None)
                if chunk is None:
                    self._chunks = None
                else:
                    parts.append(chunk)
                    size += len(chunk)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self.data = b"".join(parts)
            self.waiting_since = None
            self.waited += time.monotonic() - began
        return self.data if self._chunks is None and size <= limit else None

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body, once.

        :raises BadGateway: it broke off when it was read ahead.
        """
        if self.data:
            yield self.data
        self._check()
        if self._chunks is not None:
            yield from self._chunks

    def _check(self) -> None:
        if self._failure is not None:
            raise BadGateway(f"the body broke off: {type(self._failure).__name__}") from self._failure

    def close(self) -> None:
        """Give back what the body holds (an upstream connection); a second call does nothing."""
        close, self._close = self._close, None
        if close is not None:
            close()
