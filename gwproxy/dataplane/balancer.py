"""Which target gets the next request."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count

from gwproxy.context import Context
from gwproxy.dataplane.hashing import ConsistentHash
from gwproxy.dataplane.seat import Chooser, Seat
from gwproxy.dataplane.target import LiveTarget
from gwproxy.model import Upstream

#: Returns what picks among the seats it is given, which are never none, until the share of one of them changes.
Balancer = Callable[[Sequence[Seat]], Chooser]

_random = random.random  # no secret


def balancer_for(upstream: Upstream, seats: Sequence[Seat]) -> Balancer:
    """Return the balancer an upstream asks for.

    :param seats: all that it may ever be given.
    """
    if upstream.algorithm == "least_connections":
        return LeastConnections()
    if upstream.algorithm == "two_choices":
        return two_choices
    if upstream.algorithm == "random":
        return weighted_random
    if upstream.algorithm == "consistent_hash":
        return ConsistentHash(seats, upstream.hash_on or "client", upstream.hash_balance)
    return RoundRobin()


class RoundRobin:
    """Take turns by share, evenly spread. Equals cost no more the more they are."""

    def __init__(self) -> None:
        self._turns = count()  # goes on when the seats change: else the first would get one more each time

    def __call__(self, seats: Sequence[Seat]) -> Chooser:
        """Pick in turn."""
        if not _are_equal(seats):
            return lambda _ctx: smooth(seats)
        targets, turns, several = [seat.target for seat in seats], self._turns, len(seats)
        return lambda _ctx: targets[next(turns) % several]


class LeastConnections:
    """Take the target with the fewest requests in flight for its share; of equals, in turn by share: an idle upstream's, too."""

    def __init__(self) -> None:
        self._turns = count()

    def __call__(self, seats: Sequence[Seat]) -> Chooser:
        """Pick the least busy. Costs a pass."""
        if not _are_equal(seats):
            return lambda _ctx: _least(seats)
        targets, turns = [seat.target for seat in seats], self._turns

        def choose(_ctx: Context) -> LiveTarget:
            least = targets[0]
            fewest, among = least.active, 0
            for target in targets:
                if target.active < fewest:
                    least, fewest, among = target, target.active, 1
                elif target.active == fewest:
                    among += 1
            if among == 1:
                return least
            turn = next(turns) % among
            for target in targets:
                if target.active == fewest:
                    if turn == 0:
                        return target
                    turn -= 1
            return least  # a thread of another WSGI server has ended a request meanwhile

        return choose


def two_choices(seats: Sequence[Seat]) -> Chooser:
    """Draw two by share, and take the one with fewer requests in flight for its share; of equals, the one drawn first.

    Unlike the least of all, it does not send all workers to the same target.
    """
    if len(seats) == 1 or not _are_equal(seats):
        return lambda _ctx: _less_busy(seats)
    targets, several = [seat.target for seat in seats], len(seats)

    def choose(_ctx: Context) -> LiveTarget:
        first = int(_random() * several)
        one, other = targets[first], targets[first - 1 - int(_random() * (several - 1))]  # from the end, where that is negative
        return other if other.active < one.active else one

    return choose


def weighted_random(seats: Sequence[Seat]) -> Chooser:
    """Take any, by share."""
    if not _are_equal(seats):
        return lambda _ctx: _drawn(seats).target
    targets, several = [seat.target for seat in seats], len(seats)
    return lambda _ctx: targets[int(_random() * several)]


def _are_equal(seats: Sequence[Seat]) -> bool:
    return all(seat.share == seats[0].share for seat in seats)


def smooth(seats: Sequence[Seat]) -> LiveTarget:
    """Take the next by nginx's smooth weighted round robin. Costs a pass over the seats."""
    best = seats[0]
    total = 0.0
    for seat in seats:
        seat.current += seat.share
        total += seat.share
        if seat.current > best.current:
            best = seat
    best.current -= total
    return best.target


def _least(seats: Sequence[Seat]) -> LiveTarget:
    least, fewest = seats[0], float("inf")
    equals: list[Seat] | None = None  # those with the fewest, if they are several
    for seat in seats:
        load = seat.target.active / seat.share
        if load < fewest:
            least, fewest, equals = seat, load, None
        elif load == fewest:
            if equals is None:
                equals = [least]
            equals.append(seat)
    return least.target if equals is None else smooth(equals)


def _less_busy(seats: Sequence[Seat]) -> LiveTarget:
    first = _drawn(seats)
    if len(seats) == 1:
        return first.target
    second = _drawn(seats, first)
    return (second if second.target.active / second.share < first.target.active / first.share else first).target


def _drawn(seats: Sequence[Seat], without: Seat | None = None) -> Seat:
    """Draw one by share, another than ``without``. PERF: 0.7 us of three, where ``random.choices`` takes 4."""
    total = 0.0 if without is None else -without.share
    for seat in seats:
        total += seat.share
    left = _random() * total
    last = seats[0]
    for seat in seats:
        if seat is without:
            continue
        last = seat
        left -= seat.share
        if left < 0.0:
            break
    return last
