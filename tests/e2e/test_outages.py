"""Services are killed, slowed and cut off while traffic runs: what clients see of it, and for how long."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.pool import Asked, Pool, Traffic

pytestmark = pytest.mark.e2e

HEALTH = {"path": "/healthz", "interval": 0.2, "timeout": 0.3, "healthy_after": 2, "unhealthy_after": 2}
EJECTION = {"consecutive_errors": 3, "base_time": 1, "max_time": 1}
RETRIES = {"attempts": 3, "on": ["connect", "reset", "timeout"], "methods": ["GET"]}
HEAD = 1.0  # seconds until a request to a target that is silent goes to another
#: Seconds, by docs/upstreams.md: so many checks, a tenth more than their interval apart, the last of which times out; or so many failures.
OUT_AFTER = {"/checked": 2 * 0.2 * 1.1 + 0.3, "/ejecting": 3 * HEAD}
#: Or as long as it is out at most, and then from a tenth of its share to the whole.
BACK_AFTER = {"/checked": 2 * 0.2 * 1.1 + 0.3, "/ejecting": 1 + 1}
LATE = 4.0  # seconds that a machine with other work may be late


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("pool"))
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, pool: Pool) -> GatewayProcess:
    shared = {"targets": pool.targets, "retries": RETRIES}
    upstreams = {"checked": {**shared, "health": HEALTH}, "ejecting": {**shared, "ejection": EJECTION}}
    routes = [{"path": f"/{name}", "upstream": name, "timeout": {"connect": 0.5, "head": HEAD}} for name in upstreams]
    publish(redis_server, {"upstreams": upstreams, "routes": routes})
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url).ready()


def shares(requests: Sequence[Asked]) -> dict[str, float]:
    """Return what part of the requests each answered."""
    return {who: count / len(requests) for who, count in Counter(one.who for one in requests).items()}


def all_serve(traffic: Traffic, pool: Pool) -> bool:
    """Whether the newest requests are spread evenly; by how the round robin goes, two workers a turn apart."""
    found = shares(traffic.asked[-60:])
    return set(found) == set(pool.ports) and min(found.values()) > 0.2


@pytest.mark.parametrize(
    ("path", "how"),
    [("/checked", "killed"), ("/checked", "partitioned"), ("/checked", "slowed"), ("/ejecting", "killed"), ("/ejecting", "partitioned")],
)
def test_with_one_of_three_gone_no_idempotent_request_fails(gateway: GatewayProcess, pool: Pool, path: str, how: str) -> None:
    with Traffic(gateway.port, path) as traffic:
        until(lambda: all_serve(traffic, pool), "all three to serve")
        pool.strike("service-1", how)
        struck = time.monotonic()
        until(lambda: set(shares(traffic.goes_on(60))) == {"service-0", "service-2"}, "the others to serve alone", OUT_AFTER[path] + LATE)
        assert max(one.ended - one.began for one in traffic.goes_on()) < HEAD + LATE  # hardly anybody waits for it any more
        pool.heal("service-1", how)
        until(lambda: all_serve(traffic, pool), "all three to serve again", BACK_AFTER[path] + LATE)
    assert Counter(one.status for one in traffic.asked) == {200: len(traffic.asked)}
    assert len(traffic.since(struck)) > 200


def test_with_one_killed_what_may_not_be_repeated_is_not(gateway: GatewayProcess, pool: Pool) -> None:
    with Traffic(gateway.port, "/checked/order", "POST") as traffic:
        until(lambda: all_serve(traffic, pool), "all three to serve")
        pool.kill("service-2")
        traffic.goes_on()
    seen = pool.posted()
    pool.start("service-2")
    assert set(seen.values()) == {1}
    assert {one.status for one in traffic.asked} <= {200, 502}
    assert Counter(one.status for one in traffic.asked)[502] <= 6  # one a client: what it had sent when that died


def test_with_all_gone_it_is_503_soon_and_full_use_again_soon_after(gateway: GatewayProcess, pool: Pool) -> None:
    with Traffic(gateway.port, "/checked") as traffic:
        until(lambda: all_serve(traffic, pool), "all three to serve")
        for name in pool.ports:
            pool.kill(name)
        gone = time.monotonic()
        until(lambda: {one.status for one in traffic.goes_on(60)} == {503}, "503 for everybody", OUT_AFTER["/checked"] + LATE)
        unavailable = traffic.goes_on()
        assert {(one.status, one.retry_after, one.who) for one in unavailable} == {(503, "1", '{"error":"Service Unavailable"}')}
        assert {one.status for one in traffic.since(gone)} == {502, 503}
        for name in pool.ports:
            pool.start(name)
        until(lambda: all_serve(traffic, pool), "all three to serve again", BACK_AFTER["/checked"] + LATE)
        assert {one.status for one in traffic.goes_on()} == {200}
