"""Plugins are found, checked against the specifications, and refused by name."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib.metadata import PathDistribution
from pathlib import Path

import gevent
import pytest
from gevent import GreenletExit

from gwproxy import Context, Plugin, PluginConfig, Request, hookimpl
from gwproxy.errors import BudgetExceeded, PluginRefused
from gwproxy.registry import Registry


class Recorder(Plugin):
    name = "recorder"
    version = "3"

    def __init__(self) -> None:
        self.seen: list[object] = []

    @hookimpl
    def pre_auth(self, ctx: Context) -> None:
        self.seen.append(ctx)

    @hookimpl
    def post_auth(self, config: PluginConfig, ctx: Context) -> None:
        self.seen.append((ctx, config))

    @hookimpl
    def response(self, ctx: Context, config: PluginConfig) -> None:
        self.seen.append((config, ctx))

    @hookimpl
    def configuration_applied(self, revision: int) -> None:
        self.seen.append(revision)


def test_hooks_are_called_with_the_arguments_they_name() -> None:
    plugin, ctx, config = Recorder(), Context(Request("GET", "/")), PluginConfig()
    hooks = Registry.of(plugin).registered("recorder").hooks
    for phase in ("pre_auth", "post_auth", "response"):
        hooks[phase](ctx, config)
    assert plugin.seen == [ctx, (ctx, config), (config, ctx)]
    assert set(hooks) == {"pre_auth", "post_auth", "response"}


def test_lifecycle_hooks_get_what_they_name_and_failures_are_returned_by_name() -> None:
    class Failing(Plugin):
        name = "failing"

        @hookimpl
        def configuration_applied(self, digest: str) -> None:
            raise RuntimeError(digest)

    plugin = Recorder()
    failures = Registry.of(plugin, Failing()).notify("configuration_applied", revision=7, digest="d")
    assert plugin.seen == [7]
    assert [(name, str(error)) for name, error in failures] == [("failing", "d")]


class OfItsOwn(BaseException):
    """Derives from nothing that anybody catches."""


#: An exit with 3 or 4 lets gunicorn's master give up; the others end a greenlet, or the loop.
RAISED = [SystemExit(3), KeyboardInterrupt(), GreenletExit(), OfItsOwn(), RecursionError()]


@pytest.mark.parametrize("error", RAISED, ids=repr)
def test_R33_what_a_lifecycle_hook_raises_ends_neither_the_worker_nor_its_master(error: BaseException) -> None:
    class Raising(Plugin):
        name = "raising"

        @hookimpl
        def worker_started(self) -> None:
            raise error

    plugin = Recorder()
    failures = Registry.of(Raising(), plugin).notify("worker_started", gateway=None)
    assert failures == [("raising", error)]


def test_R33_a_lifecycle_hook_that_waits_is_cut_off_and_the_next_is_called() -> None:
    class Waiting(Plugin):
        name = "waiting"

        @hookimpl
        def configuration_applied(self, revision: int) -> None:
            gevent.sleep(60)

    plugin = Recorder()
    ((name, error),) = Registry.of(Waiting(), plugin).notify("configuration_applied", 0.1, revision=7, digest="d")
    assert (name, type(error)) == ("waiting", BudgetExceeded)
    assert plugin.seen == [7]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a package whose only module is the text given; its plugin is named ``misfit``."""

    def install(text: str) -> None:
        (tmp_path / "gwproxy_misfit.py").write_text(text)
        information = tmp_path / "misfit-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: misfit\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text("[gwproxy]\nmisfit = gwproxy_misfit:Misfit\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "gwproxy_misfit", raising=False)

    return install


HEADER = "import gevent, sys\nfrom gwproxy import Plugin\n"
CLASS = HEADER + "class Misfit(Plugin):\n name = 'misfit'\n"


@pytest.mark.parametrize(
    "text",
    [
        *(HEADER + f"raise {error}" for error in ("SystemExit(3)", "GeneratorExit", "gevent.GreenletExit", "BaseException", "MemoryError")),
        HEADER + "def f(): f()\nf()",
        CLASS + " def __init__(self): sys.exit(4)",
        CLASS + " version = object()",
        CLASS + " @property\n def priority(self): raise KeyError('x')",
        CLASS + " def __getattribute__(self, name): raise SystemExit(3)",
        "syntax error",
        "",
    ],
)
def test_R33_X09_a_package_that_cannot_be_loaded_is_named_and_nobody_else_suffers(installed: Callable[[str], None], text: str) -> None:
    installed(text)
    registry = Registry.discover()
    assert list(registry.broken) == ["misfit"]
    assert "cors" in registry.names


@pytest.mark.parametrize("file", ["METADATA", "entry_points.txt"])
def test_R33_X09_a_damaged_package_is_no_reason_not_to_start(installed: Callable[[str], None], tmp_path: Path, file: str) -> None:
    installed(CLASS)
    (tmp_path / "misfit-1.0.dist-info" / file).write_bytes(b"\xff\xfe\x00")
    registry = Registry.discover()
    assert "cors" in registry.names
    assert registry.registered("cors").package.startswith("gwproxy ")


def test_a_user_may_interrupt_the_loading(installed: Callable[[str], None]) -> None:
    installed("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Registry.discover()
    handler = signal.signal(signal.SIGINT, lambda *_: None)  # as in a worker, where it can only be the plugin's own
    try:
        assert list(Registry.discover().broken) == ["misfit"]
    finally:
        signal.signal(signal.SIGINT, handler)


MISFITS = {
    "unknown hook": ("@hookimpl\n def pre_oauth(self, ctx): pass", "pre_oauth"),
    "unknown argument": ("@hookimpl\n def pre_auth(self, context): pass", "context"),
    "async": ("@hookimpl\n async def pre_auth(self, ctx): pass", "async"),
    "generator": ("@hookimpl\n def pre_auth(self, ctx): yield", "generator"),
    "async generator": ("@hookimpl\n async def pre_auth(self, ctx): yield", "async"),
    "wrapper": ("@hookimpl(wrapper=True)\n def pre_auth(self, ctx): yield", "wrapper"),
    "old wrapper": ("@hookimpl(hookwrapper=True)\n def pre_auth(self, ctx): yield", "wrapper"),
    "unmarked": ("def pre_auth(self, ctx): pass", "@hookimpl"),
    "version": ("version = object()", "version"),
    "priority": ("priority = 'high'", "priority"),
    "config model": ("config_model = dict", "config_model"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_plugin_that_does_not_fit_is_refused_by_name_and_leaves_nothing(case: str) -> None:
    body, reason = MISFITS[case]
    scope: dict[str, object] = {"Plugin": Plugin, "hookimpl": hookimpl}
    exec(f"class Misfit(Plugin):\n name = 'misfit'\n {body}", scope)
    registry = Registry.of(Recorder())
    with pytest.raises(PluginRefused, match="misfit") as refused:
        registry.add(scope["Misfit"]())  # type: ignore[operator]
    assert reason in refused.value.reason
    assert list(registry.names) == ["recorder"]
    registry.notify("configuration_applied", revision=1, digest="")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(PluginRefused, match="taken twice"):
        Registry.of(Recorder(), Recorder())


def test_the_entry_point_and_the_class_agree_on_the_name() -> None:
    with pytest.raises(PluginRefused, match="entry point"):
        Registry().add(Recorder(), name="another")


def test_what_is_no_plugin_is_refused() -> None:
    with pytest.raises(PluginRefused, match=r"gwproxy\.Plugin"):
        Registry().add(object(), name="thing")  # type: ignore[arg-type]


def test_discovery_finds_the_built_in_plugins() -> None:
    registry = Registry.discover()
    built_in = {r.plugin.name for r in registry if r.package.startswith("gwproxy ")}
    expected = {"cors", "jwt_auth", "webhook_signature", "rate_limit", "request_transform", "fault_injection", "pii_log", "access_log"}
    assert expected <= built_in
    assert not expected & set(registry.broken)


def test_the_metadata_of_a_package_is_read_once_for_all_its_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parsed as a mail is, with the README in it: for each plugin, that is a fifth of what a command's start takes."""
    read: list[Path] = []
    read_text = PathDistribution.read_text

    def counting(package: PathDistribution, name: str) -> str | None:
        if name == "METADATA":
            read.append(package._path)
        return read_text(package, name)

    monkeypatch.setattr(PathDistribution, "read_text", counting)
    packages = {one.package for one in Registry.discover()}
    assert len(read) == len(packages) > 0


def test_the_order_of_the_built_in_plugins_is_pinned() -> None:
    registry = Registry.discover()
    order = {
        "cors": ("pre_auth", 100),
        "jwt_auth": ("auth", 200),
        "webhook_signature": ("auth", 210),
        "rate_limit": ("post_auth", 300),
        "request_transform": ("pre_proxy", 400),
        "fault_injection": ("pre_proxy", 500),
        "pii_log": ("response", 890),
        "access_log": ("response", 900),
    }
    for name, (phase, priority) in order.items():
        found = registry.registered(name)
        assert phase in found.hooks
        assert found.plugin.priority == priority
