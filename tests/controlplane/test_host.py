"""What the workers of a host tell each other, through real files, and a lock that dies with its process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from gwproxy.controlplane.host import HostFiles
from gwproxy.dataplane.health import Result
from gwproxy.tally import Tally

DOWN = {"users abc http://a": Result(False, 1_790_000_000.5, "status 503")}


class Workers:
    """Workers of one host, at a time that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 0.0
        self.tally = Tally()

    def start(self, prefix: str = "gw:") -> HostFiles:
        return HostFiles(self.folder, prefix, self.tally, clock=lambda: self.now)


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    return Workers(tmp_path / "state")


def test_one_leads_until_it_stops_and_then_another(workers: Workers) -> None:
    one, two = workers.start(), workers.start()
    assert [one.leads(), two.leads(), one.leads()] == [True, False, True]
    one.close()
    workers.now += 1.0
    assert [two.leads(), one.leads()] == [True, False]


def test_those_of_another_prefix_have_a_leader_of_their_own(workers: Workers) -> None:
    assert workers.start("a:").leads()
    assert workers.start("b:").leads()


def lead(folder: Path, ready: object) -> None:
    assert HostFiles(folder, "gw:", Tally()).leads()
    ready.set()  # type: ignore[attr-defined]
    threading.Event().wait()


def test_one_that_is_killed_lets_go(workers: Workers) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=lead, args=(workers.folder, ready))
    process.start()
    assert ready.wait(60)
    other = workers.start()
    assert not other.leads()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    workers.now += 1.0
    assert other.leads()


def test_what_is_told_is_news_once_and_is_there_for_those_who_start(workers: Workers) -> None:
    leader, other = workers.start(), workers.start()
    assert other.told() is None
    leader.tell(DOWN)
    assert other.told() == DOWN
    assert other.told() is None
    leader.tell({})
    assert other.told() == {}
    assert workers.start().told() == {}


@pytest.mark.parametrize("text", ["", "{", "7", '{"a": 1}', '{"a": [true]}', '{"a": [true, "x", ""]}'])
def test_what_is_damaged_is_as_good_as_absent(workers: Workers, text: str) -> None:
    leader, other = workers.start(), workers.start()
    leader.tell(DOWN)
    (workers.folder / "upstreams" / "gw.health.json").write_text(text)
    (workers.folder / "upstreams" / "gw.names.json").write_text(text if text == "7" else "{")
    assert other.told() is None
    assert other.names() == {}


def test_names_are_kept_by_the_one_that_leads(workers: Workers) -> None:
    leader, other = workers.start(), workers.start()
    assert leader.leads()
    other.keep_names({"A users.internal ": [["10.0.0.9", 0, 0, 0]]})
    assert other.names() == {}
    leader.keep_names({"A users.internal ": [["10.0.0.1", 0, 0, 0]]})
    assert workers.start().names() == {"A users.internal ": [["10.0.0.1", 0, 0, 0]]}


def test_files_are_the_owner_s_and_nothing_else_is_left(workers: Workers) -> None:
    leader = workers.start()
    assert leader.leads()
    leader.tell(DOWN)
    leader.keep_names({})
    folder = workers.folder / "upstreams"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == dict.fromkeys(
        ("gw.lock", "gw.health.json", "gw.names.json"), 0o600
    )


def test_V13_where_nothing_can_be_written_each_asks_for_itself_and_that_is_counted(workers: Workers) -> None:
    workers.folder.mkdir()
    (workers.folder / "upstreams").write_text("a file where the folder would be")
    one, two = workers.start(), workers.start()
    assert [one.leads(), two.leads()] == [True, True]
    one.tell(DOWN)
    assert one.told() is None
    assert workers.tally.get("host_files_failed") == 3
