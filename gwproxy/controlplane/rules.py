"""By what a canary ends by itself: rules such as ``5xx > 1%``, and a time after which it has proved itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from gwproxy.controlplane.sides import CANDIDATE, LIVE, RATES, Numbers
from gwproxy.errors import CommandFailed

MIN_REQUESTS = 100

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_RULE = re.compile(
    rf"\s*(?P<measure>errors|5xx|4xx|p50|p90|p99)\s*>\s*(?:live\s*\*\s*(?P<factor>{_NUMBER})|(?P<live>live)|"
    rf"(?:live\s*)?\+\s*(?P<added>{_NUMBER})\s*(?P<added_unit>%|ms|s)|(?P<constant>{_NUMBER})\s*(?P<unit>%|ms|s))\s*"
)
_OR = re.compile(r"\s+or\s+")
GRAMMAR = (
    "a measure (errors, 5xx, 4xx, p50, p90, p99), '>', and a bound: 1%, 250ms, 2s, live, live + 20ms (or +20ms), live * 1.5; "
    "several with 'or' between"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A bound that one measure of the candidate's side must not exceed.

    :ivar text: as it was written.
    :ivar measure: one of :data:`~gwproxy.controlplane.sides.RATES`, in percent; ``p50``, ``p90`` or ``p99``, in seconds.
    :ivar constant: the bound, in the measure's unit; what is added to that of the live side if there is a factor.
    :ivar factor: what the live side's measure is multiplied with; None: the bound is constant.
    """

    text: str
    measure: str
    constant: float
    factor: float | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a rule.

        :raises CommandFailed: it is none; says what one looks like.
        """
        found = _RULE.fullmatch(text)
        if found is None:
            raise CommandFailed(f"{text!r} is no rule: expected {GRAMMAR}")
        measure, unit = found["measure"], found["unit"] or found["added_unit"]
        if unit is not None and (unit == "%") != (measure in RATES):
            raise CommandFailed(f"{text!r} is no rule: {measure} is {'a percentage' if unit != '%' else 'a time, such as 250ms'}")
        number = float(found["constant"] or found["added"] or 0) / (1000 if unit == "ms" else 1)
        factor = None if found["constant"] else float(found["factor"] or 1)
        return cls(" ".join(text.split()), measure, number, factor)

    def judge(self, live: Numbers, candidate: Numbers, min_requests: int) -> Verdict:
        """Say whether the candidate's side has exceeded the bound, if there were enough requests to tell."""
        if candidate.requests < min_requests or (self.factor is not None and live.requests < min_requests):
            return Verdict(judged=False)
        ours, theirs = (_measured(side, self.measure) for side in (candidate, live))
        if ours is None or (self.factor is not None and theirs is None):
            return Verdict(judged=False)
        bound = self.constant + (self.factor * theirs if self.factor is not None and theirs is not None else 0.0)
        return Verdict(judged=True, broken=self._told(ours, bound, candidate) if ours > bound else "")

    def _told(self, ours: float, bound: float, candidate: Numbers) -> str:
        compared = f"{self.measure} {_shown(ours, self.measure)} > {_shown(bound, self.measure)}"
        if self.factor is not None:
            compared += f" ({self.text.partition('>')[2].strip()})"
        if self.measure not in RATES:
            return f"{compared} ({candidate.requests:,} requests)"
        return f"{compared} ({candidate.count(self.measure):,} of {candidate.requests:,} requests)"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule says.

    :ivar judged: False: there were too few requests.
    :ivar broken: what exceeds which bound, for people; empty if nothing does.
    """

    judged: bool
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """By what a canary ends by itself.

    :ivar abort_if: it is aborted as soon as one of these is broken.
    :ivar promote_after: seconds after which it is promoted, if every rule could be judged; None: by people only.
    :ivar min_requests: so many of each side that a rule looks at, before it is judged.
    """

    abort_if: tuple[Rule, ...] = ()
    promote_after: float | None = None
    min_requests: int = MIN_REQUESTS

    @classmethod
    def of(cls, abort_if: Sequence[str] = (), promote_after: float | None = None, min_requests: int = MIN_REQUESTS) -> Rules:
        """Make them of what was written; a text may be several rules with ``or`` between.

        :raises CommandFailed: a rule is none.
        """
        return cls(tuple(Rule.parse(text) for texts in abort_if for text in _OR.split(texts)), promote_after, min_requests)

    @classmethod
    def load(cls, text: str) -> Rules:
        """Read what :meth:`dump` has written.

        :raises CommandFailed: somebody else has written it.
        """
        try:
            found = orjson.loads(text or "{}")
            return cls.of(found.get("abort_if", ()), found.get("promote_after"), int(found.get("min_requests", MIN_REQUESTS)))
        except (ValueError, TypeError, AttributeError):
            raise CommandFailed("the rules of the candidate are none of gwproxy's") from None

    def dump(self) -> str:
        """Return them as the store keeps them."""
        return orjson.dumps(self.shown()).decode()

    def shown(self) -> dict[str, object]:
        """Return them for JSON."""
        return {
            "abort_if": [rule.text for rule in self.abort_if],
            "promote_after": self.promote_after,
            "min_requests": self.min_requests,
        }

    def decide(self, counts: Mapping[str, int], age: float) -> Decision | None:
        """Return how the canary is to end now; None: it goes on.

        A promotion waits until every rule could be judged: time alone proves nothing.

        :param counts: what all workers have counted.
        :param age: seconds since it began.
        """
        live, candidate = Numbers.of(counts, LIVE), Numbers.of(counts, CANDIDATE)
        verdicts = [rule.judge(live, candidate, self.min_requests) for rule in self.abort_if]
        broken = [verdict.broken for verdict in verdicts if verdict.broken]
        if broken:
            return Decision("aborted", "; ".join(broken))
        if self.promote_after is None or age < self.promote_after or not all(verdict.judged for verdict in verdicts):
            return None
        return Decision("promoted", f"after {self.promote_after:g}s: {compared(live, candidate)}")


@dataclass(frozen=True, slots=True)
class Decision:
    """How a canary ends.

    :ivar outcome: ``aborted`` or ``promoted``.
    :ivar reason: for people, with numbers.
    """

    outcome: str
    reason: str


def compared(live: Numbers, candidate: Numbers) -> str:
    """Say what the candidate's side has answered, beside the live one's if that has answered anything."""
    ours = f"5xx {_shown(candidate.rate('5xx'), '5xx')} ({candidate.server_errors:,} of {candidate.requests:,} requests)"
    slowest, theirs = candidate.percentile(99), live.percentile(99)
    if not live.requests:
        return ours
    told = f"{ours}, live {_shown(live.rate('5xx'), '5xx')} ({live.server_errors:,} of {live.requests:,})"
    return told if slowest is None or theirs is None else f"{told}; p99 {_shown(slowest, 'p99')}, live {_shown(theirs, 'p99')}"


def _measured(side: Numbers, measure: str) -> float | None:
    return side.rate(measure) if measure in RATES else side.percentile(float(measure[1:]))


def _shown(value: float, measure: str) -> str:
    if measure in RATES:
        return f"{round(value, 2):g}%"
    return f"{value * 1000:.3g}ms" if value < 1 else f"{value:.3g}s"
