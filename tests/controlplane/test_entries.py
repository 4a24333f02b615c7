from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import orjson
import pytest

from gwproxy import Plugin, PluginConfig, Route
from gwproxy.controlplane import entries
from gwproxy.controlplane.parse import Parsed
from gwproxy.model import Problem
from gwproxy.registry import Registry
from tests.controlplane.conftest import CRASHES

Only = Callable[..., Problem]
Refused = Callable[..., tuple[Problem, ...]]
Accepted = Callable[..., Parsed]


def route(**keys: Any) -> dict[str, Any]:
    return {"path": "/a", "upstream": "http://10.0.0.5:8000", **keys}


def document(*routes: dict[str, Any], **keys: Any) -> bytes:
    return orjson.dumps({"routes": routes, **keys}, option=orjson.OPT_INDENT_2)


def test_G03_an_unknown_plugin_has_a_suggestion(only: Only) -> None:
    problem = only(document(route(plugins=[{"name": "limt"}])))
    assert problem.path == "routes[0].plugins[0].name"
    assert problem.found == "the unknown plugin 'limt'"
    assert problem.expected == "an installed plugin; did you mean 'limit'?"


def test_G03_a_plugin_that_does_not_load_is_named_with_its_reason(only: Only) -> None:
    assert only(document(route(plugins=[{"name": "geo"}]))).found == (
        "plugin 'geo', which does not load: package geo 1.0 does not import: ImportError: no maxmind"
    )


def test_a_lenient_parser_makes_such_entries_unavailable(accepted: Accepted) -> None:
    routes = [route(plugins=[{"name": "limit"}, {"name": "geo"}, {"name": "nope", "config": {"x": 1}}])]
    parsed = accepted(document(*routes, plugins=[{"name": "geo"}]), lenient=True)
    assert parsed.configs.keys() == {(0, 0)}
    assert parsed.unavailable == {
        (0, 1): "does not load: package geo 1.0 does not import: ImportError: no maxmind",
        (0, 2): "not installed",
        (-1, 0): "does not load: package geo 1.0 does not import: ImportError: no maxmind",
    }


def test_a_lenient_parser_is_strict_about_all_else(only: Only) -> None:
    assert only(document(route(plugins=[{"name": "limit", "config": {"limit": 0}}])), lenient=True).path.endswith("config.limit")


@pytest.mark.parametrize("name", ["geo", "gone"])
def test_what_is_not_there_may_be_disabled(accepted: Accepted, refused: Refused, name: str) -> None:
    disabled = route(plugins=[{"name": name, "enabled": False, "config": {"any": "thing"}}])
    globally = [{"name": name, "config": {}}]
    assert accepted(document(disabled, plugins=globally), lenient=True).unavailable.keys() == {(-1, 0)}
    assert [problem.path for problem in refused(document(disabled, plugins=globally))] == ["plugins[0].name"]


def test_disabling_a_name_that_is_nowhere_is_a_mistake(only: Only) -> None:
    assert only(document(route(plugins=[{"name": "lmit", "enabled": False}]))).expected.endswith("did you mean 'limit'?")


def test_disabled_entries_are_not_configured(accepted: Accepted) -> None:
    parsed = accepted(document(route(plugins=[{"name": "login", "enabled": False}])))
    assert not parsed.configs
    assert not parsed.unavailable


def test_camel_case_is_an_alias(accepted: Accepted) -> None:
    parsed = accepted(document(route(plugins=[{"name": "limit", "config": {"windowSeconds": 7}}])))
    assert parsed.configs[0, 0].window_seconds == 7.0  # type: ignore[attr-defined]


def test_problems_under_an_alias_have_the_written_key(only: Only) -> None:
    problem = only("[{path: /a, upstream: 'http://a', plugins: [{name: limit, config: {windowSeconds: x}}]}]")
    assert (problem.path, problem.column) == ("routes[0].plugins[0].config.windowSeconds", 83)


def test_both_forms_of_one_key_are_given_twice(only: Only) -> None:
    problem = only("[{path: /a, upstream: 'http://a', plugins: [{name: limit, config: {windowSeconds: 1, window_seconds: 2}}]}]")
    assert (problem.path, problem.column) == ("routes[0].plugins[0].config.window_seconds", 86)
    assert problem.found == "the key 'window_seconds', which is given twice"


def test_a_key_that_is_given_twice_hides_no_other_problem(refused: Refused) -> None:
    config = "{windowSeconds: 1, window_seconds: x, limt: 3, limit: 0}"
    found = refused(f"[{{path: /a, upstream: 'http://a', plugins: [{{name: limit, config: {config}}}]}}]")
    assert [problem.path.rpartition(".")[2] for problem in found] == ["window_seconds", "limt", "limit"]


def test_G26_a_plugins_own_check_refuses_without_the_secret(only: Only) -> None:
    problem = only(document(route(plugins=[{"name": "login", "config": {"secret": "hunter2"}}])))
    assert problem.path == "routes[0].plugins[0].config.secret"
    assert (problem.found, problem.expected) == ("***", "at least 8 characters, unlike ***")


def test_an_objects_check_does_not_show_the_secrets_in_it(only: Only) -> None:
    config = {"secret": "correct horse", "rules": [{"name": "a", "value": "correct horse"}]}
    problem = only(document(route(plugins=[{"name": "login", "config": config}])))
    assert (problem.found, problem.expected) == ("an object", "rules unlike ***")


@pytest.mark.parametrize("crash", CRASHES)
def test_G27_a_validator_that_raises_is_named(only: Only, crash: str) -> None:
    problem = only(document(route(plugins=[{"name": "login", "config": {"secret": crash}}])))
    assert problem.path == "routes[0].plugins[0].config"
    assert problem.found == f"a configuration over which plugin 'login' raised {CRASHES[crash].__name__}"


def test_G27_a_slow_validator_is_refused(only: Only, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "SLOWEST", 0.0)
    assert "by plugin 'limit'" in only(document(route(plugins=[{"name": "limit"}]))).found


def test_G27_a_pause_of_the_machine_refuses_nothing(accepted: Accepted, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 5.0, 5.1])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert accepted(document(route(plugins=[{"name": "limit"}]))).configs


class Choosy(PluginConfig):
    limit: int | tuple[str, ...] = 1


class Chooser(Plugin):
    name: ClassVar[str] = "chooser"
    config_model = Choosy


def test_the_branches_of_a_union_are_one_problem(only: Only) -> None:
    problem = only(document(route(plugins=[{"name": "chooser", "config": {"limit": "x"}}])), plugins=Registry.of(Chooser()))
    assert (problem.found, problem.expected) == ("'x'", "a whole number or a list")


class ChosenConfig(PluginConfig):
    param: str = "id"
    mood: str = ""

    def check_route(self, route: Route, params: Collection[str]) -> None:
        if self.mood == "crash":
            raise SystemExit(self.mood)
        if self.param not in params:
            raise ValueError(f"a parameter of {route.path}, not {self.param!r}")


class Chosen(Plugin):
    name = "chosen"
    config_model = ChosenConfig


@pytest.mark.parametrize("path", ["/users/{id}", "/users/{id}/*", "~^/users/(?P<id>[0-9]+)"], ids=["template", "prefix", "regex"])
def test_a_configuration_that_fits_its_route_is_accepted(accepted: Accepted, path: str) -> None:
    assert accepted(document(route(path=path, plugins=[{"name": "chosen"}])), plugins=Registry.of(Chosen())).configs


def test_a_configuration_judges_each_route_that_it_is_on(refused: Refused) -> None:
    """Of two routes with equal lists of plugins, which share what comes of them, too."""
    entry = {"name": "chosen", "config": {"param": "id"}}
    routes = [route(path=f"/{n}/{{{name}}}", plugins=[entry]) for n, name in enumerate(("id", "user", "id", "order"))]
    problems = refused(document(*routes), plugins=Registry.of(Chosen()))
    assert [(problem.path, problem.found, problem.expected) for problem in problems] == [
        (f"routes[{n}].plugins[0].config", "a configuration that does not fit this route", f"a parameter of /{n}/{{{name}}}, not 'id'")
        for n, name in ((1, "user"), (3, "order"))
    ]


def test_a_global_entry_judges_the_routes_that_have_no_other_of_its_name(only: Only, accepted: Accepted) -> None:
    fitting, replacing = route(path="/a/{id}"), route(path="/b/{x}", plugins=[{"name": "chosen", "config": {"param": "x"}}])
    removing = route(path="/c", plugins=[{"name": "chosen", "enabled": False}])
    everywhere = [{"name": "chosen"}]
    accepted(document(fitting, replacing, removing, plugins=everywhere), plugins=Registry.of(Chosen()))
    bad = [route(path=f"/{letter}", id=letter) for letter in "de"]
    problem = only(document(fitting, replacing, removing, *bad, plugins=everywhere), plugins=Registry.of(Chosen()))
    assert (problem.path, problem.found) == ("plugins[0].config", "a configuration that does not fit route d")


def test_G27_whatever_a_check_of_the_route_raises_refuses_the_document(only: Only) -> None:
    problem = only(document(route(plugins=[{"name": "chosen", "config": {"mood": "crash"}}])), plugins=Registry.of(Chosen()))
    assert problem.found == "a configuration over which plugin 'chosen' raised SystemExit"


def test_a_path_that_is_none_is_told_alone(only: Only) -> None:
    assert only(document(route(path="~(", plugins=[{"name": "chosen"}])), plugins=Registry.of(Chosen())).path == "routes[0].path"
