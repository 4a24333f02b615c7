"""The packages in examples/: built, installed in an environment of their own, tested and checked as their authors would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

import pytest

from gwproxy.controlplane.parse import Environment, parse
from gwproxy.registry import Registry
from tests.test_docs import blocks_of

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = sorted(folder.name for folder in EXAMPLES.iterdir() if (folder / "setup.cfg").is_file())
CHECKED_WITH = {"tenant-cookie": ["--config", "@check.yaml"]}
MOST_LINES = 119


def build(into: Path, sources: Path, version: str = "1.0") -> None:
    """Build the wheel of each, as it is or as another version.

    :param sources: an empty folder: pip leaves things where it builds.
    """
    for name in NAMES:
        shutil.copytree(EXAMPLES / name, sources / name, ignore=shutil.ignore_patterns("build", "*.egg-info"))
        for file in (sources / name / "setup.cfg", *(sources / name).glob("*.py")):
            text = file.read_text()
            file.write_text(
                text.replace('\n    version = "1.0"\n', f'\n    version = "{version}"\n').replace(
                    "\nversion = 1.0\n", f"\nversion = {version}\n"
                )
            )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(into)]
    subprocess.run([*command, *(str(sources / name) for name in NAMES)], check=True, timeout=120)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of each."""
    folder = tmp_path_factory.mktemp("dist")
    build(folder, tmp_path_factory.mktemp("sources"))
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> str:
    """The Python of an environment in which gwproxy is installed, and the wheels."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    own = str(folder / "bin" / "python")
    # Without --no-deps: what they say they need is there, or pip refuses.
    subprocess.run([own, "-m", "pip", "install", "--quiet", "--no-index", *map(str, wheels.glob("*.whl"))], check=True, timeout=120)
    return own


def done(python: str, *argv: str | Path, cwd: Path, **environ: str) -> str:
    """Run a module to its end, which must be a good one; return what it printed."""
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environ}
    process = subprocess.run([python, "-m", *argv], cwd=cwd, env=environ, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_there_are_three() -> None:
    assert NAMES == ["maintenance", "redact", "tenant-cookie"]


@pytest.mark.parametrize("name", NAMES)
def test_each_is_one_module_of_a_page(name: str) -> None:
    (module,) = (EXAMPLES / name).glob("gwproxy_*.py")
    assert len(module.read_text().splitlines()) <= MOST_LINES


def test_their_tests_pass_with_the_wheels_installed(python: str, tmp_path: Path) -> None:
    tests = [str(file) for name in NAMES for file in (EXAMPLES / name / "tests").glob("test_*.py")]
    assert len(tests) == len(NAMES)
    # Of the plugins of pytest only ours: the others here are not where their authors test, and take seconds to start.
    options = [
        "-q",
        "-p",
        "_gwproxy_pytest",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        "-c",
        os.devnull,
        "--rootdir",
        str(EXAMPLES),
    ]
    said = done(python, "pytest", *options, *tests, cwd=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert " passed" in said
    assert not {"skipped", "warning", "deselected"} & set(said.split())


@pytest.mark.parametrize("name", NAMES)
def test_the_wheel_of_each_passes_the_conformance_kit(python: str, wheels: Path, name: str) -> None:
    (wheel,) = wheels.glob(f"gwproxy_{name.replace('-', '_')}-1.0-py3-none-any.whl")
    said = done(python, "gwproxy", "plugins", "check", wheel, *CHECKED_WITH.get(name, ()), cwd=EXAMPLES / name)
    assert "0 findings" in said
    assert "not tried" not in said


def test_the_examples_in_their_pages_are_valid(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.syspath_prepend(next(wheels.glob(f"gwproxy_{name.replace('-', '_')}-*.whl")))
    registry = Registry.discover()
    for name in NAMES:
        page = EXAMPLES / name / "README.md"
        for text in blocks_of(page, "yaml"):
            used = parse(text.encode(), file=str(page), plugins=registry, environment=Environment({}, lambda name: True, strict=False))
            assert [entry.name for entry in used.document.routes[0].plugins] == [name.replace("-", "_")]


@pytest.mark.parametrize("name", NAMES)
def test_its_version_is_said_once(wheels: Path, name: str) -> None:
    (wheel,) = wheels.glob(f"gwproxy_{name.replace('-', '_')}-*.whl")
    with ZipFile(wheel) as archive:
        (metadata,) = (archive.read(entry) for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        (module,) = (archive.read(entry).decode() for entry in archive.namelist() if entry.endswith(".py"))
    assert f'version = "{message_from_bytes(metadata)["Version"]}"' in module
