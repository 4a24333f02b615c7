"""A deployment judged as a worker would, in a process that is there for that only: a wheel's code runs in it."""

from __future__ import annotations

import base64
import fnmatch
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import FrameType
from typing import Any

from gwproxy.controlplane.parse import Environment, parse
from gwproxy.errors import BudgetExceeded, ConfigurationRefused, PluginRefused, WheelRefused
from gwproxy.model import Problem
from gwproxy.registry import EVENT_BUDGET, Registry
from gwproxy.wheels.loading import load
from gwproxy.wheels.wheel import Wheel, read


def main() -> None:
    """Answer what is asked on stdin; whatever a plugin prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    json.dump(_judge(json.load(sys.stdin)), answers)
    answers.close()
    os._exit(0)  # threads that a module has started are not waited for


def _judge(asked: Mapping[str, Any]) -> dict[str, Any]:
    registries = []
    try:
        for data in asked["wheels"]:
            data = base64.b64decode(data)
            read(data, environment=False)
            try:
                wheel = read(data)
            except WheelRefused as missing:
                return {"untried": str(missing)}
            registries.append(_registry(wheel))
    except (WheelRefused, PluginRefused) as refused:
        return {"refused": str(refused)}
    here = Registry.discover()
    before, after = (list(_problems(registry, asked)) for registry in (here, here.over(registries)))
    return {"problems": [asdict(problem) for problem in after if problem not in before]}


def _registry(wheel: Wheel, limit: float = EVENT_BUDGET) -> Registry:
    """Load a wheel; it is cut off as in a worker, also if it computes.

    :raises WheelRefused: it does not load.
    :raises PluginRefused: a plugin of it does not fit the specifications.
    """
    made = Registry()
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        loaded = load(wheel, limit=limit)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    for name, plugin in loaded.plugins.items():
        made.add(plugin, package=wheel.package, name=name)
    return made


def _out_of_time(_number: int, _frame: FrameType | None) -> None:
    raise BudgetExceeded("import")


def _problems(registry: Registry, asked: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the configuration by these plugins; what is missing here is not."""
    environment = Environment(os.environ, lambda name: any(fnmatch.fnmatchcase(name, p) for p in asked["env_allow"]), strict=False)
    data = base64.b64decode(asked["configuration"])
    if not data:
        return
    try:
        parse(data, file="the live configuration", plugins=registry, environment=environment, elsewhere=set(asked["elsewhere"]))
    except ConfigurationRefused as refused:
        yield from refused.problems
