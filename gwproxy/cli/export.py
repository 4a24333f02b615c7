"""``gwproxy export``: the live configuration or a past one, as it was written, to be edited and applied again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from gwproxy.cli.output import json_option, print_json, print_warning
from gwproxy.cli.store_option import live_configuration, past_configuration, redis_option
from gwproxy.controlplane.masking import mask
from gwproxy.controlplane.places import Path, path_text
from gwproxy.controlplane.text import read
from gwproxy.registry import Registry

EPILOG = """\b
Examples:
  gwproxy export > gateway.yaml         edit it, then: gwproxy apply gateway.yaml
  gwproxy export --revision 6
  gwproxy export --show-secrets         to move it to another gateway
  gwproxy export --json | jq '.routes[].id'
"""


@click.command(epilog=EPILOG)
@click.option("--revision", type=click.IntRange(min=1), metavar="REVISION", help="A past revision instead of what is live.")
@click.option("--show-secrets", is_flag=True, help="Print secrets that were written as plain text, instead of ***.")
@redis_option
@json_option
def command(revision: int | None, show_secrets: bool, redis_url: str | None, as_json: bool) -> int:
    """Print the live configuration as YAML, or a past one.

    It is printed as it was written, so that applying it again changes nothing: references such as ${NAME} stay
    references, and defaults are not filled in. A secret that was written as plain text is printed as ***, for which 'gwproxy
    apply' keeps what is live at that place; stderr says where.
    """
    tree = read(*live_configuration(redis_url) if revision is None else past_configuration(redis_url, revision)).tree
    masked = mask(tree, Registry.discover())
    secrets = ", ".join(path_text(path) for path in _differences(tree, masked))
    shown = tree if show_secrets else masked
    if as_json:
        print_json(shown)
    else:
        click.echo(to_yaml(shown), nl=False)
    if secrets and show_secrets:
        print_warning(f"the output holds what seem to be secrets as plain text, at {secrets}; use ${{NAME}} instead")
    elif secrets:
        print_warning(f"secrets are masked, at {secrets}; 'gwproxy apply' keeps what is live there, and --show-secrets prints them")
    return 0


def to_yaml(tree: Any) -> str:
    """Return a configuration's tree as YAML that reads back as the same tree."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes every string that one of two YAML versions would not read as that string."""

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)  # lists below their key are indented: easier to read

    Dumper.add_representer(str, _represent_string)
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def _represent_string(dumper: Any, text: str) -> Any:
    from gwproxy.controlplane.yamltext import plain

    try:
        ambiguous = not isinstance(plain(text), str)  # 1e3 is a number in YAML 1.2 and a string in 1.1
    except ValueError:
        ambiguous = True
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if ambiguous or not text.isprintable() else None)


def _differences(written: Any, masked: Any, path: Path = ()) -> Iterator[Path]:
    """Yield where masking changed something."""
    if isinstance(written, dict) and isinstance(masked, dict):
        for key, value in written.items():
            yield from _differences(value, masked[key], (*path, key))
    elif isinstance(written, list) and isinstance(masked, list):
        for index, value in enumerate(written):
            yield from _differences(value, masked[index], (*path, index))
    elif written != masked:
        yield path
