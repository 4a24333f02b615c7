"""``gwproxy check``: is a configuration valid? Every problem at once, with its line and column."""

from __future__ import annotations

import click

from gwproxy.cli.config_file import parse_file, problem_json, problem_line, read_file
from gwproxy.cli.failures import COULD_NOT
from gwproxy.cli.output import counted, json_option, print_json, printable
from gwproxy.controlplane.parse import Parsed
from gwproxy.errors import ConfigurationRefused
from gwproxy.model import Document, Problem
from gwproxy.registry import Registry

EPILOG = """\b
Examples:
  gwproxy check gateway.yaml
  gwproxy check --strict-env gateway.yaml   also refuse ${NAME} that is not set here
  gwproxy check - < gateway.yaml            read from stdin
  gwproxy check --json gateway.yaml         for editors and CI
"""


@click.command(epilog=EPILOG)
@click.argument("config")
@click.option("--strict-env", is_flag=True, help="Refuse references to environment variables that are not set here.")
@json_option
def command(config: str, strict_env: bool, as_json: bool) -> int:
    """Validate a configuration file.

    CONFIG is YAML or JSON; - reads it from stdin. Each problem is a line on stderr: file, line, column, path, what was
    found and what was expected. Nothing is changed and no gateway is asked. The plugins installed here decide which
    plugin configurations are valid.
    """
    data, name = read_file(config)
    registry = Registry.discover()
    try:
        parsed = parse_file(data, name, registry, strict=strict_env)
    except ConfigurationRefused as refused:
        return _refused(refused.problems, name, as_json)
    warnings = [*parsed.warnings, *_unused_broken(registry, parsed, name)]
    if as_json:
        print_json({"valid": True, "problems": [], "warnings": [problem_json(warning) for warning in warnings]})
        return 0
    for warning in warnings:
        click.echo(printable(problem_line(warning, "warning")), err=True)
    click.echo(f"{printable(name)}: valid: {summary(parsed.document)}")
    return 0


def _refused(problems: tuple[Problem, ...], name: str, as_json: bool) -> int:
    if as_json:
        print_json({"valid": False, "problems": [problem_json(problem) for problem in problems], "warnings": []})
        return COULD_NOT
    for problem in problems:
        click.echo(printable(problem_line(problem)), err=True)
    click.echo(f"{printable(name)}: {counted(len(problems), 'problem')}", err=True)
    return COULD_NOT


def _unused_broken(registry: Registry, parsed: Parsed, name: str) -> list[Problem]:
    """A package that does not load is a problem where it is used; else it is worth knowing of."""
    used = plugins_used(parsed.document)
    return [
        Problem("", f"the installed plugin {plugin!r}, which does not load ({reason})", "one that loads, or to be uninstalled", file=name)
        for plugin, reason in registry.broken.items()
        if plugin not in used
    ]


def plugins_used(document: Document) -> set[str]:
    """Return the names of all plugins that a configuration has enabled entries of."""
    entries = [*document.plugins, *(ref for route in document.routes for ref in route.plugins)]
    return {ref.name for ref in entries if ref.enabled}


def summary(document: Document) -> str:
    """Return how much a configuration holds, such as ``3 routes, 1 upstream, 4 plugins used``."""
    parts = [counted(len(document.routes), "route"), counted(len(document.upstreams), "upstream")]
    if document.consumers:
        parts.append(counted(len(document.consumers), "consumer"))
    return ", ".join([*parts, f"{counted(len(plugins_used(document)), 'plugin')} used"])
