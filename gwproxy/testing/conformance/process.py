"""The kit in a process of its own, patched as a worker is: what a plugin prints, patches or breaks stays there.

It reads a JSON object from stdin (``target``; ``only``, ``config`` and ``budget_us``, which may be null), and prints one:
``reports``, or ``error``.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from importlib.metadata import EntryPoint
from typing import Any

from gwproxy.errors import CommandFailed
from gwproxy.plugin import Plugin
from gwproxy.testing.conformance import Report, conform
from gwproxy.testing.conformance.source import points_of
from gwproxy.testing.conformance.trial import BUDGET_US


def main() -> None:
    """Answer what the process is asked."""
    asked = json.loads(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a plugin prints
    sys.stdout = sys.stderr
    logging.disable()  # what is logged of a crash is in the report
    json.dump(tried(asked), answers)
    answers.flush()


def tried(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what was found."""
    try:
        points = points_of(asked["target"])
    except CommandFailed as failed:
        return {"error": str(failed)}
    wanted = asked["only"]
    chosen = [point for point in points if wanted is None or point.name == wanted]
    if not chosen:
        return {"error": f"{asked['target']} has no plugin {wanted!r}, but {', '.join(sorted(point.name for point in points))}"}
    if len(chosen) > 1 and asked["config"] is not None:
        return {"error": f"--config is for one plugin; say by --only which of {', '.join(sorted(point.name for point in chosen))}"}
    return {"reports": [_try(point, asked).as_data() for point in chosen]}


def _try(point: EntryPoint, asked: dict[str, Any]) -> Report:
    report = Report(point.name)
    try:
        plugin = point.load()
    except BaseException as error:  # a package may raise anything when it is imported
        report.add("loads", point.value, f"does not import: {type(error).__name__}: {error}")
        return report
    if not (inspect.isclass(plugin) and issubclass(plugin, Plugin)):
        report.add("loads", point.value, "is no subclass of gwproxy.Plugin")
    elif plugin.name != point.name:
        report.add("loads", point.value, f"its class says name = {plugin.name!r}; it must be the name of its entry point")
    else:
        return conform(plugin, asked["config"], budget_us=asked["budget_us"] or BUDGET_US)
    return report
