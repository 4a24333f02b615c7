"""``gwproxy plugins check`` on folders, wheels and installed plugins, in a process that is patched as a worker's."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from gwproxy.cli.scaffold import write_package

SLOW = '''
"""Sleeps, and computes."""
import time
from gwproxy import Plugin, hookimpl

print("noise at import")

class Waits(Plugin):
    name = "waits"

    @hookimpl
    def pre_auth(self, ctx):
        time.sleep(0.002)  # gevent's: others run meanwhile

class Spins(Plugin):
    name = "spins"

    @hookimpl
    def response(self, ctx):
        print("noise")
        end = time.perf_counter() + 0.06
        while time.perf_counter() < end:
            pass
'''
POINTS = "[gwproxy]\nwaits = slow:Waits\nspins = slow:Spins\n"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "slow-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("slow.py", SLOW)
        archive.writestr("slow-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
        archive.writestr("slow-1.0.dist-info/entry_points.txt", POINTS)
    return path


def test_a_new_package_passes_from_its_folder(cli, tmp_path: Path) -> None:
    write_package("tenant", tmp_path / "new")
    result = cli("plugins", "check", tmp_path / "new", "--budget-us", "5000")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("tenant  ")
    assert result.out.endswith("tenant: 0 findings\n")
    assert result.out.count("passed") == 12
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        ["README.md", "setup.cfg", "pyproject.toml", "gwproxy_tenant.py", "tests"]
    )


def test_a_wheel_as_json_tells_computing_from_waiting(cli, wheel: Path) -> None:
    result = cli("plugins", "check", wheel, "--json", "--budget-us", "20000")
    assert result.status == 1
    held = json.loads(result.out)
    waits, spins = held["reports"]
    assert (held["passed"], waits["plugin"], waits["passed"], waits["findings"]) == (False, "waits", True, [])
    assert {finding["rule"] for finding in spins["findings"]} == {"blocks", "cost"}
    (block,) = [finding for finding in spins["findings"] if finding["rule"] == "blocks"]
    assert block["where"].startswith("slow.py:2")
    assert "gateway.in_thread" in block["next"]


def test_what_ends_its_process_is_said_so(cli, tmp_path: Path) -> None:
    (tmp_path / "setup.cfg").write_text("[options.entry_points]\ngwproxy =\n    ends = ends:Ends\n")
    (tmp_path / "ends.py").write_text("import os\nos._exit(3)\n")
    result = cli("plugins", "check", tmp_path)
    assert (result.status, result.out) == (1, "")
    assert result.err == "gwproxy: error: the plugin has ended the process in which it was tried, with status 3\n"


@pytest.mark.parametrize(
    "arguments", [("cors", "--config", "[1]"), ("cors", "--config", "{"), (), ("cors", "--budget-us", "0"), ("a", "b")]
)
def test_wrong_usage(cli, arguments: tuple[str, ...]) -> None:
    assert cli("plugins", "check", *arguments).status == 2
