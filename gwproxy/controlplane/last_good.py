"""The last good configuration on disk: what a restarted worker serves while Redis is away.

One file a prefix holds the newest, another the one before it. A file is a line with its SHA-256 and revision, then the
configuration's bytes; one whose digest does not fit its bytes is as good as absent.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gevent import monkey

#: Seconds to wait for another worker that moves the files: a few renames. One that was stopped at that must not stop all others.
PATIENCE = 2.0

_sleep = monkey.get_original("time", "sleep")  # called in a thread, where gevent's would make another event loop


@dataclass(frozen=True, slots=True)
class LastGood:
    """A configuration that was served before."""

    data: bytes
    revision: int


def file_name(prefix: str) -> str:
    """Return what files of a prefix are called: two prefixes that look alike do not share one."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", prefix).strip("-") or "default"
    return name if name == prefix.rstrip(":") else f"{name}-{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"


class LastGoodFile:
    """Keeps the last good configurations of one prefix in a folder. Several workers may write it at once.

    :param what: of something else than configurations, in files of its own: ``.plugins`` for deployments.
    """

    def __init__(self, folder: Path, prefix: str, what: str = "") -> None:
        name = file_name(prefix) + what
        self._newest = folder / "last-good" / f"{name}.json"
        self._before = folder / "last-good" / f"{name}.previous.json"

    def save(self, data: bytes, revision: int) -> None:
        """Make ``data`` the newest, the one that was becomes the one before. Waits for other workers that do the same.

        :raises OSError: the disk is full or read-only, or another worker has been at it for :data:`PATIENCE`.
        """
        if self._holds(data, revision):
            return
        self._newest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._newest.parent, prefix=".writing-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(f"{hashlib.sha256(data).hexdigest()} {revision}\n".encode() + data)
                file.flush()
                os.fsync(file.fileno())
            with _alone(self._newest.parent):
                # Looked at again: workers apply a change at once, and of two that move the same the second would put it into both files.
                current = _read(self._newest)
                if current is not None and current.data != data:
                    os.replace(self._newest, self._before)
                os.replace(temporary, self._newest)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _holds(self, data: bytes, revision: int) -> bool:
        current = _read(self._newest)
        return current is not None and current.data == data and current.revision == revision

    def load(self) -> list[LastGood]:
        """Return what is there and whole, the newest first; empty if there is nothing."""
        return [found for found in (_read(self._newest), _read(self._before)) if found is not None]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other workers; a process that dies lets go of it.

    :raises BlockingIOError: another has held it for :data:`PATIENCE`.
    """
    handle, end = os.open(folder, os.O_RDONLY | os.O_DIRECTORY), time.monotonic() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                _sleep(0.005)
        yield
    finally:
        os.close(handle)


def _read(path: Path) -> LastGood | None:
    try:
        head, _, data = path.read_bytes().partition(b"\n")
        digest, revision = head.decode().split(" ")
        if hashlib.sha256(data).hexdigest() == digest:
            return LastGood(data, int(revision))
    except (OSError, ValueError):
        pass
    return None
