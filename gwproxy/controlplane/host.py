"""What the workers of a host tell each other of upstreams, by files in the state folder.

A lock says which of them asks targets for their health: it is let go of by the system when its process dies, however it does. What
that one has found, and what DNS has told, is in two files beside it, each replaced as a whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from gwproxy.controlplane.last_good import file_name
from gwproxy.dataplane.health import Result, Results
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.host")

TRY_EVERY = 1.0  # seconds between two attempts at the lock

InThread = Callable[..., Any]


def at_once(function: Callable[..., Any], *args: Any) -> Any:
    """Call ``function`` here, without a thread."""
    return function(*args)


class HostFiles:
    """The other workers of this host that serve the same prefix and have the same state folder.

    Nothing here raises: where the folder cannot be written, each worker asks for itself, which is counted as
    ``host_files_failed``.

    :param in_thread: runs what waits for the disk.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        tally: Tally,
        in_thread: InThread = at_once,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        name = file_name(prefix)
        self._folder = folder / "upstreams"
        self._lock = self._folder / f"{name}.lock"
        self._health = self._folder / f"{name}.health.json"
        self._names = self._folder / f"{name}.names.json"
        self._tally = tally
        self._in_thread = in_thread
        self._clock = clock
        self._held: int | None = None
        self._alone = False  # there is no lock to be had
        self._try_at = 0.0
        self._seen: object = None

    def leads(self) -> bool:
        """Return whether this worker holds the lock, or there is none to be had; tries to take it once a second."""
        if self._held is None and self._clock() >= self._try_at:
            self._try_at = self._clock() + TRY_EVERY
            self._alone = False
            try:
                self._held = self._take()
            except BlockingIOError:
                pass  # another has it
            except OSError as error:
                self._alone = True
                self._failed("lock", error)
        return self._held is not None or self._alone

    def _take(self) -> int:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        log.info("host_prober pid=%d", os.getpid())
        return handle

    def tell(self, results: Results) -> None:
        """Write what was found out about targets."""
        self._write(self._health, {key: list(result) for key, result in results.items()})

    def told(self) -> Results | None:
        """Return what was written last, if it was written since it was asked for; None: nothing new, or nothing that can be read."""
        try:
            status = self._health.stat()
            seen = status.st_mtime_ns, status.st_ino, status.st_size
            if seen == self._seen:
                return None
            self._seen = seen
            found = orjson.loads(self._health.read_bytes())
            return {str(key): Result(bool(healthy), float(at), str(why)) for key, (healthy, at, why) in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # not there yet; or not ours, then every worker asks for itself
            return None

    def keep_names(self, names: Mapping[str, Any]) -> None:
        """Keep what DNS has told, for workers that start while it is away."""
        if self.leads():
            self._write(self._names, names)

    def names(self) -> Mapping[str, Any]:
        """Return what was kept; empty if nothing was."""
        try:
            found = orjson.loads(self._names.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Let another worker take the lock."""
        held, self._held = self._held, None
        self._try_at = float("inf")
        if held is not None:
            os.close(held)

    def _write(self, path: Path, value: Mapping[str, Any]) -> None:
        try:
            self._in_thread(_replace, path, orjson.dumps(value))
        except OSError as error:
            self._failed(path.name, error)

    def _failed(self, what: str, error: OSError) -> None:
        self._tally.add("host_files_failed")
        if self._tally.get("host_files_failed") == 1:
            log.error("host_files_failed file=%s reason=%s", what, error)


def _replace(path: Path, data: bytes) -> None:
    """Write a file as a whole; not to the disk itself: after a loss of power, all of it is found out anew.

    :raises OSError: the folder cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
