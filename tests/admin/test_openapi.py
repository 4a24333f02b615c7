"""The description of the API: made of the table it routes by, and complete."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gwproxy.admin.table import ENDPOINTS
from tests.admin.conftest import Api


@pytest.fixture
def described(api: Api) -> Any:
    return api.json("/openapi.json")


def test_every_endpoint_is_described_with_its_role(described: Any) -> None:
    assert described["openapi"] == "3.1.0"
    for endpoint in ENDPOINTS:
        operation = described["paths"][endpoint.path][endpoint.method.lower()]
        assert f"`{endpoint.role}`" in operation["description"]
        assert operation["summary"]
        assert ("requestBody" in operation) == (endpoint.body is not None)
        assert {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"} == set(
            re.findall(r"\{(\w+)\}", endpoint.path)
        )


def test_operations_have_names_of_their_own(described: Any) -> None:
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) == len(ENDPOINTS) + 2


def test_every_reference_leads_somewhere(described: Any) -> None:
    named = described["components"]["schemas"]
    assert set(re.findall(r"#/components/schemas/(\w+)", str(described))) <= set(named)


def test_only_the_probes_need_no_token(described: Any) -> None:
    assert described["security"] == [{"token": []}]
    without = {path for path, operations in described["paths"].items() for each in operations.values() if each.get("security") == []}
    assert without == {"/healthz", "/readyz"}


def test_D06_nothing_takes_an_address_to_connect_to(described: Any) -> None:
    """What is explained or validated holds URLs; the one thing the process connects to is the store of its settings."""
    taken = {
        parameter["name"] for path in described["paths"].values() for each in path.values() for parameter in each.get("parameters", [])
    }
    assert not {name for name in taken if re.search(r"url|uri|host|target|upstream_address|callback", name, re.IGNORECASE)}
