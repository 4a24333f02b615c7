"""What a module means that says a name of its own wheel: ``import tenant.rules``, ``files("tenant")``, ``version("gwproxy-tenant")``.

A name in an import statement is looked for in the wheel, and only then in the rest of the process. Names that are given to
functions of the standard library as text would be looked for in the process only. So the wheel's modules see views of the few
that take such names; all else is the same, and nothing of it is seen outside of the wheel.
"""

from __future__ import annotations

import builtins
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import Distribution
from types import ModuleType
from typing import Any

from packaging.utils import canonicalize_name

#: The functions that take names of modules, by module of the standard library, and how many of their arguments are such names.
_TAKE_MODULES = {
    "importlib": {"import_module": 2},
    "importlib.util": {"find_spec": 2},
    "importlib.resources": dict.fromkeys(
        ("contents", "files", "is_resource", "open_binary", "open_text", "path", "read_binary", "read_text"), 1
    ),
    "pkgutil": {"get_data": 1, "resolve_name": 1},
}
#: What these arguments are called.
_NAMED = {"name", "package", "anchor"}
#: The functions that take the name of a distribution.
_TAKE_DISTRIBUTIONS = {"importlib.metadata": {"distribution", "metadata", "requires", "version"}}


class OwnNames:
    """The names of one wheel.

    :param root: its private package.
    :param modules: the public names of its modules, and whether there is a source: a mere folder has none.
    :param name: of its distribution, normalized.
    """

    def __init__(self, root: str, modules: Mapping[str, bool], name: str, distribution: Distribution) -> None:
        self._root = root
        self._modules = modules
        self._name = name
        self._distribution = distribution
        self._views: dict[str, ModuleType] = {}

    def import_(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import as :func:`__import__` does, from the wheel first."""
        if level > 0:
            if globals is not None and str(globals.get("__package__")).count(".") < level:
                raise ImportError("attempted relative import beyond top-level package")
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        if self._is_own(name, fromlist or ()):
            return self._import_own(name, fromlist or ())
        module = builtins.__import__(name, globals, locals, fromlist or (), 0)
        return self.view(name if fromlist else name.partition(".")[0], module)

    def _is_own(self, name: str, fromlist: Sequence[str] = ()) -> bool:
        """Whether the wheel is where a name leads. Of what is a mere folder there, other distributions may have a part."""
        top = name.partition(".")[0]
        if self._modules.get(top, False):
            return True
        if name not in self._modules:
            return False
        return self._modules[name] or not fromlist or any(f"{name}.{item}" in self._modules for item in fromlist)

    def _import_own(self, name: str, fromlist: Sequence[str]) -> ModuleType:
        private = f"{self._root}.{name}"
        try:
            module = builtins.__import__(private, None, None, fromlist, 0)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{private}.".startswith(f"{error.name}."):
                raise
            missing = error.name[len(self._root) + 1 :]
        else:
            return module if fromlist else sys.modules[f"{self._root}.{name.partition('.')[0]}"]
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    # ---- names as text

    def view(self, name: str, module: ModuleType) -> ModuleType:
        """Return a module as the wheel sees it: itself, for all but a few."""
        if name not in _TAKE_MODULES and name not in _TAKE_DISTRIBUTIONS:
            return module
        if name not in self._views:
            self._views[name] = _View(name, module, self)
        return self._views[name]

    def taking_modules(self, function: Callable[..., Any], count: int) -> Callable[..., Any]:
        """Return ``function`` as one whose first ``count`` arguments may be names of this wheel's modules."""

        @functools.wraps(function)
        def with_own_names(*args: Any, **kwargs: Any) -> Any:
            if not args and not kwargs:  # files(), since Python 3.12: those beside who asks
                args = (sys._getframe(1).f_globals["__name__"],)
            private = [self._private(arg) if at < count else arg for at, arg in enumerate(args)]
            return function(*private, **{key: self._private(arg) if key in _NAMED else arg for key, arg in kwargs.items()})

        return with_own_names

    def taking_distributions(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` as one whose argument may be the name of this distribution."""

        @functools.wraps(function)
        def with_own_name(distribution_name: str) -> Any:
            if canonicalize_name(distribution_name) != self._name:
                return function(distribution_name)
            return self._distribution if function.__name__ == "distribution" else getattr(self._distribution, function.__name__)

        return with_own_name

    def _private(self, name: Any) -> Any:
        own = isinstance(name, str) and self._is_own(name.partition(":")[0])
        return f"{self._root}.{name}" if own else name


class _View(ModuleType):
    """A module of the standard library, some of whose functions know the names of a wheel."""

    def __init__(self, name: str, module: ModuleType, names: OwnNames) -> None:
        super().__init__(name, module.__doc__)
        self._of = module
        self._names = names
        for function, count in _TAKE_MODULES.get(name, {}).items():
            if hasattr(module, function):
                setattr(self, function, names.taking_modules(getattr(module, function), count))
        for function in _TAKE_DISTRIBUTIONS.get(name, ()):
            setattr(self, function, names.taking_distributions(getattr(module, function)))

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._of, name)
        return self._names.view(f"{self.__name__}.{name}", value) if isinstance(value, ModuleType) else value

    def __dir__(self) -> list[str]:
        return dir(self._of)
