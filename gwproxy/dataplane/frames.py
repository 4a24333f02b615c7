"""The frames in which hooks run. The watchdog of the loop looks for them on the stack: in the compiled form, too, they are Python's.

So setup.py compiles :mod:`gwproxy.dataplane.chain`, which calls these, but not this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gwproxy.deprecation import CALLS

if TYPE_CHECKING:
    from gwproxy.context import Context, Outcome
    from gwproxy.dataplane.step import Step
    from gwproxy.plugin import PluginConfig
    from gwproxy.registry import Hook


def hook(step: Step, ctx: Context, call: Hook, config: PluginConfig) -> object:
    """Run the hook of a step, given what it calls: compiled code has that at hand."""
    return call(ctx, config)


def finisher(step: Step, ctx: Context, function: Callable[[Outcome], object], outcome: Outcome) -> None:
    """Run what a hook of ``step`` has registered with ``ctx.on_finish``."""
    function(outcome)


#: Frames whose locals ``step`` and ``ctx`` say which.
HOOK_CODES = frozenset((hook.__code__, finisher.__code__))
FINISH_CODE = finisher.__code__
CALLS.update({code: lambda names: names["step"].plugin for code in HOOK_CODES})
