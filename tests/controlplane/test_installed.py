from __future__ import annotations

import json
from typing import Any

import pytest

from gwproxy.controlplane.installed import Installed, live
from gwproxy.controlplane.text import read

TEXT = """\
plugins:
  - {name: limit}
routes:
  - {path: /a, upstream: "http://a", plugins: [{name: login, config: {secret: correct-horse}}]}
  - {path: /b, upstream: "http://a", plugins: [{name: login, enabled: false}, {name: far}]}
"""
EVERYTHING = {"limit": "0", "login": "0", "far": "1"}


def worker(pid: int, state: str = "ready", **plugins: str) -> dict[str, str]:
    return {"id": f"w{pid}", "host": "one", "pid": str(pid), "state": state, "plugins": json.dumps(EVERYTHING | plugins)}


def without(name: str, pid: int) -> dict[str, str]:
    held = worker(pid)
    return held | {"plugins": json.dumps({plugin: version for plugin, version in EVERYTHING.items() if plugin != name})}


def told(accepted: Any, *workers: dict[str, str]) -> tuple[list[str], list[str]]:
    """What is wrong, and what is worth knowing."""
    installed, source = Installed(workers), read(TEXT.encode(), "gateway.yaml")
    parsed = accepted(TEXT, elsewhere={"far"})
    plugins = parsed._plugins
    problems, warnings = installed.problems(parsed, source), installed.warnings(parsed, source, plugins)
    return [f"{p.line}:{p.column} {p.path}: {p.found}" for p in problems], [f"{p.line}:{p.column} {p.path}: {p.found}" for p in warnings]


def test_plugins_that_only_the_workers_have_are_theirs_to_judge(accepted) -> None:
    problems, warnings = told(accepted, worker(1), worker(2))
    assert problems == []
    assert warnings == ["5:86 routes[1].plugins[1].name: plugin 'far', which is not there where this is checked"]


@pytest.mark.parametrize(
    ("workers", "problem"),
    [
        ([worker(1), without("login", 2)], "4:55 routes[0].plugins[0].name: plugin 'login', which is not installed on one/2"),
        ([worker(1, limit="broken"), worker(2)], "2:12 plugins[0].name: plugin 'limit', which does not load on one/1"),
        ([worker(1), without("far", 2)], "5:86 routes[1].plugins[1].name: plugin 'far', which is not installed on one/2"),
        (
            [without("limit", n) for n in range(7)],
            "2:12 plugins[0].name: plugin 'limit', which is not installed on one/0, one/1, one/2, one/3, one/4 and 2 more",
        ),
    ],
)
def test_a_worker_without_a_plugin_refuses_it_by_name(accepted, workers: list[dict[str, str]], problem: str) -> None:
    assert told(accepted, *workers)[0] == [problem]


def test_another_version_is_told(accepted) -> None:
    problems, warnings = told(accepted, worker(1, login="2.0"), worker(2))
    assert problems == []
    assert warnings[0].startswith("4:55 routes[0].plugins[0].name: plugin 'login' ")
    assert warnings[0].endswith(" here, 2.0 on workers")


def test_what_loads_on_some_worker() -> None:
    assert Installed([]).anywhere() == set()
    assert Installed([worker(1, login="broken"), without("limit", 2), worker(3, far="broken")]).anywhere() == set(EVERYTHING)
    assert Installed([worker(1, login="broken"), worker(2, login="broken")]).anywhere() == {"limit", "far"}
    odd = [{"id": "odd", "plugins": "nonsense"}, {"id": "none"}, {"id": "list", "plugins": "[]"}]
    assert Installed([worker(1), *odd]).anywhere() == set(EVERYTHING)


def test_workers_about_to_stop_are_nobodys_concern() -> None:
    assert [w["pid"] for w in live([worker(1), worker(2, state="draining"), worker(3, state="refused")])] == ["1", "3"]
