"""How the modules of a wheel are imported from memory, under a private package, so that versions stand beside each other.

A module ``tenant.rules`` of a wheel is ``_wheel_1f3a2b4c5d6e_1.tenant.rules`` in :data:`sys.modules`: Python's own import system
finds it, through a hook in :data:`sys.path_hooks` for paths that no file has. What its code imports by the public name is looked
for in the wheel first: each module has an ``__import__`` of its own among its builtins, as CPython's import statement looks for
it there. The rest of the process is not affected, whatever the names of the wheel's modules are.
"""

from __future__ import annotations

import builtins
import inspect
import linecache
import logging
import posixpath
import sys
import typing
from collections.abc import Iterator, Mapping
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import decode_source
from types import CodeType, ModuleType

from gwproxy.wheels.own_names import OwnNames
from gwproxy.wheels.resources import Resources
from gwproxy.wheels.wheel import Packed, Wheel


class WheelImporter(InspectLoader):
    """Finds and loads the modules of one wheel: a finder for its paths, and the loader of all its modules.

    :param root: the name of the private package; no other may have it.
    :param location: the path the wheel seems to be at: of no file, and of no other wheel.
    :param codes: what its sources compile to, by path; an error is raised when that module is imported.
    """

    def __init__(self, wheel: Wheel, root: str, location: str, codes: Mapping[str, CodeType | SyntaxError]) -> None:
        self.root = root
        self.location = location
        self._codes = codes
        self._wheel = wheel
        self._files = {**wheel.sources, **wheel.resources}
        #: By name without the private package: the path of its source, or that of a folder without ``__init__.py``.
        self._modules = dict(_modules(wheel.sources, self._files))
        known = {name: path in wheel.sources for name, path in self._modules.items()}
        names = OwnNames(root, known, wheel.distribution, Packed(wheel.metadata))
        self._builtins = {**vars(builtins), "__import__": names.import_}

    # ---- the process

    def enter(self) -> None:
        """Make the private package, with nothing in it yet."""
        if self.root in sys.modules:
            raise ValueError(f"{self._wheel.package} is loaded from these sources already")
        # Another list, for who runs through the old one in another thread.
        sys.path_hooks = [self._hook, *sys.path_hooks]
        package = ModuleType(self.root, f"{self._wheel.package}, as it was pushed.")
        package.__path__ = [self.location]
        package.__spec__ = ModuleSpec(self.root, None, is_package=True)
        sys.modules[self.root] = package

    def leave(self) -> None:
        """Take every trace of the wheel out of the process, so that nothing but its users keeps its code."""
        sys.path_hooks = [hook for hook in sys.path_hooks if hook != self._hook]
        for name in [name for name in sys.modules if self._is_below(name)]:
            sys.modules.pop(name, None)
        for path in [path for path in sys.path_importer_cache if self._is_inside(path)]:
            sys.path_importer_cache.pop(path, None)
        for path in [path for path in linecache.cache if self._is_inside(path)]:
            linecache.cache.pop(path, None)
        self._forget_in_inspect()
        self._forget_loggers()
        _forget_in_caches()

    def _is_below(self, name: str) -> bool:
        return name == self.root or name.startswith(f"{self.root}.")

    def _is_inside(self, path: object) -> bool:
        return isinstance(path, str) and (path == self.location or path.startswith(f"{self.location}/"))

    def _forget_in_inspect(self) -> None:
        by_file: dict[str, str] = getattr(inspect, "modulesbyfile", {})
        by_module: dict[str, str] = getattr(inspect, "_filesbymodname", {})
        for file in [file for file, name in by_file.copy().items() if self._is_below(name)]:
            by_file.pop(file, None)
        for name in [name for name in by_module.copy() if self._is_below(name)]:
            by_module.pop(name, None)

    def _forget_loggers(self) -> None:
        known = logging.Logger.manager.loggerDict
        with logging._lock:  # type: ignore[attr-defined]
            for name in [name for name in known if self._is_below(name)]:
                del known[name]

    # ---- finding, for importlib's PathFinder and pkgutil

    def _hook(self, path: str) -> Folder:
        if not self._is_inside(path):
            raise ImportError(f"{path} is not in {self.location}")
        return Folder(self, path[len(self.location) + 1 :])

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how a module is loaded; None if the wheel has none of that name."""
        path = self._modules.get(self._public(fullname))
        if path is None:
            return None
        is_source = path in self._wheel.sources
        spec = ModuleSpec(fullname, self, origin=f"{self.location}/{path}" if is_source else None, is_package=self.is_package(fullname))
        if spec.submodule_search_locations is not None:
            folder = posixpath.dirname(path) if is_source else path
            spec.submodule_search_locations.append(f"{self.location}/{folder}")
        spec.has_location = is_source
        return spec

    def modules_in(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the modules directly in a folder, and whether each is a package."""
        package = folder.replace("/", ".")
        for name, path in self._modules.items():
            parent, _, last = name.rpartition(".")
            if parent == package and path in self._wheel.sources:
                yield last, posixpath.basename(path) == "__init__.py"

    def _public(self, fullname: str) -> str:
        return fullname[len(self.root) + 1 :]

    # ---- loading

    def is_package(self, fullname: str) -> bool:
        """Whether a module of the wheel is a package."""
        path = self._modules[self._public(fullname)]
        return path not in self._wheel.sources or posixpath.basename(path) == "__init__.py"

    def get_source(self, fullname: str) -> str | None:
        """Return the source of a module, for tracebacks; None if it has none."""
        data = self._wheel.sources.get(self._modules.get(self._public(fullname), ""))
        return decode_source(data) if data is not None else None

    def get_filename(self, fullname: str) -> str:
        """Return the path that stands in tracebacks."""
        return f"{self.location}/{self._modules[self._public(fullname)]}"

    def get_data(self, path: str) -> bytes:
        """Return a file of the wheel, for :func:`pkgutil.get_data`.

        :raises OSError: there is none.
        """
        if self._is_inside(path) and (data := self._files.get(path[len(self.location) + 1 :])) is not None:
            return data
        raise FileNotFoundError(f"{path} is not in the wheel")

    def get_resource_reader(self, fullname: str) -> Resources:
        """Return the files beside a module, for :mod:`importlib.resources`."""
        path = self._modules[self._public(fullname)]
        return Resources(self._files, posixpath.dirname(path) if path in self._wheel.sources else path)

    def get_code(self, fullname: str) -> CodeType | None:
        """Return what a module's source compiles to; None for a folder.

        :raises SyntaxError: it does not compile.
        """
        code = self._codes.get(self._modules[self._public(fullname)])
        if isinstance(code, SyntaxError):
            raise type(code)(*code.args)  # a new one: what was raised once keeps its frames
        return code

    def exec_module(self, module: ModuleType) -> None:
        """Run a module, with the wheel's own way to import."""
        vars(module)["__builtins__"] = self._builtins
        code = self.get_code(module.__name__)
        if code is not None:
            exec(code, vars(module))  # noqa: S102 - signed, and what this is for


def _forget_in_caches() -> None:
    """Empty what remembers the last 128 classes it was asked about: Optional[X] has X in it, Python 3.12's getattr_static its bases."""
    for forget in getattr(typing, "_cleanups", ()):
        forget()
    if (seen := getattr(inspect, "_shadowed_dict_from_mro_tuple", None)) is not None and hasattr(seen, "cache_clear"):
        seen.cache_clear()


class Folder:
    """A folder of a wheel on the path of a package, as Python's import system and pkgutil ask one."""

    def __init__(self, importer: WheelImporter, folder: str) -> None:
        self._importer = importer
        self._folder = folder

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how a module in it is loaded; None if there is none."""
        return self._importer.find_spec(fullname, target)

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """Yield the modules in it, and whether each is a package."""
        for name, is_package in self._importer.modules_in(self._folder):
            yield prefix + name, is_package


def _modules(sources: Mapping[str, bytes], files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield names with their paths. Of one name the last is meant: a folder, then a module, then a package, as Python has it."""
    for path in files:
        folder = posixpath.dirname(path)
        while folder:
            if "." not in folder:
                yield folder.replace("/", "."), folder
            folder = posixpath.dirname(folder)
    for is_package in (False, True):
        for path in sources:
            folder, last = posixpath.split(path)
            if (last == "__init__.py") == is_package and "." not in folder:
                name = folder if is_package else posixpath.join(folder, last.removesuffix(".py"))
                yield name.replace("/", "."), path
