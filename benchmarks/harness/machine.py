"""The machine: what it is, without its name, and how busy others keep it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


def described() -> dict[str, object]:
    """Return what a reader needs to place the numbers."""
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    models = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": models[0] if models else platform.machine(),
        "memory_gib": round(int(memory.split()[1]) / (1 << 20), 1),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
    }


def others(seconds: float = 0.5) -> float:
    """Return the share of the machine, 0 to 1, that is used while nothing is measured: by others."""
    busy, whole = _ticks()
    time.sleep(seconds)
    busy_then, whole_then = _ticks()
    return (busy_then - busy) / max(1, whole_then - whole)


def _ticks() -> tuple[int, int]:
    """Return how long the cores were busy, and how long they were there, since the machine started."""
    user, nice, system, idle, waiting, *rest = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + waiting
