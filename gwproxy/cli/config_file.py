"""Reading and checking a configuration file, as a person at a terminal wants it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from gwproxy.controlplane.parse import Environment, Parsed, parse
from gwproxy.model import Problem
from gwproxy.registry import Registry
from gwproxy.settings import Settings

STDIN = "-"


def read_file(config: str) -> tuple[bytes, str]:
    """Return a file's bytes, and what messages call it.

    :param config: a path, or ``-`` for stdin.
    :raises OSError: it cannot be read.
    """
    if config == STDIN:
        return sys.stdin.buffer.read(), "stdin"
    return Path(config).read_bytes(), config


def parse_file(data: bytes, name: str, registry: Registry, *, strict: bool, variables: Mapping[str, str] = os.environ) -> Parsed:
    """Validate a configuration against the plugins and the environment of this machine.

    :param strict: whether an environment variable that is not set refuses the configuration.
    :raises ConfigurationRefused: it is not valid.
    """
    environment = Environment(variables, Settings.from_environment().may_reference, strict)
    return parse(data, file=name, plugins=registry, environment=environment)


def problem_line(problem: Problem, severity: str = "") -> str:
    """Return ``file:line:column: path: found X, expected Y``; a problem without a place has none in its line."""
    place = f":{problem.line}:{problem.column}" if problem.line else ""
    kind = f"{severity}: " if severity else ""
    path = f"{problem.path}: " if problem.path else ""
    return f"{problem.file or 'configuration'}{place}: {kind}{path}found {problem.found}, expected {problem.expected}"


def problem_json(problem: Problem) -> dict[str, object]:
    """Return a problem as JSON holds it."""
    return asdict(problem)
