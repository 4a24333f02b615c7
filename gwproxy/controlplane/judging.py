"""A deployment judged as a worker would, in a process that is there for that only: a wheel's code runs in it."""

from __future__ import annotations

import base64
import fnmatch
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from gwproxy.controlplane.parse import Environment, parse
from gwproxy.errors import ConfigurationRefused, PluginRefused, WheelRefused
from gwproxy.model import Problem
from gwproxy.registry import Registry
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


def _registry(wheel: Wheel) -> Registry:
    made = Registry()
    for name, plugin in load(wheel).plugins.items():
        made.add(plugin, package=wheel.package, name=name)
    return made


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
