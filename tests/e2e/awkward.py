"""Plugins that are awkward, each in one way: a package made by the test, found by its entry points. ``install(folder)``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from gwproxy import Context, Plugin, PluginConfig, hookimpl


class Stop(BaseException):
    """What no ``except Exception`` catches."""


class PickyConfig(PluginConfig):
    mood: Literal["raise", "stop", "exit", "slow"]

    @model_validator(mode="after")
    def _judge(self) -> PickyConfig:
        if self.mood == "raise":
            raise RuntimeError("of the plugin")
        if self.mood == "stop":
            raise Stop
        if self.mood == "exit":
            sys.exit(3)
        end = time.monotonic() + 1.2
        while time.monotonic() < end:  # a check that computes, not one that waits
            pass
        return self


class Picky(Plugin):
    """Has a check of its configuration that misbehaves."""

    name = "picky"
    config_model = PickyConfig


class Skewed(Plugin):
    """Puts the clock of its worker wrong, by ``SKEW`` seconds of the environment, and tells it in ``X-Clock``."""

    name = "skewed"

    @hookimpl
    def worker_started(self) -> None:
        right, skew = time.time, float(os.environ.get("SKEW", "0"))
        time.time = lambda: right() + skew

    @hookimpl
    def response(self, ctx: Context) -> None:
        ctx.response_headers["X-Clock"] = str(time.time())


class ScribblerConfig(PluginConfig):
    where: Literal["request", "response", "answer"]


class Scribbler(Plugin):
    """Writes what the client sent in ``X-Scribble``, its escapes decoded, into a field of the request or response."""

    name = "scribbler"
    config_model = ScribblerConfig

    @hookimpl
    def pre_proxy(self, ctx: Context, config: ScribblerConfig) -> None:
        if config.where == "request":
            ctx.request.headers["X-Note"] = _scribble(ctx)

    @hookimpl
    def post_proxy(self, ctx: Context, config: ScribblerConfig) -> None:
        if config.where == "response" and ctx.response is not None:
            ctx.response.headers["X-Note"] = _scribble(ctx)

    @hookimpl
    def response(self, ctx: Context, config: ScribblerConfig) -> None:
        if config.where == "answer":
            ctx.response_headers["X-Note"] = _scribble(ctx)


def _scribble(ctx: Context) -> str:
    return (ctx.request.headers.get("X-Scribble") or "").encode().decode("unicode_escape")


def install(folder: Path) -> str:
    """Write the package into ``folder``; return what ``PYTHONPATH`` is to be."""
    (folder / "gwproxy_awkward.py").write_text(Path(__file__).read_text())
    information = folder / "gwproxy_awkward-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gwproxy-awkward\nVersion: 1.0\n")
    points = [f"{plugin.name} = gwproxy_awkward:{plugin.__name__}" for plugin in (Picky, Skewed, Scribbler)]
    (information / "entry_points.txt").write_text("\n".join(["[gwproxy]", *points, ""]))
    return str(folder)
