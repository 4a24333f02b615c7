"""``gwproxy plugins``: what is installed, what it takes, and a package for a new one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
from pydantic.fields import FieldInfo

from gwproxy.cli import (
    plugins_check,
    plugins_list,
    plugins_push,
    plugins_remove,
    plugins_revoke,
    plugins_rollback,
    plugins_sign,
    plugins_top,
)
from gwproxy.cli.failures import did_you_mean
from gwproxy.cli.output import counted, json_option, print_json, print_line, print_table
from gwproxy.controlplane.catalogue import described, description
from gwproxy.errors import CommandFailed
from gwproxy.registry import Registered, Registry

_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")


@click.group(
    epilog="""\b
Examples:
  gwproxy plugins list
  gwproxy plugins info rate_limit
  gwproxy plugins new tenant
  gwproxy plugins check gwproxy-tenant
  gwproxy plugins push dist/gwproxy_tenant-1.0-py3-none-any.whl
  gwproxy plugins top
"""
)
def command() -> None:
    """List, describe, create and check plugins; deploy them on a running fleet, and watch them there.

    A plugin is a pip package with an entry point in the group 'gwproxy'. Installed, it is there from the next start; a
    signed wheel of it can be pushed to all workers of a running gateway.
    """


@command.command(
    epilog="""\b
Examples:
  gwproxy plugins info rate_limit
  gwproxy plugins info rate_limit --json | jq .config     the JSON Schema
"""
)
@click.argument("name")
@json_option
def info(name: str, as_json: bool) -> int:
    """Describe a plugin: what it does, in which phases, and every key of its configuration."""
    registry = Registry.discover()
    registered = registry.registered(name)
    if registered is None:
        if reason := registry.broken.get(name):
            raise CommandFailed(f"the plugin {name!r} is installed but cannot be used: {reason}")
        raise CommandFailed(f"no plugin {name!r} is installed{did_you_mean(name, registry.names)}")
    if as_json:
        print_json(described(registered))
    else:
        _show(registered)
    return 0


@command.command(
    epilog="""\b
Examples:
  gwproxy plugins new tenant
  gwproxy plugins new tenant --directory ~/src/tenant
"""
)
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), help="The folder to make. Default: gwproxy-NAME, here.")
def new(name: str, directory: Path | None) -> int:
    """Write the package of a new plugin NAME: typed configuration, one hook, tests, a README, packaging.

    It can be installed and tested at once. A folder that is not empty is left alone.
    """
    from gwproxy.cli.scaffold import check_name, names_of, write_package

    try:
        check_name(name)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    registry = Registry.discover()
    if name in registry.names or name in registry.broken:
        raise CommandFailed(f"a plugin {name!r} is installed already; names are unique, choose another")
    folder = directory if directory is not None else Path(names_of(name)["package"])
    for file in write_package(name, folder):
        click.echo(str(file))
    click.echo(f"\nNext:\n  cd {shlex.quote(str(folder))}\n  pip install -e '.[test]' && pytest\n  gwproxy plugins check .")
    return 0


command.add_command(plugins_list.command, "list")
command.add_command(plugins_check.command, "check")
command.add_command(plugins_sign.keygen, "keygen")
command.add_command(plugins_sign.sign, "sign")
command.add_command(plugins_push.command, "push")
command.add_command(plugins_rollback.command, "rollback")
command.add_command(plugins_remove.command, "remove")
command.add_command(plugins_revoke.command, "revoke")
command.add_command(plugins_top.command, "top")


def _show(registered: Registered) -> None:
    plugin = registered.plugin
    print_line((f"{plugin.name} {plugin.version}", "bold"), f"  {registered.package}")
    print_line(f"phases: {', '.join(registered.hooks) or 'none'}; priority {plugin.priority}")
    if text := description(plugin):
        click.echo()
        for line in text.splitlines():
            print_line(line)
    click.echo()
    fields = plugin.config_model.model_fields
    if not fields:
        print_line("no configuration")
        return
    print_line((counted(len(fields), "key"), "bold"))
    cells = [_row(name, field) for name, field in fields.items()]
    print_table(("key", "type", "default", "description"), [[_text(cell) for cell in row] for row in cells])


def _row(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    from gwproxy.controlplane.reference import default_text, type_text

    try:
        return name, type_text(field), default_text(field), field.description or ""
    except (TypeError, IndexError):  # a type that is not for configuration files, and has no words
        return name, str(field.annotation), str(field.default), field.description or ""


def _text(markdown: str) -> str:
    return " ".join(_LINK.sub(r"\1", markdown).replace("`", "").split())
