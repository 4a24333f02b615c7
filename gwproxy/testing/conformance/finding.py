"""What the kit finds: by which rule, where, and what to do next."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

#: Every rule, in the order in which they are looked at: what it asks, and what to do where it is broken.
RULES = {
    "loads": ("imports, fits the hook specifications", "run 'gwproxy plugins list' with it installed; docs/plugins.md has the signatures"),
    "described": ("says what it does; every key has a description", "write a docstring below the field, or Field(description=...)"),
    "bounded": (
        "every number has a lower and an upper bound, every text a length, a pattern or choices",
        "add Field(ge=..., le=...) or Field(max_length=...)",
    ),
    "closed": ("unknown keys are refused, at every depth", "derive nested models from gwproxy.PluginConfig, too"),
    "secret": ("secrets are pydantic's SecretStr, and no repr shows them", "type the field as SecretStr"),
    "sample": ("a configuration to try it with", "give one with --config"),
    "round_trip": ("what is written out reads back as the same", "let validators accept what they return"),
    "state": ("nothing is kept between requests in the plugin or its modules", "keep it in ctx.state, or in gateway.store"),
    "blocks": ("no hook holds the worker", "do it in worker_started, or by gateway.in_thread"),
    "streams": (
        "bodies that it need not read are streamed",
        "look at the Content-Type, and at whether the body matters, before get_data()",
    ),
    "bad_input": ("no request makes it raise", "answer by ctx.abort(400, ...), or leave the request alone"),
    "cost": ("a request costs no more than its budget", "compute in the configuration (cached_property) what is the same for all requests"),
}


#: Those that are looked at without sending a request.
UNTRIED = ("loads", "described", "bounded", "closed", "secret", "sample")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a plugin does and should not.

    :ivar rule: a key of :data:`RULES`.
    :ivar where: a key of the configuration, a phase, an attribute, or file and line.
    :ivar found: what was seen there.
    """

    rule: str
    where: str
    found: str

    @property
    def next(self) -> str:
        """What to do about it."""
        return RULES[self.rule][1]


@dataclass(slots=True)
class Report:
    """What the kit has found of one plugin.

    :ivar cost_us: microseconds that its hooks take of a plain request, the median; None if it was not tried.
    :ivar requests: how many were sent through it.
    """

    plugin: str
    findings: list[Finding] = field(default_factory=list)
    cost_us: float | None = None
    requests: int = 0

    def add(self, rule: str, where: str, found: str) -> None:
        """Note a finding, once."""
        finding = Finding(rule, where, found)
        if finding not in self.findings:
            self.findings.append(finding)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types; ``rules`` says of each whether it ``passed``, ``failed`` or was ``not tried``."""
        found = [{**asdict(finding), "next": finding.next} for finding in self.findings]
        rules = [{"rule": rule, "state": self._state(rule), "asks": asks} for rule, (asks, _) in RULES.items()]
        counted = {"cost_us": self.cost_us, "requests": self.requests}
        return {"plugin": self.plugin, "passed": not found, "rules": rules, "findings": found, **counted}

    def _state(self, rule: str) -> str:
        broken = {finding.rule for finding in self.findings}
        if rule in broken:
            return "failed"
        tried = "loads" not in broken and (rule in UNTRIED or self.requests > 0)
        return "passed" if tried else "not tried"
