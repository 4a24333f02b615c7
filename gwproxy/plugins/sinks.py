"""Where log entries go, without a request ever waiting: a list in the store, standard output, a file."""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from gwproxy import Gateway, PluginConfig

log = logging.getLogger(__name__)

KEPT = 10_000  # entries in a list of the store
MOST_BYTES = 16 << 20  # waiting for standard output or one file, of one worker
BATCH_LINES = 1000
MOST_QUEUES = 64  # of one plugin; beyond that those with nothing to do are made anew when they are needed
BETWEEN_WARNINGS = 60.0  # seconds

Sink = Literal["redis", "stdout", "file"]


class SinkConfig(PluginConfig):
    """The part of a configuration that says where entries go."""

    sinks: Annotated[tuple[Sink, ...], Field(min_length=1)] = ("redis",)
    """`redis` (a list in the store, the newest 10,000 entries), `stdout`, `file`: one JSON object a line. Each may be given."""
    file: Annotated[str, Field(pattern=r"^/[^\x00]*[^\x00/]$", max_length=1024)] | None = None
    """Absolute path of the file for the sink `file`; appended to, made if missing, and followed when it is rotated."""

    @model_validator(mode="after")
    def _file_and_its_sink(self) -> Self:
        if ("file" in self.sinks) != (self.file is not None):
            raise ValueError("the sink 'file' and the path 'file' go together: one is given without the other")
        return self


class Sinks:
    """Writes the entries of one plugin in one worker.

    :param key: of the list in the store, below the gateway's prefix.
    """

    def __init__(self, gateway: Gateway, key: str) -> None:
        self._gateway = gateway
        self._key = key
        self._lines: dict[str, Lines] = {}

    def write(self, config: SinkConfig, entry: bytes) -> None:
        """Hand ``entry`` to each sink. Returns at once and never raises; what a sink cannot take is dropped and counted."""
        for sink in config.sinks:
            if sink == "redis":
                self._gateway.store.log(self._key, entry, keep=KEPT)
            else:
                self._lines_to(config.file if sink == "file" else None).put(entry + b"\n")

    def flush(self) -> None:
        """Write what waits, for a worker that stops."""
        for lines in self._lines.values():
            lines.flush()

    def _lines_to(self, path: str | None) -> Lines:
        name = path or "stdout"
        found = self._lines.get(name)
        if found is None:
            if len(self._lines) >= MOST_QUEUES:  # of files that former configurations named
                self._lines = {name: lines for name, lines in self._lines.items() if lines.busy}
            append = write_stdout if path is None else partial(write_file, path)
            found = self._lines[name] = Lines(self._gateway, name, append)
        return found


class Lines:
    """A bounded queue of lines before something that may block: a full pipe, a slow disk.

    Lines are written by a native thread, in batches that grow while the one before is being written. A line that
    comes when 16 MiB are waiting is dropped, and so is a batch that cannot be written; a warning says how many, at
    most once a minute.

    :ivar dropped: lines, since the worker started.
    """

    def __init__(self, gateway: Gateway, name: str, append: Callable[[list[bytes]], None]) -> None:
        self._gateway = gateway
        self._name = name
        self._append = append
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._draining = False
        self._warned = -BETWEEN_WARNINGS
        self.dropped = 0

    @property
    def busy(self) -> bool:
        """Whether lines wait, or are being written."""
        return self._draining or bool(self._waiting)

    def put(self, line: bytes) -> None:
        """Queue ``line``, which brings its own end."""
        if self._bytes + len(line) > MOST_BYTES:
            self._drop(1, "the queue is full")
            return
        self._waiting.append(line)
        self._bytes += len(line)
        if not self._draining:
            self._draining = True
            self._gateway.spawn(self._drain)

    def flush(self) -> None:
        """Write all that waits."""
        while self._waiting:
            self._write_batch()

    def _drain(self) -> None:
        try:
            self.flush()
        finally:
            self._draining = False

    def _write_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH_LINES))]
        try:
            self._gateway.in_thread(self._append, batch)
        except (OSError, ValueError) as error:  # ValueError: standard output is closed
            self._drop(len(batch), str(error))
        finally:
            self._bytes -= sum(map(len, batch))

    def _drop(self, count: int, reason: str) -> None:
        self.dropped += count
        now = time.monotonic()
        if now - self._warned >= BETWEEN_WARNINGS:
            self._warned = now
            log.warning("log_lines_dropped sink=%s dropped=%d reason=%s", self._name, self.dropped, reason)


def write_stdout(lines: list[bytes]) -> None:
    """Write to standard output, so that no line of up to 4 KiB is torn by another worker's.

    :raises OSError: it cannot be written to.
    """
    descriptor = sys.stdout.fileno()
    for group in _grouped(lines, select.PIPE_BUF):
        _write_all(descriptor, group)


def write_file(path: str, lines: list[bytes]) -> None:
    """Append to the file at ``path``. It is opened each time: a rotated file is followed, and none stays open.

    :raises OSError: it cannot be opened or written to.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        _write_all(descriptor, b"".join(lines))
    finally:
        os.close(descriptor)


def _grouped(lines: Iterable[bytes], most: int) -> Iterator[bytes]:
    group = b""
    for line in lines:
        if group and len(group) + len(line) > most:
            yield group
            group = b""
        group += line
    if group:
        yield group


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
