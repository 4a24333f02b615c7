"""What the kit is given: folders, wheels, installed plugins; and what it says where there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gwproxy.cli.scaffold import write_package
from gwproxy.errors import CommandFailed
from gwproxy.testing.conformance.process import tried
from gwproxy.testing.conformance.source import points_of


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])


def asked(target: object, **others: Any) -> dict[str, Any]:
    return tried({"target": str(target), "only": None, "config": None, "budget_us": 5000.0, **others})


def rules(answer: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(report["plugin"], finding["rule"], finding["found"]) for report in answer["reports"] for finding in report["findings"]]


def test_an_installed_plugin_and_a_folder(tmp_path: Path) -> None:
    write_package("tenant", tmp_path)
    assert [point.value for point in points_of("cors")] == ["gwproxy.plugins.cors:Cors"]
    assert [(point.name, point.value) for point in points_of(str(tmp_path))] == [("tenant", "gwproxy_tenant:Tenant")]
    assert sys.path[0] == str(tmp_path)


def test_what_does_not_import_is_no_class_or_has_another_name_is_a_finding(tmp_path: Path) -> None:
    points = '[project.entry-points.gwproxy]\ngone = "not_there:Gone"\nother = "here_it_is:Here"\nnone = "here_it_is:NONE"\n'
    (tmp_path / "pyproject.toml").write_text(points)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "here_it_is.py").write_text("from gwproxy import Plugin\nNONE = 1\nclass Here(Plugin):\n    name = 'here'\n")
    assert rules(asked(tmp_path)) == [
        ("gone", "loads", "does not import: ModuleNotFoundError: No module named 'not_there'"),
        ("other", "loads", "its class says name = 'here'; it must be the name of its entry point"),
        ("none", "loads", "is no subclass of gwproxy.Plugin"),
    ]
    assert rules(asked(tmp_path, only="gone"))[0][0] == "gone"
    assert asked(tmp_path, only="x")["error"].endswith("has no plugin 'x', but gone, none, other")
    assert asked(tmp_path, config={})["error"] == "--config is for one plugin; say by --only which of gone, none, other"


def test_a_configuration_that_does_not_fit_is_a_finding() -> None:
    assert rules(asked("cors", config={"orgins": []})) == [("cors", "sample", "Extra inputs are not permitted")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("", "", "has no entry point in the group 'gwproxy'"),
        ("setup.cfg", "[metadata]\nname = x\n", "has no entry point in the group 'gwproxy'"),
        ("setup.cfg", "no section\n", "its packaging cannot be read"),
        ("pyproject.toml", "= 1\n", "its packaging cannot be read"),
    ],
)
def test_a_folder_without_plugins(tmp_path: Path, name: str, content: str, said: str) -> None:
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(CommandFailed, match=said):
        points_of(str(tmp_path))


def test_what_is_not_there_or_no_wheel(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with pytest.raises(CommandFailed, match="is no wheel"):
        points_of(str(tmp_path / "x.whl"))
    with pytest.raises(CommandFailed, match="is no folder, no wheel and no installed plugin"):
        points_of("no_such_plugin")
