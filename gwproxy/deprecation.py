"""What the plugin API is going to lose: said to whoever still uses it, by the plugin's name, long before.

A function or method of the API that is to go is marked with :func:`deprecated`; of a hook, or an argument of one, the
specification says so to pluggy (``hookspec(warn_on_impl=...)``, ``warn_on_impl_args``), and the registry tells it. Both go on
working. What uses them is named once a worker in the log, and warned of where Python's warnings are seen, in the plugin's own
tests above all. docs/plugin-api-versions.md says what is promised.
"""

from __future__ import annotations

import functools
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("gwproxy.deprecation")

#: The code in whose frames plugins run, and how the locals of such a frame tell the plugin's name. Whoever calls plugins adds its own.
CALLS: dict[CodeType, Callable[[Mapping[str, Any]], str]] = {}

_MOST_KNOWN = 1000  # uses that are told only once; code is pushed again and again
_known: set[tuple[str, str, str]] = set()


def deprecated(*, since: str, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark what is going to go: every plugin that calls it is told, once.

    :param since: the version of gwproxy that is the first to say so.
    :param instead: what to write.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        what = function.__qualname__

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            tell(what, since=since, instead=instead)
            return function(*args, **kwargs)

        return called

    return mark


def tell(what: str, *, since: str, instead: str) -> None:
    """Tell that ``what`` is used, which is going to go; once for each plugin, and for each version of it that is pushed.

    Who uses it is found among those that call this.
    """
    user = _user(sys._getframe(1))
    module, where, line = ("unknown", "unknown", 0) if user is None else (_module(user), user.f_code.co_filename, user.f_lineno)
    plugin = _plugin_of(user) or module
    use = (plugin, what, module)
    if use not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known.add(use)
        log.warning("plugin_deprecated plugin=%s uses=%s since=%s instead=%r where=%s:%d", plugin, what, since, instead, where, line)
    text = f"the plugin {plugin!r} uses {what}, deprecated since gwproxy {since}: {instead}"
    warnings.warn_explicit(text, DeprecationWarning, where, line, module=module)


def forget() -> None:
    """Tell everything once more."""
    _known.clear()


def _user(frame: FrameType | None) -> FrameType | None:
    """Return the frame nearest to ``frame`` that is no code of gwproxy's own."""
    while frame is not None and _module(frame).startswith("gwproxy.") and not _module(frame).startswith("gwproxy.plugins."):
        frame = frame.f_back
    return frame


def _plugin_of(frame: FrameType | None) -> str | None:
    while frame is not None:
        if (name := CALLS.get(frame.f_code)) is not None:
            return name(frame.f_locals)
        frame = frame.f_back
    return None


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
