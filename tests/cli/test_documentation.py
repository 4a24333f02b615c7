"""What docs/commands.md says is what the commands do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gwproxy.cli import COMMANDS
from gwproxy.cli import gwproxy as group

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
SECTIONS = {match[1]: match[2] for match in re.finditer(r"^## (gwproxy [^\n]*)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)}
#: Their output depends on nothing but the sample configuration.
REPEATABLE = ("gwproxy check", "gwproxy diff", "gwproxy explain", "gwproxy replay", "gwproxy plugins new", "gwproxy plugins check")


def leaves() -> dict[str, click.Command]:
    ctx = click.Context(group)
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = group.get_command(ctx, name)
        assert command is not None
        below = command.commands if isinstance(command, click.Group) else {"": command}
        found |= {f"gwproxy {name} {sub}".strip(): leaf for sub, leaf in below.items()}
    return found


def examples(section: str) -> list[tuple[str, str]]:
    """The commands of a section's console blocks, each with its output."""
    text = "".join(re.findall(r"^```console\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL))
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)


def test_every_command_has_a_section() -> None:
    assert sorted(SECTIONS) == sorted(leaves())


@pytest.mark.parametrize("name", leaves())
def test_every_option_is_documented(name: str) -> None:
    options = [parameter.opts[0] for parameter in leaves()[name].params if isinstance(parameter, click.Option)]
    assert [option for option in options if f"| `{option}" not in SECTIONS[name]] == []


@pytest.mark.parametrize(("command", "output"), [example for section in REPEATABLE for example in examples(section)], ids=str)
def test_examples_print_what_the_page_shows(tmp_path: Path, command: str, output: str) -> None:
    sample = re.search(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert sample is not None
    (tmp_path / "gateway.yaml").write_text(sample[1])
    log = re.search(r"^```jsonl\n(.*?)^```$", SECTIONS["gwproxy replay"], re.MULTILINE | re.DOTALL)
    assert log is not None
    (tmp_path / "access.log").write_text(log[1])
    bash = shutil.which("bash")
    assert bash is not None
    script = f'gwproxy() {{ "{sys.executable}" -m gwproxy "$@"; }}\n{command}'
    done = subprocess.run([bash, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.stdout == output
