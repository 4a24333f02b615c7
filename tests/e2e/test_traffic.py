"""Splits, canaries, mirrors, faults, retries, breakers and adaptive limits on a running worker, before services that fail and hang."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from gwproxy.store.configuration import digest_of
from tests.e2e import signers
from tests.e2e.conftest import HERE, GatewayProcess, Process, RedisServer, free_port, publish, until
from tests.e2e.running import call
from tests.e2e.scripted import OK, ScriptedService, Seen

pytestmark = pytest.mark.e2e

SECRET = "a-secret-of-more-than-32-bytes-for-tests"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
LATER = b"HTTP/1.1 503 Busy\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Two services, each a process of its own, that tell what they saw."""
    folder = tmp_path_factory.mktemp("sides")
    ports = {name: free_port() for name in ("old", "new")}
    started = [Process([sys.executable, str(HERE / "echo_service.py"), str(port)], folder / f"{port}.log") for port in ports.values()]
    for port in ports.values():
        until(lambda port=port: requests.get(f"http://127.0.0.1:{port}", timeout=5).ok, "an echo service")
    yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    for process in started:
        process.stop()


@pytest.fixture(scope="module")
def document(sides: dict[str, str], service: ScriptedService) -> dict[str, Any]:
    def scripted(**upstream: Any) -> dict[str, Any]:
        return {"targets": [{"url": service.url}], **upstream}

    even = {"old": 50, "new": 50}
    fault = {"name": "fault_injection"}
    routes: list[dict[str, Any]] = [
        {"path": "/split/lot", "split": {"weights": {"old": 75, "new": 25}}},
        {"path": "/split/cookie", "split": {"weights": even, "sticky": "cookie:side"}},
        {"path": "/split/header", "split": {"weights": even, "sticky": "header:X-Tenant"}},
        {
            "path": "/split/user",
            "split": {"weights": even, "sticky": "user"},
            "plugins": [{"name": "jwt_auth", "config": {"secret": SECRET}}],
        },
        {
            "path": "/of/{user}/orders",
            "split": {"weights": even, "sticky": "header:X-Tenant"},
            "plugins": [{"name": "request_transform", "config": {"rewrite_path": "/v2/orders/by-user/{user}"}}],
        },
        {"path": "/canary", "canary": {"upstream": service.url, "header": "X-Canary", "cookie": "beta"}, "preserve_host": True},
        {"path": "/mirror", "mirror": {"upstream": service.url, "max_body": "100KiB"}},
        {"path": "/mirror-hung", "mirror": {"upstream": service.url, "limit": 5}},
        {"path": "/delay", "plugins": [{**fault, "config": {"delay": {"seconds": 0.3}, "headers": {"X-Fault": "on"}}}]},
        {"path": "/abort", "plugins": [{**fault, "config": {"abort": {"status": 418, "body": "tea"}}}]},
        {"path": "/too-long", "plugins": [{**fault, "config": {"delay": {"seconds": 30}}, "budget": 0.2}]},
        *({"path": f"/{name}", "upstream": name} for name in ("one-dead", "outage", "later", "reset", "circuit", "shut", "adaptive")),
    ]
    upstreams = {
        **{name: {"targets": [{"url": url}]} for name, url in sides.items()},
        "one-dead": {
            "targets": [{"url": f"http://127.0.0.1:{free_port()}"}, *({"url": url} for url in sides.values())],
            "retries": {"budget": {"share": 0, "min_per_second": 0}},
        },
        "outage": scripted(retries={"attempts": 4, "on": ["503"], "budget": {"share": 0.2, "min_per_second": 0.1}}),
        "later": scripted(retries={"attempts": 4, "on": ["503"]}),
        "reset": scripted(retries={"attempts": 3, "on": ["reset"]}),
        "circuit": scripted(breaker={"failures": 3, "window": 60, "open_for": 3}),
        "shut": scripted(breaker={"failures": 2, "open_for": 300}),
        "adaptive": scripted(concurrency={"limit": 200, "queue": 0, "adaptive": {"min": 2, "initial": 100, "interval": 0.1}}),
    }
    plugins = [{"name": "access_log"}]
    return {"routes": [{"upstream": "old", **route} for route in routes], "upstreams": upstreams, "plugins": plugins}


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, document: dict[str, Any]) -> GatewayProcess:
    publish(redis_server, document)
    return start_gateway(workers=1, GWPROXY_REDIS_URL=redis_server.url).ready()


@pytest.fixture
def empty(service: ScriptedService) -> ScriptedService:
    """The service, with nothing left of the tests before."""
    while not service.requests.empty():
        service.requests.get()
    return service


def counted(gateway: GatewayProcess, redis_server: RedisServer) -> dict[str, int]:
    [beat] = gateway.heartbeats(redis_server.client())
    found: dict[str, int] = json.loads(beat["counters"])
    return found


def side_of(answer: requests.Response, sides: dict[str, str]) -> str:
    """Which of the two has answered: it was asked under its own name."""
    assert answer.status_code == 200, answer.text
    host = dict(answer.json()["headers"])["Host"]
    return next(name for name, url in sides.items() if url.endswith(host))


# ---- splits and canaries


def test_requests_are_shared_out_by_weight(gateway: GatewayProcess, sides: dict[str, str]) -> None:
    with requests.Session() as session:
        found = Counter(side_of(session.get(f"{gateway.url}/split/lot", timeout=20), sides) for _ in range(200))
    assert abs(found["new"] - 50) <= 4 * (200 * 0.25 * 0.75) ** 0.5, "four standard deviations"


def test_a_cookie_keeps_a_client_with_its_side(gateway: GatewayProcess, sides: dict[str, str]) -> None:
    first = set()
    for _ in range(12):
        answer = gateway.get("/split/cookie?header=Set-Cookie:own=1")
        assert answer.cookies.keys() == ["own", "side"]
        assert "HttpOnly" in answer.headers["Set-Cookie"]
        cookies = {"Cookie": f"side={answer.cookies['side']}"}
        found = {side_of(gateway.get("/split/cookie", headers=cookies), sides) for _ in range(4)}
        assert found == {side_of(answer, sides)}
        first |= found
    assert first == {"old", "new"}


def test_a_user_stays_with_its_side_whatever_its_token(gateway: GatewayProcess, sides: dict[str, str]) -> None:
    def asked(user: str) -> str:
        token = signers.token("HS256", SECRET.encode(), {"sub": user, "exp": time.time() + 300, "jti": str(time.monotonic_ns())})
        return side_of(gateway.get("/split/user", headers={"Authorization": f"Bearer {token}"}), sides)

    found = {user: {asked(user) for _ in range(4)} for user in "abcdefghijkl"}
    assert all(len(one) == 1 for one in found.values())
    assert set().union(*found.values()) == {"old", "new"}


def test_the_path_is_rewritten_by_template_parameters_whichever_side_it_is(gateway: GatewayProcess, sides: dict[str, str]) -> None:
    answers = [gateway.get("/of/a%2Fb/orders?x=1", headers={"X-Tenant": tenant}) for tenant in "abcdefgh"]
    assert {side_of(answer, sides) for answer in answers} == {"old", "new"}
    assert {answer.json()["target"] for answer in answers} == {"/v2/orders/by-user/a%2Fb?x=1"}


@pytest.mark.parametrize(
    ("headers", "canary"),
    [
        ({}, False),
        ({"X-Canary": "always"}, True),
        ({"Cookie": "a=b; beta=always"}, True),
        ({"X-Canary": "never", "Cookie": "beta=1"}, False),
    ],
)
def test_a_canary_is_asked_for_and_the_host_is_preserved(
    gateway: GatewayProcess, empty: ScriptedService, headers: dict[str, str], canary: bool
) -> None:
    answer = gateway.get("/canary/x", headers={"Host": "api.example.com", **headers})
    assert (answer.text == "ok") == canary
    host = empty.next("/canary/x").get("Host") if canary else dict(answer.json()["headers"])["Host"]
    assert host == "api.example.com"


def test_explain_and_replay_say_what_the_gateway_does_of_a_split(
    gateway: GatewayProcess,
    redis_server: RedisServer,
    service: ScriptedService,
    document: dict[str, Any],
    sides: dict[str, str],
    tmp_path: Path,
) -> None:
    def explained(path: str, *fields: str) -> dict[str, Any]:
        options = [argument for field in fields for argument in ("-H", field)]
        told: dict[str, Any] = json.loads(call(tmp_path, "explain", "GET", path, *options, "--json", env=gateway.env).stdout)
        return told

    tenants = {side_of(gateway.get("/split/header", headers={"X-Tenant": tenant}), sides): tenant for tenant in "abcdefgh"}
    for side, tenant in tenants.items():
        told = explained("/split/header", f"X-Tenant: {tenant}")
        assert (told["upstream"], [way["share"] for way in told["ways"]]) == (side, [1])
    assert {way["upstream"]: way["share"] for way in explained("/split/lot")["ways"]} == {"old": 0.75, "new": 0.25}
    assert explained("/canary/x", "Cookie: beta=always")["targets"] == [f"{service.url}/canary/x"]

    redis_server.client().delete("gw:access_log")
    before = {user: side_of(ask_as(gateway, user), sides) for user in "abcdef"}
    gateway.get("/split/lot")
    until(lambda: redis_server.client().llen("gw:access_log") == 7, "the entries")
    routes = [
        {**route, "split": {**route["split"], "weights": {"old": 0, "new": 1}}} if "split" in route else route
        for route in document["routes"]
    ]
    (tmp_path / "candidate.json").write_text(json.dumps({**document, "routes": routes}))
    replayed = json.loads(call(tmp_path, "replay", "live", "--config", "candidate.json", "--json", env=gateway.env).stdout)
    assert replayed["elsewhere"] == sum(side == "old" for side in before.values()), "of users it is known where they went"
    assert replayed["cannot_tell"]["requests"] == 1, "by lot: one of four goes where it went"


def ask_as(gateway: GatewayProcess, user: str) -> requests.Response:
    token = signers.token("HS256", SECRET.encode(), {"sub": user, "exp": time.time() + 300})
    return gateway.get("/split/user", headers={"Authorization": f"Bearer {token}"})


# ---- mirrors


def test_copies_have_the_body_and_its_size_is_bounded(gateway: GatewayProcess, redis_server: RedisServer, empty: ScriptedService) -> None:
    before = counted(gateway, redis_server).get("mirror_dropped:body", 0)
    for size in (0, 10, 100 << 10, (100 << 10) + 1):
        body = b"x" * size
        assert gateway.request("PUT", f"/mirror/{size}?a=%2F", data=body).json()["size"] == size
    for data, expected in ((b"0" * 70_000, 70_000), (b"0" * 200_000, None)):
        pieces = (data[at : at + 10_000] for at in range(0, len(data), 10_000))
        assert gateway.request("POST", f"/mirror/chunked{len(data)}", data=pieces).json()["size"] == len(data)
        if expected is not None:
            assert len(empty.next(f"/mirror/chunked{len(data)}").body) == expected
    until(lambda: counted(gateway, redis_server).get("mirror_dropped:body", 0) == before + 2, "two that were too long")
    assert empty.requests.empty()


def test_copies_are_the_request_and_what_the_copied_say_is_nobody_s_business(gateway: GatewayProcess, empty: ScriptedService) -> None:
    empty.on("/mirror/x", lambda seen: BUSY)
    answer = gateway.request("PUT", "/mirror/x?a=%2F", data=b"hello", headers={"X-Any": "1"})
    assert (answer.status_code, answer.json()["body"]) == (200, "hello")
    copy = empty.next("/mirror/x")
    assert (copy.method, copy.target, copy.body, copy.get("X-Any")) == ("PUT", "/mirror/x?a=%2F", b"hello", "1")
    assert copy.get("Host") == empty.url.partition("//")[2]
    assert copy.get("X-Request-ID") == dict(answer.json()["headers"])["X-Request-ID"]


def test_a_mirror_that_hangs_slows_nothing_and_holds_no_more_than_its_limit(
    gateway: GatewayProcess, redis_server: RedisServer, empty: ScriptedService
) -> None:
    go = threading.Event()

    def hang(seen: Seen) -> bytes:
        assert go.wait(30)
        return OK

    empty.on("/mirror-hung", hang)
    before = counted(gateway, redis_server).get("mirror_dropped:limit", 0)
    try:
        assert {gateway.get("/mirror-hung").status_code for _ in range(40)} == {200}  # while none of the copies is answered
        until(lambda: counted(gateway, redis_server).get("mirror_dropped:limit", 0) == before + 35, "what is beyond the limit, counted")
        assert empty.requests.qsize() == 5
    finally:
        go.set()
    until(lambda: gateway.get("/mirror-hung").ok and empty.requests.qsize() > 5, "copies again")


# ---- faults


def test_faults_on_purpose(gateway: GatewayProcess) -> None:
    assert gateway.get("/delay").elapsed.total_seconds() < 0.3
    slow = gateway.get("/delay", headers={"X-Fault": "on"})
    assert slow.status_code == 200
    assert slow.elapsed.total_seconds() >= 0.3
    aborted = gateway.get("/abort")
    assert (aborted.status_code, aborted.text) == (418, "tea")
    assert gateway.get("/too-long").status_code == 500, "a delay beyond the budget of its entry"


# ---- retries


def test_with_one_of_three_targets_dead_no_request_fails_though_the_budget_is_empty(gateway: GatewayProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(lambda _: gateway.get("/one-dead").status_code, range(120)))
    assert statuses == {200}


def test_R16_retries_are_a_share_of_the_requests_in_an_outage(
    gateway: GatewayProcess, redis_server: RedisServer, empty: ScriptedService
) -> None:
    empty.on("/outage", BUSY)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: gateway.get("/outage").status_code, range(150))) == {503}
    seen = empty.requests.qsize()
    assert 150 < seen <= 150 * 1.2 + 2, "each once, and a fifth of them once more, not three times each"
    until(lambda: counted(gateway, redis_server).get("retries_over_budget:outage", 0) >= 100, "those that were not sent again")


def test_R16_retry_after_is_respected_and_passed_on(gateway: GatewayProcess, empty: ScriptedService) -> None:
    empty.on("/later", LATER)
    answer = gateway.get("/later")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert empty.requests.qsize() == 1


@pytest.mark.parametrize(("method", "seen"), [("GET", 3), ("POST", 1), ("DELETE", 1)])
def test_R16_what_may_have_been_acted_upon_is_sent_once(gateway: GatewayProcess, empty: ScriptedService, method: str, seen: int) -> None:
    def reset(request: Seen) -> None:
        request.reset()

    empty.on("/reset", reset)
    assert gateway.request(method, "/reset", data=b"x" if method == "POST" else None).status_code == 502
    assert empty.requests.qsize() == seen


# ---- breaker, adaptive limit


def test_an_open_circuit_asks_nobody_and_one_probe_closes_it(gateway: GatewayProcess, empty: ScriptedService) -> None:
    empty.on("/circuit", BUSY)
    assert [gateway.get("/circuit").status_code for _ in range(2)] == [503] * 2
    before = time.monotonic()  # the third failure opens it, and its answer may come here a while later
    assert gateway.get("/circuit").status_code == 503
    refused = gateway.get("/circuit")
    assert (refused.status_code, refused.json()) == (503, {"error": "Service Unavailable"})
    assert math.ceil(3 - (time.monotonic() - before)) <= int(refused.headers["Retry-After"]) <= 3  # what is left of it, rounded up
    assert empty.requests.qsize() == 3
    arrived, go = threading.Event(), threading.Event()

    def slowly(seen: Seen) -> bytes:
        arrived.set()
        assert go.wait(30)
        return OK

    empty.on("/circuit", slowly)
    with ThreadPoolExecutor(1) as pool:

        def probe() -> requests.Response:
            answer = gateway.get("/circuit")
            return answer if answer.ok else until(lambda: (found := gateway.get("/circuit")).ok and found, "the probe")  # type: ignore[return-value]

        probing = pool.submit(probe)
        assert arrived.wait(20)
        assert time.monotonic() - before >= 3, "not before"
        assert {gateway.get("/circuit").status_code for _ in range(5)} == {503}, "the probe is alone"
        assert empty.requests.qsize() == 4
        go.set()
        assert probing.result().status_code == 200
    assert {gateway.get("/circuit").status_code for _ in range(5)} == {200}


def test_an_open_circuit_stays_open_when_its_upstream_is_described_anew(
    gateway: GatewayProcess, redis_server: RedisServer, document: dict[str, Any], empty: ScriptedService
) -> None:
    empty.on("/shut", BUSY)
    assert [gateway.get("/shut").status_code for _ in range(3)] == [503] * 3
    empty.on("/shut", OK)
    changed = {**document["upstreams"]["shut"], "keepalive": False}
    text = publish(redis_server, {**document, "upstreams": {**document["upstreams"], "shut": changed}})
    until(lambda: [beat["digest"] for beat in gateway.heartbeats(redis_server.client())] == [digest_of(text.encode())], "the change")
    assert gateway.get("/shut").status_code == 503
    assert empty.requests.qsize() == 2


def test_an_adaptive_limit_comes_down_to_what_the_upstream_can_do(
    gateway: GatewayProcess, redis_server: RedisServer, empty: ScriptedService
) -> None:
    """The service works on four at once, and would take any number: who asks for more waits in it, unless the gateway says 503."""
    four, stop = threading.BoundedSemaphore(4), threading.Event()

    def works(seen: Seen) -> bytes:
        with four:
            time.sleep(0.01)
        return OK

    empty.on("/adaptive", works)
    refused: list[requests.Response] = []

    def load() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.get(f"{gateway.url}/adaptive", timeout=30)
                if answer.status_code == 503:
                    refused.append(answer)
                    time.sleep(0.05)

    def limit() -> int:
        [beat] = gateway.heartbeats(redis_server.client())
        return next(int(one["limit"]) for one in json.loads(beat["upstreams"]) if one["upstream"] == "adaptive")

    with ThreadPoolExecutor(60) as pool:
        for _ in range(60):
            pool.submit(load)
        try:
            until(lambda: 2 <= limit() <= 40 and refused, "a limit well below the 60 that ask", within=30)
        finally:
            stop.set()
    assert refused[0].headers["Retry-After"] == "1"
    assert gateway.get("/adaptive").status_code == 200
