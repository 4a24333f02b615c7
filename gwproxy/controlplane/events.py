"""The events of a worker's life, told to its plugins."""

from __future__ import annotations

import logging

from gwproxy.errors import BudgetExceeded
from gwproxy.registry import EVENT_BUDGET, Registry
from gwproxy.tally import Tally

log = logging.getLogger("gwproxy.events")


def announce(registry: Registry, tally: Tally, event: str, limit: float = EVENT_BUDGET, **arguments: object) -> None:
    """Call the lifecycle hook ``event`` of every plugin that has it. What one raises is logged and stops nothing.

    :param limit: seconds each may take; what takes longer is cut off, and counted as ``budget_exceeded``.
    """
    for plugin, error in registry.notify(event, limit, **arguments):
        if isinstance(error, BudgetExceeded):
            tally.add("budget_exceeded", plugin)
        log.error("plugin_failed plugin=%s event=%s", plugin, event, exc_info=error)
