"""A plugin whose check of its configuration misbehaves (row G27). ``install(folder)``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from gwproxy import Plugin, PluginConfig


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
    """Does nothing to requests."""

    name = "picky"
    config_model = PickyConfig


def install(folder: Path) -> str:
    """Write the package into ``folder``; return what ``PYTHONPATH`` is to be."""
    (folder / "gwproxy_picky.py").write_text(Path(__file__).read_text())
    information = folder / "gwproxy_picky-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gwproxy-picky\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gwproxy]\npicky = gwproxy_picky:Picky\n")
    return str(folder)
