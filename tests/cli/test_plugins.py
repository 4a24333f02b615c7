from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import gwproxy
from gwproxy.cli.scaffold import check_name, names_of, write_package
from gwproxy.controlplane.catalogue import description, schema
from gwproxy.registry import Registry

BUILT_IN = ["access_log", "cors", "fault_injection", "jwt_auth", "pii_log", "rate_limit", "request_transform", "webhook_signature"]

GOOD = '''
"""Counts things."""
from typing import Any, Callable
from gwproxy import Plugin, PluginConfig, hookimpl

class C(PluginConfig):
    call: Callable[[], Any] = print
    size: int = 7
    """How many."""

class P(Plugin):
    name, version, priority, config_model = "good", "2.1", 42, C

    @hookimpl
    def pre_auth(self, ctx): ...
'''


def test_list_shows_every_plugin_by_name(cli) -> None:
    result = cli("plugins", "list")
    assert (result.status, result.err) == (0, "")
    heading, *rows = [line.split() for line in result.out.splitlines()]
    assert heading == ["name", "version", "priority", "phases", "package", "state"]
    assert [row[0] for row in rows] == BUILT_IN
    assert rows[5] == ["rate_limit", "1.0", "300", "post_auth", "gwproxy", "0.1.0", "loaded"]


def test_list_says_why_a_plugin_is_refused(cli, install) -> None:
    install("good", GOOD)
    install("bad", "raise RuntimeError('no such luck')")
    rows = {row["name"]: row for row in json.loads(cli("plugins", "list", "--json").out)}
    assert list(rows) == sorted([*BUILT_IN, "good", "bad"])
    assert rows["good"] == {
        "name": "good",
        "version": "2.1",
        "priority": 42,
        "phases": ["pre_auth"],
        "package": "gw-good 1.2",
        "state": "loaded",
        "reason": None,
    }
    assert rows["bad"]["state"] == "refused"
    assert "no such luck" in rows["bad"]["reason"]
    assert "refused: gw-bad 1.2 does not import: RuntimeError: no such luck" in cli("plugins", "list").out


def test_info_is_a_description_and_a_table_of_every_key(cli, install) -> None:
    install("good", GOOD)
    result = cli("plugins", "info", "good")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("good 2.1  gw-good 1.2\nphases: pre_auth; priority 42\n\nCounts things.\n\n2 keys\n")
    assert result.out.splitlines()[-1].split() == ["size", "whole", "number", "7", "How", "many."]
    assert result.out.splitlines()[-2].startswith("call ")


@pytest.mark.parametrize("name", BUILT_IN)
def test_info_describes_every_built_in_plugin(cli, name: str) -> None:
    out = cli("plugins", "info", name).out
    held = json.loads(cli("plugins", "info", name, "--json").out)
    assert held["description"].splitlines()[0] in out
    assert held["config"]["type"] == "object"
    assert held["config"]["properties"]
    for key, field in held["config"]["properties"].items():
        assert any(line.startswith(f"{key} ") for line in out.splitlines())
        assert field["description"]


def test_info_as_json_holds_the_json_schema(cli, install) -> None:
    install("good", GOOD)
    held = json.loads(cli("plugins", "info", "good", "--json").out)
    assert held["description"] == "Counts things."
    assert held["config"]["properties"]["size"] == {"default": 7, "description": "How many.", "title": "Size", "type": "integer"}
    assert "call" in held["config"]["properties"]


def test_info_of_what_is_not_installed(cli) -> None:
    result = cli("plugins", "info", "rate_limt")
    assert (result.status, result.out) == (1, "")
    assert result.err == "gwproxy: error: no plugin 'rate_limt' is installed; did you mean 'rate_limit'?\n"


def test_info_of_what_does_not_load(cli, install) -> None:
    install("bad", "raise RuntimeError('no such luck')")
    result = cli("plugins", "info", "bad")
    assert result.status == 1
    assert "installed but cannot be used" in result.err
    assert "no such luck" in result.err


def test_a_plugin_without_keys_and_without_words(cli, install) -> None:
    install("bare", "from gwproxy import Plugin\nclass P(Plugin):\n    name = 'bare'\n")
    assert cli("plugins", "info", "bare").out == "bare 0  gw-bare 1.2\nphases: none; priority 500\n\nno configuration\n"


def test_the_class_speaks_where_the_module_does_not(install) -> None:
    install("quiet", "from gwproxy import Plugin\nclass P(Plugin):\n    '''Does little.'''\n    name = 'quiet'\n")
    plugin = Registry.discover().find("quiet")
    assert plugin is not None
    assert description(plugin) == "Does little."
    assert schema(plugin.config_model)["properties"] == {}


# ---- plugins new


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """The python of an environment in which gwproxy with its extra is installed, and nothing else of ours."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return tmp_path / "env" / "bin" / "python"


def test_new_packages_pass_their_own_tests_as_they_are_and_are_found(cli, tmp_path: Path, fresh: Path) -> None:
    names = ("plugin", "two_words")
    for name in names:
        folder = tmp_path / name
        made = cli("plugins", "new", name, "--directory", folder)
        assert (made.status, made.err) == (0, "")
        files = ("README.md", "setup.cfg", "pyproject.toml", f"gwproxy_{name}.py", f"tests/test_{name}.py")
        assert made.out.splitlines()[:5] == [str(folder / file) for file in files]
        assert f"cd {folder}\n  pip install -e '.[test]' && pytest\n" in made.out
    pip = [fresh, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation", *(f"{tmp_path / name}[test]" for name in names)]
    subprocess.run(pip, check=True)
    pytest_ = [fresh, "-m", "pytest", "-p", "no:cacheprovider", *(tmp_path / name / "tests" for name in names)]
    tests = subprocess.run(pytest_, cwd=tmp_path, capture_output=True, text=True)
    assert tests.returncode == 0, tests.stdout
    assert "16 passed" in tests.stdout
    listed = subprocess.run([fresh, "-m", "gwproxy", "plugins", "list"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for name in names:
        assert [name, "0.1.0", "450", "pre_proxy", names_of(name)["package"], "0.1.0", "loaded"] in [
            row.split() for row in listed.splitlines()
        ]


def test_a_new_package_follows_the_style_it_sets(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    pytest.importorskip("mypy")
    pytest.importorskip("ruff")
    write_package("tenant_of_name", folder)
    environ = {**os.environ, "MYPYPATH": str(Path(gwproxy.__file__).parent.parent), "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    for command in (
        ["ruff", "check", "--isolated"],
        ["ruff", "format", "--check", "--isolated"],
        ["mypy", "--strict", "--follow-imports=silent"],
    ):
        done = subprocess.run([sys.executable, "-m", *command, "."], cwd=folder, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_by_default_it_is_made_here(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("plugins", "new", "two_words").status == 0
    assert (tmp_path / "gwproxy-two-words" / "gwproxy_two_words.py").is_file()


def test_nothing_is_overwritten(cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "setup.cfg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        result = cli("plugins", "new", "tenant", "--directory", tmp_path / name)
        assert (result.status, result.out) == (1, "")
        assert result.err.startswith(f"gwproxy: error: {tmp_path / name} is there and not empty; nothing was written.")
    assert (tmp_path / "mine" / "setup.cfg").read_text() == "mine"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["setup.cfg"]


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert all(path.is_file() for path in write_package("tenant", tmp_path / "empty"))


def test_a_name_that_is_taken(cli, tmp_path: Path) -> None:
    result = cli("plugins", "new", "cors", "--directory", tmp_path / "new")
    assert result.status == 1
    assert "a plugin 'cors' is installed already" in result.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "Tenant", "my-plugin", "7up", "_x", "x_", "a__b", "../x", "x.y", "ü", "x" * 51, "x\n"])
def test_a_name_that_is_none_is_wrong_usage(cli, tmp_path: Path, name: str) -> None:
    result = cli("plugins", "new", "--directory", tmp_path / "new", "--", name)
    assert (result.status, result.out) == (2, "")
    assert "a name has lower case letters" in result.err
    assert not (tmp_path / "new").exists()


def test_what_a_plugin_is_called_in_each_place() -> None:
    check_name("two_words")
    assert names_of("two_words") == {
        "name": "two_words",
        "module": "gwproxy_two_words",
        "package": "gwproxy-two-words",
        "cls": "TwoWords",
        "header": "X-Two-Words",
    }
    assert names_of("context")["cls"] == "ContextPlugin"
