"""Seats, contexts and picks for tests of balancing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from gwproxy import Context, Headers, Request
from gwproxy.dataplane.seat import Seat
from gwproxy.dataplane.target import LiveTarget

Balance = Callable[[Sequence[Seat]], Callable[[Context], LiveTarget]]


def seats(*weights: int) -> list[Seat]:
    return [Seat(LiveTarget(f"http://10.0.0.{index}:8000"), weight) for index, weight in enumerate(weights, 1)]


def ctx(address: str = "192.0.2.1", path: str = "/", **headers: str) -> Context:
    return Context(Request("GET", path, headers=Headers(headers.items()), remote_addr=address))


def clients(count: int) -> list[Context]:
    """So many requests, each of another client."""
    return [ctx(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(count)]


def shares(balance: Balance, them: Sequence[Seat], picks: int) -> list[float]:
    """The share of each seat in so many picks, each request over before the next."""
    one, choose = ctx(), balance(them)
    counts = Counter(id(choose(one)) for _ in range(picks))
    return [counts[id(seat.target)] / picks for seat in them]
