"""``gwproxy plugins check``: what a plugin has to withstand before it meets real traffic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from gwproxy.cli.failures import COULD_NOT
from gwproxy.cli.output import counted, json_option, print_json, print_line, print_table
from gwproxy.controlplane.text import read
from gwproxy.errors import CommandFailed, ConfigurationRefused

PATIENCE = 300.0  # seconds

#: What the process of the kit runs: patched before anything else is imported, as a worker is.
PROGRAM = "from gevent import monkey; monkey.patch_all(); from gwproxy.testing.conformance.process import main; main()"


@click.command(
    epilog="""\b
Examples:
  gwproxy plugins check .
  gwproxy plugins check dist/gwproxy_tenant-1.0-py3-none-any.whl --json
  gwproxy plugins check jwt_auth --config '{secret: "at least 32 bytes, for tests only"}'
"""
)
@click.argument("target", metavar="PATH")
@click.option("--config", help="A configuration to try it with: YAML or JSON, or @FILE. Default: its defaults.")
@click.option("--only", metavar="NAME", help="The plugin to check, where there are several.")
@click.option("--budget-us", type=click.FloatRange(min=1), help="What a plain request may cost, in microseconds. Default: 500.")
@json_option
def command(target: str, config: str | None, only: str | None, budget_us: float | None, as_json: bool) -> int:
    """Try a plugin by every rule of the conformance kit.

    PATH is the folder of a package, a wheel, or the name of an installed plugin. Its code runs, in a process of its own,
    with the data plane around it: some hundred requests, good and bad, are sent through it. Nothing is installed, no port
    is opened, no store is asked. The status is 1 if anything was found.
    """
    asked = {"target": target, "only": only, "config": _config(config), "budget_us": budget_us}
    reports = _ask(asked)
    passed = all(report["passed"] for report in reports)
    if as_json:
        print_json({"passed": passed, "reports": reports})
    else:
        for report in reports:
            _show(report)
    return 0 if passed else COULD_NOT


def _config(given: str | None) -> dict[str, Any] | None:
    if given is None:
        return None
    name = given[1:] if given.startswith("@") else "--config"
    try:
        tree = read(Path(name).read_bytes() if given.startswith("@") else given.encode(), name).tree
    except ConfigurationRefused as refused:
        raise click.BadParameter(str(refused), param_hint="--config") from None
    if not isinstance(tree, dict):
        raise click.BadParameter("a plugin's configuration is an object", param_hint="--config")
    return tree


def _ask(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Have it tried in a process of its own.

    :raises CommandFailed: there is nothing to try, or the plugin has ended that process.
    """
    command = [sys.executable, "-P", "-c", PROGRAM]
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # a folder that is checked is left as it is
    try:
        # By stdin: a configuration may hold secrets, and everybody can read command lines.
        told = json.dumps(asked).encode()
        done = subprocess.run(command, input=told, stdout=subprocess.PIPE, timeout=PATIENCE, check=False, env=environ)  # noqa: S603 - ourselves
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"the plugin was not done after {PATIENCE:.0f} s: a hook of it does not end") from None
    except ValueError:
        raise CommandFailed(f"the plugin has ended the process in which it was tried, with status {done.returncode}") from None
    if "error" in answer:
        raise CommandFailed(answer["error"])
    reports: list[dict[str, Any]] = answer["reports"]
    return reports


def _show(report: dict[str, Any]) -> None:
    cost = f", {report['cost_us']:.0f} us a request" if report["cost_us"] is not None else ""
    print_line((report["plugin"], "bold"), f"  {counted(report['requests'], 'request')} sent{cost}")
    rows = [(row["rule"], row["state"], row["asks"]) for row in report["rules"]]
    print_table(("rule", "state", "asks that"), rows, {"passed": "green", "failed": "red"})
    for finding in report["findings"]:
        click.echo()
        print_line((f"{finding['rule']}: {finding['where']}", "red"), f": {finding['found']}")
        print_line(f"  next: {finding['next']}")
    click.echo()
    print_line((f"{report['plugin']}: {counted(len(report['findings']), 'finding')}", "green" if report["passed"] else "red"))
