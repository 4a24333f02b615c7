"""Every example in the README and the documentation is true."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gwproxy import Plugin
from gwproxy.controlplane.parse import Environment, parse
from gwproxy.registry import Registry
from gwproxy.testing import InProcessGateway

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
FOLLOWED = ROOT / "docs" / "write-a-plugin.md"  # e2e/test_write_a_plugin.py does what it says, in its order
EXAMPLES = sorted((ROOT / "examples").rglob("*.md"))  # test_examples.py runs what is in them, with their plugins installed
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks_of(page: Path, language: str) -> list[str]:
    """The code blocks of a page."""
    return [match[2] for match in _BLOCK.finditer(page.read_text()) if match[1] == language]


def blocks(language: str) -> list[object]:
    found = []
    for page in [page for page in PAGES if page != FOLLOWED]:
        for number, match in enumerate(_BLOCK.finditer(page.read_text()), 1):
            if match[1] == language:
                found.append(pytest.param(page, match[2], id=f"{page.relative_to(ROOT)}:{number}"))
    return found


def run(text: str, page: Path) -> dict[str, Any]:
    """Run an example; return what it defines."""
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(text, f"{page}, an example", "exec", dont_inherit=True), scope)  # no file: pydantic would look for docstrings there
    return scope


def plugins_in(text: str, page: Path) -> list[Plugin]:
    """Run an example and return an instance of each plugin class it defines."""
    return [value() for value in run(text, page).values() if isinstance(value, type) and issubclass(value, Plugin) and value is not Plugin]


def plugins_of(page: Path) -> list[Plugin]:
    """The plugins that a page's examples define."""
    return [plugin for match in _BLOCK.finditer(page.read_text()) if match[1] == "python" for plugin in plugins_in(match[2], page)]


def test_there_are_examples() -> None:
    assert len(blocks("yaml")) >= 8
    assert len(blocks("python")) >= 3


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_python_examples_run_and_their_plugins_fit(page: Path, text: str) -> None:
    plugins = plugins_in(text, page)
    registry = Registry.of(*plugins)
    for plugin in plugins:
        assert registry.find(plugin.name) is plugin
        assert plugin.config_model.model_json_schema()["type"] == "object"


@pytest.mark.parametrize(("page", "text"), [block for block in blocks("python") if "def test_" in block.values[1]])  # type: ignore[attr-defined]
def test_tests_in_examples_pass(page: Path, text: str) -> None:
    for test in [value for name, value in run(text, page).items() if name.startswith("test_")]:
        with InProcessGateway() as own:
            test(own)


@pytest.mark.parametrize(("page", "text"), [*blocks("yaml"), *blocks("json")])
def test_configuration_examples_are_valid(page: Path, text: str) -> None:
    if page.is_relative_to(ROOT / "deploy"):
        pytest.skip("compose files and the like; the tests of deploy run them")
    registry = Registry.discover()
    for plugin in plugins_of(page):
        if registry.find(plugin.name) is None:
            registry.add(plugin)
    environment = Environment({}, lambda name: True, strict=False)
    parse(text.encode(), file=page.name, plugins=registry, environment=environment)


@pytest.mark.parametrize(("page", "text"), blocks("ini"))
def test_ini_examples_are_setup_files(page: Path, text: str) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(text)
    assert "gwproxy" in parser["options.entry_points"]


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_BLOCK.sub("", page.read_text())):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_commands_in_examples_exist() -> None:
    from gwproxy.cli import gwproxy

    known = set(gwproxy.list_commands(None))  # type: ignore[arg-type]
    used = set()
    for page in PAGES:
        for match in _BLOCK.finditer(page.read_text()):
            if match[1] == "sh":
                used |= set(re.findall(r"^(?:\S*/)?gwproxy ([a-z]+)", match[2], re.MULTILINE))
    assert used
    assert used <= known


def test_every_setting_is_documented() -> None:
    settings = (ROOT / "gwproxy" / "settings.py").read_text()
    names = set(re.findall(r'read\.\w+\("([A-Z_]+)"', settings))
    documented = (ROOT / "docs" / "operating.md").read_text()
    assert [name for name in sorted(names) if f"`GWPROXY_{name}`" not in documented] == []


def test_hooks_are_documented() -> None:
    from gwproxy.hookspecs import HookSpecs

    page = (ROOT / "docs" / "plugins.md").read_text()
    hooks = [name for name in vars(HookSpecs) if not name.startswith("_")]
    assert [name for name in hooks if f"`{name}" not in page] == []
    assert all((getattr(HookSpecs, name).__doc__ or "").strip() for name in hooks)


def test_json_blocks_are_json() -> None:
    for parameter in blocks("json"):
        json.loads(parameter.values[1])  # type: ignore[attr-defined]
