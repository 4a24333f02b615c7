"""Plugins that nobody here wrote: a package made by the test, found by its entry points; hostile.py is part of it.

``install(folder)`` puts it where ``PYTHONPATH`` finds it. Its plugin ``stranger_broken`` does not import.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Literal

import gevent

from gwproxy import Context, Gateway, Plugin, PluginConfig, Size, hookimpl
from gwproxy.dataplane.router import Router
from gwproxy.dataplane.snapshot import Snapshot
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.dataplane.wire import remembered
from gwproxy.worker.quick import QuickHeads

SECRET = "s3cr3t-of-the-plugin"


class FaultConfig(PluginConfig):
    phase: Literal["pre_auth", "post_auth", "pre_proxy", "post_proxy", "response"] = "post_auth"
    kind: Literal["raise", "sleep"] = "raise"


class Fault(Plugin):
    """Raises, or waits for too long, in the phase it is told."""

    name = "stranger_fault"
    priority = 400
    config_model = FaultConfig

    def _fail(self, phase: str, config: FaultConfig) -> None:
        if phase != config.phase:
            return
        if config.kind == "sleep":
            time.sleep(60)
        raise RuntimeError(f"{SECRET} at http://10.0.0.5:8000/internal")

    @hookimpl
    def pre_auth(self, config: FaultConfig) -> None:
        self._fail("pre_auth", config)

    @hookimpl
    def post_auth(self, config: FaultConfig) -> None:
        self._fail("post_auth", config)

    @hookimpl
    def pre_proxy(self, config: FaultConfig) -> None:
        self._fail("pre_proxy", config)

    @hookimpl
    def post_proxy(self, config: FaultConfig) -> None:
        self._fail("post_proxy", config)

    @hookimpl
    def response(self, config: FaultConfig) -> None:
        self._fail("response", config)


class Members(Plugin):
    """Lets members of the group ``gold`` pass."""

    name = "stranger_members"

    @hookimpl
    def post_auth(self, ctx: Context) -> None:
        if ctx.consumer is None or "gold" not in ctx.consumer.groups:
            ctx.abort(403, {"error": "Forbidden"})


class Claim(Plugin):
    """Needs the store."""

    name = "stranger_claim"
    gateway: Gateway

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @hookimpl
    def post_auth(self, ctx: Context) -> None:
        self.gateway.store.claim(ctx.request_id, ttl=60)


class Stamp(Plugin):
    """Marks whatever leaves."""

    name = "stranger_stamp"

    @hookimpl
    def response(self, ctx: Context) -> None:
        ctx.response_headers["X-Stamp"] = str(ctx.response.status if ctx.response else None)


class ReaderConfig(PluginConfig):
    request: bool = False
    response: bool = False


class Reader(Plugin):
    """Reads bodies, and says how many bytes it saw."""

    name = "stranger_reader"
    config_model = ReaderConfig

    @hookimpl
    def pre_proxy(self, ctx: Context, config: ReaderConfig) -> None:
        if config.request:
            ctx.request.headers["X-Read"] = str(len(ctx.request.get_data()))

    @hookimpl
    def post_proxy(self, ctx: Context, config: ReaderConfig) -> None:
        if config.response and ctx.response is not None:
            data = ctx.response.get_data()
            ctx.response_headers["X-Read"] = "too long" if data is None else str(len(data))


class HoardConfig(PluginConfig):
    size: Size = 1 << 20


class Hoard(Plugin):
    """Keeps memory, for good."""

    name = "stranger_hoard"
    config_model = HoardConfig
    kept: bytes = b""

    @hookimpl
    def pre_proxy(self, config: HoardConfig) -> None:
        self.kept = b"x" * config.size


def _forget() -> None:
    """Empty the caches that fill up and are emptied again: what is in them at a moment is no leak."""
    remembered.forget()
    for thing in gc.get_objects():
        if isinstance(thing, QuickHeads):
            thing.forget()
        elif isinstance(thing, Router):
            thing._popular = {}


class Probe(Plugin):
    """Says what only the worker knows of itself, in ``$GW_PROBE_FOLDER/PID.json``, every ``$GW_PROBE_SECONDS``; without these, nothing."""

    name = "stranger_probe"

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        if folder := os.environ.get("GW_PROBE_FOLDER"):
            gateway.spawn(self._repeat, Path(folder), float(os.environ["GW_PROBE_SECONDS"]))

    def _repeat(self, folder: Path, seconds: float) -> None:
        written = folder / f"{os.getpid()}.json"
        while True:
            time.sleep(seconds)
            _forget()
            gc.unfreeze()  # a worker sets aside what it serves
            gc.collect()
            # Not those of the hub's threads: there are more or less of them at any time, ten at most.
            kinds = {"greenlets": gevent.Greenlet, "snapshots": Snapshot, "configs": PluginConfig, "upstreams": LiveUpstream}
            things = gc.get_objects()
            found = {name: sum(isinstance(thing, kind) for thing in things) for name, kind in kinds.items()}
            found["objects"], found["blocks"] = len(things), sys.getallocatedblocks()
            del things
            written.with_suffix(".new").write_text(json.dumps(found))
            written.with_suffix(".new").replace(written)


_MODULES = {"gwproxy_strangers": "strangers.py", "gwproxy_hostile": "hostile.py"}
_POINTS = """\
[gwproxy]
stranger_fault = gwproxy_strangers:Fault
stranger_members = gwproxy_strangers:Members
stranger_claim = gwproxy_strangers:Claim
stranger_stamp = gwproxy_strangers:Stamp
stranger_reader = gwproxy_strangers:Reader
stranger_hoard = gwproxy_strangers:Hoard
stranger_probe = gwproxy_strangers:Probe
stranger_broken = gwproxy_strangers:Absent
hostile = gwproxy_hostile:Hostile
stranger_deed = gwproxy_hostile:Deed
wrong = gwproxy_hostile:Wrong
twice = gwproxy_hostile:Twice
memory = gwproxy_hostile:Memory
"""


def install(folder: Path) -> str:
    """Write the package into ``folder``; return what ``PYTHONPATH`` is to be."""
    for module, file in _MODULES.items():
        (folder / f"{module}.py").write_text((Path(__file__).parent / file).read_text())
    information = folder / "gwproxy_strangers-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gwproxy-strangers\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(_POINTS)
    return str(folder)
