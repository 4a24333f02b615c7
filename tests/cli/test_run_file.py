from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gwproxy.cli import run_file
from gwproxy.cli.run_file import RunInfo

INFO = RunInfo(os.getpid(), "unix:///s", "gw:", "127.0.0.1:8080", "2026-11-22T22:17:00Z", "127.0.0.1:8081")


def put(folder: Path, **changes: object) -> None:
    held = {name: getattr(INFO, name) for name in RunInfo.__slots__} | changes
    folder.mkdir(exist_ok=True)
    (folder / run_file.NAME).write_text(json.dumps(held))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    run_file.write(tmp_path / "a" / "state", INFO)
    assert run_file.read(tmp_path / "a" / "state") == INFO


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    run_file.write(folder, INFO)
    assert (folder / run_file.NAME).stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_writing_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, bind="old")
    run_file.write(tmp_path, INFO)
    assert run_file.read(tmp_path) == INFO
    assert [path.name for path in tmp_path.iterdir()] == [run_file.NAME]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    put(tmp_path)
    with pytest.raises(TypeError):
        run_file.write(tmp_path, RunInfo(object(), "", "", "", ""))  # type: ignore[arg-type]
    assert run_file.read(tmp_path) == INFO
    assert [path.name for path in tmp_path.iterdir()] == [run_file.NAME]


def test_of_a_gateway_that_died_nothing_is_known(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    put(tmp_path, pid=process.pid)
    assert run_file.read(tmp_path) is None


def test_somebody_elses_gateway_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    put(tmp_path, pid=4711)
    monkeypatch.setattr(os, "kill", refuse)
    found = run_file.read(tmp_path)
    assert found is not None
    assert found.pid == 4711


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "{}", '{"pid": 1}', "\udcff"])
def test_what_is_no_such_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / run_file.NAME).write_text(text, "utf-8", "surrogateescape")
    assert run_file.read(tmp_path) is None


@pytest.mark.parametrize("pid", [0, -1, "7", None, True and 1.5])
def test_a_pid_that_is_none(tmp_path: Path, pid: object) -> None:
    put(tmp_path, pid=pid)
    assert run_file.read(tmp_path) is None


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    put(tmp_path, added_later=1)
    assert run_file.read(tmp_path) == INFO


def test_removing_twice(tmp_path: Path) -> None:
    put(tmp_path)
    run_file.remove(tmp_path)
    assert run_file.read(tmp_path) is None
    run_file.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
