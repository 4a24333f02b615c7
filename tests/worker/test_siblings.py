"""What a master remembers of its workers."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import IO

from gwproxy.process import make_worker_id
from gwproxy.worker.siblings import REMEMBERED, Siblings


@dataclass
class Forked:
    """A worker as gunicorn's master keeps it; its file is closed when the process has been reaped."""

    tmp: IO[bytes]
    pid: int | str = "[booting]"


def forked(pid: int, siblings: Siblings) -> tuple[Forked, str]:
    worker = Forked(tempfile.TemporaryFile())  # noqa: SIM115 - the test closes it
    token = siblings.add(worker)
    worker.pid = pid
    return worker, token


def test_each_worker_knows_which_before_it_have_ended() -> None:
    siblings = Siblings()
    first, token = forked(101, siblings)
    second, other = forked(102, siblings)
    assert token != other
    assert siblings.identity(other).departed == ()
    first.tmp.close()
    third, last = forked(101, siblings)  # the system uses numbers again
    identity = siblings.identity(last)
    assert identity.departed == (make_worker_id(101, token),)
    assert identity.id == make_worker_id(os.getpid(), last)
    second.tmp.close()
    third.tmp.close()
    fourth, newest = forked(104, siblings)
    assert siblings.identity(newest).departed == tuple(make_worker_id(*pair) for pair in ((101, token), (102, other), (101, last)))
    fourth.tmp.close()


def test_it_remembers_so_many() -> None:
    siblings = Siblings()
    for pid in range(REMEMBERED + 10):
        forked(pid, siblings)[0].tmp.close()
    departed = siblings.identity("x").departed
    assert len(departed) == REMEMBERED
    assert departed[-1].split("-")[-2] == str(REMEMBERED + 8)  # the last one's successor is not there yet
