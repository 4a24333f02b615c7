"""What is measured of every hook, always: time, decisions, errors. And where: by plugin, version and phase.

Counts are plain lists in the worker, shown with its heartbeat. :mod:`prometheus_client` would take 1 to 3 us an observation and, with
several processes, leave the files of dead workers behind; all that is done here for a step takes 0.6 us (benchmarks/measures.py).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

from gwproxy.dataplane.entry_breaker import EntryBreaker
from gwproxy.dataplane.histogram import Histogram, bucket_of
from gwproxy.model import PluginBreaker
from gwproxy.plugin import Entry, Plugin
from gwproxy.tally import Tally

#: What hooks do once the request has finished counts as a phase of its own.
FINISH = "on_finish"
#: Rows of versions that are not loaded any more, which are kept to compare them with what came after.
KEPT_ROWS = 36

Key = tuple[str, str, str]
Of = tuple[str, str, Entry]


class StepMeasure:
    """The hooks of one phase of one version of a plugin, whatever the route.

    :ivar spent: what they took of the worker: the time in which they ran and nobody else did.
    :ivar waited: the time in which they waited and others were served, of those that did.
    :ivar decisions: what they came to, other than that the request went on, by name: ``aborted_4xx``, ``authenticated``; of those in
        shadow mode ``would_block_4xx``, ``would_authenticate``, ``would_change``; ``skipped``: the entry was switched off.
    :ivar errors: by kind: ``raised``, ``over_budget`` (cut off), ``store_away``.
    :ivar over_budget: times that the budget was exceeded, ``waited`` or ``ran``; without an error, if it was noticed only at the end.
    :ivar blocked: times that one held the loop for 0.4 s.
    :ivar blocked_at: where the last of these was, ``file:line``, and on which route.
    """

    __slots__ = ("blocked", "blocked_at", "decisions", "errors", "of", "over_budget", "spent", "waited")

    def __init__(self, of: Key) -> None:
        """:param of: plugin, version, phase."""
        self.of = of
        self.spent = Histogram()
        self.waited = Histogram()
        self.decisions: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.over_budget: dict[str, int] = {}
        self.blocked = 0
        self.blocked_at = ""

    def took(self, spent: float, waited: float) -> None:
        """Count a hook that has run."""
        held = self.spent
        held.seconds += spent  # PERF: as Histogram.add(), 60 ns less
        held.buckets[bucket_of(spent)] += 1
        if waited > 0.0:
            self.waited.add(waited)

    def decided(self, decision: str) -> None:
        """Count what a hook has come to."""
        self.decisions[decision] = self.decisions.get(decision, 0) + 1

    def ended(self, status: int, shadow: bool) -> None:
        """Count that a hook has ended its request, or would have."""
        self.decided(f"{'would_block' if shadow else 'aborted'}_{status // 100}xx")

    def failed(self, kind: str) -> None:
        """Count an error."""
        self.errors[kind] = self.errors.get(kind, 0) + 1

    def overran(self, how: str) -> None:
        """Count that the budget was exceeded."""
        self.over_budget[how] = self.over_budget.get(how, 0) + 1

    def held(self, where: str) -> None:
        """Count that the loop was blocked. Called from the watchdog's thread; no other writes here."""
        self.blocked += 1
        self.blocked_at = where

    def shown(self) -> dict[str, Any]:
        """Return all of it as JSON's types; what is empty is left out."""
        plugin, version, phase = self.of
        made: dict[str, Any] = {"plugin": plugin, "version": version, "phase": phase, "spent": self.spent.shown()}
        if self.waited.seconds:
            made["waited"] = self.waited.shown()
        # Copied in one step: a thread may show what the loop counts on.
        made |= {name: dict(held) for name in ("decisions", "errors", "over_budget") if (held := getattr(self, name))}
        return made | ({"blocked": self.blocked, "blocked_at": self.blocked_at} if self.blocked else {})


class Held:
    """What a version of a plugin keeps in memory: what its instance and its modules lead to.

    :ivar bytes: when it was weighed last.
    :ivar grown: more than when it was weighed first.
    :ivar whole: whether that was all; else it holds so many objects that only the first were weighed.
    """

    __slots__ = ("bytes", "first", "whole")

    def __init__(self, first: int) -> None:
        self.first = self.bytes = first
        self.whole = True

    @property
    def grown(self) -> int:
        """Bytes; below 0 if it holds less."""
        return self.bytes - self.first


class Measures:
    """All that a worker measures of its plugins: it survives changes of the configuration, as the counters of its tally do.

    Plugins are not kept alive by it: rows of versions that are gone stay for a while, to be compared.

    :ivar shortest: the shortest budget of any entry that there was, in seconds.
    :ivar held: how much memory each version of a plugin holds; whoever weighs them writes it here.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._rows: dict[Key, StepMeasure] = {}
        self._plugins: dict[tuple[str, str], weakref.ref[Plugin]] = {}
        self._breakers: weakref.WeakValueDictionary[tuple[Of, PluginBreaker], EntryBreaker] = weakref.WeakValueDictionary()
        self._off: weakref.WeakSet[EntryBreaker] = weakref.WeakSet()  # a beat of the heart does not look at all of 10,000
        self.shortest = 5.0
        self.held: dict[tuple[str, str], Held] = {}

    def step(self, plugin: Plugin, phase: str) -> StepMeasure:
        """Return where the hooks of a plugin in a phase are counted."""
        version = str(plugin.version)
        known = self._plugins.get((plugin.name, version))
        if known is None or known() is not plugin:
            self._plugins[plugin.name, version] = weakref.ref(plugin)
            self._forget_oldest()
        key = (plugin.name, version, phase)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = StepMeasure(key)
        return row

    def breaker(self, plugin: Plugin, entry: Entry, described: PluginBreaker) -> EntryBreaker:
        """Return the breaker of an entry: the one that a living snapshot has, unless its rules are others. A change does not switch on."""
        of = (plugin.name, str(plugin.version), entry)
        breaker = self._breakers.get((of, described))
        if breaker is None:
            breaker = self._breakers[of, described] = EntryBreaker(of, described, self._tally, off=self._off)
        return breaker

    def allow(self, budget: float) -> float:
        """Note the budget of a hook that is built, in seconds; return it."""
        self.shortest = min(self.shortest, budget)
        return budget

    def plugins(self) -> Iterator[tuple[str, str, Plugin]]:
        """Yield name, version and instance of those that are still loaded."""
        for (name, version), reference in list(self._plugins.items()):
            if (plugin := reference()) is not None:
                yield name, version, plugin

    def rows(self) -> list[StepMeasure]:
        """Return those in which something was counted, sorted."""
        return [row for _, row in sorted(self._rows.items()) if row.spent.seconds or row.decisions]

    def off(self) -> list[EntryBreaker]:
        """Return the breakers of the entries that are switched off."""
        return list(self._off)

    def _forget_oldest(self) -> None:
        gone = {of for of, reference in self._plugins.items() if reference() is None}
        stale = [key for key in self._rows if key[:2] in gone]
        for key in stale[: max(0, len(stale) - KEPT_ROWS)]:
            del self._rows[key]
        for of in gone - {key[:2] for key in self._rows}:
            del self._plugins[of]
