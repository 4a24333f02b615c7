"""The time that a test decides: of the store, and of the modules of the plugins under test."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any


class Clock:
    """Goes with the real time, and ahead of it once the test lets time pass, or from another moment once the test says so.

    It is what the store of the test goes by. From the first :meth:`advance` or :meth:`set` on it is also what modules of plugins see as
    ``time.time``, ``time.monotonic``, their ``_ns`` forms, ``datetime.now`` and ``date.today``, under whatever names they imported them.
    The gateway itself, libraries and sleeping go by the real time.
    """

    def __init__(self) -> None:
        self._real = time.time_ns, time.monotonic_ns
        self._passed = 0
        self._moved = 0  # beside what has passed: of the calendar only
        self._packages: list[str] = []
        self._seen: list[tuple[ModuleType, str, object]] = []
        self._replacements = self._make_replacements()

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, 0 or more; at once."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._passed += round(seconds * 1e9)
        self._show_itself()

    def set(self, moment: datetime.datetime) -> None:
        """Let it be ``moment`` now, earlier or later; time goes on from there. Nothing expires by that: no time has passed.

        :raises ValueError: the moment has no time zone, and could be any of 26 hours.
        """
        if moment.tzinfo is None:
            raise ValueError("a moment has a time zone: datetime(2030, 6, 2, 23, 30, tzinfo=UTC)")
        self._moved += round(moment.timestamp() * 1e9) - self.time_ns()
        self._show_itself()

    def _show_itself(self) -> None:
        while self._packages:
            self._replace_in(self._packages.pop())

    def time(self) -> float:
        """Return the seconds since 1970."""
        return self.time_ns() / 1e9

    def time_ns(self) -> int:
        """Return the nanoseconds since 1970."""
        return self._real[0]() + self._passed + self._moved

    def monotonic(self) -> float:
        """Return the seconds since some moment."""
        return self.monotonic_ns() / 1e9

    def monotonic_ns(self) -> int:
        """Return the nanoseconds since some moment."""
        return self._real[1]() + self._passed

    def show(self, package: str) -> None:
        """Let the modules of ``package`` see this clock once it is ahead of the real time, until :meth:`hide`."""
        self._packages.append(package)
        if self._passed or self._moved:
            self._show_itself()

    def _replace_in(self, package: str) -> None:
        for name, module in list(sys.modules.items()):
            if (name == package or name.startswith(f"{package}.")) and isinstance(module, ModuleType):
                for attribute, value in list(vars(module).items()):
                    replacement = self._replacement(value)
                    if replacement is not None:
                        self._seen.append((module, attribute, value))
                        setattr(module, attribute, replacement)

    def hide(self) -> None:
        """Let everybody see the real time again."""
        self._packages.clear()
        while self._seen:
            module, attribute, value = self._seen.pop()
            setattr(module, attribute, value)

    def _replacement(self, value: object) -> object:
        return next((mine for real, mine in self._replacements if real is value), None)

    def _make_replacements(self) -> list[tuple[object, object]]:
        functions: list[Callable[[], Any]] = [self.time, self.time_ns, self.monotonic, self.monotonic_ns]
        pairs: list[tuple[object, object]] = [(getattr(time, function.__name__), function) for function in functions]
        shifted, days = _shifted(self)
        namespace = {**vars(time), **{function.__name__: function for function in functions}}
        dates = SimpleNamespace(**{**vars(datetime), "datetime": shifted, "date": days})
        mine = [(datetime.datetime, shifted), (datetime.date, days), (datetime, dates)]
        return [*pairs, (time, SimpleNamespace(**namespace)), *mine]


class _Kind(type(datetime.datetime)):  # type: ignore[misc]  # plain ``type``, but that is typeshed's to say
    """Makes the stand-in of a class of ``datetime`` the same to ``isinstance``."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.__base__)


def _shifted(clock: Clock) -> tuple[type[datetime.datetime], type[datetime.date]]:
    class Datetime(datetime.datetime, metaclass=_Kind):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(clock.time(), tz)

        @classmethod
        def today(cls) -> datetime.datetime:  # type: ignore[override]
            return cls.now()

    class Date(datetime.date, metaclass=_Kind):
        @classmethod
        def today(cls) -> datetime.date:  # type: ignore[override]
            return datetime.date.fromtimestamp(clock.time())

    return Datetime, Date
