"""Guests of an upstream's places, as greenlets that come, leave, lose patience and are killed at any moment.

A program, since patching is for good: ``python -m tests.dataplane.interleaving``. Prints how many ended in which way.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from collections import Counter  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402
from hypothesis import HealthCheck, Phase, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test  # noqa: E402

from gwproxy.dataplane.concurrency import Places  # noqa: E402
from gwproxy.dataplane.failures import ClientLeft, UpstreamBusy  # noqa: E402
from gwproxy.model import Concurrency  # noqa: E402
from gwproxy.tally import Tally  # noqa: E402

LIMIT, QUEUE, WAIT = 2, 3, 0.05
ends: Counter[str] = Counter()


class Guest:
    """A request: ``state`` is ``coming``, then ``waiting``, ``in``, or how it ended.

    :param called: the numbers of those who got a place they had waited for, in order.
    """

    def __init__(self, places: Places, called: list[int], number: int) -> None:
        self.places, self.called, self.number = places, called, number
        self.state = "coming"
        self.gone = False
        self.done = Event()
        self.greenlet = gevent.spawn(self.visit)

    def visit(self) -> None:
        self.state = "waiting"
        waits = self.places.in_flight == LIMIT
        try:
            self.places.take(lambda: self.gone)
        except UpstreamBusy:
            self.state = "refused"
        except ClientLeft:
            self.state = "left"
        except gevent.GreenletExit:
            self.state = "killed"
        else:
            if waits:
                self.called.append(self.number)
            else:
                assert self.places.queued == 0, "somebody was overtaken"
            self.stay()

    def stay(self) -> None:
        self.state = "in"
        try:
            self.done.wait()
        finally:
            self.places.give_back()
            self.state = "served"


class Interleaving(RuleBasedStateMachine):
    """Several things may happen before anybody notices: only :meth:`settle` lets the greenlets run."""

    def __init__(self) -> None:
        super().__init__()
        self.tally = Tally()
        self.places = Places("users", Concurrency(limit=LIMIT, queue=QUEUE, wait=WAIT), self.tally, "users")
        self.guests: list[Guest] = []
        self.called: list[int] = []

    def having(self, *states: str) -> list[Guest]:
        return [guest for guest in self.guests if guest.state in states]

    @precondition(lambda self: len(self.having("coming", "waiting")) <= QUEUE)
    @rule()
    def come(self) -> None:
        self.guests.append(Guest(self.places, self.called, len(self.guests)))

    @precondition(lambda self: self.having("in"))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.having("in"))).done.set()

    @precondition(lambda self: self.having("in"))
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.having("in"))).greenlet.kill(block=False)

    @precondition(lambda self: self.having("waiting"))
    @rule(data=st.data())
    def kill_waiting(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.having("waiting"))).greenlet.kill(block=False)

    @precondition(lambda self: self.having("waiting"))
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.having("waiting"))).gone = True

    @precondition(lambda self: self.having("waiting"))
    @rule()
    def lose_patience(self) -> None:
        gevent.sleep(1.2 * WAIT)
        self.settle()

    @rule()
    def settle(self) -> None:
        for _ in range(6):
            gevent.sleep(0)
        inside, waiting = len(self.having("in")), len(self.having("waiting"))
        assert (self.places.in_flight, self.places.queued) == (inside, waiting)
        assert inside <= LIMIT
        assert waiting <= QUEUE
        assert not waiting or inside == LIMIT, "somebody waits although a place is free"
        assert self.called == sorted(self.called), "they were not called in the order in which they came"
        assert all(guest.greenlet.exception is None for guest in self.guests)
        refused = len(self.having("refused"))
        assert (self.places.refused, self.tally.get("upstream_refused", "users")) == (refused, refused)

    def teardown(self) -> None:
        self.settle()
        for guest in self.guests:
            guest.greenlet.kill()
        ends.update(guest.state for guest in self.guests)
        assert (self.places.in_flight, self.places.queued) == (0, 0)


if __name__ == "__main__":
    checks = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Interleaving, settings=checks)
    print(*(f"{state}={count}" for state, count in sorted(ends.items())))
