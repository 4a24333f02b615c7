"""How much memory each version of a plugin holds, so that one that leaks is seen by its name and not only as a worker that grows.

What is weighed is what a plugin's instance and its modules lead to: that is where a plugin keeps what outlives a request. Tracing
each allocation would name all memory, at a third of a worker's speed; this names what is kept, beside requests and in small slices.
It does not see what a C library keeps for itself, nor what a plugin put into objects of others.
"""

from __future__ import annotations

import gc
import logging
import sys
import types
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import gevent

from gwproxy.dataplane.measures import Held, Measures
from gwproxy.plugin import Plugin

log = logging.getLogger("gwproxy.weighing")

EVERY = 5.0  # seconds between two weighings
SLICE = 300  # objects, some 0.3 ms, between which requests are served
MOST = 100_000  # objects of a plugin that are weighed

_LEAVES = (type, types.ModuleType, types.FrameType, types.CodeType, types.GeneratorType, gevent.Greenlet, type(Lock()))
#: Whose objects are not the plugin's: it refers to them, and they to everything.
_OTHERS = ("gevent", "greenlet", "gwproxy", "logging", "pluggy", "pydantic", "redis", "threading")
#: What a plugin that keeps requests keeps.
_OF_REQUESTS = ("gwproxy.context.", "gwproxy.messages.", "gwproxy.http.")


class Weighing:
    """Weighs the plugins of a worker, one after the other, again and again.

    :param wait: waits for so many seconds; True: it is over.
    :param pause: called between two slices.
    """

    def __init__(self, measures: Measures, wait: Callable[[float], bool], pause: Callable[[], None] = lambda: gevent.sleep(0.001)) -> None:
        self._measures = measures
        self._wait = wait
        self._pause = pause

    def run(self) -> None:
        """Weigh until it is over."""
        while not self._wait(EVERY):
            self.weigh()

    def weigh(self) -> None:
        """Weigh each once, and forget those that are gone."""
        present = set()
        plugin: Plugin | None
        for name, version, plugin in self._measures.plugins():
            present.add((name, version))
            try:
                size, whole = self._weigh(plugin)
            except Exception as error:  # of objects that say how large they are, and do not know
                log.debug("plugin_not_weighed plugin=%s reason=%r", name, error)
                continue
            held = self._measures.held.setdefault((name, version), Held(size))
            held.bytes, held.whole = size, whole
        plugin = None  # else the last one lives on until the next time
        for gone in self._measures.held.keys() - present:
            del self._measures.held[gone]

    def _weigh(self, plugin: Plugin) -> tuple[int, bool]:
        """Return the bytes of all that is found, and whether that was all."""
        size = 0
        for count, thing in enumerate(reached(plugin), 1):
            size += sys.getsizeof(thing, 0)
            if count >= MOST:
                return size, False
            if count % SLICE == 0:
                self._pause()
        return size, True


def reached(plugin: Plugin) -> Iterator[Any]:
    """Yield each object that a plugin's instance and the variables of its package lead to, once."""
    package = _package(type(plugin).__module__)
    seen: set[int] = set()
    found: list[Any] = [plugin.__dict__]
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType) and f"{name}.".startswith(f"{package}."):
            found.extend(_kept(module))
    while found:
        thing = found.pop()
        if id(thing) in seen or _is_foreign(thing, package):
            continue
        seen.add(id(thing))
        yield thing
        found.extend(_led_to(thing))


def _kept(module: types.ModuleType) -> Iterator[Any]:
    """Yield what a module keeps in variables, its classes' own attributes included; not what it has imported."""
    for name, value in list(vars(module).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, type):
            if value.__module__ == module.__name__:
                yield from (held for held in list(vars(value).values()) if isinstance(held, (dict, list, set, bytearray)))
        else:
            yield value


def _led_to(thing: Any) -> list[Any]:
    """Return what an object refers to."""
    if isinstance(thing, types.FunctionType):
        return [thing.__closure__, thing.__dict__, thing.__defaults__]  # not the variables of its module: it may be anybody's
    return gc.get_referents(thing)


def _is_foreign(thing: Any, package: str) -> bool:
    kind = type(thing)  # not isinstance(), which asks a proxy for what it stands for
    if issubclass(kind, _LEAVES):
        return True
    module = getattr(kind, "__module__", "")
    if not isinstance(module, str) or f"{module}.".startswith((f"{package}.", *_OF_REQUESTS)):
        return False
    return module.partition(".")[0] in _OTHERS


def _package(module: str) -> str:
    """Return the package that is a plugin's own: of the built-in ones, each has its module."""
    return module if module.startswith("gwproxy.") else module.partition(".")[0]
