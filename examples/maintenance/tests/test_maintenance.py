from datetime import UTC, datetime
from typing import Any

import pytest
from gwproxy.testing import Answer, ConfigurationRefused, InProcessGateway

from gwproxy_maintenance import Maintenance

# 2030-06-02 is a Sunday.
NIGHTLY = {"weekly": [{"at": "23:30", "minutes": 120}]}
SUNDAYS = {"weekly": [{"days": ["sun"], "at": "23:30", "minutes": 120}]}
MORE = {"weekly": [{"days": ["mon", "wed"], "at": "08:00", "minutes": 30}, {"at": "08:10", "minutes": 5}]}
WEEK = {"weekly": [{"days": ["sun"], "at": "00:00", "minutes": 10080}]}
ONCE = {"once": [{"begins": "2030-06-02T22:00:00", "ends": "2030-06-02T23:00:00"}]}
EASTERN = {"once": [{"begins": "2030-06-02T22:00:00-04:00", "ends": "2030-06-02T23:00:00-04:00"}]}


def ask(gateway: InProcessGateway, at: str, config: dict[str, Any]) -> Answer:
    gateway.use(Maintenance, config)
    gateway.clock.set(datetime.fromisoformat(at).replace(tzinfo=UTC))
    return gateway.get()


@pytest.mark.parametrize(
    ("config", "at", "left"),
    [
        ({}, "2030-06-02T12:00:00", None),
        (NIGHTLY, "2030-06-02T23:29:59", None),
        (NIGHTLY, "2030-06-02T23:30:00", 7200),
        (NIGHTLY, "2030-06-03T00:00:30", 5370),
        (NIGHTLY, "2030-06-03T01:29:59", 1),
        (NIGHTLY, "2030-06-03T01:30:00", None),
        (SUNDAYS, "2030-06-03T01:00:00", 1800),
        (SUNDAYS, "2030-06-03T23:30:00", None),
        (SUNDAYS, "2030-06-09T23:30:00", 7200),
        (MORE, "2030-06-05T08:10:00", 1200),
        (MORE, "2030-06-06T08:10:00", 300),
        (WEEK, "2030-06-08T23:59:59", 1),
        (ONCE, "2030-06-02T21:59:59", None),
        (ONCE, "2030-06-02T22:59:30", 30),
        (ONCE, "2030-06-02T23:00:00", None),
        ({**ONCE, "timezone": "Europe/Berlin"}, "2030-06-02T20:00:00", 3600),
        ({**ONCE, "timezone": "Europe/Berlin"}, "2030-06-02T22:00:00", None),
        ({**EASTERN, "timezone": "Europe/Berlin"}, "2030-06-03T02:00:00", 3600),
        ({**NIGHTLY, "timezone": "Europe/Berlin"}, "2030-06-02T21:30:00", 7200),  # summer
        ({**NIGHTLY, "timezone": "Europe/Berlin"}, "2030-12-02T22:30:00", 7200),  # winter
    ],
)
def test_it_is_closed_within_its_windows_and_says_for_how_long(gateway: InProcessGateway, config: Any, at: str, left: int | None) -> None:
    answer = ask(gateway, at, config)
    if left is None:
        assert answer.status == 200
        return
    assert (answer.status, answer.json(), answer.seen) == (503, {"error": "Service Unavailable"}, ())
    assert 0 <= left - int(answer.headers["Retry-After"]) <= 5  # the clock goes on while the request does


def test_it_opens_by_itself(gateway: InProcessGateway) -> None:
    assert ask(gateway, "2030-06-02T23:40:00", NIGHTLY).status == 503
    gateway.clock.advance(110 * 60)
    assert gateway.get().status == 200


def test_closed_by_hand_nobody_knows_for_how_long(gateway: InProcessGateway) -> None:
    gateway.use(Maintenance, {"closed": True})
    answer = gateway.get()
    assert answer.status == 503
    assert "Retry-After" not in answer.headers


def test_who_only_reads_is_served_where_reading_goes_on(gateway: InProcessGateway) -> None:
    gateway.use(Maintenance, {"closed": True, "read_only": True})
    assert [gateway.request(method).status for method in ("GET", "HEAD", "OPTIONS", "POST", "DELETE")] == [200, 200, 200, 503, 503]


def test_a_websocket_is_not_only_reading(gateway: InProcessGateway) -> None:
    gateway.add(Maintenance)
    gateway.route(websocket=True, plugins=[{"name": "maintenance", "config": {"closed": True, "read_only": True}}])
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "eHh4eHh4eHh4eHh4eHh4eA==",
    }
    assert gateway.get(headers=upgrade).status == 503


@pytest.mark.parametrize(("client", "status"), [("10.7.0.1", 200), ("2001:db8::7", 200), ("192.0.2.1", 503), ("2001:db9::7", 503)])
def test_who_does_the_work_is_let_through(gateway: InProcessGateway, client: str, status: int) -> None:
    gateway.use(Maintenance, {"closed": True, "allow": ["10.0.0.0/8", "2001:db8::/32"]})
    assert gateway.get(client=client).status == status


def test_pages_of_other_origins_may_read_why(gateway: InProcessGateway) -> None:
    gateway.use("cors", {"origins": ["https://app.example.com"]})
    gateway.use(Maintenance, {"closed": True})
    preflight = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "PUT"}
    assert gateway.request("OPTIONS", headers=preflight).status == 204
    refused = gateway.request("PUT", headers=preflight)
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (503, "https://app.example.com")


@pytest.mark.parametrize(
    "wrong",
    [
        {"timezone": "Europe/Atlantis"},
        {"timezone": "Europe"},
        {"timezone": "../../etc/passwd"},
        {"allow": ["10.0.0.1/8"]},
        {"weekly": [{"at": "24:00", "minutes": 5}]},
        {"weekly": [{"at": "10:00", "minutes": 0}]},
        {"weekly": [{"at": "10:00", "minutes": 5, "days": []}]},
        {"once": [{"begins": "2030-06-02T22:00:00", "ends": "2030-06-02T22:00:00"}]},
        {"once": [{"begins": "2030-06-02T22:00:00Z", "ends": "2030-06-02T23:00:00"}]},
    ],
)
def test_what_is_refused(gateway: InProcessGateway, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationRefused):
        gateway.use(Maintenance, wrong)
