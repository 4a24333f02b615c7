"""Who waits is told from who computes."""

from __future__ import annotations

import time

import gevent
from gevent import monkey

from gwproxy.dataplane.waits import Serving, Timed, timed, untimed

native_sleep = monkey.get_original("time", "sleep")


def test_waiting_is_counted_and_computing_is_not() -> None:
    def work() -> tuple[float, bool]:
        greenlet = timed(gevent.getcurrent())
        assert greenlet is not None
        gevent.sleep(0.05)
        native_sleep(0.2)  # holds the loop, as computing does
        try:
            with gevent.Timeout(0.05):  # ends a wait by an exception
                gevent.sleep(60)
        except gevent.Timeout:
            pass
        return greenlet.waited, timed(greenlet) is greenlet

    began = time.monotonic()
    serving = Serving.spawn(work)
    serving.join()
    took = time.monotonic() - began
    waited, same = serving.get()
    assert 0.1 <= waited <= took - 0.2
    assert (same, type(serving)) == (True, Timed)


def test_a_greenlet_that_runs_no_hook_notes_nothing() -> None:
    serving = Serving.spawn(gevent.sleep, 0.01)
    serving.join()
    assert type(serving) is Serving


def test_what_is_waited_for_between_hooks_is_not_counted() -> None:
    def work() -> list[float]:
        greenlet = timed(gevent.getcurrent())
        assert greenlet is not None
        untimed(greenlet)
        gevent.sleep(0.05)
        again = timed(greenlet)
        assert again is greenlet
        between = greenlet.waited
        gevent.sleep(0.01)
        return [between, greenlet.waited]

    serving = Serving.spawn(work)
    serving.join()
    between, after = serving.get()
    assert between == 0.0
    assert after > 0.0
    untimed(None)  # of a server whose greenlets are its own


def test_of_others_nobody_knows() -> None:
    assert timed(gevent.getcurrent()) is None
    assert timed(None) is None
    other = gevent.spawn(lambda: timed(gevent.getcurrent()))
    other.join()
    assert other.value is None


def test_a_kill_reaches_it() -> None:
    def work() -> None:
        timed(gevent.getcurrent())
        gevent.sleep(60)

    serving = Serving.spawn(work)
    gevent.sleep(0)
    serving.kill(timeout=5)
    assert serving.dead
