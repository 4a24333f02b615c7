"""A plugin that puts the clock of its worker wrong, by ``SKEW`` seconds of the environment. ``install(folder)``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from gwproxy import Context, Plugin, hookimpl


class Skewed(Plugin):
    """Tells what time the worker believes it is, in ``X-Clock``."""

    name = "skewed"

    @hookimpl
    def worker_started(self) -> None:
        right, skew = time.time, float(os.environ["SKEW"])
        time.time = lambda: right() + skew

    @hookimpl
    def response(self, ctx: Context) -> None:
        ctx.response_headers["X-Clock"] = str(time.time())


def install(folder: Path) -> str:
    """Write the package into ``folder``; return what ``PYTHONPATH`` is to be."""
    (folder / "gwproxy_skewed.py").write_text(Path(__file__).read_text())
    information = folder / "gwproxy_skewed-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gwproxy-skewed\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gwproxy]\nskewed = gwproxy_skewed:Skewed\n")
    return str(folder)
