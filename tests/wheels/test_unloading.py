"""Code that nobody uses any more is freed, whatever it has done to the caches of the process."""

from __future__ import annotations

import gc
import logging
import sys
import traceback
import weakref

import pytest

from gwproxy.errors import WheelRefused
from gwproxy.registry import Registry
from gwproxy.wheels.loading import Loaded, load
from gwproxy.wheels.wheel import read
from tests.wheels.conftest import traces
from tests.wheels.made import make_wheel

#: Does what leaves classes and modules in caches of typing, pydantic, inspect, linecache, logging and abc.
MODULE = """
from __future__ import annotations
import abc, dataclasses, enum, functools, inspect, logging, re, typing, warnings
from collections.abc import Iterator
from importlib import resources
from gwproxy import Context, Plugin, PluginConfig, hookimpl
from pydantic import BaseModel, SecretStr, TypeAdapter, field_validator
from . import other

log = logging.getLogger(__name__)
logging.getLogger(__name__ + ".deep.er").addHandler(logging.NullHandler())
T = typing.TypeVar("T")

class Color(enum.Enum):
    RED = 1

class Base(abc.ABC, typing.Generic[T]):
    @abc.abstractmethod
    def get(self) -> T: ...

class Child(Base[int]):
    def get(self) -> int: return 1

class Box(BaseModel, typing.Generic[T]):
    held: T | None = None

@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: typing.Optional[Child] = None

Maybe = typing.Optional[Point]
Many = typing.Dict[str, typing.List[typing.Union[Point, Child]]]
IntBox = Box[int]
ADAPTER = TypeAdapter(typing.Annotated[typing.List[Box[str]], "of this wheel"])
TEXT = resources.files("tenant").joinpath("a.txt").read_text()

class Config(PluginConfig):
    \"\"\"Has docstrings for fields, which are looked for in the source.\"\"\"
    inner: Inner | None = None
    \"\"\"Another.\"\"\"
    secret: SecretStr = SecretStr("a secret of the plugin")

    @field_validator("secret")
    @classmethod
    def check(cls, value: SecretStr) -> SecretStr: return value

class Inner(PluginConfig):
    size: int = 1

@functools.singledispatch
def kind(value: object) -> str: return "object"

@kind.register
def _(value: Point) -> str: return "point"

class Tenant(Plugin):
    name = "tenant"
    version = "1.0"
    config_model = Config

    def __init__(self) -> None:
        self.hints = typing.get_type_hints(Point), typing.get_type_hints(Config)
        self.source = inspect.getsource(Child)
        self.kind = kind(Point()), isinstance(Child(), Base), ADAPTER.validate_python([{}]), Box[int](held=1)
        warnings.warn("to be seen once", stacklevel=1)
        log.debug("made")

    @hookimpl
    def response(self, ctx: Context, config: Config) -> None:
        raise RuntimeError("in a hook")
"""
FILES: dict[str, str | bytes] = {"tenant/__init__.py": MODULE, "tenant/other.py": "class Other: pass\n", "tenant/a.txt": b"text"}
POINT = {"tenant": "tenant:Tenant"}
WHEEL = read(make_wheel(FILES, plugins=POINT))


def use(loaded: Loaded) -> None:
    """Do with a plugin what a worker does: register, validate, call, log what it raises."""
    plugin = loaded.plugins["tenant"]
    registry = Registry.of(plugin)
    config = plugin.config_model.model_validate({"inner": {"size": 2}})
    plugin.config_model.model_json_schema()
    registered = registry.registered("tenant")
    assert registered is not None
    try:
        registered.hooks["response"](None, config)
    except RuntimeError:
        assert "in a hook" in traceback.format_exc()


def collect() -> None:
    """Collect all: pydantic's cache of generic models lets go of a class once another was collected, which is the round before."""
    for _ in range(3):
        gc.collect()


def watched(loaded: Loaded) -> list[weakref.ref[object]]:
    """Every class and function of the wheel's modules."""
    found: list[weakref.ref[object]] = []
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{loaded.root}."):
            found.append(weakref.ref(module))
            found += [weakref.ref(v) for v in vars(module).values() if getattr(v, "__module__", "") == name and hasattr(v, "__weakref__")]
            found += [weakref.ref(v) for v in vars(module).values() if isinstance(v, type) and v.__module__ == name]
    return found


@pytest.mark.filterwarnings("ignore:to be seen once")
def test_unloaded_code_is_collected() -> None:
    loaded = load(WHEEL)
    use(loaded)
    alive = watched(loaded)
    assert len(alive) > 10
    loaded.unload()
    collect()
    assert [ref() for ref in alive if ref() is not None] == []


@pytest.mark.filterwarnings("ignore:to be seen once")
def test_code_that_is_unloaded_while_it_is_used_goes_on() -> None:
    loaded = load(WHEEL)
    plugin = loaded.plugins["tenant"]
    alive = watched(loaded)
    loaded.unload()
    collect()
    with pytest.raises(RuntimeError, match="in a hook"):
        plugin.response(None, None)  # type: ignore[attr-defined]
    assert plugin.config_model.model_validate({"inner": {"size": 2}}).inner.size == 2  # type: ignore[attr-defined]
    del plugin
    collect()
    assert [ref() for ref in alive if ref() is not None] == []


def test_code_whose_import_failed_is_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    before = traces()
    alive: list[weakref.ref[object]] = []
    monkeypatch.setattr(logging, "seen_by_test", lambda value: alive.append(weakref.ref(value)), raising=False)
    text = (
        f"import logging\n{MODULE}\nlogging.seen_by_test(Tenant)\nlogging.seen_by_test(other.Other)\nraise ValueError('half way')".replace(
            "from __future__ import annotations\n", ""
        ).replace("inner: Inner | None", "inner: int | None")
    )
    with pytest.raises(WheelRefused, match="half way") as refused:
        load(read(make_wheel({**FILES, "tenant/__init__.py": text}, plugins=POINT)))
    collect()
    assert len(alive) == 2
    assert [ref() for ref in alive if ref() is not None] == []
    assert "tenant/__init__.py:" in refused.value.reason
    assert traces() == before


@pytest.mark.filterwarnings("ignore:to be seen once")
def test_memory_stays_flat() -> None:
    blocks = []
    for round_ in range(60):
        loaded = load(WHEEL)
        use(loaded)
        loaded.unload()
        del loaded
        if round_ in (19, 59):
            collect()
            blocks.append(sys.getallocatedblocks())
    growth = blocks[1] - blocks[0]
    assert growth < 40 * 10  # one load allocates some thousands
