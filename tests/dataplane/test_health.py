"""Active checks, against a real service in a thread."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from gwproxy import Context, Request
from gwproxy.dataplane.health import HealthChecks, ask
from gwproxy.dataplane.target import LiveTarget
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.errors import ServiceUnavailable
from gwproxy.model import Health, Target, Upstream
from tests.service import Service

HEALTH = Health(path="/healthz", interval=5, timeout=1, healthy_after=2, unhealthy_after=3)


@pytest.fixture
def service() -> Iterator[Service]:
    with Service().running() as running:
        yield running


def test_a_target_changes_after_as_many_results_in_a_row_as_configured() -> None:
    target = LiveTarget("http://127.0.0.1:9")
    results = [False, False, True, False, False, False, True, False, True, True]
    changes = [target.checked(result, HEALTH) for result in results]
    assert changes == [False] * 5 + [True] + [False] * 3 + [True]
    assert target.healthy


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, True), (302, True), (404, False), (500, False), (None, False)])
def test_what_counts_as_well(service: Service, status: int | None, well: bool) -> None:
    live = Upstreams().named("users", Upstream(targets=(Target(url=f"{service.url}/base"),), health=HEALTH))
    service.statuses = [status]
    assert ask(live, live.targets[0], HEALTH)[0] is well
    assert service.seen[0]["target"] == "/base/healthz"


def test_checks_take_a_target_out_and_bring_it_back(service: Service) -> None:
    now = 100.0
    upstreams = Upstreams()
    live = upstreams.named("users", Upstream(targets=(Target(url=service.url),), health=HEALTH))
    checks = HealthChecks(upstreams, lambda: now)
    ctx = Context(Request("GET", "/"))

    def rounds(count: int) -> None:
        nonlocal now
        for _ in range(count):
            gevent.joinall(checks.look(), raise_error=True)
            now += 5.6

    service.statuses = [503, 503, 503]
    rounds(3)
    with pytest.raises(ServiceUnavailable):
        live.pick(ctx)
    rounds(2)
    assert live.pick(ctx) is live.targets[0]
    assert len(service.seen) == 5


def test_a_check_is_due_once_an_interval(service: Service) -> None:
    now = 100.0
    upstreams = Upstreams()
    upstreams.named("users", Upstream(targets=(Target(url=service.url),), health=HEALTH))
    upstreams.of_url(service.url)
    checks = HealthChecks(upstreams, lambda: now)
    gevent.joinall(checks.look())
    assert checks.look() == []
    now += 4.4
    assert checks.look() == []
    now += 1.2
    assert len(checks.look()) == 1
