"""The admin listener's process: how it is started, by itself or beside the gateway."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from gwproxy.errors import CommandFailed
from gwproxy.settings import Settings, split_bind
from gwproxy.store.embedded import die_with_parent

CONF = Path(__file__).parent.parent / "worker" / "admin_conf.py"
FD = "GWPROXY_ADMIN_FD"
BACKLOG = 64
FIRST_RETRY, LAST_RETRY = 0.5, 10.0  # seconds until a process that has ended is started again, twice as long each time
PROVEN = 30.0  # seconds after which it has started well
STOP_TIMEOUT = 15.0  # seconds; more than its own graceful timeout

#: Meant for the data listener: settings of another gunicorn, and sockets that systemd hands to it.
_NOT_FOR_ADMIN = ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def open_listener(bind: str) -> socket.socket:
    """Listen on ``HOST:PORT`` or ``unix:PATH``; a UNIX socket is its owner's only.

    :raises CommandFailed: saying why it cannot be.
    """
    advice = "name another address with --admin-bind or GWPROXY_ADMIN_BIND, or 'off' for none"
    try:
        if bind.startswith("unix:"):
            return _open_unix(bind.removeprefix("unix:"))
        host, port = split_bind(bind)
        family, _, _, _, address = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]  # noqa: S104
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandFailed(f"the admin listener cannot be on {bind}: {reason}; {advice}") from None
    return listener


@contextlib.contextmanager
def listening(bind: str) -> Iterator[socket.socket]:
    """Listen as :func:`open_listener` does, and leave nothing of it behind."""
    listener = open_listener(bind)
    try:
        yield listener
    finally:
        listener.close()
        if bind.startswith("unix:"):
            with contextlib.suppress(FileNotFoundError):  # its process may have taken it away
                os.unlink(bind.removeprefix("unix:"))


def _open_unix(path: str) -> socket.socket:
    """Listen on a path; a socket that nobody listens on any more is replaced.

    :raises OSError: it cannot be; ``Address already in use`` if somebody does, or if it is no socket.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except OSError:
                pass  # nothing there, or nothing of ours: binding says which
        umask = os.umask(0o177)
        try:
            listener.bind(path)
        finally:
            os.umask(umask)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def shown(listener: socket.socket) -> str:
    """Return where it listens, e.g. ``127.0.0.1:8081`` or ``unix:/run/gwproxy-admin.sock``."""
    address = listener.getsockname()
    if not isinstance(address, tuple):
        return f"unix:{os.fsdecode(address)}"
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def command() -> list[str]:
    """Return the command that serves a listener handed over by :data:`FD`."""
    return [sys.executable, "-m", "gunicorn", "-c", str(CONF), "gwproxy.admin.wsgi:application"]


def environ_for(listener: socket.socket, settings: Settings, url: str, prefix: str) -> dict[str, str]:
    """Return the environment of that command.

    :param url: of the store, as well as ``prefix``.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_ADMIN}
    return {
        **kept,
        "GWPROXY_REDIS_URL": url,
        "GWPROXY_PREFIX": prefix,
        "GWPROXY_STATE_DIR": str(settings.state_dir.resolve()),
        "GWPROXY_ADMIN_BIND": shown(listener),
        "GWPROXY_PROXY_PROTOCOL": "off",  # the load balancer's, before the data listener
        FD: str(listener.fileno()),
    }


class AdminProcess:
    """The admin listener as a child of ``gwproxy run``: started again when it ends, on the same listener.

    :param listener: stays open here, so that nobody is refused meanwhile.
    :param say: called with a line for the person at the terminal.
    """

    def __init__(self, listener: socket.socket, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        self._listener = listener
        self._environ = dict(environ)
        self._say = say
        self._child: subprocess.Popen[bytes] | None = None
        self._started = self._not_before = 0.0
        self._retry = FIRST_RETRY

    def start(self) -> None:
        """Start it; it serves a moment later."""
        self._started = time.monotonic()
        address = self._listener.getsockname()
        if isinstance(address, str) and not os.path.exists(address):  # a server that ends in good order takes it away
            self._listener = open_listener(f"unix:{address}")
        self._child = subprocess.Popen(  # noqa: S603
            command(),
            env={**self._environ, FD: str(self._listener.fileno())},
            pass_fds=(self._listener.fileno(),),
            start_new_session=True,  # Ctrl-C is for the supervisor, which stops this
            preexec_fn=die_with_parent(),
        )

    def keep(self) -> None:
        """Start it again if it has ended, at once the first time, then ever more slowly; the gateway serves on without it."""
        now = time.monotonic()
        if self._child is not None:
            if (status := self._child.poll()) is None:
                return
            self._child = None
            self._retry = FIRST_RETRY if now - self._started > PROVEN else min(2 * self._retry, LAST_RETRY)
            self._not_before = now + self._retry
            self._say(f"the admin listener ended {how(status)}; it is started again")
        if now >= self._not_before:
            try:
                self.start()
            except (OSError, CommandFailed) as error:
                self._not_before = now + LAST_RETRY
                self._say(f"the admin listener does not start: {error}")

    def signal(self, number: int) -> None:
        """Pass a signal on, if it runs."""
        if self._child is not None:
            self._child.send_signal(number)

    def stop(self) -> None:
        """End it; it need not have been started."""
        child, self._child = self._child, None
        if child is not None:
            child.terminate()
            try:
                child.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def how(status: int) -> str:
    """Return how a process ended: ``by signal 9`` or ``with status 1``."""
    return f"by signal {-status}" if status < 0 else f"with status {status}"
