"""The compiled form: it builds from what is in the repository, says what it is, and reads and writes the same bytes.

`bash tests/run compiled` runs everything on it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

ROOT = Path(__file__).parent.parent.parent
NEEDED = ("gwproxy", "_gwproxy_pytest.py", "tests", "setup.py", "setup.cfg", "README.md", "LICENSE", "gunicorn.conf.py")


def build(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Compile in place, with as little optimisation as there is: the same C, in half the time."""
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    told = {**os.environ, "GWPROXY_COMPILE": "1", "MYPYC_OPT_LEVEL": "0", **environ}
    return subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, folder)
    return folder


#: What setup.py does with what mypyc has made, here with a module of nothing: making it takes mypyc half a minute.
BUILD = """
import runpy
from setuptools import Extension, setup
build = runpy.run_path("setup.py", run_name="read")["Build"]
setup(name="nothing", ext_modules=[Extension("nothing", ["nothing.c"])], cmdclass={"build_ext": build}, script_args=["-q", "build_ext"])
"""


def test_without_a_compiler_it_says_what_is_missing(copy: Path) -> None:
    (copy / "nothing.c").touch()
    environ = {**os.environ, "CC": "/nonexistent/cc"}
    made = subprocess.run([sys.executable, "-c", BUILD], cwd=copy, env=environ, capture_output=True, text=True, check=False)
    assert made.returncode == 1
    assert made.stderr.startswith("GWPROXY_COMPILE=1 needs a C compiler and Python's headers")


def test_an_unclear_wish_is_refused(copy: Path) -> None:
    made = build(copy, GWPROXY_COMPILE="yes")
    assert (made.returncode, made.stderr) == (1, "GWPROXY_COMPILE is 1 or 0, not 'yes'\n")


def test_it_builds_says_so_and_speaks_the_same_http(copy: Path) -> None:
    assert shutil.which("gcc")
    assert Path(sysconfig.get_path("include"), "Python.h").exists()
    made = build(copy)
    assert made.returncode == 0, made.stderr
    # An environment of its own: processes that the tests start must find the copy, whatever their PYTHONPATH is.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", copy / ".venv"], check=True)
    (site,) = (copy / ".venv" / "lib").glob("python3.*/site-packages")
    (site / "gwproxy.pth").write_text(f"{copy}\n{sysconfig.get_path('purelib')}\n")
    python = copy / ".venv" / "bin" / "python"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    said = subprocess.run([python, "-P", "-m", "gwproxy", "--version"], cwd="/", env=environ, capture_output=True, text=True, check=True)
    assert said.stdout.endswith(" (compiled)\n")
    command = [
        python,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        f"--basetemp={copy / 'tmp'}",
        "tests/wire/test_requests.py",
        "tests/e2e/test_streaming.py",
        "tests/e2e/test_plugin_faults.py",
        "tests/dataplane/test_members.py",
        "tests/dataplane/test_ejection.py",
        "tests/dataplane/test_names.py",
        "tests/e2e/test_dns.py",
        "-k",
        "(test_requests and default) or (large_download and default-sized) or (spin_swallowing and not on_finish)"
        " or members or ejection or names or every_address_is_used",
    ]
    played = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
    assert played.returncode == 0, played.stdout[-4000:]
