"""Plugins that measure inside a worker what the store costs a request, and that talk to it much. ``install(folder)``."""

from __future__ import annotations

import time
from pathlib import Path

from gwproxy import Context, Gateway, Plugin, PluginConfig, StoreUnavailable, hookimpl


class Before(Plugin):
    """Starts the clock before any plugin that asks the store."""

    name = "stranger_before"
    priority = 1

    @hookimpl
    def pre_auth(self, ctx: Context) -> None:
        ctx.state["asked_at"] = time.monotonic()


class After(Plugin):
    """Says in ``X-Waited`` how many milliseconds the plugins up to ``post_auth`` took, and in ``X-Worker`` who says so."""

    name = "stranger_after"
    priority = 390
    gateway: Gateway

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @hookimpl
    def post_auth(self, ctx: Context) -> None:
        ctx.state["answered_at"] = time.monotonic()

    @hookimpl
    def response(self, ctx: Context) -> None:
        now = time.monotonic()
        asked = ctx.state.get("asked_at", now)
        ctx.response_headers["X-Waited"] = f"{(ctx.state.get('answered_at', now) - asked) * 1000:.3f}"
        ctx.response_headers["X-Worker"] = self.gateway.worker_id


class NonceConfig(PluginConfig):
    times: int = 1


class Nonce(Plugin):
    """Stores what nobody else stores and reads it again; answers 500 if it is somebody else's. Cut off, it says so in the log."""

    name = "stranger_nonce"
    config_model = NonceConfig
    gateway: Gateway

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @hookimpl
    def post_auth(self, ctx: Context, config: NonceConfig) -> None:
        for number in range(config.times):
            name = f"{ctx.request_id}/{number}"
            try:
                self.gateway.store.put(name, name.encode(), ttl=60)
                got = self.gateway.store.get(name)
            except StoreUnavailable:
                ctx.abort(503, {"error": "Service Unavailable"})
            if got != name.encode():
                ctx.abort(418, {"error": f"{name} got {got!r}"})


def install(folder: Path) -> str:
    """Write the package into ``folder``; return what ``PYTHONPATH`` is to be."""
    (folder / "gwproxy_store_clock.py").write_text(Path(__file__).read_text())
    information = folder / "gwproxy_store_clock-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gwproxy-store-clock\nVersion: 1.0\n")
    points = [f"{plugin.name} = gwproxy_store_clock:{plugin.__name__}" for plugin in (Before, After, Nonce)]
    (information / "entry_points.txt").write_text("\n".join(["[gwproxy]", *points, ""]))
    return str(folder)
