"""A step of a chain: one hook of one plugin entry, bound to its configuration, with all that its running needs."""

from __future__ import annotations

from gwproxy.dataplane.entry_breaker import EntryBreaker
from gwproxy.dataplane.measures import FINISH, StepMeasure
from gwproxy.plugin import PluginConfig
from gwproxy.registry import Hook


class Step:
    """One hook of one plugin entry, bound to its configuration.

    :ivar call: the hook.
    :ivar config: passed to it.
    :ivar plugin: its name.
    :ivar phase: where it runs.
    :ivar priority: lowest first.
    :ivar budget: seconds it may take.
    :ivar on_error: what follows if it fails: ``fail``, ``ignore`` or ``disable``.
    :ivar shadow: whether what it does is only recorded.
    :ivar measure: where it is counted; what it does when the request has finished, in ``finishing``.
    :ivar breaker: of its entry; None: it is never switched off.
    :ivar enforced: of one in shadow mode: itself as it would be enforced, to be run on a twin of the context.
    :ivar twin: whether it is that.
    """

    __slots__ = (
        "breaker",
        "budget",
        "call",
        "config",
        "enforced",
        "finishing",
        "measure",
        "on_error",
        "phase",
        "plugin",
        "priority",
        "shadow",
        "twin",
    )

    def __init__(
        self,
        call: Hook,
        config: PluginConfig,
        *,
        plugin: str,
        phase: str,
        priority: int = 500,
        budget: float = 5.0,
        on_error: str = "fail",
        shadow: bool = False,
        measure: StepMeasure | None = None,
        finishing: StepMeasure | None = None,
        breaker: EntryBreaker | None = None,
    ) -> None:
        """:param measure: None: nobody will look."""
        self.call = call
        self.config = config
        self.plugin = plugin
        self.phase = phase
        self.priority = priority
        self.budget = budget
        self.on_error = on_error
        self.shadow = shadow
        self.measure = measure if measure is not None else StepMeasure((plugin, "", phase))
        self.finishing = finishing if finishing is not None else StepMeasure((plugin, "", FINISH))
        self.breaker = breaker
        self.twin = False
        self.enforced = self._as_enforced() if shadow else None

    def _as_enforced(self) -> Step:
        made = Step(self.call, self.config, plugin=self.plugin, phase=self.phase, budget=self.budget, on_error=self.on_error)
        made.measure, made.finishing, made.breaker = self.measure, self.finishing, self.breaker
        made.twin = True
        return made

    @property
    def tolerated(self) -> bool:
        """Whether a request goes on where this has failed: nobody but a log would notice in the ``response`` phase."""
        return self.on_error == "ignore" or (self.on_error == "disable" and self.phase == "response")


Steps = tuple[Step, ...]


class Overdue:
    """What stands in ``ctx._step`` in place of a step that was cut off, until its hook has ended.

    :ivar again: when it is told again, having swallowed it; of :func:`time.monotonic`.
    """

    __slots__ = ("again", "step")

    def __init__(self, step: Step, again: float) -> None:
        self.step = step
        self.again = again
