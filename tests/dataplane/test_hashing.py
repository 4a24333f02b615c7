"""Consistent hashing: shares, what moves and what does not, and bounded loads, over many keys."""

from __future__ import annotations

import math
import time
from collections import Counter

import pytest

from gwproxy import Context
from gwproxy.dataplane.hashing import ConsistentHash
from gwproxy.dataplane.seat import Seat
from gwproxy.dataplane.target import LiveTarget
from tests.dataplane.seats import clients, ctx, seats

KEYS = clients(10_000)


def of(them: list[Seat], ring: ConsistentHash | None = None) -> list[LiveTarget]:
    """Where each key goes."""
    ring = ring or ConsistentHash(them, "client")
    choose = ring(them)
    return [choose(key) for key in KEYS]


def moved(before: list[LiveTarget], after: list[LiveTarget]) -> list[tuple[LiveTarget, LiveTarget]]:
    return [(old, new) for old, new in zip(before, after, strict=True) if old.url != new.url]


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 5), (1,) * 20, (1000, 500, 500)], ids=str)
def test_shares_are_those_of_the_weights_within_a_quarter(weights: tuple[int, ...]) -> None:
    them = seats(*weights)
    counts = Counter(of(them))
    for seat in them:
        fair = len(KEYS) * seat.weight / sum(weights)
        assert counts[seat.target] == pytest.approx(fair, rel=0.25)


def test_the_same_key_goes_to_the_same_target_in_every_worker() -> None:
    assert [target.url for target in of(seats(1, 2, 3))] == [target.url for target in of(seats(1, 2, 3))]


@pytest.mark.parametrize("rebuilt", [False, True], ids=["while it is out", "once it is removed"])
def test_a_target_that_leaves_moves_its_own_keys_only_and_to_all_others(rebuilt: bool) -> None:
    them = seats(1, 1, 1, 1, 1)
    ring = ConsistentHash(them, "client")
    before, left = of(them, ring), them[1:]
    after = of(left) if rebuilt else of(left, ring)
    gone = moved(before, after)
    assert all(old is them[0].target for old, _ in gone)
    assert len(gone) == before.count(them[0].target) <= len(KEYS) / 5 * 1.25
    heirs = Counter(new for _, new in gone)
    assert all(heirs[seat.target] > len(gone) / 4 / 2 for seat in left), "the others share them"


def test_a_target_that_joins_takes_its_own_share_and_no_key_moves_among_the_others() -> None:
    them = seats(1, 1, 1, 1, 1)
    before, after = of(them[:4]), of(them)
    assert all(new is them[4].target for _, new in moved(before, after))
    assert len(moved(before, after)) == pytest.approx(len(KEYS) / 5, rel=0.25)


def test_a_heavier_weight_takes_keys_from_the_others_only_for_itself() -> None:
    before, after = of(seats(1, 1, 1)), of(heavier := seats(1, 1, 2))
    assert all(new is heavier[2].target for _, new in moved(before, after))
    assert len(moved(before, after)) == pytest.approx(len(KEYS) * (1 / 2 - 1 / 3), rel=0.3)


@pytest.mark.parametrize(("weights", "factor"), [((1,) * 5, 1.25), ((1, 1, 2), 1.5), ((1, 1, 1), 1.0)], ids=str)
def test_no_target_has_more_in_flight_than_its_share_times_the_bound(weights: tuple[int, ...], factor: float) -> None:
    """Every request stays in flight, and most keys are one: without a bound one target would have them all."""
    them = seats(*weights)
    ring = ConsistentHash(them, "header:X-Key", factor)
    choose = ring(them)
    for number in range(1, 1001):
        target = choose(ctx(**{"X-Key": "hot" if number % 10 else str(number)}))
        target.active += 1
        for seat in them:
            assert seat.target.active <= math.ceil(factor * number * seat.weight / sum(weights))


def test_a_bound_moves_no_key_of_an_even_load_and_a_full_target_s_go_to_the_next_of_their_ring() -> None:
    them = seats(1, 1, 1, 1)
    free, bound = ConsistentHash(them, "client"), ConsistentHash(them, "client", 1.25)
    assert of(them, free) == of(them, bound)
    for seat in them:
        seat.target.active = 40
    full = free(them)(KEYS[0])
    full.active = 80
    others = [seat for seat in them if seat.target is not full]
    assert bound(them)(KEYS[0]) is free(others)(KEYS[0])


def test_a_target_that_comes_back_takes_more_and_more_of_its_own_keys() -> None:
    them = seats(1, 1, 1, 1)
    ring = ConsistentHash(them, "client")
    before = of(them, ring)
    own = {index for index, target in enumerate(before) if target is them[0].target}
    seen: set[int] = set()
    for share in (0.1, 0.5, 0.9):
        them[0].target.share = share
        now = of(them, ring)
        taken = {index for index, target in enumerate(now) if target is them[0].target}
        assert seen <= taken <= own
        assert len(taken) == pytest.approx(len(own) * share, rel=0.2)
        assert all(now[index] is before[index] for index in range(len(KEYS)) if index not in own)
        seen = taken


def test_when_all_come_back_every_key_has_a_target() -> None:
    them = seats(1, 1)
    for seat in them:
        seat.target.share = 0.1
    assert {target.url for target in of(them)} == {seat.target.url for seat in them}


@pytest.mark.parametrize(
    ("hash_on", "same", "other"),
    [
        ("header:X-Key", ctx("1.1.1.1", **{"X-Key": "a"}), ctx("1.1.1.1", **{"X-Key": "omega"})),
        ("cookie:session", ctx("1.1.1.1", Cookie="session=a"), ctx("1.1.1.1", Cookie="session=omega")),
        ("path", ctx("1.1.1.1", "/a"), ctx("1.1.1.1", "/b")),
    ],
)
def test_consistent_hash_by_what_is_configured(hash_on: str, same: Context, other: Context) -> None:
    them = seats(*[1] * 50)
    ring = ConsistentHash(them, hash_on)
    elsewhere = ctx("2.2.2.2", same.request.path)
    elsewhere.request.headers = same.request.headers
    assert ring(them)(same) is ring(them)(elsewhere)
    assert ring(them)(same) is not ring(them)(other)


def test_a_request_without_the_header_goes_by_its_client() -> None:
    them = seats(*[1] * 20)
    assert of(them, ConsistentHash(them, "header:X-Key")) == of(them, ConsistentHash(them, "client"))


def test_the_ring_of_a_thousand_targets_is_made_in_a_moment_and_is_still_fair() -> None:
    them = seats(*[1] * 1000)
    began = time.process_time()
    ring = ConsistentHash(them, "client")
    assert time.process_time() - began < 1.0
    counts = Counter(of(them, ring))
    assert max(counts.values()) < 10_000 / 1000 * 4
