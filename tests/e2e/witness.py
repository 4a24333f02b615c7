"""A plugin that tells which worker has answered, for tests whose point is that several did. ``install(folder)``."""

from __future__ import annotations

from pathlib import Path

from gwproxy import Context, Gateway, Plugin, hookimpl


class Witness(Plugin):
    """Names the worker in ``X-Worker``."""

    name = "stranger_witness"
    gateway: Gateway

    @hookimpl
    def worker_started(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @hookimpl
    def response(self, ctx: Context) -> None:
        ctx.response_headers["X-Worker"] = self.gateway.worker_id


def install(folder: Path) -> str:
    """Write the package into ``folder``; return what ``PYTHONPATH`` is to be."""
    (folder / "gwproxy_witness.py").write_text(Path(__file__).read_text())
    information = folder / "gwproxy_witness-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gwproxy-witness\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gwproxy]\nstranger_witness = gwproxy_witness:Witness\n")
    return str(folder)
