"""The supervisor behind ``gwproxy run``: it keeps the embedded store and gunicorn going, and leaves none of them behind.

A plain process without greenlets or threads. It outlives a store that dies (and restarts it); what it starts ends with
it, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gwproxy.cli import run_file
from gwproxy.cli.admin_process import AdminProcess, how
from gwproxy.cli.announcement import Listening
from gwproxy.cli.output import printable
from gwproxy.errors import CommandFailed
from gwproxy.store.embedded import EmbeddedStore, die_with_parent

TICK = 0.2  # seconds between two looks at the children and the file
STORE_RETRY = 2.0  # seconds until a store that does not start is started again
CHECK_TIMEOUT = 30.0  # seconds
FD = "GWPROXY_RUN_FD"
CONF = Path(__file__).parent.parent / "worker" / "run_conf.py"


def say(line: str) -> None:
    """Tell the person at the terminal; a terminal that is gone is no reason to stop."""
    with contextlib.suppress(OSError):
        print(f"gwproxy: {printable(line)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this process; it is made if need be, owner-only.

    :raises CommandFailed: another gateway holds it, which the message names; or it cannot be used.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not any(state_dir.iterdir()):  # else it may be more than ours
            state_dir.chmod(0o700)
        handle = os.open(state_dir / "run.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise CommandFailed(f"the state folder {state_dir} cannot be used: {error.strerror}; name another with GWPROXY_STATE_DIR") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandFailed(
                f"the state folder {state_dir} is in use by {_holder(handle, state_dir)}; stop it, or give this one its own with "
                "GWPROXY_STATE_DIR"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"gwproxy run, process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(handle: int, state_dir: Path) -> str:
    running = run_file.read(state_dir)
    name = os.pread(handle, 200, 0).decode(errors="replace").strip() or "an unknown process"
    return f"{name}, on {running.bind}" if running is not None else name


def gunicorn_command(*, bind: str | None, workers: int | None) -> list[str]:
    """Return the command that starts gunicorn with gwproxy's settings, then the user's, then these flags.

    :param bind: None: as the settings say; so for ``workers``.
    """
    flags = [*(("--bind", bind) if bind is not None else ()), *(("--workers", str(workers)) if workers is not None else ())]
    return [sys.executable, "-m", "gunicorn", "-c", str(CONF), *flags, "gwproxy.wsgi:application"]


class Supervisor:
    """Runs gunicorn until it ends or somebody ends this process.

    :param embedded: the store this process started; None if it is somebody else's.
    :param admin: the admin listener, which is started, kept and stopped with gunicorn; None if there is none.
    """

    def __init__(
        self, command: list[str], environ: dict[str, str], embedded: EmbeddedStore | None, admin: AdminProcess | None = None
    ) -> None:
        self._command = command
        self._environ = environ
        self._embedded = embedded
        self._admin = admin
        self._stopping = False
        self._reload = False
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._store_not_before = 0.0

    def run(self, listening: Callable[[Listening], None], look: Callable[[], None]) -> int:
        """Start gunicorn and stay until it is done.

        :param listening: called once, when gunicorn listens.
        :param look: called a few times a second while it runs and is not to stop; raises nothing.
        :return: 0 if it was asked to stop, else 1.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._ask_for_reload)
        child = self._child = self._start()
        try:
            if self._admin is not None:
                self._admin.start()
            if self._stopping:  # the signal came before there was a child to pass it to
                child.terminate()
            while child.poll() is None:
                if not self._stopping:
                    self._listen(listening)
                    self._keep_store()
                    if self._admin is not None:
                        self._admin.keep()
                    look()
                    self._pass_on_reload()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(TICK)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
            self._close_pipe()
            if self._admin is not None:
                self._admin.stop()
        if not self._stopping:
            say(f"gunicorn ended {how(child.returncode)}; it says why above")
        return 0 if self._stopping else 1

    def _start(self) -> subprocess.Popen[bytes]:
        """Start gunicorn, with a pipe on which it tells where it listens."""
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        try:
            return subprocess.Popen(  # noqa: S603
                self._command,
                env={**self._environ, FD: str(theirs)},
                pass_fds=(theirs,),
                start_new_session=True,  # Ctrl-C is for this process, which stops gunicorn without cutting requests
                preexec_fn=die_with_parent(),
            )
        finally:
            os.close(theirs)

    def _listen(self, listening: Callable[[Listening], None]) -> None:
        if self._pipe is None:
            return
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            return
        self._close_pipe()
        if data:
            held = json.loads(data)
            listening(Listening(tuple(held["urls"]), held["workers"]))

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _keep_store(self) -> None:
        """Start the embedded store again if it has ended; the gateway serves on without it."""
        if self._embedded is None or self._embedded.pid is not None or time.monotonic() < self._store_not_before:
            return
        try:
            self._embedded.restart()
            say("the embedded store had ended and was started again")
        except CommandFailed as error:
            self._store_not_before = time.monotonic() + STORE_RETRY
            say(f"the embedded store does not start: {error}")

    def _stop(self, number: int, _frame: object) -> None:
        again = self._stopping
        self._stopping = True
        if self._admin is not None:
            self._admin.signal(signal.SIGTERM)
        if self._child is not None:
            # gunicorn ends at once when interrupted while it stops.
            self._child.send_signal(signal.SIGINT if again and number == signal.SIGINT else signal.SIGTERM)

    def _ask_for_reload(self, _number: int, _frame: object) -> None:
        self._reload = True

    def _pass_on_reload(self) -> None:
        """Have gunicorn read its settings again, if it can: it would end on settings that it cannot read."""
        if not self._reload or self._pipe is not None or self._child is None:  # not before it handles signals
            return
        self._reload = False
        check = [*self._command[:-1], "--check-config", self._command[-1]]
        try:
            checked = subprocess.run(  # noqa: S603
                check, env=self._environ, capture_output=True, text=True, errors="replace", timeout=CHECK_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired:
            say("not reloaded: the settings took too long to read")
            return
        if checked.returncode != 0:
            words = (checked.stderr or checked.stdout).strip().splitlines()
            say(f"not reloaded: {words[-1] if words else 'the settings cannot be read'}")
        elif not self._stopping:
            self._child.send_signal(signal.SIGHUP)
            if self._admin is not None:
                self._admin.signal(signal.SIGHUP)
            say("reloading: the workers are replaced, one generation by the next")
