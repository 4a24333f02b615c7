"""Endpoints that read: the configuration and its past, workers, plugins, health."""

from __future__ import annotations

from typing import Any

import orjson

from gwproxy.admin import metrics
from gwproxy.admin.answers import Answer, Refused
from gwproxy.admin.asked import Configuration, Count
from gwproxy.admin.endpoints import Call, Table
from gwproxy.admin.told import Fleet, Health, History, PastConfiguration, PluginDescription, Plugins
from gwproxy.controlplane.catalogue import described, listed
from gwproxy.controlplane.masking import mask
from gwproxy.controlplane.overview import off_text, overview
from gwproxy.controlplane.text import read
from gwproxy.errors import ConfigurationRefused
from gwproxy.store.configuration import Revision

TABLE = Table()


def readable(data: bytes, call: Call) -> Any:
    """Return a configuration's tree with secrets masked.

    :raises Refused: 409: somebody has written what is none.
    """
    try:
        return mask(read(data, "gw:routes").tree, call.plane.registry)
    except ConfigurationRefused as refused:
        raise Refused(409, "what is in the store is no configuration", problems=refused.problems) from None


@TABLE.add("GET", "/v1/config", role="viewer", answer=Configuration, refusals=(404, 409))
def read_config(call: Call) -> Answer:
    """Return the live configuration as it was written, with secrets as `***`.

    Its `ETag` is the revision: what `If-Match` of a change takes.
    """
    live = call.plane.publisher(call.caller.name).live()
    if live.data is None:
        raise Refused(404, "there is no configuration")
    return Answer(readable(live.data, call), fields=(("ETag", f'"{live.revision}"'),))


def change_of(revision: Revision) -> dict[str, Any]:
    """Return an entry of the history without its configuration."""
    return {name: getattr(revision, name) for name in ("revision", "digest", "at", "actor", "comment")}


@TABLE.add("GET", "/v1/revisions", role="viewer", answer=History, query=Count)
def list_revisions(call: Call) -> Answer:
    """List past configurations, newest first: who made them, when, and why."""
    return Answer({"revisions": [change_of(revision) for revision in call.plane.store.history(call.query.count)]})


@TABLE.add("GET", "/v1/revisions/{revision}", role="viewer", answer=PastConfiguration, refusals=(404, 409))
def read_revision(call: Call) -> Answer:
    """Return a past configuration, with secrets as `***`."""
    number = call.path["revision"]
    found = call.plane.store.revision(number)
    if found is None:
        raise Refused(404, f"there is no revision {number} in the history")
    return Answer({**change_of(found), "configuration": readable(found.configuration, call)}, fields=(("ETag", f'"{number}"'),))


@TABLE.add("GET", "/metrics", role="viewer", answer=str, text=metrics.MEDIA)
def read_metrics(call: Call) -> Answer:
    """Return the metrics of all workers, in the text format of Prometheus.

    They are what heartbeats tell, two seconds old at most; a label `worker` tells workers apart.
    """
    store = call.plane.store
    return Answer(metrics.exposition(store.workers(), store.read().revision), media=metrics.MEDIA)


@TABLE.add("GET", "/v1/workers", role="viewer", answer=Fleet)
def list_workers(call: Call) -> Answer:
    """List the workers of all machines, and what each runs, or why not.

    They report every two seconds; one that is silent for ten is gone from the list.
    """
    store = call.plane.store
    return Answer(overview(store.read(), store.workers()))


@TABLE.add("GET", "/v1/health", role="viewer", answer=Health)
def read_health(call: Call) -> Answer:
    """Say whether the gateway serves as it is meant to, and why not."""
    store = call.plane.store
    found = overview(store.read(), store.workers())
    return Answer(health(found))


def health(found: dict[str, Any]) -> dict[str, Any]:
    """Judge what :func:`~gwproxy.controlplane.overview.overview` found."""
    workers, targets = found["workers"], found["targets"]
    ready = sum(worker["state"] == "ready" for worker in workers)
    reasons = [] if found["live"]["digest"] else ["there is no configuration"]
    reasons += [f"{worker['host']}/{worker.get('pid', '?')} is {worker['state']}" for worker in workers if worker["state"] != "ready"]
    reasons += [f"{ident} does not run the live configuration" for ident in found["behind"]]
    reasons += [f"plugin {name} does not load on {', '.join(hosts)}" for name, hosts in found["broken_plugins"].items()]
    reasons += [f"{off_text(off)} in {len(off['workers'])} of {len(workers)} workers" for off in found["plugins_off"]]
    reasons += [
        f"{target['url']} of {target['upstream']} is healthy for {target['healthy']} of {target['workers']} workers"
        for target in targets
        if target["healthy"] < target["workers"]
    ]
    return {
        "status": "down" if not ready else "degraded" if reasons else "ok",
        "reasons": reasons if ready else ["no worker is ready", *reasons],
        "live": found["live"],
        "workers": len(workers),
        "ready": ready,
        "behind": found["behind"],
        "targets": targets,
    }


@TABLE.add("GET", "/v1/plugins", role="viewer", answer=Plugins)
def list_plugins(call: Call) -> Answer:
    """List the plugins installed where the admin listener runs, with the JSON Schemas of their configurations."""
    registry = call.plane.registry
    return Answer({"plugins": [_plugin(row, call) for row in listed(registry)]})


@TABLE.add("GET", "/v1/plugins/{plugin}", role="viewer", answer=PluginDescription, refusals=(404,))
def read_plugin(call: Call) -> Answer:
    """Describe a plugin: what it does, in which phases, and what its configuration takes."""
    name = call.path["plugin"]
    row = next((row for row in listed(call.plane.registry) if row["name"] == name), None)
    if row is None:
        raise Refused(404, f"no plugin {name!r} is installed")
    return Answer(_plugin(row, call))


def _plugin(row: dict[str, Any], call: Call) -> dict[str, Any]:
    registered = call.plane.registry.registered(row["name"])
    if registered is None:
        return {**row, "description": "", "config": None}
    held: dict[str, Any] = orjson.loads(orjson.dumps(described(registered), default=str))  # defaults may be of any type
    return held
