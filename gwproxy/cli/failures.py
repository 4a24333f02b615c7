"""What stopped a command, as one readable line and an exit status; a traceback never."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Iterable

import click

from gwproxy.cli.output import counted, print_error, printable
from gwproxy.errors import ConfigurationRefused, GatewayError

log = logging.getLogger("gwproxy.cli")

COULD_NOT = 1
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it


def report(error: BaseException) -> int:
    """Tell stderr why a command ended, and return the exit status."""
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return _reader_gone()
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, ConfigurationRefused):
        from gwproxy.cli.config_file import problem_line

        for problem in error.problems:
            click.echo(printable(problem_line(problem)), err=True)
        print_error(f"the configuration has {counted(len(error.problems), 'problem')}")
        return COULD_NOT
    log.debug("command_failed", exc_info=error)
    print_error(message_of(error))
    return COULD_NOT


def message_of(error: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, GatewayError):
        return " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if type(error).__module__.partition(".")[0] == "redis":
        from gwproxy.store.connection import describe

        return f"the store: {describe(error)}"
    return f"internal error: {type(error).__name__}: {error} (GWPROXY_LOG_LEVEL=debug shows where)"


def did_you_mean(written: str, names: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the nearest of ``names``, or nothing if none is near."""
    near = difflib.get_close_matches(written, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _reader_gone() -> int:
    """Leave without a word: who read the output has closed it. What is still buffered goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return COULD_NOT
