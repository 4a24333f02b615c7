from __future__ import annotations

import json
from typing import Any

import pytest

from gwproxy.controlplane.naming import route_ids


@pytest.mark.parametrize(
    ("routes", "ids"),
    [
        ([{"path": "/api/users"}, {"path": "/api/users/"}], ["api-users", "api-users-2"]),
        ([{"path": "/a"}, {"id": "a", "path": "/b"}], ["a-2", "a"]),
        ([{"path": "/"}, {"path": "=/"}], ["root", "root-2"]),
        ([{"id": "x"}, {}, 5, None], ["x", "route", "route-2", "route-3"]),
    ],
)
def test_ids_of_a_list_as_it_was_written(routes: list[Any], ids: list[str]) -> None:
    assert route_ids(routes) == ids


def test_they_are_the_ids_that_the_gateway_gives(accepted) -> None:
    routes = [{"path": path, "upstream": "http://a"} for path in ("/a", "=/a", "=/b", "~^/b", "/{x}", "/%C3%A9")]
    routes.insert(2, {"id": "b", "path": "/c", "upstream": "http://a"})
    assert [route.id for route in accepted(json.dumps(routes)).document.routes] == route_ids(routes)
