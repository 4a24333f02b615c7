"""Active checks, against a real service in a thread."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from gwproxy import Context, Request
from gwproxy.dataplane.health import HealthChecks, Result, Results, ask, key_of, patience
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


@pytest.mark.parametrize(
    ("status", "statuses", "well"),
    [
        *[(status, None, well) for status, well in [(200, True), (204, True), (302, True), (404, False), (500, False), (None, False)]],
        *[(status, (200, "4xx"), well) for status, well in [(200, True), (204, False), (302, False), (404, True), (500, False)]],
    ],
)
def test_what_counts_as_well(service: Service, status: int | None, statuses: tuple[object, ...] | None, well: bool) -> None:
    health = HEALTH if statuses is None else Health(statuses=statuses)  # type: ignore[arg-type]  # as JSON has it
    live = Upstreams().named("users", Upstream(targets=(Target(url=f"{service.url}/base"),), health=HEALTH))
    service.statuses = [status]
    assert ask(live, live.targets[0], health)[0] is well
    assert service.seen[0]["target"] == "/base/healthz"


def test_checks_take_a_target_out_and_bring_it_back(service: Service) -> None:
    now = 100.0
    upstreams = Upstreams()
    live = upstreams.named("users", Upstream(targets=(Target(url=service.url),), health=HEALTH))
    checks = HealthChecks(upstreams, clock=lambda: now)
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
    checks = HealthChecks(upstreams, clock=lambda: now)
    gevent.joinall(checks.look())
    assert checks.look() == []
    now += 4.4
    assert checks.look() == []
    now += 1.2
    assert len(checks.look()) == 1


@pytest.mark.parametrize(("jitter", "least", "most"), [(0.0, 5.0, 5.0), (0.1, 4.5, 5.5), (1.0, 0.0, 10.0)])
def test_intervals_differ_by_the_jitter_and_no_more(jitter: float, least: float, most: float) -> None:
    upstreams = Upstreams()
    health = Health(interval=5, jitter=jitter)
    live = upstreams.named("users", Upstream(targets=(Target(url="http://127.0.0.1:9"),), health=health))
    gaps = []
    for _ in range(200):
        live.targets[0].check_at = 100.0
        checks = HealthChecks(upstreams, clock=lambda: 100.0)
        gevent.killall(checks.look())
        gaps.append(live.targets[0].check_at - 100.0)
    assert least <= min(gaps)
    assert max(gaps) <= most
    assert max(gaps) - min(gaps) >= (most - least) * 0.8


class Shared:
    """Two workers of a host, without files: what one tells the other is told."""

    def __init__(self, service: Service, health: Health = HEALTH) -> None:
        self.now = 100.0
        self.wall = 1_790_000_000.0
        self.leader: Worker | None = None
        self.held: Results | None = None
        self.workers = [Worker(self, service.url, health) for _ in range(2)]

    def round(self, seconds: float = 0.0) -> list[int]:
        """Let time pass; return how many checks each worker has made."""
        self.now += seconds
        self.wall += seconds
        made = []
        for worker in self.workers:
            started = worker.checks.look()
            gevent.joinall(started, raise_error=True)
            made.append(len(started))
            worker.checks.look()
        return made


class Worker:
    """One of them, as its checks see the host."""

    def __init__(self, shared: Shared, url: str, health: Health) -> None:
        self.shared = shared
        self.seen: Results | None = None
        upstreams = Upstreams()
        self.live = upstreams.named("users", Upstream(targets=(Target(url=url),), health=health))
        self.checks = HealthChecks(upstreams, self, lambda: shared.now, lambda: shared.wall)

    def leads(self) -> bool:
        return self.shared.leader is self

    def tell(self, results: Results) -> None:
        self.shared.held = dict(results)

    def told(self) -> Results | None:
        news = self.shared.held if self.shared.held is not self.seen else None
        self.seen = self.shared.held
        return news


def test_one_worker_of_a_host_asks_and_all_know(service: Service) -> None:
    shared = Shared(service)
    leader, other = shared.workers
    shared.leader = leader
    service.statuses = [503] * 3
    made = [shared.round(5.6) for _ in range(3)]
    assert made == [[1, 0]] * 3
    assert len(service.seen) == 3
    assert not leader.live.targets[0].up
    shared.round()
    assert (other.live.targets[0].state, other.live.targets[0].why) == ("unhealthy", "status 503")
    for _ in range(2):
        shared.round(5.6)
    shared.round()
    assert other.live.targets[0].up


def test_a_worker_whose_asker_is_silent_asks_for_itself_and_stops_when_it_is_back(service: Service) -> None:
    shared = Shared(service)
    leader, other = shared.workers
    shared.leader = leader
    shared.round(1)
    shared.round()
    shared.workers = [other]  # the leader keeps the lock, and hangs
    assert shared.round(patience(HEALTH) - 0.1) == [0]
    assert shared.round(0.2) == [1]
    assert shared.round(5.6) == [1]
    shared.workers = [leader, other]
    shared.round(5.6)
    assert shared.round(5.6) == [1, 0]


def test_another_takes_over_with_what_was_known_at_the_interval(service: Service) -> None:
    shared = Shared(service)
    leader, other = shared.workers
    shared.leader = leader
    service.statuses = [503] * 3
    for _ in range(3):
        shared.round(5.6)
    shared.leader, shared.workers = other, [other]
    assert shared.round(0.1) == [0], "it was asked a moment ago"
    assert not other.live.targets[0].up
    assert shared.round(5.6) == [1]


def test_a_worker_that_starts_knows_what_the_host_knows_before_its_first_request(service: Service) -> None:
    shared = Shared(service)
    shared.leader = shared.workers[0]
    service.statuses = [503] * 3
    for _ in range(3):
        shared.round(5.6)
    started = Worker(shared, service.url, HEALTH)
    started.checks.meet()
    assert not started.live.targets[0].up
    assert started.checks.look() == []


@pytest.mark.parametrize(("age", "believed"), [(0.0, True), (7.0, True), (9.0, False), (-3600.0, False)])
def test_what_is_old_or_of_a_clock_that_was_set_is_not_believed(service: Service, age: float, believed: bool) -> None:
    shared = Shared(service)
    other = shared.workers[1]
    shared.held = {key_of(other.live, other.live.targets[0]): Result(False, shared.wall - age, "status 503")}
    other.checks.look()
    assert other.live.targets[0].up is not believed


def test_checks_by_other_rules_are_other_results(service: Service) -> None:
    shared = Shared(service)
    mine = Worker(shared, service.url, Health(path="/other")).live
    assert key_of(mine, mine.targets[0]) != key_of(shared.workers[0].live, shared.workers[0].live.targets[0])


def test_hearsay_counts_until_the_first_success_of_one_s_own(service: Service) -> None:
    upstreams = Upstreams()
    live = upstreams.named("users", Upstream(targets=(Target(url=service.url),), health=HEALTH))
    (target,) = live.targets
    now = 100.0
    checks = HealthChecks(upstreams, clock=lambda: now)
    key = key_of(live, target)
    service.statuses = [503]
    gevent.joinall(checks.look())
    assert target.up, "one failure is too few"
    checks.hear({key: False})
    assert (target.state, target.why) == ("unhealthy", "other hosts say so")
    now += 5.6
    gevent.joinall(checks.look())
    assert target.up, "one success is enough"
    checks.hear({key: False})
    assert target.up


def test_hearsay_of_what_the_host_had_seen_well_is_nothing_to_the_worker_that_takes_over(service: Service) -> None:
    shared = Shared(service)
    leader, other = shared.workers
    shared.leader = leader
    shared.round(5.6)
    shared.round()
    shared.leader = other
    other.checks.hear({key_of(other.live, other.live.targets[0]): False})
    assert other.live.targets[0].up
