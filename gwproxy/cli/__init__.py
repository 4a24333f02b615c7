"""The command line: one module a command, imported when that command is asked for.

A command's module has ``command``, a :class:`click.Command` whose function returns the exit status (None is 0). Results
go to stdout, problems to stderr. A command raises what stops it: :func:`main` makes one readable line of it.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from gwproxy.cli import failures
from gwproxy.process import compiled

#: Every command: where it is, and what the overview says. Kept here so that the overview imports no command.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("gwproxy.cli.run", "Run the gateway."),
    "demo": ("gwproxy.cli.demo", "Run the gateway with sample services and a sample configuration."),
    "check": ("gwproxy.cli.check", "Validate a configuration file."),
    "diff": ("gwproxy.cli.diff", "Show what differs between two configurations, field by field."),
    "apply": ("gwproxy.cli.apply", "Make a configuration live, as a new revision."),
    "history": ("gwproxy.cli.history", "Show past revisions, newest first."),
    "blame": ("gwproxy.cli.blame", "Show which revision each field of a route is from, who made it, when and why."),
    "rollback": ("gwproxy.cli.rollback", "Make an earlier revision live again, as a new, higher one."),
    "export": ("gwproxy.cli.export", "Print the live configuration as YAML, or a past one."),
    "status": ("gwproxy.cli.status", "Show what every worker runs, and the health of upstreams."),
    "canary": ("gwproxy.cli.canary", "Look at a configuration that serves a share of the clients, promote it or abort it."),
    "explain": ("gwproxy.cli.explain", "Show which route a request takes, why each other does not, and what happens on the way."),
    "replay": ("gwproxy.cli.replay", "Show what would become of logged requests under another configuration."),
    "logs": ("gwproxy.cli.logs", "Show the access log, newest last."),
    "plugins": ("gwproxy.cli.plugins", "List, describe, create and check plugins; deploy them on a running fleet, and watch them there."),
    "admin": ("gwproxy.cli.admin", "Run the admin listener alone."),
    "audit": ("gwproxy.cli.audit", "Show who changed what, and who was refused."),
    "token": ("gwproxy.cli.token", "Make, list and revoke tokens for the admin listener."),
}

EPILOG = """\b
Examples:
  gwproxy demo                          see it work
  gwproxy check gateway.yaml            is this configuration valid?
  gwproxy run gateway.yaml              serve it
  gwproxy apply gateway.yaml --wait     change it, and know that every worker has it
  gwproxy explain GET /api/users/7      where would this request go?
"""


class Commands(click.Group):
    """A group whose commands are imported when they are used, not when the group is."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        command.name = cmd_name
        return command  # type: ignore[no-any-return]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for one that is not there, name the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if args[0].startswith("-"):
                raise
            raise click.UsageError(f"there is no command {args[0]!r}{failures.did_you_mean(args[0], COMMANDS)}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the overview, importing nothing."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"gwproxy {version('gwproxy')}{' (compiled)' if compiled() else ''}")
        ctx.exit()


@click.command(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version and exit.")
def gwproxy() -> None:
    """Run an API gateway whose policies are Python plugins, and look into it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    :param argv: without the program's name; None: the process's own.
    :return: 0 if it did what was asked, 1 if it could not, 2 for wrong usage, 130 if it was interrupted.
    """
    level = logging.getLevelNamesMapping().get(os.environ.get("GWPROXY_LOG_LEVEL", "").upper(), logging.WARNING)
    logging.basicConfig(level=level, format="gwproxy: %(levelname)s %(name)s: %(message)s")
    try:
        status = gwproxy.main(args=argv, prog_name="gwproxy", standalone_mode=False)
        sys.stdout.flush()  # here, where a reader that is gone can still be told from success
    except (Exception, KeyboardInterrupt) as error:
        return failures.report(error)
    return int(status or 0)
