"""What probes ask, without a token: yes or no, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gwproxy.admin.plane import Plane
from gwproxy.errors import StoreUnavailable


def live(_plane: Plane) -> bool:
    """Whether the process answers."""
    return True


def ready(plane: Plane) -> bool:
    """Whether there is something to administer: the store answers, and a worker of the gateway, of whatever machine, is ready."""
    if plane.stopping:
        return False
    try:
        return any(worker.get("state") == "ready" for worker in plane.store.workers())
    except StoreUnavailable:
        return False


PROBES: Mapping[str, Callable[[Plane], bool]] = {"/healthz": live, "/readyz": ready}
