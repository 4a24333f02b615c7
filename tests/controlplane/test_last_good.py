"""The last good configuration on disk."""

from __future__ import annotations

import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gwproxy.controlplane import last_good
from gwproxy.controlplane.last_good import LastGood, LastGoodFile


def files(folder: Path) -> list[Path]:
    return sorted((folder / "last-good").iterdir())


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    assert LastGoodFile(tmp_path / "state", "gw:").load() == []


def test_the_newest_and_the_one_before_are_kept(tmp_path: Path) -> None:
    kept = LastGoodFile(tmp_path, "gw:")
    for revision, data in enumerate((b"one", b"two", b"three"), 1):
        kept.save(data, revision)
    assert kept.load() == [LastGood(b"three", 3), LastGood(b"two", 2)]


def test_saving_the_same_again_keeps_the_one_before(tmp_path: Path) -> None:
    kept = LastGoodFile(tmp_path, "gw:")
    kept.save(b"one", 1)
    kept.save(b"two", 2)
    kept.save(b"two", 2)
    kept.save(b"two", 3)
    assert kept.load() == [LastGood(b"two", 3), LastGood(b"one", 1)]


def test_R34_workers_that_apply_a_change_at_once_keep_the_one_before(tmp_path: Path) -> None:
    workers = [LastGoodFile(tmp_path, "gw:") for _ in range(8)]
    with ThreadPoolExecutor(len(workers)) as pool:
        for revision in range(1, 100):
            list(pool.map(lambda kept, now=revision: kept.save(b"%d" % now, now), workers))  # type: ignore[misc]
            assert workers[0].load() == [LastGood(b"%d" % number, number) for number in (revision, revision - 1) if number]
    assert [path.name for path in files(tmp_path)] == ["gw.json", "gw.previous.json"]


def test_R34_a_worker_that_stopped_while_it_saved_holds_up_no_other_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_good, "PATIENCE", 0.05)
    kept = LastGoodFile(tmp_path, "gw:")
    kept.save(b"one", 1)
    stopped = os.open(tmp_path / "last-good", os.O_RDONLY)
    fcntl.flock(stopped, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        kept.save(b"two", 2)
    os.close(stopped)
    assert kept.load() == [LastGood(b"one", 1)]
    assert [path.name for path in files(tmp_path)] == ["gw.json"]


@pytest.mark.parametrize("damage", [b"", b"garbage", b"0" * 64 + b" 1\ndata"])
def test_a_damaged_file_is_as_good_as_absent(tmp_path: Path, damage: bytes) -> None:
    kept = LastGoodFile(tmp_path, "gw:")
    kept.save(b"one", 1)
    kept.save(b"two", 2)
    (tmp_path / "last-good" / "gw.json").write_bytes(damage)
    assert kept.load() == [LastGood(b"one", 1)]


def test_a_truncated_file_is_as_good_as_absent(tmp_path: Path) -> None:
    kept = LastGoodFile(tmp_path, "gw:")
    kept.save(b"a long configuration", 1)
    file = tmp_path / "last-good" / "gw.json"
    file.write_bytes(file.read_bytes()[:-1])
    assert kept.load() == []


def test_prefixes_do_not_share_a_file(tmp_path: Path) -> None:
    for prefix in ("gw:", "{gw}:", "gw/", "a:b:", "a-b:"):
        LastGoodFile(tmp_path, prefix).save(prefix.encode(), 1)
    for prefix in ("gw:", "{gw}:", "gw/", "a:b:", "a-b:"):
        assert LastGoodFile(tmp_path, prefix).load() == [LastGood(prefix.encode(), 1)]


def test_only_the_owner_reads_it_and_nothing_is_left_over(tmp_path: Path) -> None:
    kept = LastGoodFile(tmp_path, "gw:")
    kept.save(b"one", 1)
    kept.save(b"two", 2)
    assert [path.name for path in files(tmp_path)] == ["gw.json", "gw.previous.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o600}
    assert stat.S_IMODE((tmp_path / "last-good").stat().st_mode) == 0o700


def test_V13_a_disk_that_refuses_is_an_oserror(tmp_path: Path) -> None:
    (tmp_path / "last-good").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="last-good"):
        LastGoodFile(tmp_path, "gw:").save(b"one", 1)
