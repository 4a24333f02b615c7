"""The last good configuration on disk: what a restarted worker serves while Redis is away.

One file a prefix holds the newest, another the one before it. A file is a line with its SHA-256 and revision, then the
configuration's bytes; one whose digest does not fit its bytes is as good as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LastGood:
    """A configuration that was served before."""

    data: bytes
    revision: int


class LastGoodFile:
    """Keeps the last good configurations of one prefix in a folder. Several workers may write it at once."""

    def __init__(self, folder: Path, prefix: str) -> None:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", prefix).strip("-") or "default"
        if name != prefix.rstrip(":"):  # two prefixes that look alike must not share a file
            name += "-" + hashlib.sha256(prefix.encode()).hexdigest()[:8]
        self._newest = folder / "last-good" / f"{name}.json"
        self._before = folder / "last-good" / f"{name}.previous.json"

    def save(self, data: bytes, revision: int) -> None:
        """Make ``data`` the newest, the one that was becomes the one before.

        :raises OSError: the disk is full or read-only.
        """
        digest = hashlib.sha256(data).hexdigest()
        current = _read(self._newest)
        if current is not None and current.data == data and current.revision == revision:
            return
        self._newest.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self._newest.parent, prefix=".writing-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(f"{digest} {revision}\n".encode() + data)
                file.flush()
                os.fsync(file.fileno())
            if current is not None and current.data != data:
                os.replace(self._newest, self._before)
            os.replace(temporary, self._newest)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def load(self) -> list[LastGood]:
        """Return what is there and whole, the newest first; empty if there is nothing."""
        return [found for found in (_read(self._newest), _read(self._before)) if found is not None]


def _read(path: Path) -> LastGood | None:
    try:
        head, _, data = path.read_bytes().partition(b"\n")
        digest, revision = head.decode().split(" ")
        if hashlib.sha256(data).hexdigest() == digest:
            return LastGood(data, int(revision))
    except (OSError, ValueError):
        pass
    return None
