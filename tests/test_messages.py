from __future__ import annotations

import pytest

from gwproxy.http.headers import Headers
from gwproxy.messages import Request
from gwproxy.testing import InProcessGateway


@pytest.mark.parametrize(
    ("fields", "cookies"),
    [
        ([], []),
        ([""], []),
        (["a=1; b=2; a=3"], [("a", "1"), ("a", "3"), ("b", "2")]),
        (["a=1", "b=2"], [("a", "1"), ("b", "2")]),
        (['a="x y"'], [("a", "x y")]),
        (["a=\xc3\xa9"], [("a", "é")]),
        (["a=\xff; b=2"], [("a", "\ufffd"), ("b", "2")]),
        (["\xff\xfe"], [("\ufffd\ufffd", "")]),
    ],
)
def test_cookies(fields: list[str], cookies: list[tuple[str, str]]) -> None:
    request = Request("GET", "/", headers=Headers([("Cookie", field) for field in fields]))
    assert list(request.cookies.items(multi=True)) == cookies


@pytest.mark.parametrize(
    "route",
    [
        {"canary": {"upstream": "http://new.test", "cookie": "try"}},
        {"split": {"weights": {"http://upstream.test": 1, "http://new.test": 1}, "sticky": "cookie:lane"}},
        {"upstream": "many"},
    ],
)
def test_a_cookie_that_is_no_text_costs_no_request_of_a_route_that_looks_at_cookies(gateway: InProcessGateway, route: dict) -> None:
    targets = [{"url": f"http://{name}.test"} for name in ("one", "two")]
    upstreams = {"many": {"targets": targets, "algorithm": "consistent_hash", "hash_on": "cookie:lane"}}
    gateway.serve({"upstreams": upstreams, "routes": [{"path": "/", "upstream": "http://upstream.test", **route}]})
    assert gateway.get("/", headers={"Cookie": "lane=\xff; try=\xfe"}).status == 200
