"""A minute of the soak, or ``SOAK_MINUTES``; ``python -m benchmarks.soak`` is the long run of the same (benchmarks/README.md)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.crosstalk import ROOT

MINUTES = float(os.environ.get("SOAK_MINUTES", "1"))
PATIENCE = MINUTES * 60 + 270  # seconds: to start, to come to rest twice, and to stop

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(PATIENCE + 10)]

ROWS = ["S01", "S02", "S03", "S04", "S05", "S06", "S07", "S08", "S09", "S11"]  # S10 compares hours


def test_S01_S02_S03_S04_S05_S06_S07_S08_S09_S11_a_minute_of_the_soak(tmp_path: Path) -> None:
    found = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", str(MINUTES), "--every", "2", "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-4000:]
    report = json.loads(found.read_text())
    assert [verdict["row"] for verdict in report["verdicts"] if verdict["result"] == "holds"] == ROWS
    assert report["done"]["requests"] > 1000
    assert len(report["samples"]) > 20
