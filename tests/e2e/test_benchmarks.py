"""The benchmarks run, and leave nothing behind. What they measure is not judged here: no test is timed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import until
from tests.e2e.running import command_line

pytestmark = pytest.mark.e2e

RUN = Path(__file__).parent.parent.parent / "benchmarks" / "run.py"
COMMAND = [sys.executable, str(RUN), "--only", "bare", "--gateways", "nginx,gwproxy,naive", "--seconds", "1", "--rounds", "1"]


def left_in(folder: Path) -> list[str]:
    """Files in ``folder``, and command lines of processes that name it."""
    lines = [command_line(int(entry.name)) for entry in Path("/proc").glob("[0-9]*")]
    return [line for line in lines if str(folder) in line] + [path.name for path in folder.iterdir()]


def test_gateways_are_compared_and_every_number_is_kept(tmp_path: Path) -> None:
    work, numbers = tmp_path / "work", tmp_path / "numbers.json"
    work.mkdir()
    environ = {**os.environ, "TMPDIR": str(work)}
    ran = subprocess.run([*COMMAND, "--json", str(numbers)], env=environ, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "| bare route x nginx |" in ran.stdout
    (bare,) = json.loads(numbers.read_text())["results"]
    assert bare["missing"] == {}
    assert list(bare["runs"]) == ["nginx", "gwproxy", "naive"]
    for (run,) in bare["runs"].values():
        assert run["requests"] > 0
        assert run["cpu"] > 0
        assert run["refused"] == run["broken"] == 0
    assert left_in(work) == []


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with (tmp_path / "output.log").open("wb") as output:
        work = tmp_path / "work"
        work.mkdir()
        child = subprocess.Popen(COMMAND, env={**os.environ, "TMPDIR": str(work)}, stdout=output, stderr=output)
    try:
        until(lambda: any("wsgi:application" in line for line in left_in(work)), "gwproxy to run")
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
    finally:
        child.kill()
    assert left_in(work) == []


def test_changes_are_followed_to_the_last_of_four_workers(tmp_path: Path) -> None:
    work, numbers = tmp_path / "work", tmp_path / "numbers.json"
    work.mkdir()
    command = [sys.executable, str(RUN.with_name("rollouts.py")), "--changes", "5", "--pause", "0", "--json", str(numbers)]
    environ = {**os.environ, "TMPDIR": str(work)}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "| **from apply to the last acknowledgement** |" in ran.stdout
    changes = json.loads(numbers.read_text())["changes"]
    assert len(changes) == 5
    assert all(took > 0 for change in changes for took in change.values())
    assert left_in(work) == []


def test_features_of_upstreams_are_compared_with_a_url_and_balancers_with_others(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    found = measured(tmp_path, "upstreams.py", "--choose", "least_connections", "--rounds", "1", "--seconds", "1", "--json", str(numbers))
    cost, balance = json.loads(numbers.read_text())["results"]
    assert [row["what"] for row in cost["rows"]] == ["least_connections"]
    assert cost["rows"][0]["value"] > 0
    assert "| haproxy, least_connections | " in found
    assert list(balance["runs"]) == [f"{name}, least_connections" for name in ("gwproxy", "nginx", "haproxy")]
    for name, (run,) in balance["runs"].items():
        assert run["requests"] > 0
        assert run["refused"] == run["broken"] == 0
        assert balance["numbers"][name]["served"][-1] > 0


def test_streams_of_http_2_are_seen_to_wait_for_each_other_and_not_to(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    measured(tmp_path, "http2.py", "--rounds", "1", "--json", str(numbers))
    runs = json.loads(numbers.read_text())["runs"]
    waiting = {name: sorted(run["quick"])[5] > run["slow"] / 2 for name, (run,) in runs.items()}
    assert waiting == {"gunicorn, gevent worker": True, "gunicorn, gthread worker": True, "HAProxy before gwproxy": False}


def measured(folder: Path, script: str, *options: str) -> str:
    """Run a benchmark that leaves nothing behind; return what it prints."""
    work = folder / "work"
    work.mkdir()
    command = [sys.executable, str(RUN.with_name(script)), *options]
    environ = {**os.environ, "TMPDIR": str(work)}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=90, check=False)
    assert ran.returncode == 0, ran.stderr
    assert left_in(work) == []
    return ran.stdout
