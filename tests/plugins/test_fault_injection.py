"""Faults on purpose: who meets them, how often, and what they look like."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from gwproxy import Context, Headers, Request
from gwproxy.errors import Aborted
from gwproxy.plugins.fault_injection import FaultInjection, FaultInjectionConfig


def met(*fields: tuple[str, str], **config: Any) -> Aborted | None:
    """Return how a request is aborted; None: it is not."""
    try:
        FaultInjection().pre_proxy(Context(Request("GET", "/", headers=Headers(fields))), FaultInjectionConfig(**config))
    except Aborted as aborted:
        return aborted
    return None


def test_name_and_priority() -> None:
    assert (FaultInjection.name, FaultInjection.priority) == ("fault_injection", 500)


@pytest.mark.parametrize(
    ("abort", "status", "body"),
    [({}, 503, {"error": "Injected fault"}), ({"status": 418, "body": "tea"}, 418, "tea"), ({"status": 204, "body": ""}, 204, "")],
)
def test_an_abort_has_a_status_and_a_body(abort: dict[str, Any], status: int, body: object) -> None:
    aborted = met(abort=abort)
    assert aborted is not None
    assert (aborted.status, aborted.body) == (status, body)


def test_a_delay_waits_and_lets_the_request_go_on() -> None:
    began = time.monotonic()
    assert met(delay={"seconds": 0.05}) is None
    assert time.monotonic() - began >= 0.05


def test_a_delayed_request_may_be_aborted_too() -> None:
    began = time.monotonic()
    assert met(delay={"seconds": 0.05}, abort={}) is not None
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_shares(share: float) -> None:
    aborted = sum(met(abort={"share": share}) is not None for _ in range(2000))
    assert abs(aborted - 2000 * share) <= 4 * (2000 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(
    ("fields", "meets"),
    [
        ([("X-Fault", "on"), ("X-Team", "a")], True),
        ([("x-fault", "on"), ("x-team", "b"), ("x-team", "a")], True),
        ([("X-Fault", "on")], False),
        ([("X-Fault", "On"), ("X-Team", "a")], False),
        ([], False),
    ],
)
def test_only_who_has_the_headers_meets_a_fault(fields: list[tuple[str, str]], meets: bool) -> None:
    assert (met(*fields, headers={"X-Fault": "on", "X-Team": "a"}, abort={}) is not None) == meets


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"headers": {"a": "b"}},
        {"delay": {}},
        {"delay": {"seconds": 0}},
        {"delay": {"seconds": 61}},
        {"abort": {"status": 199}},
        {"abort": {"status": 600}},
        {"abort": {"share": 1.1}},
        {"abort": {"share": -0.1}},
        {"abort": {}, "percentage": 5},
    ],
)
def test_what_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FaultInjectionConfig(**config)
