"""``gwproxy logs``: the access log, newest last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click
import orjson

from gwproxy.cli.output import print_json, print_line
from gwproxy.cli.store_option import open_configuration, redis_option

EPILOG = """\b
Examples:
  gwproxy logs
  gwproxy logs -n 20 -f                     the last 20, then what comes, until interrupted
  gwproxy logs --json | jq 'select(.status >= 500)'
"""

_MOST = 10_000  # what the store keeps


@click.command(epilog=EPILOG)
@click.option("-n", "count", type=click.IntRange(0, _MOST), default=100, show_default=True, help="How many entries.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new entries until interrupted.")
@redis_option
@click.option("--json", "as_json", is_flag=True, help="Print each entry as one line of JSON.")
def command(count: int, follow: bool, redis_url: str | None, as_json: bool) -> int:
    """Show the access log, newest last.

    Entries are there for routes with the access_log plugin and its sink 'redis'. What is no entry is shown as it is.
    """
    store = open_configuration(redis_url)
    entries: Iterable[bytes] = store.follow(count) if follow else store.access_log(count)
    for entry in entries:
        show(entry, as_json)
    return 0


def show(entry: bytes, as_json: bool) -> None:
    """Print an entry; one that is malformed is printed raw, in JSON as ``{"malformed": "..."}``."""
    try:
        held = orjson.loads(entry)
    except orjson.JSONDecodeError:
        held = None
    if not isinstance(held, dict):
        text = entry.decode("utf-8", "backslashreplace")
        print_json({"malformed": text}, line=True) if as_json else print_line(text)
    elif as_json:
        print_json(held, line=True)
    else:
        print_line(*_parts(held))


def _parts(entry: dict[str, Any]) -> list[str | tuple[str, str]]:
    status = entry.get("status")
    parts: list[str | tuple[str, str]] = [
        f"{_text(entry.get('timestamp')):<24} ",
        (_text(status), _colour(status)),
        f" {_text(entry.get('method')):<7} {_text(entry.get('path'))}  route={_text(entry.get('route'))}",
        f" user={_text(entry.get('user_id'))} {_latency(entry.get('latency_ms'))}",
    ]
    return parts if entry.get("completed", True) else [*parts, (" incomplete", "yellow")]


def _text(value: object) -> str:
    return "-" if value is None or value == "" else str(value)


def _latency(value: object) -> str:
    return f"{value:.1f}ms" if isinstance(value, (int, float)) else _text(value)


def _colour(status: object) -> str:
    if not isinstance(status, int):
        return ""
    return "red" if status >= 500 else "yellow" if status >= 400 else "cyan" if status >= 300 else "green"
