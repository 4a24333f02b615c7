"""Which target gets the next request: shares over many picks, within bounds that chance exceeds once in a million runs."""

from __future__ import annotations

import itertools
import random
from collections import deque

import pytest

from gwproxy.dataplane.balancer import LeastConnections, RoundRobin, balancer_for, two_choices, weighted_random
from gwproxy.dataplane.seat import Seat
from gwproxy.dataplane.target import LiveTarget
from gwproxy.model import Target, Upstream
from tests.dataplane.seats import Balance, ctx, seats, shares


def test_a_target_knows_its_parts() -> None:
    target = LiveTarget("https://[2001:db8::1]:8443/base/")
    assert (target.base, target.prefix, target.authority) == ("https://[2001:db8::1]:8443", "/base", "[2001:db8::1]:8443")
    plain = LiveTarget("http://users")
    assert (plain.origin.port, plain.authority, plain.prefix) == (80, "users", "")


def test_an_address_from_dns_is_asked_as_the_name_it_was_found_by() -> None:
    target = LiveTarget("https://10.0.0.5:8443/base", name="https://users.internal:8443/base")
    assert (target.base, target.origin.host, target.origin.server_name) == ("https://10.0.0.5:8443", "10.0.0.5", "users.internal")
    assert target.host_line == b"Host: users.internal:8443\r\n"
    assert target.origin.name != LiveTarget("https://10.0.0.5:8443", name="https://orders.internal:8443").origin.name
    service = LiveTarget("http://10.0.0.5:7001", name="http://_http._tcp.users.internal")
    assert (service.authority, service.origin.port) == ("users.internal", 7001)


def test_round_robin_is_smooth_and_by_weight() -> None:
    them = seats(5, 1, 1)
    choose = RoundRobin()(them)
    picked = [[seat.target for seat in them].index(choose(ctx())) for _ in range(14)]
    assert picked == [0, 0, 1, 0, 2, 0, 0] * 2


def test_round_robin_gives_exact_shares_and_never_bursts() -> None:
    them = seats(7, 2, 1)
    choose = RoundRobin()(them)
    picked = [choose(ctx()) for _ in range(10_000)]
    assert [picked.count(seat.target) for seat in them] == [7000, 2000, 1000]
    rare = [position for position, target in enumerate(picked) if target is them[2].target]
    assert {after - before for before, after in itertools.pairwise(rare)} == {10}


@pytest.mark.parametrize("weights", [(1, 3, 6), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("balance", [weighted_random, two_choices])
def test_random_choices_of_an_idle_upstream_are_by_weight(balance: Balance, weights: tuple[int, ...]) -> None:
    random.seed(1)
    for share, expected in zip(shares(balance, seats(*weights), 20_000), (weight / sum(weights) for weight in weights), strict=True):
        assert share == pytest.approx(expected, abs=0.018)  # five standard deviations


def test_least_connections_of_an_idle_upstream_are_by_weight() -> None:
    """Else the heaviest would get all of a low traffic."""
    assert shares(LeastConnections(), seats(1, 2), 3000) == pytest.approx([1 / 3, 2 / 3], abs=0.001)


def test_least_connections_counts_what_is_in_flight_by_weight() -> None:
    them = seats(1, 2)
    them[0].target.active, them[1].target.active = 2, 3
    assert LeastConnections()(them)(ctx()) is them[1].target
    them[1].target.active = 5
    assert LeastConnections()(them)(ctx()) is them[0].target


@pytest.mark.parametrize("balance", [RoundRobin(), LeastConnections()], ids=["round_robin", "least_connections"])
def test_equals_take_turns_also_while_the_seats_are_looked_at_again(balance: Balance) -> None:
    them = seats(2, 2, 2)
    assert shares(balance, them, 300) == [pytest.approx(1 / 3)] * 3
    picked = [balance(them)(ctx()) for _ in range(300)]
    assert [picked.count(seat.target) for seat in them] == [100] * 3


def test_least_connections_takes_turns_among_the_least_busy_only() -> None:
    them = seats(1, 1, 1, 1)
    them[1].target.active = 1
    choose = LeastConnections()(them)
    picked = [choose(ctx()) for _ in range(300)]
    assert [picked.count(seat.target) for seat in them] == [100, 0, 100, 100]


def test_two_choices_takes_the_less_busy_of_any_two() -> None:
    random.seed(1)
    them = seats(1, 1, 1)
    them[0].target.active = 9
    got = shares(two_choices, them, 6000)
    assert got[0] == 0.0, "of any two of three, one is idle"
    assert got[1] == pytest.approx(0.5, abs=0.035)
    assert two_choices(them[:1])(ctx()) is them[0].target


def served(balance: Balance, seconds: dict[int, float], rate: float, count: int) -> tuple[list[int], int]:
    """Send ``count`` requests, evenly spread, to targets that take so many seconds each; return their counts, and the most that waited."""
    random.seed(1)
    them = seats(*[1] * len(seconds))
    choose = balance(them)
    ends: deque[tuple[float, Seat]] = deque()
    counts, most = [0] * len(them), 0
    for number in range(count):
        now = number / rate
        for end, seat in [pair for pair in ends if pair[0] <= now]:
            ends.remove((end, seat))
            seat.target.active -= 1
        target = choose(ctx())
        index = [seat.target for seat in them].index(target)
        target.active += 1
        counts[index] += 1
        ends.append((now + seconds[index], them[index]))
        most = max(most, target.active)
    return counts, most


@pytest.mark.parametrize(
    ("balance", "bound"),
    [(RoundRobin(), 100), (LeastConnections(), 15), (two_choices, 25)],
    ids=["round_robin", "least_connections", "two_choices"],
)
def test_a_slow_target_gets_less_from_those_who_look_at_what_is_in_flight(balance: Balance, bound: int) -> None:
    """One of four targets takes fifty times as long: turns let requests pile up there, the others do not."""
    counts, most = served(balance, {0: 0.5, 1: 0.01, 2: 0.01, 3: 0.01}, rate=400, count=4000)
    if isinstance(balance, RoundRobin):
        assert counts == [1000] * 4
        assert most > bound / 2 - 1
    else:
        assert counts[0] < 4000 * 0.06
        assert most < bound


@pytest.mark.parametrize("algorithm", ["round_robin", "least_connections", "two_choices", "random"])
def test_each_algorithm_heeds_weights_and_shares_of_them(algorithm: str) -> None:
    random.seed(1)
    them = seats(1, 1)
    them[0].target.share = 0.25  # as one that comes back
    for seat in them:
        seat.refresh()
    described = Upstream(targets=(Target(url="http://a"),), algorithm=algorithm)  # type: ignore[arg-type]
    assert shares(balancer_for(described, them), them, 10_000) == pytest.approx([0.2, 0.8], abs=0.02)
