"""What the system says of a process."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gwproxy.process import descriptors, resident


def test_what_is_resident_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    held = b"x" * (32 << 20)
    status = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{os.getpid()}/status").read_text())
    assert status is not None
    assert abs(resident() - int(status[1]) * 1024) < 8 << 20
    monkeypatch.setattr("gwproxy.process._STATM", Path("/nonexistent"))
    assert resident() >= len(held)


def test_an_open_file_is_one_more_descriptor() -> None:
    before = descriptors()
    assert before is not None
    with open("/dev/null"):
        assert descriptors() == before + 1
