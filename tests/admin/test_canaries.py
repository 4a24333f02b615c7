"""A canary by the API; what it does on workers is tests/e2e's."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gwproxy.admin.app import AdminApp
from gwproxy.store.configuration import ConfigurationStore
from tests.admin.conftest import DOCUMENT, SECRET, Api

NEW = {"path": "/new", "upstream": "http://127.0.0.1:9001"}
WANTED: dict[str, Any] = {"share": 5, "abort_if": ["5xx > 1%"], "comment": "try"}


@pytest.fixture
def operator(role) -> Api:
    return role("operator")


def candidate(operator: Api) -> dict[str, Any]:
    document = operator.json("/v1/config")
    document["routes"].append(NEW)
    return {**WANTED, "config": document}


def test_one_is_begun_looked_at_and_promoted(operator: Api, store: ConfigurationStore, live: int) -> None:
    begun = operator("POST", "/v1/canary", candidate(operator))
    assert begun.status_code == 201, begun.text
    assert (begun.json["base"], begun.json["share"]) == (live, 5.0)
    assert [(change["name"], change["action"]) for change in begun.json["changes"]] == [("new", "added")]
    running = operator.json("/v1/canary")["candidate"]
    assert (running["actor"], running["share"], running["rules"]["abort_if"]) == ("a-operator", 5.0, ["5xx > 1%"])
    assert SECRET not in operator.get("/v1/canary").text
    promoted = operator("POST", "/v1/canary/promote")
    assert (promoted.status_code, promoted.json["revision"]) == (200, live + 1)
    data = store.read().data
    assert data is not None
    assert orjson.loads(data)["routes"] == [*DOCUMENT["routes"], NEW]  # with the secrets that were told as masks
    assert operator.json("/v1/canary")["last"]["outcome"] == "promoted"


def test_one_is_aborted_with_its_reason(operator: Api, store: ConfigurationStore, live: int) -> None:
    operator("POST", "/v1/canary", candidate(operator))
    ended = operator("POST", "/v1/canary/abort", {"reason": "complaints"})
    assert (ended.status_code, ended.json["candidate"]) == (200, None)
    assert (ended.json["last"]["outcome"], "complaints" in ended.json["last"]["reason"]) == ("aborted", True)
    assert store.read().revision == live


def test_what_cannot_be_is_refused_and_recorded(operator: Api, app: AdminApp, live: int) -> None:
    assert operator("POST", "/v1/canary/promote").status_code == 404
    assert operator("POST", "/v1/canary/abort", {}).status_code == 404
    wanted = candidate(operator)
    assert operator("POST", "/v1/canary", {**wanted, "abort_if": ["nonsense"]}).status_code == 422
    assert operator("POST", "/v1/canary", {**wanted, "share": 0}).status_code == 422
    stale = operator("POST", "/v1/canary", wanted, headers={"If-Match": '"99"'})
    assert (stale.status_code, stale.json["conflict"]["revision"]) == (409, live)
    assert operator("POST", "/v1/canary", wanted).status_code == 201
    other = {**wanted, "config": {"routes": [NEW]}}
    assert operator("POST", "/v1/canary", other).status_code == 409
    outcomes = [(entry.action, entry.outcome) for entry in app.plane.audit.entries()]
    assert outcomes.count(("canary", "refused")) == 2
