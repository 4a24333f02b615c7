"""What plugins write into fields (rows H14, H15), and how many connections upstreams get (U34, U35), through running workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.awkward import install
from tests.e2e.conftest import GatewayProcess, RedisServer, publish
from tests.e2e.raw import RawClient
from tests.e2e.scripted import OK, ScriptedService, Seen

pytestmark = pytest.mark.e2e

PLACES = ("request", "response", "answer")


@pytest.fixture(scope="module")
def dozen() -> Iterator[list[ScriptedService]]:
    services = [ScriptedService() for _ in range(12)]
    yield services
    for service in services:
        service.close()


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    service: ScriptedService,
    dozen: list[ScriptedService],
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    routes = [
        {"path": "/many", "upstream": service.url},
        *(
            {"path": f"/{where}", "upstream": service.url, "plugins": [{"name": "scribbler", "config": {"where": where}}]}
            for where in PLACES
        ),
        *({"path": f"/of-twelve/{number}", "upstream": each.url} for number, each in enumerate(dozen)),
    ]
    publish(redis_server, routes)
    settings = {"GWPROXY_REDIS_URL": redis_server.url, "PYTHONPATH": install(tmp_path_factory.mktemp("site"))}
    return start_gateway(workers=1, **settings).ready()


@pytest.mark.parametrize("scribble", [r"a\r\nX-Admin: 1", r"a\nb", r"a\rb", r"a\x00b", r"\u20ac"], ids=["CRLF", "LF", "CR", "NUL", "euro"])
@pytest.mark.parametrize("where", [pytest.param(where, id=f"H1{4 if where == 'request' else 5}-{where}") for where in PLACES])
def test_what_cannot_stand_in_a_field_is_500_and_goes_nowhere(
    gateway: GatewayProcess, service: ScriptedService, where: str, scribble: str
) -> None:
    while not service.requests.empty():
        service.requests.get()
    with RawClient(gateway.port) as client:
        answer = client.ask(f"/{where}", f"X-Scribble: {scribble}")
        assert b"X-Admin" not in answer.raw
        assert service.requests.empty() == (where == "request")  # nothing of it was sent
        if where == "answer" and answer.status == 200:  # a plugin of the last phase is passed over, and what it wrote with it
            assert answer.get("X-Note") is None
        else:
            assert (answer.status, answer.json()) == (500, {"error": "Internal Server Error"})
        answer = client.ask(f"/{where}", "X-Scribble: fine")
        assert (answer.status, answer.body) == (200, b"ok")  # on the same connection: nothing is left over


def test_U34_connections_are_as_many_as_requests_at_once_and_are_used_again(gateway: GatewayProcess, service: ScriptedService) -> None:
    count, gate = 100, threading.Barrier(100)
    numbers: list[int] = []

    def together(seen: Seen) -> bytes:
        numbers.append(seen.number)
        gate.wait(30)  # until all of them are here
        return OK

    service.on("/many", together)
    used: list[set[int]] = []
    for _ in range(2):
        numbers.clear()
        with ThreadPoolExecutor(count) as pool:
            assert [answer.status_code for answer in pool.map(lambda _: gateway.get("/many"), range(count))] == [200] * count
        used.append(set(numbers))
    assert len(used[0]) == count
    assert used[1] == used[0]  # the second hundred opened none


def test_U35_each_of_a_dozen_upstreams_keeps_its_connection(gateway: GatewayProcess, dozen: list[ScriptedService]) -> None:
    with RawClient(gateway.port) as client:
        for _ in range(5):
            assert [client.ask(f"/of-twelve/{number}").status for number in range(12)] == [200] * 12
    for each in dozen:
        assert {each.next().number for _ in range(5)} == {1}


def test_U35_an_upstream_that_is_slow_holds_up_no_other(gateway: GatewayProcess, dozen: list[ScriptedService]) -> None:
    over = threading.Event()

    def held(seen: Seen) -> bytes:
        over.wait(30)
        return OK

    dozen[0].on("/of-twelve/0", held)
    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(gateway.get, "/of-twelve/0") for _ in range(50)]
        for _ in range(50):
            dozen[0].next("/of-twelve/0")
        began = time.monotonic()
        assert {gateway.get(f"/of-twelve/{number}").status_code for number in range(1, 12)} == {200}
        assert time.monotonic() - began < 10
        over.set()
        assert {each.result().status_code for each in waiting} == {200}
