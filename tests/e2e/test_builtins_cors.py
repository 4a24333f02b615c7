"""Which pages may call: cors, each key of it, through running workers (rows C01 to C10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.e2e.conftest import GatewayProcess, RedisServer, publish
from tests.e2e.raw import RawClient
from tests.ports import free_port

pytestmark = pytest.mark.e2e

PAGE = "https://app.example.com"
GLOBAL_PAGE = "https://everywhere.example.com"


def routes() -> list[dict[str, Any]]:
    listed = {
        "origins": [PAGE, "https://*.example.org"],
        "methods": ["GET", "PATCH"],
        "headers": ["X-Custom"],
        "exposeHeaders": ["X-Total"],
        "allow_credentials": True,
        "maxAge": 600,
    }
    return [
        {"path": "/private", "plugins": [{"name": "jwt_auth"}]},
        {"path": "/cors/default", "plugins": [{"name": "cors"}]},
        {"path": "/cors/listed", "methods": ["GET", "PATCH"], "plugins": [{"name": "cors", "config": listed}]},
        {"path": "/cors/private", "plugins": [{"name": "cors", "config": listed}, {"name": "jwt_auth"}]},
        {"path": "/cors/down", "upstream": f"http://127.0.0.1:{free_port()}", "plugins": [{"name": "cors", "config": listed}]},
        {"path": "/cors/slow", "timeout": {"head": 0.2}, "plugins": [{"name": "cors", "config": listed}]},
        {"path": "/cors/none", "plugins": [{"name": "cors", "enabled": False}]},
    ]


@pytest.fixture(scope="module")
def gateway(start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str) -> GatewayProcess:
    everywhere = [{"name": "cors", "config": {"origins": [GLOBAL_PAGE]}}]
    publish(redis_server, {"plugins": everywhere, "routes": [{"upstream": echo, **route} for route in routes()]})
    secret = "the-shared-secret-of-the-environment-0123456789"
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, JWT_SECRET=secret).ready()


def granted(answer: requests.Response) -> dict[str, str]:
    """Return what a response grants, without the common beginning of the names."""
    begin = "Access-Control-"
    return {name.removeprefix(begin): value for name, value in answer.headers.items() if name.startswith(begin)}


def preflight(gateway: GatewayProcess, path: str, origin: str, method: str = "GET", headers: str = "") -> requests.Response:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return gateway.request("OPTIONS", path, headers={name: value for name, value in asked.items() if value})


def test_cors_by_default_grants_every_origin_and_no_credentials(gateway: GatewayProcess) -> None:
    answer = gateway.get("/cors/default", headers={"Origin": "https://whoever.example"})
    assert granted(answer) == {"Allow-Origin": "*"}
    assert "Vary" not in answer.headers


def test_cors_answers_preflights_itself(gateway: GatewayProcess) -> None:
    answer = preflight(gateway, "/cors/default", "https://whoever.example", "DELETE", "authorization")
    assert (answer.status_code, answer.content) == (204, b"")
    assert granted(answer) == {
        "Allow-Origin": "*",
        "Allow-Methods": "GET, POST, PUT, DELETE",
        "Allow-Headers": "Content-Type, Authorization",
    }


def test_cors_with_every_key_set(gateway: GatewayProcess) -> None:
    answer = gateway.get("/cors/listed", headers={"Origin": PAGE})
    assert answer.json()["target"] == "/cors/listed"
    assert granted(answer) == {"Allow-Origin": PAGE, "Allow-Credentials": "true", "Expose-Headers": "X-Total"}
    answer = preflight(gateway, "/cors/listed", "https://a.b.example.org", "PATCH", "x-custom")
    assert answer.status_code == 204
    assert granted(answer) == {
        "Allow-Origin": "https://a.b.example.org",
        "Allow-Credentials": "true",
        "Allow-Methods": "GET, PATCH",
        "Allow-Headers": "X-Custom",
        "Max-Age": "600",
    }


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "null",
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.io",
            "https://evil-app.example.com",
        ),
        *("https://appXexample.com", "https://example.org", "https://evilexample.org", "HTTPS://APP.EXAMPLE.COM"),
    ],
)
def test_C01_C02_another_origin_gets_the_answer_and_no_grant(gateway: GatewayProcess, origin: str) -> None:
    answer = gateway.get("/cors/listed", headers={"Origin": origin})
    assert (answer.status_code, granted(answer), answer.headers["Vary"]) == (200, {}, "Origin")
    answer = preflight(gateway, "/cors/listed", origin)
    assert (answer.status_code, granted(answer), answer.content) == (204, {}, b"")


def test_C04_every_answer_varies_by_origin_and_keeps_what_the_upstream_varies_by(gateway: GatewayProcess) -> None:
    assert gateway.get("/cors/listed").headers["Vary"] == "Origin"
    assert gateway.get("/cors/listed?header=Vary:Accept", headers={"Origin": PAGE}).headers["Vary"] == "Accept, Origin"


def test_C05_the_upstreams_cors_headers_are_replaced(gateway: GatewayProcess) -> None:
    said = (
        "?header=Access-Control-Allow-Origin:https://old.example&header=Access-Control-Allow-Methods:TRACE&header=Access-Control-Max-Age:9"
    )
    assert granted(gateway.get(f"/cors/default{said}", headers={"Origin": PAGE})) == {"Allow-Origin": "*"}
    assert granted(gateway.get(f"/cors/listed{said}", headers={"Origin": "https://evil.example"})) == {}
    untouched = {"Allow-Origin": "https://old.example", "Allow-Methods": "TRACE", "Max-Age": "9"}
    assert granted(gateway.get(f"/cors/none{said}", headers={"Origin": PAGE})) == untouched


@pytest.mark.parametrize(("path", "status"), [("/cors/private", 401), ("/cors/down", 502), ("/cors/slow?wait=0.6", 504)])
def test_C06_refusals_carry_the_grant(gateway: GatewayProcess, path: str, status: int) -> None:
    answer = gateway.get(path, headers={"Origin": PAGE})
    assert (answer.status_code, granted(answer)["Allow-Origin"], answer.headers["Vary"]) == (status, PAGE, "Origin")


def test_a_global_cors_grants_where_no_route_matches_and_on_routes_without_their_own(gateway: GatewayProcess) -> None:
    for path, status in (("/nowhere", 404), ("/private", 401)):
        answer = gateway.get(path, headers={"Origin": GLOBAL_PAGE})
        assert (answer.status_code, granted(answer)) == (status, {"Allow-Origin": GLOBAL_PAGE})
    assert granted(gateway.get("/cors/listed", headers={"Origin": GLOBAL_PAGE})) == {}
    assert granted(gateway.get("/cors/none", headers={"Origin": GLOBAL_PAGE})) == {}


def test_C07_C08_preflights_need_no_token_and_other_options_do(gateway: GatewayProcess) -> None:
    assert preflight(gateway, "/cors/private", PAGE).status_code == 204
    assert gateway.request("OPTIONS", "/cors/private", headers={"Origin": PAGE}).status_code == 401
    assert gateway.request("OPTIONS", "/cors/default", headers={"Origin": PAGE}).json()["method"] == "OPTIONS"
    for method, headers in (("POST", ""), ("GET", "X-Secret"), ("get", "")):
        answer = preflight(gateway, "/cors/private", PAGE, method, headers)
        assert (answer.status_code, granted(answer)) == (204, {})


def test_C09_C10_two_origins_are_400_and_private_networks_are_never_granted(gateway: GatewayProcess) -> None:
    for fields in ((f"Origin: {PAGE}", "Origin: https://a.example"), (f"Origin: {PAGE}, https://a.example",)):
        with RawClient(gateway.port) as client:
            answer = client.ask("/cors/listed", *fields)
        assert (answer.status, answer.json()) == (400, {"error": "Bad Request"})
        assert answer.get("Access-Control-Allow-Origin") is None
    with RawClient(gateway.port) as client:
        answer = client.ask("/cors/listed", f"Origin: {PAGE}\rX-Admin: 1")
    assert (answer.status, answer.closed) == (400, True)
    with RawClient(gateway.port) as client:
        asked = (f"Origin: {PAGE}", "Access-Control-Request-Method: GET", "Access-Control-Request-Private-Network: true")
        answer = client.ask("/cors/listed", *asked, method="OPTIONS")
    assert (answer.status, answer.get("Access-Control-Allow-Private-Network")) == (204, None)
