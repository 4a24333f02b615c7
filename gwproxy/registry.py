"""Which plugins are installed, and whether they fit: found by entry point, checked by pluggy, refused by name.

Pluggy finds and checks; gwproxy runs. A ``pm.hook`` call would visit every installed plugin and know nothing of routes,
priorities or configurations, so the chains are compiled from :attr:`Registered.hooks` when a configuration is applied.
"""

from __future__ import annotations

import inspect
import logging
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from typing import Any, NamedTuple, TypeVar

import pluggy
from gevent import Timeout
from packaging.utils import canonicalize_name

from gwproxy.deprecation import CALLS
from gwproxy.errors import BudgetExceeded, PluginRefused
from gwproxy.hookspecs import API_VERSION, PHASES, HookSpecs
from gwproxy.plugin import Plugin, PluginConfig

log = logging.getLogger("gwproxy.registry")

GROUP = "gwproxy"

#: Seconds a lifecycle hook may take: a worker neither starts nor follows its configuration meanwhile.
EVENT_BUDGET = 5.0

T = TypeVar("T")

#: A hook as the chain calls it.
Hook = Callable[[Any, PluginConfig], object]

_SPECS = tuple(name for name in vars(HookSpecs) if not name.startswith("_"))


class Event(NamedTuple):
    """A lifecycle hook of a plugin.

    :ivar names: of the arguments that it takes.
    """

    function: Callable[..., object]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """A plugin that may be used.

    :ivar plugin: this worker's one instance.
    :ivar package: the distribution it came with, e.g. ``gwproxy 0.1.0``.
    :ivar hooks: what it does in each phase, called with context and config.
    :ivar events: what it does when something happens to its worker, by event.
    """

    plugin: Plugin
    package: str
    hooks: Mapping[str, Hook] = field(repr=False)
    events: Mapping[str, Event] = field(default_factory=dict, repr=False)


class Deadline:
    """When something of a plugin has to be done.

    :param limit: seconds from now.

    :ivar at: the time it is told to end, next; of :func:`time.monotonic`.
    """

    __slots__ = ("at",)

    def __init__(self, limit: float) -> None:
        self.at = time.monotonic() + limit


class Registry:
    """The plugins of this process.

    :ivar broken: installed but unusable, by name, with the reason.
    """

    def __init__(self) -> None:
        self._registered: dict[str, Registered] = {}
        self.broken: dict[str, str] = {}

    @classmethod
    def discover(cls) -> Registry:
        """Load every installed plugin. One that does not load is in :attr:`broken`; nothing is raised."""
        registry = cls()
        by_name: dict[str, list[EntryPoint]] = {}
        for point in _entry_points():
            by_name.setdefault(point.name, []).append(point)
        for name, points in sorted(by_name.items()):
            try:
                distinct = {(point.value, _package(point)): point for point in points}
                if len(distinct) > 1:
                    packages = " and ".join(sorted({_package(point) for point in points}))
                    raise PluginRefused(name, f"the name is taken twice, by {packages}; uninstall one of them")
                registry.add(_load(name, points[0]), package=_package(points[0]), name=name)
            except PluginRefused as refused:
                registry.broken[name] = refused.reason
            except BaseException as error:  # metadata that is damaged, a class whose attributes raise: nobody else's fault
                let_pass(error)
                registry.broken[name] = f"cannot be looked at: {type(error).__name__}: {error}"
        return registry

    @classmethod
    def of(cls, *plugins: Plugin) -> Registry:
        """Make a registry of just these plugins.

        :raises PluginRefused: one of them does not fit the specifications.
        """
        registry = cls()
        for plugin in plugins:
            registry.add(plugin)
        return registry

    def over(self, others: Iterable[Registry]) -> Registry:
        """Return a registry of these and of the plugins of ``others``, which win where names are the same.

        Nothing is checked again. What is broken here stays so, unless another one has a plugin of that name.
        """
        made = Registry()
        made._registered = dict(self._registered)
        for other in others:
            made._registered |= other._registered
        made.broken = {name: reason for name, reason in self.broken.items() if name not in made._registered}
        return made

    def lacking(self, names: Collection[str], reason: str) -> Registry:
        """Return a registry of these, in which some plugins are broken."""
        made = self.over(())
        for name in names:
            made._registered.pop(name, None)
            made.broken[name] = reason
        return made

    def add(self, plugin: object, *, package: str = "", name: str | None = None) -> None:
        """Check a plugin against the specifications and register it.

        :param name: of its entry point; None: the plugin's own.
        :raises PluginRefused: it does not fit, or its name is taken.
        """
        plugin = _checked(plugin, name)
        if plugin.name in self._registered:
            raise PluginRefused(plugin.name, "the name is taken twice")
        try:
            self._manager.register(plugin, plugin.name)
            self._check_hooks(plugin)
        except (pluggy.PluginValidationError, PluginRefused) as error:
            if self._manager.has_plugin(plugin.name):
                self._manager.unregister(name=plugin.name)
            reason = error.reason if isinstance(error, PluginRefused) else " ".join(str(error).split())
            raise PluginRefused(plugin.name, reason) from None
        self._registered[plugin.name] = Registered(plugin, package, *self._hooks(plugin))

    def find(self, name: str) -> Plugin | None:
        """Return the plugin of that name; None if there is none that loaded."""
        found = self._registered.get(name)
        return found.plugin if found else None

    def registered(self, name: str) -> Registered | None:
        """Return the plugin of that name with its hooks and package; None if there is none that loaded."""
        return self._registered.get(name)

    @property
    def names(self) -> Collection[str]:
        """The names of all plugins that loaded."""
        return self._registered.keys()

    def __iter__(self) -> Iterator[Registered]:
        return iter(self._registered.values())

    def notify(self, event: str, limit: float = EVENT_BUDGET, **arguments: object) -> list[tuple[str, BaseException]]:
        """Call a lifecycle hook of every plugin that has it; return the plugins that raised, with what they raised.

        :param limit: seconds each may take; one that takes longer is cut off with :class:`BudgetExceeded`.
        """
        failures: list[tuple[str, BaseException]] = []
        for name, registered in list(self._registered.items()):
            if (hook := registered.events.get(event)) is None:
                continue
            try:
                with Timeout(limit, BudgetExceeded(f"{name} in {event}")):
                    call(name, event, hook.function, [arguments[argument] for argument in hook.names], Deadline(limit))
            # A lifecycle hook of one plugin must stop neither the others nor the worker; an exit at boot would end the master too.
            except BaseException as error:
                failures.append((name, error))
        return failures

    @cached_property
    def _manager(self) -> pluggy.PluginManager:
        """Made for the first plugin that is checked here: it refers to itself, so that only a collection would free it."""
        manager = pluggy.PluginManager("gwproxy")
        manager.add_hookspecs(HookSpecs)
        return manager

    def _check_hooks(self, plugin: Plugin) -> None:
        for hook in _SPECS:
            method = getattr(plugin, hook, None)
            if callable(method) and not hasattr(method, "gwproxy_impl"):
                raise PluginRefused(plugin.name, f"{hook} is not marked with @hookimpl")
        self._manager.check_pending()
        for caller in self._manager.get_hookcallers(plugin) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is not plugin:
                    continue
                if implementation.hookwrapper or implementation.wrapper:
                    raise PluginRefused(plugin.name, f"{caller.name} is a wrapper; gwproxy's phases have none")
                function = implementation.function
                if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                    raise PluginRefused(plugin.name, f"{caller.name} is async; hooks are plain functions, gevent makes them wait")
                if inspect.isgeneratorfunction(function):
                    raise PluginRefused(plugin.name, f"{caller.name} is a generator; hooks are plain functions")
                _tell_deprecated(plugin.name, caller, implementation.argnames)

    def _hooks(self, plugin: Plugin) -> tuple[dict[str, Hook], dict[str, Event]]:
        """Return what a plugin does in each phase, and at each event."""
        hooks: dict[str, Hook] = {}
        events: dict[str, Event] = {}
        for caller in self._manager.get_hookcallers(plugin) or ():
            (implementation,) = (i for i in caller.get_hookimpls() if i.plugin is plugin)
            if caller.name in PHASES:
                hooks[caller.name] = _positional(implementation.function, implementation.argnames)
            else:
                events[caller.name] = Event(implementation.function, implementation.argnames)
        return hooks, events


def call(plugin: str, event: str, function: Callable[..., T], values: Sequence[object], deadline: Deadline) -> T:
    """Call something of a plugin outside any request, in the sight of the watchdog of the loop.

    :raises BudgetExceeded: it held the loop beyond its deadline. Waiting is not seen here.
    """
    return function(*values)


#: What :func:`call` calls runs in frames of this, whose locals ``plugin``, ``event`` and ``deadline`` say what it is.
EVENT_CODE = call.__code__
CALLS[EVENT_CODE] = lambda names: str(names["plugin"])


def _tell_deprecated(plugin: str, caller: pluggy.HookCaller, arguments: Sequence[str]) -> None:
    """Name a plugin that implements a hook, or takes an argument, that is going to go; pluggy has warned, but of no name."""
    if caller.spec is None:
        return
    of_arguments = caller.spec.warn_on_impl_args or {}
    for what, warning in (
        (caller.name, caller.spec.warn_on_impl),
        *((f"{caller.name}({name})", of_arguments.get(name)) for name in arguments),
    ):
        if warning is not None:
            log.warning("plugin_deprecated plugin=%s uses=%s reason=%r", plugin, what, str(warning))


def _positional(function: Callable[..., object], names: tuple[str, ...]) -> Hook:
    """Return ``function`` callable as ``(ctx, config)``, whichever of them it asked for."""
    if names == ("ctx", "config"):
        return function
    if names == ("ctx",):
        return lambda ctx, config: function(ctx)
    return lambda ctx, config: function(**{name: {"ctx": ctx, "config": config}[name] for name in names})


def let_pass(error: BaseException) -> None:
    """Raise ``error`` again if it is the user's Ctrl-C: a worker, which has a handler of its own, gets none of those."""
    if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        raise error


def _entry_points() -> Iterable[EntryPoint]:
    try:
        return entry_points(group=GROUP)
    except Exception:  # one installed package is damaged, a stranger perhaps: all but that one
        return _entry_points_of_sound_packages()


def _entry_points_of_sound_packages() -> Iterator[EntryPoint]:
    seen: set[str] = set()
    for package in distributions():
        try:
            points = package.entry_points.select(group=GROUP)
            name = canonicalize_name(package.name)
        except Exception as error:
            log.error("package_damaged path=%s reason=%s", getattr(package, "_path", "unknown"), type(error).__name__)
            continue
        if name not in seen:  # the first on the path is the one that is imported
            yield from points
        seen.add(name)


def _load(name: str, point: EntryPoint) -> object:
    try:
        loaded = point.load()
        return loaded() if inspect.isclass(loaded) else loaded
    except BaseException as error:  # a package may raise anything when it is imported
        let_pass(error)
        raise PluginRefused(name, f"{_package(point)} does not import: {type(error).__name__}: {error}") from error


CALLS[_load.__code__] = lambda names: str(names["name"])


def _checked(plugin: object, name: str | None) -> Plugin:
    if not isinstance(plugin, Plugin):
        raise PluginRefused(name or type(plugin).__name__, f"{type(plugin).__name__} is not a subclass of gwproxy.Plugin")
    if name is not None and plugin.name != name:
        raise PluginRefused(name, f"its class says name = {plugin.name!r}; it must be the name of its entry point")
    if plugin.api_version != API_VERSION:
        raise PluginRefused(plugin.name, f"made for version {plugin.api_version!r} of the plugin API; this gateway has {API_VERSION}")
    if not isinstance(plugin.version, (str, int, float)):
        raise PluginRefused(plugin.name, f"version is a {type(plugin.version).__name__}, not a string")
    if not isinstance(plugin.priority, int) or isinstance(plugin.priority, bool):
        raise PluginRefused(plugin.name, f"priority is {plugin.priority!r}, not a whole number")
    if not (inspect.isclass(plugin.config_model) and issubclass(plugin.config_model, PluginConfig)):
        raise PluginRefused(plugin.name, "config_model is not a subclass of gwproxy.PluginConfig")
    return plugin


def _package(point: EntryPoint) -> str:
    return _name_and_version(point.dist) if point.dist is not None else "an unnamed package"


@lru_cache(maxsize=32)
def _name_and_version(package: Distribution) -> str:
    """Read them once for all plugins of a package: each look parses its metadata, the whole of its README included."""
    metadata = package.metadata
    return f"{metadata['Name']} {metadata['Version']}"
