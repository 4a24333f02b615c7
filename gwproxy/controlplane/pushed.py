"""Which plugins there are, installed and pushed, which of two wins, and what each worker runs: for ``gwproxy plugins list``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gwproxy.controlplane.catalogue import listed
from gwproxy.controlplane.installed import label
from gwproxy.controlplane.overview import held
from gwproxy.registry import Registry
from gwproxy.store.deployments import LiveDeployment
from gwproxy.wheels.deployment import Deployment, Pinned

Worker = Mapping[str, str]


def rows(registry: Registry, deployment: Deployment, workers: Sequence[Worker]) -> list[dict[str, Any]]:
    """Return every plugin by name: a pushed one before the installed one that it stands in for.

    :param registry: what is installed here.
    :param workers: heartbeats of those that live.
    """
    pushed = {name: _pushed(name, pinned, workers) for name, pinned in deployment.plugins.items()}
    found = [*pushed.values()]
    for row in listed(registry):
        winner = deployment.plugins.get(row["name"])
        state = {"state": "replaced", "reason": f"by {winner}, which was pushed"} if winner is not None and row["reason"] is None else {}
        found.append({**row, **state, "source": "installed", "sha256": None, "workers": _counts(_running(row["name"], "", workers))})
    return sorted(found, key=lambda row: (row["name"], row["source"] == "installed"))


def fleet(live: LiveDeployment, deployment: Deployment, workers: Sequence[Worker]) -> dict[str, Any]:
    """Return what is deployed, and what each worker runs of it.

    ``behind`` are the workers that do not run it, with their reasons.
    """
    digest = deployment.digest
    behind = [
        {"id": worker["id"], "worker": label(worker), "digest": worker.get("deployment"), "reason": _reason(worker, digest)}
        for worker in workers
        if worker.get("deployment") != digest and ("deployment" in worker or digest)
    ]
    wheels = [{"distribution": p.distribution, "version": p.version, "sha256": p.sha256, "plugins": list(p.plugins)} for p in deployment]
    return {"revision": live.revision, "digest": digest, "wheels": wheels, "workers": len(workers), "behind": behind}


def _pushed(name: str, pinned: Pinned, workers: Sequence[Worker]) -> dict[str, Any]:
    known: dict[str, Any] = {"name": name, "version": pinned.version, "priority": None, "phases": [], "package": str(pinned)}
    running = _counts(_running(name, pinned.sha256, workers))
    return {**known, "state": "pushed", "reason": None, "source": "pushed", "sha256": pinned.sha256, "workers": running}


def _running(name: str, sha256: str, workers: Sequence[Worker]) -> Iterator[bool]:
    """Yield of each worker whether it runs a plugin: of that wheel; empty: the one that is installed there."""
    for worker in workers:
        pushed = held(worker, "pushed", {}).get(name)
        runs = pushed.get("sha256", "") if isinstance(pushed, dict) else "" if name in held(worker, "plugins", {}) else None
        yield runs == sha256


def _counts(running: Iterator[bool]) -> dict[str, int]:
    found = list(running)
    return {"running": sum(found), "all": len(found)}


def _reason(worker: Worker, digest: str) -> str:
    if "deployment" not in worker:
        return "its version of gwproxy knows no pushed plugins"
    if digest and worker.get("deployment_refused") == digest:
        return f"refuses it: {worker.get('deployment_error', '')}"
    return worker.get("deployment_error") or "has not answered yet"
