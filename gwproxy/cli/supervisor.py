"""The supervisor behind ``gwproxy run``: the embedded store, gunicorn, and a configuration file that is followed.

A plain process without greenlets. It outlives a store that dies (and restarts it), and nothing it starts outlives it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gwproxy.cli.run_file import RunInfo
from gwproxy.controlplane.parse import Environment, parse, to_json
from gwproxy.errors import CommandFailed, ConfigurationRefused, StoreUnavailable
from gwproxy.registry import Registry
from gwproxy.settings import Settings
from gwproxy.store.configuration import ConfigurationStore
from gwproxy.store.embedded import EmbeddedStore

TICK = 0.2  # seconds between two looks at the children and the file
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def locked(state_dir: Path, bind: str) -> Iterator[None]:
    """Hold the state folder for this process.

    :raises CommandFailed: another gateway holds it; the message names it.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(state_dir / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CommandFailed(f"the state folder {state_dir} cannot be used: {error.strerror}; name another with GWPROXY_STATE_DIR") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "an unknown process"
            raise CommandFailed(
                f"the state folder {state_dir} is in use by {holder}; stop it, or give this one its own with GWPROXY_STATE_DIR"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"gwproxy run, process {os.getpid()} on {bind}".encode(), 0)
        yield
    finally:
        os.close(handle)


@dataclass
class ConfigFile:
    """A configuration file that is published to the store, when it differs from what was published last.

    :ivar said: called with a line for the person at the terminal.
    """

    path: Path
    settings: Settings
    store: ConfigurationStore
    said: Callable[[str], None]
    _mark: tuple[int, int, int] | None = None

    def read(self) -> bytes:
        """Return the file as the JSON that is published.

        :raises ConfigurationRefused: it is not valid, as a whole.
        :raises OSError: it cannot be read.
        """
        status = os.stat(self.path)
        self._mark = (status.st_mtime_ns, status.st_size, status.st_ino)
        data = self.path.read_bytes()
        environment = Environment(os.environ, self.settings.may_reference)
        parse(data, file=str(self.path), plugins=Registry.discover(), environment=environment)
        return to_json(data, str(self.path))

    def publish(self, data: bytes) -> None:
        """Publish ``data`` unless it is what was published last; a store without configuration gets it in any case.

        :raises StoreUnavailable: the store is away.
        """
        digest = hashlib.sha256(data).hexdigest()
        remembered = self.settings.state_dir / "published.json"
        published = _json_object(remembered)
        key = f"{self.settings.prefix} {self.path.resolve()}"
        if published.get(key) == digest and self.store.read().data:
            return
        result = self.store.publish(data, actor="run", comment=f"from {self.path}")
        published[key] = digest
        remembered.write_text(json.dumps(published))
        remembered.chmod(0o600)
        self.said(f"published {self.path} as revision {result.revision}")

    def follow(self) -> None:
        """Publish the file if it was edited since the last look; an invalid edit is reported and left alone."""
        try:
            status = os.stat(self.path)
            if (status.st_mtime_ns, status.st_size, status.st_ino) == self._mark:
                return
            self.publish(self.read())
        except FileNotFoundError:
            return  # editors replace files; the next look finds the new one
        except ConfigurationRefused as refused:
            for problem in refused.problems:
                self.said(str(problem))
            self.said(f"{self.path} was not published: the last good configuration serves on")
        except (OSError, StoreUnavailable) as error:
            self._mark = None  # try again
            self.said(f"{self.path} was not published: {error}")


def _json_object(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def gunicorn_command(*, bind: str, workers: int | None, log_level: str) -> list[str]:
    """Return the command that starts gunicorn with gwproxy's settings, then the user's, then these flags."""
    command = [sys.executable, "-m", "gunicorn", "-c", "python:gwproxy.worker.run_conf", "--bind", bind, "--log-level", log_level]
    if workers is not None:
        command += ["--workers", str(workers)]
    return [*command, "gwproxy.wsgi:application"]


def die_with_parent() -> None:
    """Have the kernel end this process when its parent is gone. Called in a child, before it becomes its program."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Supervisor:
    """Runs gunicorn until it ends or somebody ends this process.

    :param embedded: the store this process started; None if it is somebody else's.
    :param file: the configuration to follow; None if there is none.
    """

    def __init__(self, command: list[str], environ: dict[str, str], embedded: EmbeddedStore | None, file: ConfigFile | None) -> None:
        self._command = command
        self._environ = environ
        self._embedded = embedded
        self._file = file
        self._stopping = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, started: Callable[[], None]) -> int:
        """Start gunicorn and stay until it is done.

        :param started: called once gunicorn runs.
        :return: 0 if it was asked to stop, else gunicorn's own status, 1 at least.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._pass_on)
        self._child = subprocess.Popen(self._command, env=self._environ, preexec_fn=die_with_parent)  # noqa: S603
        try:
            started()
            while self._child.poll() is None:
                self._look()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(TICK)
        finally:
            if self._child.poll() is None:
                self._child.terminate()
                self._child.wait()
        return 0 if self._stopping else max(1, self._child.returncode)

    def _look(self) -> None:
        if self._stopping:
            return
        if self._embedded is not None and self._embedded.poll() is not None:
            try:
                self._embedded.restart()
            except CommandFailed as error:  # try again at the next look: the gateway serves on without it
                print(f"gwproxy: the embedded store does not start: {error}", file=sys.stderr)
                time.sleep(1)
        if self._file is not None:
            self._file.follow()

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True
        if self._child is not None:
            self._child.terminate()

    def _pass_on(self, number: int, _frame: object) -> None:
        if self._child is not None:
            self._child.send_signal(number)


def run_info(settings: Settings, *, bind: str, redis_url: str) -> RunInfo:
    """Describe this process for the commands that look for a live gateway."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return RunInfo(pid=os.getpid(), redis_url=redis_url, prefix=settings.prefix, bind=bind, started=started)
