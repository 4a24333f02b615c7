"""``gwproxy plugins list``: the plugins that are installed here, those that were pushed, and who runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gwproxy.cli.actor import actor
from gwproxy.cli.failures import message_of
from gwproxy.cli.output import counted, json_option, print_json, print_line, print_table, print_warning
from gwproxy.cli.store_option import find_store, open_deployer, redis_option
from gwproxy.controlplane.catalogue import listed
from gwproxy.controlplane.installed import live
from gwproxy.controlplane.pushed import fleet, rows
from gwproxy.errors import CommandFailed, GatewayError
from gwproxy.registry import Registry
from gwproxy.settings import Settings

_STATES = {"loaded": "green", "pushed": "green"}
_COLUMNS = ("name", "version", "priority", "phases", "package", "state")


@click.command(
    "list",
    epilog="""\b
Examples:
  gwproxy plugins list
  gwproxy plugins list --json | jq '.[] | select(.reason != null)'
""",
)
@redis_option
@json_option
def command(redis_url: str | None, as_json: bool) -> int:
    """Show the installed plugins, those that were pushed to the live gateway, and why any of them is not used.

    A pushed plugin wins over an installed one of the same name, as long as it is deployed. Without a live gateway, the
    plugins that are installed here are shown.
    """
    registry = Registry.discover()
    found, deployed = _live(registry, redis_url)
    if as_json:
        print_json(found)
        return 0
    columns = (*_COLUMNS, "workers") if deployed is not None else _COLUMNS
    print_table(columns, [[_cell(row, column) for column in columns] for row in found], _STATES)
    if deployed is not None:
        _show(deployed)
    return 0


def _live(registry: Registry, redis_url: str | None) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Return the rows, and what is deployed; None: there is no live gateway.

    :raises GatewayError: there was to be one by an option, and there is none.
    """
    settings = Settings.from_environment()
    try:
        find_store(redis_url, settings)
    except CommandFailed:
        return listed(registry), None
    try:
        deployer = open_deployer(redis_url, actor(settings))
        base, deployment = deployer.live()
        workers = live(deployer.configurations.workers())
    except GatewayError as error:
        if redis_url is not None:
            raise
        print_warning(f"what was pushed is not known, only what is installed here: {message_of(error)}")
        return listed(registry), None
    return rows(registry, deployment, workers), fleet(base, deployment, workers)


def _show(deployed: Mapping[str, Any]) -> None:
    """Print what is deployed, and which workers do not run it."""
    click.echo()
    wheels = ", ".join(f"{wheel['distribution']} {wheel['version']}" for wheel in deployed["wheels"]) or "nothing"
    print_line(("deployed: ", "bold"), f"{wheels}, plugins revision {deployed['revision']}")
    for worker in deployed["behind"]:
        print_line((f"{worker['worker']} does not run it: {worker['reason']}", "red"))
    if deployed["workers"] and not deployed["behind"]:
        print_line(f"all {counted(deployed['workers'], 'worker')} run it")


def _cell(row: dict[str, Any], column: str) -> object:
    if column == "phases":
        return ", ".join(row["phases"])
    if column == "workers":
        return f"{row['workers']['running']} of {row['workers']['all']}"
    if column == "state" and row["reason"]:
        return f"{row['state']}: {row['reason']}" if row["state"] != "replaced" else f"replaced {row['reason']}"
    return row[column]
