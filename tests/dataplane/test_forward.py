"""Forwarding: what is sent again and what is not, to a real service in a thread."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.service import Gate, Service


@pytest.fixture
def service() -> Iterator[Service]:
    with Service().running() as running:
        yield running


@pytest.fixture
def gate() -> Gate:
    return Gate()


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
