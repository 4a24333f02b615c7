"""What is deprecated is told by the name of the plugin that uses it: in hooks, at import, in the work it does in the background."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pluggy
import pytest

from gwproxy import API_VERSION, Context, Plugin, hookimpl
from gwproxy.deprecation import deprecated, forget
from gwproxy.errors import PluginRefused
from gwproxy.hookspecs import HookSpecs, hookspec
from gwproxy.registry import Registry
from gwproxy.testing import InProcessGateway
from gwproxy.wheels.loading import load
from gwproxy.wheels.wheel import read
from tests.wheels.made import make_wheel


class Thing:
    """A class of the API, of which something is going to go."""

    @deprecated(since="0.3", instead="use Thing.new()")
    def old(self, value: int) -> int:
        return value + 1


PLUGIN = """
from gwproxy import Plugin, hookimpl

class Old(Plugin):
    name = "old_fashioned"

    @hookimpl
    def worker_started(self, gateway):
        thing.old(1)

    @hookimpl
    def pre_auth(self, ctx):
        ctx.state["answer"] = thing.old(6)
"""


TEXT = re.escape("the plugin 'old_fashioned' uses Thing.old, deprecated since gwproxy 0.3: use Thing.new()")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("gwproxy_old_fashioned")
    made.__dict__["thing"] = Thing()
    monkeypatch.setitem(sys.modules, made.__name__, made)
    exec(compile(PLUGIN, "/site/gwproxy_old_fashioned.py", "exec"), made.__dict__)
    return made


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "plugin_deprecated" in record.getMessage()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of worker_started
def test_a_plugin_that_uses_it_is_named_once_with_its_line(
    gateway: InProcessGateway, module: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.use(module.Old)
    with pytest.warns(DeprecationWarning, match=TEXT):
        answers = [gateway.get() for _ in range(3)]
    assert [answer.state["answer"] for answer in answers] == [7, 7, 7]  # it goes on working
    assert told(caplog) == [
        "plugin_deprecated plugin=old_fashioned uses=Thing.old since=0.3 instead='use Thing.new()' where=/site/gwproxy_old_fashioned.py:9"
    ]


def test_it_is_an_error_in_tests_of_authors_who_want_it(gateway: InProcessGateway, module: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gateway.use(module.Old)
        warnings.simplefilter("error", DeprecationWarning)
        assert gateway.get().status == 500


def test_who_is_no_plugin_is_named_by_its_module(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(DeprecationWarning, match=re.escape(f"the plugin {__name__!r} uses Thing.old")):
        Thing().old(1)
    assert f"plugin={__name__} uses=Thing.old" in told(caplog)[0]


AT_IMPORT = """
from gwproxy_api_of_tests import thing
from gwproxy import Plugin

thing.old(1)

class Old(Plugin):
    name = "old_fashioned"
"""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> None:
    """What packages import, that is going to go."""
    made = ModuleType("gwproxy_api_of_tests")
    made.__dict__["thing"] = Thing()
    monkeypatch.setitem(sys.modules, made.__name__, made)


@pytest.mark.usefixtures("api")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_at_import_an_installed_plugin_is_named_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "old_at_import.py").write_text(AT_IMPORT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("gwproxy.registry._entry_points", lambda: [EntryPoint("old_fashioned", "old_at_import:Old", "gwproxy")])
    assert list(Registry.discover().names) == ["old_fashioned"]
    assert [line.split(" since")[0] for line in told(caplog)] == ["plugin_deprecated plugin=old_fashioned uses=Thing.old"]


@pytest.mark.usefixtures("api")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_at_import_a_pushed_plugin_is_named_with_the_line_in_its_wheel_for_each_version(caplog: pytest.LogCaptureFixture) -> None:
    for version in ("1.0", "1.1"):
        files = {"old_at_import.py": AT_IMPORT + f'    version = "{version}"\n'}
        load(read(make_wheel(files, version=version, plugins={"old_fashioned": "old_at_import:Old"}))).unload()
    assert [line.split(" since")[0] for line in told(caplog)] == ["plugin_deprecated plugin=old_fashioned uses=Thing.old"] * 2
    assert all(line.endswith("old_at_import.py:5") for line in told(caplog))


class Specs(HookSpecs):
    """The specifications of a version in which a hook, and an argument of another, are going to go."""

    @hookspec(warn_on_impl_args={"config": DeprecationWarning("take ctx.config")})
    def pre_auth(self, ctx: object, config: object) -> None: ...

    @hookspec(warn_on_impl=DeprecationWarning("implement applied()"))
    def configuration_applied(self, revision: int, digest: str) -> None: ...


class Follower(Plugin):
    name = "follower"

    @hookimpl
    def pre_auth(self, ctx: Context, config: object) -> None: ...

    @hookimpl
    def configuration_applied(self, revision: int) -> None: ...


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hooks_and_their_arguments(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry()
    registry._manager = pluggy.PluginManager("gwproxy")
    registry._manager.add_hookspecs(Specs)
    registry.add(Follower())
    assert sorted(told(caplog)) == [
        "plugin_deprecated plugin=follower uses=configuration_applied reason='implement applied()'",
        "plugin_deprecated plugin=follower uses=pre_auth(config) reason='take ctx.config'",
    ]


def test_nothing_is_told_of_plugins_of_today(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not Registry.discover().broken
        Registry.of(Follower())
    assert told(caplog) == []


@pytest.mark.parametrize("version", [API_VERSION + 1, 0, "1", None])
def test_a_plugin_for_another_version_of_the_api_is_refused_by_name(version: object) -> None:
    made = type("Made", (Plugin,), {"name": "later", "api_version": version})()
    with pytest.raises(
        PluginRefused, match=f"plugin 'later': made for version {version!r} of the plugin API; this gateway has {API_VERSION}"
    ):
        Registry.of(made)


def test_a_plugin_that_says_nothing_is_for_the_first_version() -> None:
    assert Plugin.api_version == 1
