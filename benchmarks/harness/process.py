"""Child processes: pinned to cores, metered, and never left behind."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1
_ENDS = {signal.SIGINT, signal.SIGTERM}
_TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Something that a measurement needs did not work; the message is for the person who runs it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], object], what: str, within: float = 20.0) -> None:
    """Wait for a condition.

    :raises Failed: it did not come true ``within`` so many seconds.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"waited {within:.0f} s in vain for {what}")
        time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a child and its descendants use.

    :ivar cpu: seconds of user and system time so far.
    :ivar largest: bytes, resident, of the largest process: the worker.
    :ivar resident: bytes, resident, of all of them; shared pages count in each.
    """

    cpu: float
    largest: int
    resident: int


class Child:
    """A process in a session of its own, with its output in a file.

    It gets SIGTERM when this process ends, however that ends, and :meth:`stop` ends its whole session. One that is interrupted before it
    can be left to anybody is stopped by :func:`stop_rest`.

    :param cores: that it and its descendants may run on.
    """

    def __init__(self, command: list[str], log: Path, cores: Iterable[int], env: Mapping[str, str] | None = None, cwd: Path | None = None):
        self.command = command
        self.log = log
        allowed = set(cores)
        prctl = ctypes.CDLL(None, use_errno=True).prctl

        def arrange() -> None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            os.sched_setaffinity(0, allowed)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)  # an interrupt waits until it is known what was started
        try:
            with log.open("ab") as output:
                self._process = subprocess.Popen(  # with preexec_fn: this process has one thread when it starts children
                    command,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **(env or {})},
                    cwd=cwd,
                    start_new_session=True,
                    preexec_fn=arrange,
                )
            self.pid = self._process.pid
            _running.add(self)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def listening(self, port: int, within: float = 30.0) -> None:
        """Wait until it accepts connections.

        :raises Failed: it ended, or does not; with the end of its output.
        """

        def accepts() -> bool:
            if self._process.poll() is not None:
                raise Failed(f"{self.command[0]} ended with {self._process.returncode}: {self.tail()}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            until(accepts, f"{self.command[0]} to listen on {port}", within)
        except Failed as failed:
            raise Failed(f"{failed}: {self.tail()}") from None

    def wait(self, within: float) -> int:
        """Wait for its end; return its exit status."""
        return self._process.wait(within)

    def tail(self) -> str:
        """Return the end of its output."""
        return self.log.read_text(errors="replace")[-1500:].strip()

    def stop(self, within: float = 5.0) -> None:
        """End it and all of its session."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(within)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        deadline = time.monotonic() + within
        while (rest := _session(self.pid)) and time.monotonic() < deadline:  # what is killed is there for a while yet
            for pid, _ in rest:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        _running.discard(self)

    def usage(self) -> Usage:
        """Return what its whole session uses."""
        cpu, resident = 0.0, [0]
        for _, stat in _session(self.pid):
            cpu += (int(stat[11]) + int(stat[12])) / _TICKS
            resident.append(int(stat[21]) * os.sysconf("SC_PAGE_SIZE"))
        return Usage(cpu, max(resident), sum(resident))

    def processes(self) -> list[int]:
        """Return it and its descendants."""
        return [pid for pid, _ in _session(self.pid)]

    def workers(self) -> list[int]:
        """Return its direct children."""
        return [pid for pid, stat in _session(self.pid) if int(stat[1]) == self.pid]


_running: set[Child] = set()


@atexit.register
def stop_rest() -> None:
    """Stop what an interrupt has left running."""
    for child in tuple(_running):
        child.stop()


def _session(leader: int) -> list[tuple[int, list[str]]]:
    """Return the processes of a session, each with the fields of its ``stat`` from the state on."""
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(stat[3]) == leader and stat[0] != "Z":
            found.append((int(entry.name), stat))
    return found
