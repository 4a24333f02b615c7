"""What probes ask, without a token: yes or no, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from gwproxy.admin.plane import Plane
from gwproxy.errors import StoreUnavailable

KEPT = 1.0  # seconds for which an answer of the store is good: whoever may ask without a token must not keep it busy


def live(_plane: Plane) -> bool:
    """Whether the process answers."""
    return True


def ready(plane: Plane) -> bool:
    """Whether there is something to administer: the store answers, and a worker of the gateway, of whatever machine, is ready."""
    if plane.stopping:
        return False
    now = time.monotonic()
    if plane.looked is None or now - plane.looked[0] >= KEPT:
        plane.looked = now, _found(plane)
    return plane.looked[1]


def _found(plane: Plane) -> bool:
    try:
        return any(worker.get("state") == "ready" for worker in plane.store.workers())
    except StoreUnavailable:
        return False


PROBES: Mapping[str, Callable[[Plane], bool]] = {"/healthz": live, "/readyz": ready}
