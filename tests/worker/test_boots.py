"""Workers that die while they start are replaced ever more slowly."""

from __future__ import annotations

import os

from gwproxy.worker.boots import Boots, delay


def test_V12_only_workers_that_never_served_count() -> None:
    boots = Boots()
    assert [boots.failed(age, workers=2) for age in range(1, 8)] == [0, 0, 0, 0, 0, 1, 2]  # 2 may be starting, 2 be added by hand
    boots.note_served(5)
    assert boots.failed(8, workers=1) == 0
    boots.note_served(8)
    assert boots.failed(9, workers=1) == 0


def test_V12_a_worker_tells_its_master() -> None:
    boots = Boots()
    for age in range(1, 10):
        boots.failed(age, workers=1)
    if (pid := os.fork()) == 0:
        boots.note_served(9)
        os._exit(0)
    os.waitpid(pid, 0)
    assert boots.failed(10, workers=1) == 0


def test_V12_numbers_may_grow_without_end() -> None:
    boots = Boots()
    boots.note_served(200_000)
    assert boots.failed(200_001, workers=1) == 0
    assert boots.failed(10_000_000, workers=1) > 0


def test_V12_the_delay_grows_up_to_ten_seconds() -> None:
    assert [delay(failed) for failed in (0, 1, 2, 3, 6, 7, 1_000)] == [0.0, 0.25, 0.5, 1.0, 8.0, 10.0, 10.0]
