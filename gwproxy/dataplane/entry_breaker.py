"""The breaker of a plugin entry: what fails or overruns again and again is switched off for a while, where everybody sees it."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, MutableSet
from itertools import count
from typing import Any

from gwproxy.model import PluginBreaker
from gwproxy.plugin import Entry
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.chain")

_tickets = count(1)


class EntryBreaker:
    """Switches an entry off after ``failures`` failures within ``window`` seconds, for ``open_for`` seconds.

    Then one request tries it: all its hooks run there, as they belong together. If the hook of the phase in which it failed
    succeeds, it is on again; if that fails, it is off as long once more. Who tries it has ``open_for`` seconds to get that far, then
    another request does.

    :ivar off_until: when it is to be tried, of :func:`time.monotonic`; 0.0: it is on. Asked before each hook.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_described",
        "_failures",
        "_off",
        "_phase",
        "_tally",
        "_ticket",
        "_trying_until",
        "_why",
        "of",
        "off_until",
    )

    def __init__(
        self,
        of: tuple[str, str, Entry],
        described: PluginBreaker,
        tally: Tally,
        clock: Callable[[], float] = time.monotonic,
        off: MutableSet[EntryBreaker] | None = None,
    ) -> None:
        """Leave it on.

        :param of: name and version of the plugin, and which entry of it.
        :param off: holds it while it is off; None: nobody keeps a list.
        """
        self.of = of
        self.off_until = 0.0
        self._described = described
        self._tally = tally
        self._clock = clock
        self._off: MutableSet[EntryBreaker] = off if off is not None else set()
        self._failures: deque[float] = deque(maxlen=described.failures)
        self._phase = self._why = ""
        self._ticket = 0
        self._trying_until = 0.0

    def lets(self, ticket: int) -> int:
        """Say whether a request may run the entry's hooks although it is off.

        :param ticket: of the request; 0: it has none yet.
        :returns: the ticket with which it may; 0: it may not.
        """
        if self._tries(ticket):
            return ticket
        now = self._clock()
        if now < self.off_until or now < self._trying_until:
            return 0
        self._trying_until = now + self._described.open_for
        self._ticket = ticket or next(_tickets)
        return self._ticket

    def succeeded(self, phase: str, ticket: int) -> None:
        """Switch it on again, if this is the request that tries it and the phase in which it failed."""
        if self.off_until and self._tries(ticket) and phase == self._phase:
            self._settle(0.0)
            plugin, version, entry = self.of
            log.warning("plugin_switched_on plugin=%s version=%s route=%s phase=%s", plugin, version, entry.route, phase)

    def failed(self, phase: str, why: str, ticket: int) -> None:
        """Count a failure.

        :param why: ``raised`` or ``over_budget``.
        """
        now = self._clock()
        if self.off_until:
            if self._tries(ticket):
                self._switch_off(phase, why, now)
            return  # what was under way when it was switched off says nothing new
        self._failures.append(now)
        if len(self._failures) == self._described.failures and now - self._failures[0] <= self._described.window:
            self._switch_off(phase, why, now)

    @property
    def retry_after(self) -> int:
        """Whole seconds until it may be on again, 1 or more."""
        return max(1, math.ceil(max(self.off_until, self._trying_until) - self._clock()))

    def shown(self) -> dict[str, Any]:
        """Return what is told of one that is off."""
        plugin, version, entry = self.of
        return {
            "plugin": plugin,
            "version": version,
            "route": entry.route,
            "entry": entry.index,
            "phase": self._phase,
            "why": self._why,
            "seconds": round(max(0.0, self.off_until - self._clock()), 1),
        }

    def _tries(self, ticket: int) -> bool:
        return ticket != 0 and ticket == self._ticket

    def _switch_off(self, phase: str, why: str, now: float) -> None:
        self._settle(now + self._described.open_for)
        self._phase, self._why = phase, why
        plugin, version, entry = self.of
        self._tally.add("plugin_switched_off", plugin)
        log.error(
            "plugin_switched_off plugin=%s version=%s route=%s phase=%s why=%s seconds=%s",
            plugin,
            version,
            entry.route,
            phase,
            why,
            self._described.open_for,
        )

    def _settle(self, off_until: float) -> None:
        self.off_until = off_until
        self._off.add(self) if off_until else self._off.discard(self)
        self._failures.clear()
        self._ticket = 0
        self._trying_until = 0.0
