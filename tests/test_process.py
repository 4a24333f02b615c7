"""What the system says of a process."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from gwproxy.process import descriptors, is_over, make_worker_id, mark_of, resident


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


def test_worker_ids_are_unique_unless_the_master_has_said_which() -> None:
    assert make_worker_id(7) != make_worker_id(7)
    assert make_worker_id(7, "a1") == make_worker_id(7, "a1")
    assert make_worker_id(7, "a1").endswith("-7-a1")


# ---- whether another process is no more


def test_a_process_is_over_when_it_has_ended_also_before_it_is_reaped() -> None:
    child = subprocess.Popen(["sleep", "60"])
    mark = mark_of(child.pid)
    assert mark.split("/")[2] == str(child.pid)
    assert not is_over(mark)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    assert is_over(mark)
    child.wait()
    assert is_over(mark)


def test_a_number_that_is_used_again_keeps_nobody_alive() -> None:
    before, _, start = mark_of(os.getpid()).rpartition("/")
    assert not is_over(f"{before}/{start}")
    assert is_over(f"{before}/{int(start) - 1}")


def test_of_a_process_that_is_not_ours_to_signal_only_what_is_seen_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before, _, start = mark_of(os.getpid()).rpartition("/")

    def kill(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    assert is_over(f"{before}/{int(start) - 1}")
    monkeypatch.setattr("gwproxy.process._start", lambda pid: "")  # hidden: as systemd's ProtectProc does
    assert not is_over(f"{before}/{int(start) - 1}")


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "nonsense",
        "1/2/3",
        "another-boot/4026531836/999999999/5",
        "{boot}/another-namespace/999999999/5",
        "{boot}/{namespace}/x/5",
        "{boot}/{namespace}/-1/5",
        "{boot}/{namespace}/" + "9" * 5000 + "/5",
    ],
)
def test_of_another_machine_or_container_nothing_is_known(mark: str) -> None:
    boot, namespace, _, _ = mark_of(os.getpid()).split("/")
    assert not is_over(mark.format(boot=boot, namespace=namespace))


def test_where_the_system_does_not_tell_there_is_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = mark_of(os.getpid())
    monkeypatch.setattr("gwproxy.process._BOOT", Path("/nonexistent"))
    assert mark_of(os.getpid()) == ""
    assert not is_over(mark)
