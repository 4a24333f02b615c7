"""Plugin entries: which plugin they mean, and whether its model accepts their configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from gwproxy.controlplane.environment import Part
from gwproxy.controlplane.masking import shown
from gwproxy.controlplane.report import Report, did_you_mean
from gwproxy.controlplane.validation import validate
from gwproxy.dataplane.patterns import compile_pattern
from gwproxy.model import PluginRef, Route
from gwproxy.plugin import Plugin, PluginConfig
from gwproxy.registry import Deadline, call, let_pass

#: Seconds of validation beyond which a plugin's configuration is refused: meanwhile the worker serves nobody.
SLOWEST = 1.0
#: Seconds after which a validation that still runs is cut off.
LONGEST = 2.0

T = TypeVar("T")


class PluginSource(Protocol):
    """The plugins a document may use; :class:`gwproxy.registry.Registry` is one."""

    def find(self, name: str) -> Plugin | None:
        """Return the plugin of that name; None if there is none that loaded."""

    @property
    def broken(self) -> Mapping[str, str]:
        """Installed but unusable, by name, with the reason."""

    @property
    def names(self) -> Collection[str]:
        """The names of all plugins that loaded."""


@dataclass(frozen=True, slots=True)
class Entries:
    """A list of plugin entries, checked.

    :ivar configs: by index; absent for entries that are disabled, refused or unavailable.
    :ivar unavailable: by index, why an entry cannot run here.
    """

    configs: dict[int, PluginConfig] = field(default_factory=dict)
    unavailable: dict[int, str] = field(default_factory=dict)


class EntryChecker:
    """Checks lists of plugin entries.

    :param everywhere: the names of the global entries: a route may disable one whose plugin is not there.
    :param lenient: whether a plugin that is not there makes its entry unavailable, instead of refusing the document.
    :param elsewhere: names of plugins for which that is so in any case.
    """

    def __init__(
        self, plugins: PluginSource, everywhere: Collection[str], report: Report, *, lenient: bool, elsewhere: Collection[str] = ()
    ) -> None:
        self._plugins = plugins
        self._everywhere = everywhere
        self._report = report
        self._lenient = lenient
        self._elsewhere = elsewhere

    def check(self, part: Part, refs: Sequence[PluginRef] | None) -> Entries:
        """Check one list.

        :param part: the list, as resolved; anything else has no entries.
        :param refs: the same as models; None if they are not valid, and what can be checked is.
        """
        made = Entries()
        for index, entry in enumerate(part.value if isinstance(part.value, list) else ()):
            name = entry.get("name") if isinstance(entry, dict) else None
            here = part.below(index, value=entry)
            if not isinstance(name, str) or (*here.path, "name") in part.unset:
                continue  # the entry's own model has said so, or nothing can be said
            enabled = refs[index].enabled if refs else entry.get("enabled") is not False
            plugin = self._plugins.find(name)
            if plugin is None:
                self._missing(name, enabled, here, made.unavailable, index)
            elif enabled:
                self._configure(plugin, here.below("config", value=entry.get("config", {})), made, index)
        return made

    def check_on(self, route: Route, refs: Mapping[int, PluginRef], entries: Entries, *path: str | int, about: str = "this route") -> bool:
        """Let each configuration judge a route that it is on; return whether all of them fit.

        :param refs: of the entries, by index.
        :param path: of the list.
        :param about: what messages call the route.
        """
        fit = True
        for index, config in entries.configs.items():
            if not judges_routes(config):
                continue
            place, name = (*path, index, "config"), refs[index].name
            try:
                params = compile_pattern(route.path).names
            except ValueError:
                return True  # a path that is none: no request takes this route, and it is refused for that
            try:
                call(name, "check_route", config.check_route, (route, params), Deadline(LONGEST))
            except ValueError as error:
                self._report.refuse(place, f"a configuration that does not fit {about}", _line(str(error)))
            except BaseException as error:  # as above
                let_pass(error)
                found = f"a configuration over which plugin {name!r} raised {type(error).__name__}"
                self._report.refuse(place, found, "a plugin that accepts or refuses it")
            else:
                continue
            fit = False
        return fit

    def _missing(self, name: str, enabled: bool, part: Part, unavailable: dict[int, str], index: int) -> None:
        reason = self._plugins.broken.get(name)
        lenient = self._lenient or name in self._elsewhere
        if not enabled and (lenient or reason is not None or name in self._everywhere):
            return
        if lenient:
            unavailable[index] = "not installed" if reason is None else f"does not load: {_line(reason)}"
        elif reason is not None:
            self._report.refuse((*part.path, "name"), f"plugin {name!r}, which does not load: {_line(reason)}", "a plugin that loads")
        else:
            expected = f"an installed plugin{did_you_mean(name, self._plugins.names)}"
            self._report.refuse((*part.path, "name"), f"the unknown plugin {shown(name)}", expected)

    def _configure(self, plugin: Plugin, part: Part, made: Entries, index: int) -> None:
        model = plugin.config_model
        try:
            check = (validate, (model, part, self._report))
            config, seconds = _timed(lambda: call(plugin.name, "configuration", *check, Deadline(LONGEST)))
            if seconds > SLOWEST:
                # Once more: the machine may have paused, and nobody's configuration is to blame for that.
                seconds = min(seconds, _timed(lambda: call(plugin.name, "configuration", *check, Deadline(LONGEST)))[1])
        except BaseException as error:  # a stranger's validator: whatever it raises refuses the document, and no more
            let_pass(error)
            # The error's own text stays out: it may hold secrets.
            found = f"a configuration over which plugin {plugin.name!r} raised {type(error).__name__}"
            self._report.refuse(part.path, found, "a plugin that accepts or refuses it")
            return
        if seconds > SLOWEST:
            self._report.refuse(part.path, f"a check of {seconds:.1f} s by plugin {plugin.name!r}", f"at most {SLOWEST:g} s")
        if part.unset:  # never a configuration with '${NAME}' in it, say as a secret
            made.unavailable[index] = "; ".join(sorted(set(part.unset.values())))
        elif config is not None:
            made.configs[index] = config


def judges_routes(config: PluginConfig) -> bool:
    """Whether a configuration may fit one route and not another."""
    return type(config).check_route is not PluginConfig.check_route


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:199]}…"


def _timed(function: Callable[[], T]) -> tuple[T, float]:
    began = time.perf_counter()
    return function(), time.perf_counter() - began
