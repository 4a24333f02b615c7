"""Forwarding: what is sent again and what is not, to a real service in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gwproxy.context import Context, UpstreamChoice
from gwproxy.dataplane.forward import _block
from gwproxy.dataplane.target import LiveTarget
from gwproxy.http.headers import Headers, Shared, field
from gwproxy.messages import Request
from gwproxy.model import Timeouts
from tests.dataplane.conftest import Peer, Serve
from tests.service import Gate, Service

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def service() -> Iterator[Service]:
    with Service().running() as running:
        yield running


@pytest.fixture
def gate() -> Gate:
    return Gate()


CHANGES: dict[str, Callable[[Headers], object]] = {
    "nothing": lambda headers: None,
    "one more": lambda headers: headers.add("X-B", "2"),
    "one less": lambda headers: headers.remove("X-A"),
    "a host": lambda headers: headers.add("Host", "of.a.plugin"),
    "what the gateway says": lambda headers: headers.add("X-Forwarded-Proto", "gopher"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("user", [None, "alice"])
def test_a_header_that_came_before_goes_on_as_any_other(change: Callable[[Headers], object], user: str | None) -> None:
    made = [
        field(name, value)
        for name, value in (("X-A", "1"), ("X-Forwarded-For", "1.1.1.1"), ("X-User-Id", "eve"), ("TE", "x"), ("x-a", "2"))
    ]
    shared, sent = Shared(made), set()
    for headers in (Headers.sharing(shared), Headers.sharing(shared), Headers.adopt(made.copy())):
        change(headers)
        ctx = Context(Request("GET", "/", "", headers, host_header="h", peer="192.0.2.1", remote_addr="192.0.2.1"), request_id="r")
        ctx.upstream = UpstreamChoice("http://a", "/", Timeouts())
        if user is not None:
            ctx.authenticate(user)
        sent.add(_block(ctx, LiveTarget("http://a")))
    assert len(sent) == 1
    assert b"gopher" not in sent.pop()


def test_U01_nobody_listens_is_502(gate: Gate) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        gate.serve([{"path": "/", "upstream": f"http://127.0.0.1:{taken.getsockname()[1]}"}])
        answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (502, {"error": "Bad Gateway"})


def test_U02_no_answer_is_504(gate: Gate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        gate.serve([{"path": "/", "upstream": f"http://127.0.0.1:{silent.getsockname()[1]}", "timeout": 0.1}])
        answer = gate.client.get("/")
    assert (answer.status_code, answer.json) == (504, {"error": "Gateway Timeout"})


def test_U05_a_reused_connection_that_died_is_tried_once_more(gate: Gate, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url}])
    assert gate.client.get("/").data
    service.statuses = [None]
    assert gate.client.get("/").status_code == 200
    assert len(service.seen) == 3


def test_U05_where_many_reused_connections_died_the_second_try_has_a_new_one(gate: Gate, serve: Serve) -> None:
    both = threading.Barrier(2)  # so that two connections are kept

    def dies(peer: Peer) -> None:
        peer.request()
        both.wait(10)
        peer.say(OK)
        peer.request()

    upstream = serve(dies, dies, [OK])
    gate.serve([{"path": "/", "upstream": f"http://127.0.0.1:{upstream.origin.port}"}])
    with ThreadPoolExecutor(2) as pool:
        assert {answer.status_code for answer in pool.map(lambda _: gate.client.get("/"), range(2))} == {200}
    assert gate.client.get("/").status_code == 200
    assert upstream.accepted == 3


def test_U06_a_post_that_may_have_been_seen_is_not_repeated(gate: Gate, service: Service) -> None:
    gate.serve([{"path": "/", "upstream": service.url}])
    assert gate.client.get("/").data
    service.statuses = [None]
    assert gate.client.post("/", data=b"x").status_code == 502
    assert len(service.seen) == 2


def retrying(service: Service, **retries: object) -> dict[str, object]:
    upstream = {"targets": [{"url": service.url}], "retries": retries}
    return {"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": upstream}}


def test_retries_as_configured(gate: Gate, service: Service) -> None:
    gate.serve(retrying(service, attempts=3, on=["503", "reset"], methods=["GET", "PUT"]))
    service.statuses = [503, None, 200]
    assert gate.client.get("/").status_code == 200
    service.statuses = [503, 503, 503]
    assert gate.client.get("/").status_code == 503
    service.statuses = [503]
    assert gate.client.post("/", data=b"x").status_code == 503
    service.statuses = [503, 200]
    answer = gate.client.put("/", data=b"again")
    assert answer.status_code == 200
    assert [seen["body"] for seen in service.seen[-2:]] == ["again", "again"]
    service.statuses = [503, 200]
    assert gate.client.put("/", data=b"x" * 70_000).status_code == 503


def test_a_retry_goes_to_the_next_target(gate: Gate, service: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        upstream = {"targets": [{"url": dead}, {"url": service.url}]}
        gate.serve({"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": upstream}})
        assert [gate.client.get("/").status_code for _ in range(6)] == [200] * 6


def test_an_open_breaker_answers_503_without_asking(gate: Gate, service: Service) -> None:
    upstream = {"targets": [{"url": service.url}], "breaker": {"failures": 2}}
    gate.serve({"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": upstream}})
    service.statuses = [503, 503]
    assert [gate.client.get("/").status_code for _ in range(3)] == [503, 503, 503]
    assert len(service.seen) == 2


def test_the_request_that_opens_the_breaker_is_told_what_failed(gate: Gate) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        upstream = {"targets": [{"url": f"http://127.0.0.1:{taken.getsockname()[1]}"}], "breaker": {"failures": 1}}
        gate.serve({"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": upstream}})
        assert [gate.client.get("/").status_code for _ in range(2)] == [502, 503]


@pytest.fixture
def pair() -> Iterator[tuple[Service, Service]]:
    with Service().running() as one, Service().running() as other:
        yield one, other


def of_pair(pair: tuple[Service, Service], **upstream: object) -> dict[str, object]:
    targets = [{"url": service.url} for service in pair]
    return {"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": {"targets": targets, **upstream}}}


def test_R16_what_one_target_answers_is_asked_of_the_next_and_never_twice_of_one(gate: Gate, pair: tuple[Service, Service]) -> None:
    gate.serve(of_pair(pair, retries={"attempts": 2, "on": ["503"]}))
    for service in pair:
        service.statuses = [503] * 3
    assert [gate.client.get("/").status_code for _ in range(3)] == [503] * 3
    assert [len(service.seen) for service in pair] == [3, 3]


@pytest.mark.parametrize("asked", ["30", "Thu, 01 Jan 2170 00:00:00 GMT"])
def test_R16_a_target_that_says_retry_after_is_not_tried_again_until_then(gate: Gate, service: Service, asked: str) -> None:
    gate.serve(retrying(service, attempts=3, on=["503"]))
    service.statuses, service.fields = [503, 503], [("Retry-After", asked)]
    answer = gate.client.get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, asked), "the client is told"
    assert len(service.seen) == 1
    assert gate.client.get("/").status_code == 503
    assert len(service.seen) == 2, "a first try is no retry"


def test_R16_retry_after_of_one_target_leaves_the_others(gate: Gate, pair: tuple[Service, Service]) -> None:
    gate.serve(of_pair(pair, retries={"attempts": 3, "on": ["503"]}))
    for service in pair:
        service.statuses, service.fields = [503] * 9, [("Retry-After", "60")]
    assert gate.client.get("/").status_code == 503
    assert [len(service.seen) for service in pair] == [1, 1], "two of three tries: nobody is left to ask"
    assert gate.client.get("/").status_code == 503
    assert sum(len(service.seen) for service in pair) == 3, "what the one has asked for holds for other requests, too"


def test_R16_retry_after_that_is_over_or_none_is_no_obstacle(gate: Gate, service: Service) -> None:
    gate.serve(retrying(service, attempts=2, on=["503"]))
    for asked in ("0", "soon", "Thu, 01 Jan 1970 00:00:00 GMT"):
        service.statuses, service.fields = [503], [("Retry-After", asked)]
        assert gate.client.get("/").status_code == 200


@pytest.mark.parametrize("kind", ["reset", "503"])
def test_R16_retries_never_multiply_an_outage(gate: Gate, service: Service, kind: str) -> None:
    gate.serve(retrying(service, attempts=5, on=[kind], budget={"share": 0.2, "min_per_second": 0.1}))
    service.statuses = [None if kind == "reset" else 503] * 1000
    assert {gate.client.get("/").status_code for _ in range(100)} == {502 if kind == "reset" else 503}
    # A second may pass within the hundred; the window that was counted is at least what was sent in it.
    assert 110 <= len(service.seen) <= 100 + 20 + 2
    assert gate.app.tally.get("retries", "users") == len(service.seen) - 100
    assert gate.app.tally.get("retries_over_budget", "users") >= 78


def test_R16_a_dead_target_costs_nothing_of_the_budget_while_another_can_be_reached(gate: Gate, service: Service) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        upstream = {"targets": [{"url": dead}, {"url": service.url}], "retries": {"budget": {"share": 0, "min_per_second": 0}}}
        gate.serve({"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": upstream}})
        assert {gate.client.get("/").status_code for _ in range(50)} == {200}


def test_R16_with_all_targets_dead_connects_are_not_multiplied(gate: Gate) -> None:
    with socket.socket() as one, socket.socket() as other:
        for taken in (one, other):
            taken.bind(("127.0.0.1", 0))
        targets = [{"url": f"http://127.0.0.1:{taken.getsockname()[1]}"} for taken in (one, other)]
        upstream = {"targets": targets, "retries": {"attempts": 5, "budget": {"share": 0, "min_per_second": 0}}}
        gate.serve({"routes": [{"path": "/", "upstream": "users"}], "upstreams": {"users": upstream}})
        assert {gate.client.get("/").status_code for _ in range(50)} == {502}
        assert gate.app.tally.get("retries", "users") <= 2, "until both were found dead"


@pytest.mark.parametrize(
    ("method", "body", "on", "first", "seen"),
    [
        pytest.param("POST", b"x", ["reset"], None, 1, id="U06-post-reset"),
        pytest.param("POST", b"x", ["503"], 503, 1, id="U06-post-503"),
        pytest.param("DELETE", b"", ["503"], 503, 1, id="delete-503"),
        pytest.param("PUT", b"", ["reset"], None, 1, id="put-reset"),
        pytest.param("GET", b"", ["connect"], None, 1, id="get-reset-not-asked-for"),
        pytest.param("GET", b"", ["reset"], None, 2, id="get-reset"),
        pytest.param("GET", b"x" * 70_000, ["503"], 503, 1, id="get-with-a-body-that-is-not-kept"),
    ],
)
def test_R16_what_may_have_been_acted_upon_is_sent_once(
    gate: Gate, service: Service, method: str, body: bytes, on: list[str], first: int | None, seen: int
) -> None:
    gate.serve(retrying(service, attempts=3, on=on))
    service.statuses = [first]
    gate.client.open("/", method=method, data=body)
    assert len(service.seen) == seen


def test_a_request_that_opens_the_breaker_is_not_sent_again(gate: Gate, service: Service) -> None:
    document = retrying(service, attempts=5, on=["503"])
    document["upstreams"]["users"]["breaker"] = {"failures": 2}  # type: ignore[index]
    gate.serve(document)
    service.statuses = [503] * 5
    assert gate.client.get("/").status_code == 503
    assert len(service.seen) == 2


def test_what_was_learnt_of_the_same_targets_survives_a_change(gate: Gate, pair: tuple[Service, Service]) -> None:
    def document(**upstream: object) -> dict[str, object]:
        return of_pair(pair, breaker={"failures": 2}, retries={"on": ["500"], "budget": {"share": 0, "min_per_second": 0.1}}, **upstream)

    gate.serve(document())
    pair[0].statuses = pair[1].statuses = [500] * 9
    assert {gate.client.get("/").status_code for _ in range(3)} == {500}
    assert gate.app.tally.get("retries", "users") == 1
    gate.serve(document(algorithm="random"))
    assert gate.client.get("/").status_code == 500
    assert gate.app.tally.get("retries", "users") == 1, "what was spent stays spent"
    pair[0].statuses = pair[1].statuses = [503, 503]
    assert {gate.client.get("/").status_code for _ in range(2)} == {503}
    asked = sum(len(service.seen) for service in pair)
    gate.serve(document(algorithm="least_connections"))
    assert gate.client.get("/").status_code == 503
    assert sum(len(service.seen) for service in pair) == asked, "an open circuit stays open"
    gate.serve(of_pair((pair[0], pair[0])[:1], breaker={"failures": 2}))  # type: ignore[arg-type]
    pair[0].statuses = []
    assert gate.client.get("/").status_code == 200, "of other targets nothing is known"


@pytest.mark.parametrize(("total", "tries"), [(None, 2), (0.5, 1)], ids=["waited for", "later than the whole exchange may take"])
def test_a_retry_waits_as_long_as_was_drawn_within_the_time_of_the_route(
    gate: Gate, service: Service, monkeypatch: pytest.MonkeyPatch, total: float | None, tries: int
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("gwproxy.dataplane.forward.time.sleep", slept.append)
    monkeypatch.setattr("gwproxy.dataplane.retry.random.random", lambda: 0.5)
    document = retrying(service, attempts=2, on=["503"], backoff={"base": 2, "max": 4})
    gate.serve({**document, "routes": [{"path": "/", "upstream": "users", "timeout": {"total": total}}]})
    service.statuses = [503, 200]
    assert gate.client.get("/").status_code == (200 if tries == 2 else 503)
    assert (slept, len(service.seen)) == ([1.0] * (tries - 1), tries)
