"""How commands print: JSON, aligned columns, and colours on terminals only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import click

#: Decorates a command that prints data.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any, *, line: bool = False) -> None:
    """Print ``value`` as JSON; what JSON has no form for is printed as its ``str``.

    :param line: on one line, for streams of objects; else indented.
    """
    import orjson

    text = orjson.dumps(value, default=_plain, option=0 if line else orjson.OPT_INDENT_2).decode()
    click.echo(text)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (set, frozenset)) else str(value)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], styles: Mapping[str, str] | None = None) -> None:
    """Print rows under headings, in aligned columns; nothing is cut where the output is no terminal.

    :param styles: the colour of a cell, by its text, e.g. ``{"refused": "red"}``.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for row in rows:
        cells = [printable("-" if cell is None or cell == "" else str(cell)) for cell in row]
        table.add_row(*(Text(cell, style=(styles or {}).get(cell, "")) for cell in cells))
    width = None if sys.stdout.isatty() else 10_000
    console = Console(file=sys.stdout, force_terminal=coloured(sys.stdout), width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:
        console.print(table)
    for text in captured.get().splitlines():
        click.echo(text.rstrip(), color=coloured(sys.stdout))


def print_line(*parts: str | tuple[str, str]) -> None:
    """Print one line of parts, each a text, or a text and its colour (or ``bold``)."""
    made = []
    for part in parts:
        text, style = (part, "") if isinstance(part, str) else part
        text = printable(text)
        made.append(click.style(text, bold=True) if style == "bold" else click.style(text, fg=style) if style else text)
    click.echo("".join(made), color=coloured(sys.stdout))


def print_warning(message: str) -> None:
    """Print a line to stderr about what the operator should know of."""
    click.echo(f"gwproxy: {click.style('warning:', fg='yellow')} {printable(message)}", err=True, color=coloured(sys.stderr))


def print_error(message: str) -> None:
    """Print a line to stderr about what went wrong."""
    click.echo(f"gwproxy: {click.style('error:', fg='red')} {printable(message)}", err=True, color=coloured(sys.stderr))


def coloured(stream: TextIO) -> bool:
    """Whether to colour what goes to ``stream``: on terminals only, and never if ``NO_COLOR`` is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def printable(text: str) -> str:
    """Return ``text`` with control characters escaped: what a client sent must not steer the operator's terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text)


def counted(number: int, noun: str) -> str:
    """Return ``1 route`` or ``3 routes``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ago(moment: str, now: datetime) -> str:
    """Return how long ago an ISO 8601 time was, such as ``12s``, ``3m`` or ``2d``; ``-`` if it is no time.

    :param now: aware.
    """
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return "-"
    seconds = max(0.0, (now - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
