"""What the system says of this process, and of others on this machine."""

from __future__ import annotations

import importlib.util
import os
import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

_STATM = Path("/proc/self/statm")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Identity:
    """Which worker this is.

    :ivar id: that no other worker has, on any machine, at any time.
    :ivar departed: the ids of workers before it whose master has seen them end.
    """

    id: str
    departed: tuple[str, ...] = ()


def make_worker_id(pid: int, token: str = "") -> str:
    """Return a name for the worker that is process ``pid``.

    :param token: tells workers of one number apart; empty: a new one.
    """
    return f"{socket.gethostname()}-{pid}-{token or os.urandom(3).hex()}"


def mark_of(pid: int) -> str:
    """Return what no other process of this machine has had since it was booted; empty where the system does not tell.

    Numbers of processes are used again, and other containers count by themselves: so it is the boot, the namespace of
    numbers, the number, and when the process was started.
    """
    machine, start = _machine(), _start(pid)
    return f"{machine}/{pid}/{start}" if machine and start else ""


def is_over(mark: str) -> bool:
    """Whether a process is certain to be no more, by its :func:`mark_of`; one of another machine or container never is."""
    machine, _, rest = mark.rpartition("/")[0].rpartition("/")
    if not machine or not rest.isdecimal() or machine != _machine():
        return False
    try:
        os.kill(int(rest), 0)
    except PermissionError:
        pass  # somebody else's: it may be hidden from us, but it is there
    except (ProcessLookupError, OverflowError):
        return True
    except ValueError:
        return False  # longer than Python reads
    start = _start(int(rest))
    return bool(start) and f"{machine}/{rest}/{start}" != mark


def _machine() -> str:
    """Return what numbers of processes are good for: this boot, this namespace."""
    try:
        if int(os.readlink("/proc/self")) != os.getpid():
            return ""  # what is mounted there is about another namespace
        return f"{_BOOT.read_text().strip()}/{os.stat('/proc/self/ns/pid').st_ino}"
    except (OSError, ValueError):
        return ""


def _start(pid: int) -> str:
    """Return when a process was started, in ticks since the boot; ``over`` if it has ended, empty if that cannot be told."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "over" if state in "ZX" else rest[18]


def compiled() -> bool:
    """Return whether what every request passes runs as C: setup.py compiles it where ``GWPROXY_COMPILE=1`` asks for it."""
    found = importlib.util.find_spec("gwproxy.stream")
    return found is not None and not str(found.origin).endswith(".py")


def resident() -> int:
    """Return the process's resident memory in bytes; where there is no ``/proc``, the most it ever had. Costs 10 us."""
    try:
        return int(_STATM.read_bytes().split()[1]) * _PAGE
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def descriptors() -> int | None:
    """Return how many file descriptors are open; None where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None
