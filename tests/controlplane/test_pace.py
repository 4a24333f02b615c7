"""A worker that makes a configuration serves meanwhile: what is waiting goes first, and the work gets done all the same."""

from __future__ import annotations

import json
import socket
import sys
from types import FrameType
from typing import Any

import gevent
import pytest
from gevent import socket as cooperative

from gwproxy.controlplane.build import Builder
from gwproxy.controlplane.environment import Environment
from gwproxy.controlplane.pace import BREAK, LONGEST, SHORTEST, Pace, let_others
from gwproxy.controlplane.parse import Parsed, parse
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.registry import Registry


def test_what_has_arrived_at_a_socket_is_read_in_one_pause() -> None:
    """With ``gevent.sleep(0)`` it takes a hundred and more: that comes back before the loop has looked at a socket."""
    ours, theirs = socket.socketpair()
    read: list[bytes] = []
    reader = gevent.spawn(lambda: read.append(cooperative.socket(fileno=ours.detach()).recv(10)))
    let_others()  # it waits
    theirs.send(b"request")
    let_others()
    reader.kill()
    theirs.close()
    assert read == [b"request"]


def test_a_pause_ends_though_others_are_never_done() -> None:
    def busy() -> None:
        while True:
            gevent.idle(-1)  # always ready, and always before the pause

    greenlet = gevent.spawn(busy)
    with gevent.Timeout(10):
        let_others()
    assert not greenlet.dead
    greenlet.kill()


class Loop:
    """A loop whose rounds of requests take as long as the test says; work is done a tenth of a millisecond at a time."""

    def __init__(self, rounds: float) -> None:
        self.rounds = rounds
        self.now = 0.0
        self.slices: list[float] = []
        self._resumed = 0.0
        self.pace = Pace(self.serve, lambda: self.now)

    def serve(self) -> None:
        self.slices.append(self.now - self._resumed)
        self.now += self.rounds
        self._resumed = self.now

    def work(self, seconds: float) -> float:
        """Work so long; return how long that took."""
        began = self.now
        for _ in range(round(seconds * 10_000)):
            self.now += 0.0001
            self.pace()
        return self.now - began


@pytest.mark.parametrize(
    ("rounds", "takes"),
    [
        (0.0, 0.5),  # nobody is waiting
        (0.001, 1.0),  # a slice of a millisecond after each round
        (0.005, 1.2),  # a third at first, then more
        (0.050, 2.2),  # the longest slices
    ],
)
def test_half_a_second_of_work_is_done_in_time(rounds: float, takes: float) -> None:
    loop = Loop(rounds)
    took = loop.work(0.5)
    assert took == pytest.approx(takes, rel=0.25)
    assert max(loop.slices[1:]) <= max(SHORTEST, min(LONGEST, rounds * 2.5)) + 0.0002


def test_a_second_of_work_is_done_in_two_though_requests_are_always_waiting() -> None:
    assert Loop(0.004).work(1.0) < 2.0


def test_short_work_leaves_two_thirds_to_requests_to_its_end() -> None:
    loop = Loop(0.004)
    assert loop.work(0.2) == pytest.approx(0.6, rel=0.1)
    assert max(loop.slices[1:]) <= 0.5 * loop.rounds + 0.0002


def test_another_work_begins_patiently() -> None:
    loop = Loop(0.005)
    loop.work(2.0)
    loop.now += BREAK + 0.1
    before = len(loop.slices)
    loop.work(0.1)
    assert loop.slices[before + 1] < 0.003 < loop.slices[before - 1]


class Counting:
    """Counts the calls of functions between two pauses: how much is done in one go, whatever the machine."""

    def __init__(self) -> None:
        self.calls = self.most = self.pauses = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event in ("call", "c_call")

    def pause(self) -> None:
        self.pauses += 1
        self.most, self.calls = max(self.most, self.calls), 0

    def make(self, count: int, changed: int | None) -> int:
        """Apply a document of ``count`` routes, after one in which only the ``changed``-th differs; return the most calls in one go."""
        registry = Registry.discover()
        builder = Builder(registry, Upstreams(), self.pause)
        parsed: Parsed | None = None
        texts = [routes(count, 1), routes(count, 2, changed)]
        for text in texts if changed is not None else texts[:1]:
            self.calls = self.most = self.pauses = 0
            sys.setprofile(self)
            try:
                parsed = parse(
                    text, file="f", plugins=registry, environment=Environment({}, lambda n: True), previous=parsed, pause=self.pause
                )
                builder.build(parsed, revision=1, digest="")
            finally:
                sys.setprofile(None)
            self.pause()
        return self.most


def routes(count: int, limit: int, only: int | None = None) -> bytes:
    def one(number: int) -> dict[str, object]:
        plugin = {"name": "rate_limit", "config": {"limit": number + (limit if only is None or number == only else 1)}}
        return {"path": f"/a{number}/{{id}}", "upstream": f"http://10.0.0.{number % 5}", "hosts": [f"h{number % 3}"], "plugins": [plugin]}

    return json.dumps([one(number) for number in range(count)]).encode()


@pytest.mark.parametrize("changed", [None, 7], ids=["all-new", "one-changed"])
def test_no_more_is_done_in_one_go_with_more_routes(changed: int | None) -> None:
    counting = Counting()
    few, pauses = counting.make(50, changed), counting.pauses
    many = counting.make(800, changed)
    assert counting.pauses > 10 * pauses
    assert many <= few * 1.2
