"""When a worker has too much memory, by its own word; e2e/test_limits.py has one replaced."""

import logging
import re

import pytest

from gwproxy.worker.memory import GRACE_SECONDS, MemoryLimit

LIMIT = 100


class Timed:
    """A limit with a clock and a measure that the test sets."""

    def __init__(self, limit=LIMIT):
        self.now = 1000.0
        self.rss = 0
        self.looks = 0
        self.limit = MemoryLimit(limit, measure=self._measure, clock=lambda: self.now)

    def _measure(self):
        self.looks += 1
        return self.rss

    def exceeded(self, after=1.0, rss=None):
        self.now += after
        self.rss = self.rss if rss is None else rss
        return self.limit.exceeded()


@pytest.mark.parametrize(("rss", "told"), [(LIMIT - 1, 0), (LIMIT, 0), (LIMIT + 1, LIMIT + 1)])
def test_X05_beyond_the_limit_it_says_how_much_it_is(rss, told):
    assert Timed().exceeded(after=GRACE_SECONDS, rss=rss) == told


def test_it_looks_once_a_second():
    timed = Timed()
    for _ in range(50):
        timed.exceeded(after=0.1)
    assert timed.looks in (4, 5)


def test_X05_in_its_first_minute_a_worker_serves_on_and_warns_once(caplog):
    timed = Timed()
    with caplog.at_level(logging.WARNING):
        assert [timed.exceeded(rss=LIMIT + 1) for _ in range(int(GRACE_SECONDS) - 1)] == [0] * (int(GRACE_SECONDS) - 1)
    assert [re.sub("reason=.*", "", message) for message in caplog.messages] == ["memory_above_limit rss=101 limit=100 "]
    assert timed.exceeded() == LIMIT + 1


def test_without_a_limit_it_does_not_look():
    timed = Timed(limit=0)
    assert timed.exceeded(after=GRACE_SECONDS, rss=1 << 50) == 0
    assert timed.looks == 0
