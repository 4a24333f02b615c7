"""From a wheel to its plugins, and back: :func:`load` imports it from memory, :meth:`Loaded.unload` lets go of it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint
from traceback import extract_tb
from types import CodeType, MappingProxyType, TracebackType

from gevent import Timeout

from gwproxy.errors import BudgetExceeded, PluginRefused, WheelRefused
from gwproxy.plugin import Plugin
from gwproxy.registry import EVENT_BUDGET, GROUP, Deadline, Registry, call, let_pass
from gwproxy.wheels.importing import WheelImporter
from gwproxy.wheels.wheel import Wheel

#: Tells apart what one process compiles, the same wheel twice as well.
_serials = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The sources of a wheel, compiled to be loaded once at a time.

    :ivar root: the name of the private package that its modules are to be in.
    :ivar location: the path that stands in tracebacks before the paths in the wheel; no file is there.
    :ivar codes: by path; what does not compile is an error when it is imported.
    """

    wheel: Wheel
    root: str
    location: str
    codes: Mapping[str, CodeType | SyntaxError]


class Loaded:
    """The plugins of a wheel, in this process.

    :ivar wheel: where they came from.
    :ivar root: the private package that the names of its modules begin with.
    :ivar plugins: an instance of each, by name; empty after :meth:`unload`.
    """

    def __init__(self, wheel: Wheel, importer: WheelImporter, plugins: Mapping[str, Plugin]) -> None:
        self.wheel = wheel
        self.root = importer.root
        self.plugins = plugins
        self._importer: WheelImporter | None = importer

    def unload(self) -> None:
        """Take the wheel's modules out of the process. What still uses its code goes on, and imports nothing new.

        Nothing happens the second time. Its code is freed, by the garbage collector, once nobody uses it.
        """
        importer, self._importer, self.plugins = self._importer, None, MappingProxyType({})
        if importer is not None:
            importer.leave()


def compile_sources(wheel: Wheel) -> Compiled:
    """Compile all sources of a wheel. This takes time, no import, and may run in any thread."""
    mark = f"{wheel.sha256[:12]}_{next(_serials)}"
    location = f"{wheel.distribution}-{wheel.version}-{mark}.whl"
    codes = {path: _compile(data, f"{location}/{path}") for path, data in wheel.sources.items()}
    return Compiled(wheel, f"_wheel_{mark}", location, codes)


def load(wheel: Wheel, compiled: Compiled | None = None, *, limit: float = EVENT_BUDGET) -> Loaded:
    """Import a wheel from memory and make an instance of each of its plugins.

    :param compiled: what :func:`compile_sources` made of it; None: it is compiled here.
    :param limit: seconds that its imports may take together, waiting included; then they are cut off.
    :raises WheelRefused: it does not import in time, or has no plugins that fit; it has left nothing behind.
    """
    compiled = compiled if compiled is not None else compile_sources(wheel)
    importer = WheelImporter(wheel, compiled.root, compiled.location, compiled.codes)
    importer.enter()
    plugins: dict[str, Plugin] = {}
    reason = ""
    try:
        with Timeout(limit, BudgetExceeded("import")):
            deadline = Deadline(limit)
            for name, value in sorted(wheel.plugins.items()):
                plugins[name] = call(name, "import", _make, (importer.root, name, value), deadline)
    # Whatever a module raises when it is imported, an exit too, is its own end only.
    except BaseException as error:
        reason = _reason(error, importer.location, limit)
        importer.leave()
        let_pass(error)
    if reason:  # raised here, where the error is no more: it would keep the frames of the modules that are gone
        plugins.clear()
        raise WheelRefused(f"{wheel.package} {reason}")
    return Loaded(wheel, importer, MappingProxyType(plugins))


def _make(root: str, name: str, value: str) -> Plugin:
    """Import the class of a plugin, make its instance, and see whether it fits the specifications.

    :raises PluginRefused: it does not.
    """
    point = EntryPoint(name, value, GROUP)
    found: object = import_module(f"{root}.{point.module}")
    for attribute in point.attr.split("."):
        found = getattr(found, attribute)
    plugin = found() if inspect.isclass(found) else found
    registry = Registry()
    registry.add(plugin, name=name)
    fitting = registry.find(name)
    assert fitting is not None  # noqa: S101
    # Now, while its modules can be found by name: annotations that name what stands below them are resolved late.
    fitting.config_model.model_rebuild()
    return fitting


def _reason(error: BaseException, location: str, limit: float) -> str:
    if isinstance(error, PluginRefused):
        return f"does not fit: {error}"
    try:
        text = str(error)
    except Exception:  # its class is the wheel's own
        text = "an error that cannot be shown"
    where = _where(error.__traceback__, location)
    if isinstance(error, BudgetExceeded):
        return f"was not imported after {limit:g} s{where}"
    return f"does not import: {type(error).__name__}: {text}{where}"


def _where(traceback: TracebackType | None, location: str) -> str:
    """Return the last line of the wheel that took part, in words; empty if none did."""
    lines = [frame for frame in extract_tb(traceback) if frame.filename.startswith(f"{location}/")]
    return f" ({lines[-1].filename[len(location) + 1 :]}:{lines[-1].lineno})" if lines else ""


def _compile(data: bytes, filename: str) -> CodeType | SyntaxError:
    try:
        return compile(data, filename, "exec", dont_inherit=True)
    except SyntaxError as error:
        return type(error)(*error.args)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return SyntaxError(str(error) or type(error).__name__, (filename, None, None, None))
