"""Which side serves a client, and what is counted of it."""

from __future__ import annotations

import ipaddress
import json
import random
from typing import Any

import pytest

from gwproxy import Plugin, hookimpl
from gwproxy.context import Outcome
from gwproxy.dataplane.canary import BOUNDS, Canary, Side
from gwproxy.dataplane.snapshot import Snapshot
from tests.service import Gate, Service

CLIENTS = {
    "in a row": [str(ipaddress.IPv4Address(0x0A000000 + number)) for number in range(20_000)],
    "one a network": [f"10.{number >> 8}.{number & 255}.1" for number in range(20_000)],
    "IPv6": [f"2001:db8:{number:x}::1" for number in range(20_000)],
    "anywhere": [str(ipaddress.IPv4Address(random.Random(number).getrandbits(32))) for number in range(20_000)],
}


def canary(share: float, ident: str = "c1") -> Canary:
    return Canary(ident, object(), share)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.5, 5, 50, 95])
@pytest.mark.parametrize("clients", CLIENTS)
def test_the_share_is_kept_whatever_the_addresses_are_like(clients: str, share: float) -> None:
    """As if it was thrown for: of 20,000 clients, the share would be off by more than this once in ten thousand times."""
    served = sum(map(canary(share).serves, CLIENTS[clients]))
    expected = 20_000 * share / 100
    assert abs(served - expected) < 4 * (expected * (1 - share / 100)) ** 0.5 + 1


def test_none_and_all() -> None:
    for clients in CLIENTS.values():
        assert not any(map(canary(0).serves, clients))
        assert all(map(canary(100).serves, clients))


def test_a_client_stays_on_its_side_in_every_worker() -> None:
    """The numbers are those of any process, of today and of next year: workers of two versions agree."""
    some = canary(25, "7f3a")
    assert [client for client in CLIENTS["in a row"][:24] if some.serves(client)] == ["10.0.0.4", "10.0.0.9", "10.0.0.11", "10.0.0.18"]


def test_growth_keeps_who_is_in() -> None:
    growing = canary(1)
    before: set[str] = set()
    for share in (1, 5, 5.5, 30, 100):
        growing.resize(share)
        served = set(filter(growing.serves, CLIENTS["in a row"]))
        assert before <= served
        assert before != served
        before = served


@pytest.mark.parametrize("clients", CLIENTS)
def test_another_canary_picks_others(clients: str) -> None:
    """Else the same few clients would have to try everything."""
    one, two = ({client for client in CLIENTS[clients] if canary(20, ident).serves(client)} for ident in ("c1", "c2"))
    assert abs(len(one & two) - 20_000 * 0.04) < 4 * (20_000 * 0.04 * 0.96) ** 0.5


def outcome(status: int, duration: float = 0.01) -> Outcome:
    return Outcome(status, 0, 0, duration, True)


def test_a_side_counts_what_leaves() -> None:
    side = Side()
    for status in (200, 204, 304, 400, 404, 499, 500, 503, 599, 101):
        side.count(outcome(status))
    counts = side.counts()
    assert {name: counts[name] for name in ("requests", "4xx", "5xx")} == {"requests": 10, "4xx": 3, "5xx": 3}
    assert sum(count for name, count in counts.items() if name[0] == "b") == 9  # how long an upgraded connection lasts says nothing
    assert Side().counts() == {}


@pytest.mark.parametrize(
    ("duration", "bucket"), [(0.0, 0), (0.0005, 0), (0.00051, 1), (0.001, 4), (1.0, 44), (BOUNDS[-1], 71), (3600.0, 72)]
)
def test_latencies_are_told_to_a_fifth(duration: float, bucket: int) -> None:
    side = Side()
    side.count(outcome(200, duration))
    assert side.counts() == {"requests": 1, f"b{bucket}": 1}


# ---- in a gateway


class Mark(Plugin):
    name = "mark"

    @hookimpl
    def response(self, ctx: Any) -> None:
        ctx.response_headers["X-Seen"] = ctx.route.id if ctx.route else "none"


@pytest.fixture(scope="module")
def service() -> Any:
    with Service().running() as service:
        yield service


def both_sides(service: Service, share: float) -> tuple[Gate, Canary]:
    """A gateway that serves ``live`` and, to a share, ``next``; the latter has a global plugin."""
    gate = Gate(Mark())
    gate.serve({"routes": [{"id": "next", "path": "/x", "upstream": service.url}], "plugins": [{"name": "mark"}]})
    candidate: Snapshot = gate.app.gateway.snapshot  # type: ignore[assignment]
    gate.serve([{"id": "live", "path": "/x", "upstream": service.url}])
    gate.app.gateway.canary = Canary("c1", candidate, share)
    return gate, gate.app.gateway.canary


def test_each_client_gets_its_side_with_all_that_belongs_to_it(service: Service) -> None:
    gate, canary = both_sides(service, 50)
    for number in range(40):
        address = f"10.0.0.{number}"
        own = canary.serves(address)
        answers = [gate.client.get(path, environ_overrides={"REMOTE_ADDR": address}) for path in ("/x", "/none", "/%zz")]
        assert [answer.status_code for answer in answers] == [200, 404, 400]
        assert [answer.headers.get("X-Seen") for answer in answers] == (["next", "none", "none"] if own else [None] * 3)
        for answer in answers:
            answer.close()
    ours = sum(canary.serves(f"10.0.0.{number}") for number in range(40))
    assert 0 < ours < 40
    # A request that could not be read says nothing of either side.
    assert [(side.requests, side.client_errors, side.server_errors) for side in (canary.candidate, canary.live)] == [
        (2 * ours, ours, 0),
        (2 * (40 - ours), 40 - ours, 0),
    ]


def test_a_request_keeps_its_side_to_its_end(service: Service) -> None:
    gate, canary = both_sides(service, 100)
    answer = gate.client.get("/x", buffered=False)
    canary.resize(0)
    gate.app.gateway.canary = None
    assert answer.headers["X-Seen"] == "next"
    assert json.loads(answer.data)
    answer.close()
    assert (canary.candidate.requests, canary.live.requests) == (1, 0)


def test_shed_requests_have_the_plugins_of_their_side_and_count_for_none(service: Service) -> None:
    gate, canary = both_sides(service, 100)
    gateway = gate.app.gateway
    gateway.max_in_flight = 1
    gateway.in_flight.add(object())  # type: ignore[arg-type]
    answer = gate.client.get("/x")
    assert (answer.status_code, answer.headers["X-Seen"]) == (503, "none")
    assert canary.candidate.requests == 0
