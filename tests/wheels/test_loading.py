"""A wheel in memory does what it would do if it were installed, and none of it is seen by anybody else."""

from __future__ import annotations

import importlib
import sys
import threading
import traceback
from typing import Any

import pytest

from gwproxy import Plugin
from gwproxy.errors import WheelRefused
from gwproxy.wheels.loading import compile_sources, load
from gwproxy.wheels.wheel import read
from tests.wheels.conftest import Loading
from tests.wheels.forms import FORMS
from tests.wheels.made import make_wheel

#: A plugin whose attribute ``seen`` is an expression in the module ``tenant``.
PLUGIN = """
from gwproxy import Plugin
{body}
class Tenant(Plugin):
    name = "tenant"
    version = "1.0"
    seen = staticmethod(lambda: ({seen}))
"""
POINT = {"tenant": "tenant:Tenant"}


def source(body: str, seen: str) -> str:
    return PLUGIN.format(body=body, seen=seen)


def seen(plugin: Plugin) -> Any:
    return plugin.seen()  # type: ignore[attr-defined]


FILES = {
    "tenant/rules.py": "LIMIT = 7\n",
    "tenant/deep/__init__.py": "",
    "tenant/deep/er.py": "from ..rules import LIMIT as UP\nDEPTH = 2\n",
    "tenant/data/a.txt": b"text\n",
    "tenant/data/more.py": "MORE = 1\n",
    "helpers.py": "ANSWER = 42\n",
}


@pytest.mark.parametrize(("body", "expression", "wanted"), FORMS.values(), ids=FORMS)
def test_a_wheel_finds_what_is_in_it_in_every_form_an_installed_one_does(
    loading: Loading, body: str, expression: str, wanted: object
) -> None:
    loaded = loading({**FILES, "tenant/__init__.py": source(body, expression)}, plugins=POINT)
    assert seen(loaded.plugins["tenant"]) == wanted
    assert not {"tenant", "tenant.rules", "helpers"} & sys.modules.keys()


def test_two_versions_stand_beside_each_other_and_beside_one_that_is_loaded_twice(loading: Loading) -> None:
    files = {"tenant/__init__.py": source("from tenant.value import V", "V"), "tenant/value.py": "V = []"}
    old, again = loading(files, plugins=POINT), loading(files, plugins=POINT)
    new = loading({**files, "tenant/value.py": "V = 2"}, version="1.1", plugins=POINT)
    assert [seen(loaded.plugins["tenant"]) for loaded in (old, again, new)] == [[], [], 2]
    assert seen(old.plugins["tenant"]) is not seen(again.plugins["tenant"])
    old.unload()
    old.unload()
    assert seen(again.plugins["tenant"]) == []
    assert importlib.import_module(f"{new.root}.tenant.value").V == 2
    assert old.plugins == {}


@pytest.mark.parametrize("top", ["yaml", "json", "typing", "pluggy"])
def test_its_own_names_are_its_own_whoever_else_has_them(loading: Loading, top: str) -> None:
    theirs = importlib.import_module(top)
    body = f"import {top}, pydantic\nfrom {top}.inner import IT\nclass M(pydantic.BaseModel):\n    a: int = 1\n"
    files = {
        f"{top}/__init__.py": "MINE = 1",
        f"{top}/inner.py": f"import {top} as me\nIT = me.MINE",
        "tenant.py": source(body, f"{top}.MINE + IT"),
    }
    assert seen(loading(files, plugins=POINT).plugins["tenant"]) == 2
    assert importlib.import_module(top) is theirs
    assert not hasattr(theirs, "MINE")


def test_a_folder_that_another_distribution_has_a_part_of_is_shared(loading: Loading, tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "shared_space").mkdir()
    (tmp_path / "shared_space" / "common.py").write_text("COMMON = 'theirs'\n")
    monkeypatch.syspath_prepend(tmp_path)
    body = "from shared_space.common import COMMON\nfrom shared_space import common\nfrom shared_space.mine import MINE"
    files = {"shared_space/mine.py": "MINE = 1", "tenant.py": source(body, "(COMMON, common.COMMON, MINE)")}
    assert seen(loading(files, plugins=POINT).plugins["tenant"]) == ("theirs", "theirs", 1)
    del sys.modules["shared_space"], sys.modules["shared_space.common"]


CONFIG = """
from __future__ import annotations
import dataclasses, typing
from gwproxy import Context, Plugin, PluginConfig, hookimpl

class Inner(PluginConfig):
    \"\"\"Named by text in the other.\"\"\"
    size: Limit = 1
    \"\"\"How large it is.\"\"\"

Limit = int

@dataclasses.dataclass(slots=True, kw_only=True)
class Point:
    x: typing.ClassVar[int] = 0
    y: int = 3

class Config(PluginConfig):
    inner: Inner = Inner()
    \"\"\"Of the other class.\"\"\"
    several: tuple[Inner, ...] | None = None
    mode: typing.Literal["a", "b"] = "a"

class Tenant(Plugin):
    name = "tenant"
    version = "1.0"
    config_model = Config
    hints = staticmethod(lambda: typing.get_type_hints(Config))
    point = Point()

    @hookimpl
    def response(self, ctx: Context, config: Config) -> None:
        raise ValueError("from here")  # the line that is shown
"""


def test_models_with_postponed_annotations_and_docstrings_of_fields(loading: Loading) -> None:
    first, second = (loading({"tenant.py": CONFIG}, plugins=POINT).plugins["tenant"] for _ in range(2))
    for plugin in (first, second):
        made = plugin.config_model.model_validate({"several": [{"size": 2}]})
        assert made.several[0].size == 2  # type: ignore[attr-defined]
        assert plugin.hints()["inner"] is type(made.inner)  # type: ignore[attr-defined]
        assert plugin.point.y == 3  # type: ignore[attr-defined]
        schema = plugin.config_model.model_json_schema()
        assert schema["properties"]["inner"]["description"] == "Of the other class."
        assert schema["$defs"]["Inner"]["properties"]["size"]["description"] == "How large it is."
    assert first.config_model is not second.config_model


def test_tracebacks_show_the_line_and_where_it_is(loading: Loading) -> None:
    loaded = loading({"tenant.py": CONFIG}, plugins=POINT)
    with pytest.raises(ValueError, match="from here") as raised:
        loaded.plugins["tenant"].response(None, None)  # type: ignore[attr-defined]
    (frame,) = [one for one in traceback.extract_tb(raised.value.__traceback__) if ".whl" in one.filename]
    assert frame.line == 'raise ValueError("from here")  # the line that is shown'
    assert frame.filename.startswith(f"gwproxy-tenant-1.0-{loaded.wheel.sha256[:12]}_")
    assert frame.filename.endswith(".whl/tenant.py")


def test_threads_that_import_late_and_together_get_one_module(loading: Loading) -> None:
    late = "import threading, time\nSTARTED = threading.get_ident()\ntime.sleep(0.05)\nDONE = object()\n"
    body = "def get():\n    from tenant.late import DONE\n    return DONE\n"
    plugin = loading({"tenant/__init__.py": source(body, "get()"), "tenant/late.py": late}, plugins=POINT).plugins["tenant"]
    gate, found = threading.Barrier(8), []

    def run() -> None:
        gate.wait()
        found.append(seen(plugin))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1


def test_sources_may_be_compiled_in_another_thread_and_are_loaded_once_at_a_time() -> None:
    wheel = read(make_wheel())
    made = []
    thread = threading.Thread(target=lambda: made.append(compile_sources(wheel)))
    thread.start()
    thread.join()
    loaded = load(wheel, made[0])
    with pytest.raises(ValueError, match="is loaded from these sources already"):
        load(wheel, made[0])
    assert loaded.plugins["tenant"].version == "1.0"
    loaded.unload()
    load(wheel, made[0]).unload()


#: What does not load, and what is said of it.
REFUSED = {
    "raises": ("1 / 0", "does not import: ZeroDivisionError: division by zero (tenant.py:3)"),
    "exits": ("raise SystemExit(3)", "does not import: SystemExit: 3 (tenant.py:3)"),
    "syntax": ("def", "does not import: SyntaxError: invalid syntax (tenant.py, line 3)"),
    "null": ("x = '\0'", "does not import: SyntaxError: source code string cannot contain null bytes"),
    "missing": ("import no_such_module", "does not import: ModuleNotFoundError: No module named 'no_such_module' (tenant.py:3)"),
    "below": ("import helper", "does not import: RuntimeError: in the helper (helper.py:2)"),
    "hostile-error": ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E: an error that cannot be shown (tenant.py:5)"),
}


@pytest.mark.parametrize(("body", "says"), REFUSED.values(), ids=REFUSED)
def test_an_import_that_fails_is_refused_with_the_line_and_leaves_nothing(body: str, says: str) -> None:
    files = {
        "tenant.py": f"from gwproxy import Plugin\nimport logging, sub\n{body}\n" + source("", "1"),
        "sub.py": "import logging\nlogging.getLogger(__name__)",
        "helper.py": "import sub\nraise RuntimeError('in the helper')",
    }
    with pytest.raises(WheelRefused) as refused:
        load(read(make_wheel(files, plugins=POINT)))
    assert refused.value.reason.startswith("gwproxy-tenant 1.0 ")
    assert says in refused.value.reason.replace("gwproxy-tenant-1.0", "")
    assert refused.value.__context__ is None


CLASS = "\nclass Tenant(Plugin):\n    name = 'tenant'\n    version = '1'\n"
NOWHERE = "from gwproxy import Plugin, PluginConfig\nclass Config(PluginConfig):\n    of: 'Nowhere | None' = None\n"
HOOK = "from gwproxy import Plugin, hookimpl\n" + CLASS + "    @hookimpl\n"


@pytest.mark.parametrize(
    ("text", "point", "says"),
    [
        ("from gwproxy import Plugin" + CLASS, "tenant:Other", "AttributeError: .* no attribute 'Other'"),
        ("class Tenant: pass", "tenant:Tenant", "Tenant is not a subclass of gwproxy.Plugin"),
        ("from gwproxy import Plugin" + CLASS.replace("'tenant'", "'x'"), "tenant:Tenant", "its class says name = 'x'"),
        (HOOK + "    def respond(self, ctx): ...", "tenant:Tenant", "unknown hook 'respond'"),
        (HOOK + "    def response(self, context): ...", "tenant:Tenant", "Argument.s. {'context'} are declared"),
        (HOOK + "    async def response(self, ctx): ...", "tenant:Tenant", "response is async"),
        ("from gwproxy import Plugin" + CLASS + "    config_model = int", "tenant:Tenant", "config_model is not a subclass"),
        (NOWHERE + CLASS + "    config_model = Config", "tenant:Tenant", "PydanticUndefinedAnnotation: name 'Nowhere' is not defined"),
        ("from gwproxy import Plugin" + CLASS + "    def __init__(self): 1 / 0", "tenant:Tenant", r"ZeroDivisionError: .*\(tenant.py:5\)"),
    ],
    ids=["no-class", "no-plugin", "other-name", "no-such-hook", "no-such-argument", "async", "config", "annotation", "instance"],
)
def test_a_plugin_that_does_not_fit_the_specifications_is_refused(text: str, point: str, says: str) -> None:
    with pytest.raises(WheelRefused, match=says):
        load(read(make_wheel({"tenant.py": text}, plugins={"tenant": point})))


def test_an_import_that_waits_is_cut_off() -> None:
    files = {"tenant.py": "import gevent, first\ngevent.sleep(600)", "first.py": ""}
    with pytest.raises(WheelRefused, match=r"gwproxy-tenant 1\.0 was not imported after 0\.1 s \(tenant\.py:2\)"):
        load(read(make_wheel(files, plugins=POINT)), limit=0.1)
