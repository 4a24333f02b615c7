"""Logged requests taken through two configurations: which of them would go elsewhere, or be treated otherwise.

Only routing is done again, and chains are compared: no plugin runs, nothing is sent. An access log holds neither bodies nor
(unless asked to) headers; where the answer hangs on what it does not hold, it is that it cannot be told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import orjson

from gwproxy.controlplane.comparing import Difference, differences
from gwproxy.controlplane.trial import Rehearsal
from gwproxy.dataplane.precedence import Entry
from gwproxy.dataplane.snapshot import CompiledRoute
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.errors import BadRequest
from gwproxy.http.paths import canonical, strip

#: The longest line of a log that is read, in bytes: an entry may hold two bodies of 1 MiB, six bytes a character.
MAX_LINE = 16 << 20

#: Malformed lines of which the reason is kept.
SHOWN_MALFORMED = 5

_REMEMBERED = 65_536  # different requests
_EVERY = 1000  # lines between two calls of ``progress``
# What the gateway answers before it looks for a route, whatever the configuration: see the contract's table of errors.
_UNROUTED = frozenset((400, 405, 408, 414, 417, 431, 501))

HOST = "the log does not say which host was asked for"
HEADERS = "it depends on header conditions, and headers are not logged"
CANARY = "it depends on a canary's header or cookie, which are not logged"
SPLIT = "it depends on a split by lot, cookie or header, which are not logged"
_REFUSED = "refused whatever the configuration"
PREFLIGHT = "it depends on the method a preflight asks for, which is not logged"


class Logged(NamedTuple):
    """A request, as far as an access log knows it.

    :ivar host: lower case, without port; empty: it named none. None: the log does not say.
    """

    method: str
    host: str | None
    path: str


class _Who(NamedTuple):
    """Who has sent a request: some splits go by that.

    :ivar client: its address; empty: the log does not say.
    :ivar user: None: nobody was authenticated.
    """

    client: str
    user: str | None


_ANYBODY = _Who("", None)


class _Goal(NamedTuple):
    """Where a request of a route may go.

    :ivar condition: what the log does not say whether it holds; empty: it holds.
    :ivar targets: one of which it is sent to.
    """

    condition: tuple[Any, ...]
    targets: tuple[str, ...]


class _Way(NamedTuple):
    """A route that a request may take.

    :ivar condition: of host, headers and methods, where the log does not say whether it holds; empty: it holds.
    :ivar entry: None: no route.
    """

    condition: tuple[Any, ...]
    entry: Entry[CompiledRoute] | None


@dataclass(slots=True)
class Change:
    """What becomes of the requests that took one route and take another, or the same treated otherwise.

    :ivar route_before: its id; None: none matched (404).
    :ivar requests: how many.
    :ivar elsewhere: how many of them take another route or go to another URL.
    :ivar example: one of them, of those that go elsewhere if there are any.
    :ivar targets_before: where that was sent, one of several targets.
    :ivar differences: beside where it goes.
    """

    route_before: str | None
    route_after: str | None
    example: Logged
    targets_before: tuple[str, ...] = ()
    targets_after: tuple[str, ...] = ()
    requests: int = 0
    elsewhere: int = 0
    differences: list[Difference] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "from": self.route_before,
            "to": self.route_after,
            "requests": self.requests,
            "elsewhere": self.elsewhere,
            "example": self.example._asdict(),
            "targets": {"from": list(self.targets_before), "to": list(self.targets_after)},
            "differences": [difference._asdict() for difference in self.differences],
        }


@dataclass(slots=True)
class Replayed:
    """What a log comes to.

    :ivar requests: entries that were understood.
    :ivar unrouted: of them, those the gateway refused before it looked for a route.
    :ivar unknown: of them, those of which it cannot be told whether they change, by reason.
    :ivar malformed: lines that are no entries.
    :ivar why_malformed: the first of those: number of the line, from 1, and the reason.
    """

    requests: int = 0
    unrouted: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    malformed: int = 0
    why_malformed: list[tuple[int, str]] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    @property
    def elsewhere(self) -> int:
        """How many requests take another route or go to another URL."""
        return sum(change.elsewhere for change in self.changes)

    @property
    def otherwise(self) -> int:
        """How many go where they went, with other plugins or settings."""
        return sum(change.requests - change.elsewhere for change in self.changes)

    @property
    def same(self) -> bool:
        """Whether it is certain that nothing changes for any of the requests."""
        return not self.changes and not self.unknown

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "requests": self.requests,
            "elsewhere": self.elsewhere,
            "otherwise": self.otherwise,
            "cannot_tell": {"requests": self.unknown.total(), "reasons": dict(self.unknown)},
            "unrouted": self.unrouted,
            "malformed": {"lines": self.malformed, "first": [{"line": line, "reason": why} for line, why in self.why_malformed]},
            "changes": [change.as_data() for change in self.changes],
        }


def replay(lines: Iterable[bytes], before: Rehearsal, after: Rehearsal, progress: Callable[[int], object] | None = None) -> Replayed:
    """Take every entry of a log through both configurations.

    Memory does not grow with the log: equal requests are judged once, and a bounded number is remembered.

    :param lines: an entry each, as the access log writes them; empty ones are passed over.
    :param progress: called now and then with how many lines were read.
    """
    made = Replayed()
    judge = _Judge(before, after)
    for number, line in enumerate(lines, 1):
        if progress is not None and number % _EVERY == 0:
            progress(number)
        if not line.strip():
            continue
        entry = _read(line)
        if isinstance(entry, str):
            made.malformed += 1
            if len(made.why_malformed) < SHOWN_MALFORMED:
                made.why_malformed.append((number, entry))
            continue
        made.requests += 1
        logged, who, routed = entry
        if routed:
            judge.count(logged, who, made)
        else:
            made.unrouted += 1
    made.changes = sorted(judge.changes(), key=lambda change: (-change.elsewhere, -change.requests))
    return made


def lines_of(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a stream, one that is longer than :data:`MAX_LINE` cut there."""
    while line := stream.readline(MAX_LINE):
        yield line
        while not line.endswith(b"\n") and (line := stream.readline(MAX_LINE)):
            pass  # the rest of what is too long


def _read(line: bytes) -> tuple[Logged, _Who, bool] | str:
    """Return an entry, who it is of, and whether the gateway looked for a route; or why it is none."""
    try:
        held = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "longer than an entry" if len(line) >= MAX_LINE else "not JSON"
    if not isinstance(held, dict):
        return "no object"
    method, path, host = held.get("method"), held.get("path"), held.get("host")
    if not isinstance(method, str) or not method:
        return "no method"
    if not isinstance(path, str) or not path:
        return "no path"
    unrouted = "route" in held and held["route"] is None and held.get("status") in _UNROUTED
    client, user = held.get("client_ip"), held.get("user_id")
    who = _Who(client if isinstance(client, str) else "", user if isinstance(user, str) else None)
    return Logged(method, host if isinstance(host, str) else None, path), who, not unrouted


class _Judge:
    """Judges requests, equal ones once."""

    def __init__(self, before: Rehearsal, after: Rehearsal) -> None:
        self._before = before
        self._after = after
        self._known: dict[tuple[Logged, _Who], tuple[Change | None, bool, str]] = {}
        # Else all clients are one: what is remembered of a request is good for each.
        self._personal = any(map(_goes_by_who, (*before.snapshot.routes, *after.snapshot.routes)))
        self._pairs: dict[tuple[int, int], Change] = {}  # by the identity of the routes

    def count(self, logged: Logged, who: _Who, made: Replayed) -> None:
        """Add what becomes of one more request."""
        key = (logged, who if self._personal else _ANYBODY)
        verdict = self._known.get(key)
        if verdict is None:
            if len(self._known) >= _REMEMBERED:
                self._known = {}
            verdict = self._known[key] = self._judge(*key)
        change, elsewhere, unknown = verdict
        if unknown == _REFUSED:
            made.unrouted += 1
        elif unknown:
            made.unknown[unknown] += 1
        elif change is not None:
            change.requests += 1
            change.elsewhere += elsewhere

    def changes(self) -> Iterator[Change]:
        """Yield what has changed for any request."""
        return (change for change in self._pairs.values() if change.requests)

    def _judge(self, logged: Logged, who: _Who) -> tuple[Change | None, bool, str]:
        """Return what changes (None: nothing), whether it goes elsewhere, and why that cannot be told (empty: it can)."""
        try:
            if logged.path != "*":
                logged = logged._replace(path=canonical(logged.path))
        except BadRequest:
            return None, False, _REFUSED
        ours, theirs = ways(self._before, logged), ways(self._after, logged)
        if len(ours) == len(theirs) == 1:
            return self._compare(ours[0].entry, theirs[0].entry, logged, who)
        if [way.condition for way in ours] == [way.condition for way in theirs]:
            # Whichever of them holds, it is the same one on both sides.
            pairs = [self._compare(our.entry, their.entry, logged, who) for our, their in zip(ours, theirs, strict=True)]
            if all(change is None and not unknown for change, _, unknown in pairs):
                return None, False, ""
        return None, False, _reason(next(way for way in (*ours, *theirs) if way.condition))

    def _compare(
        self, ours: Entry[CompiledRoute] | None, theirs: Entry[CompiledRoute] | None, logged: Logged, who: _Who
    ) -> tuple[Change | None, bool, str]:
        before = ours.payload if ours is not None else None
        after = theirs.payload if theirs is not None else None
        id_before = before.route.id if before is not None else None
        id_after = after.route.id if after is not None else None
        goals_before, goals_after = goals(self._before, ours, logged.path, who), goals(self._after, theirs, logged.path, who)
        sent_before, sent_after = ([url for goal in found for url in goal.targets] for found in (goals_before, goals_after))
        moved = id_before != id_after or goals_before != goals_after
        if moved and (unknown := _undecided(goals_before, goals_after)) and set(sent_before) & set(sent_after):
            return None, False, unknown
        key = id(before), id(after)
        change = self._pairs.get(key)
        if change is None:
            change = Change(id_before, id_after, logged, tuple(sent_before), tuple(sent_after))
            change.differences = differences(self._before, before, self._after, after)
            self._pairs[key] = change
        if not moved and not change.differences:
            return None, False, ""
        if moved and not change.elsewhere:
            change.example, change.targets_before, change.targets_after = logged, tuple(sent_before), tuple(sent_after)
        return change, moved, ""


def ways(rehearsal: Rehearsal, logged: Logged) -> list[_Way]:
    """Return the routes that a request may take, the first one first; the last one takes what none before it takes.

    One alone is certain.
    """
    found: list[_Way] = []
    preflight = logged.method == "OPTIONS"  # or not: the log does not say
    for entry in rehearsal.snapshot.router.candidates(logged.host, logged.path):
        if entry.methods and not preflight and logged.method not in entry.methods:
            continue
        host = entry.host if logged.host is None else ""
        condition = (host, entry.headers, entry.methods if preflight else frozenset())
        if not any(condition):
            found.append(_Way((), entry))
            return found
        found.append(_Way(condition, entry))
    found.append(_Way((), None))
    return found


def goals(rehearsal: Rehearsal, entry: Entry[CompiledRoute] | None, path: str, who: _Who = _ANYBODY) -> list[_Goal]:
    """Return where a request for ``path`` may go, without its query: upstream by upstream; nowhere without a route."""
    if entry is None:
        return []
    try:
        rest = strip(path, entry.pattern.take(path) or "") if entry.route.strip_path else path
    except BadRequest:
        return [_Goal((), ("400 Bad Request",))]

    def to(live: LiveUpstream) -> tuple[str, ...]:
        return tuple(rehearsal.written(target.base + target.prefix + rest) for target in live.targets)

    traffic = entry.payload.traffic
    if traffic is None:
        return [_Goal((), to(entry.payload.upstream))]
    found = []
    if (canary := traffic.canary) is not None:
        found.append(_Goal((CANARY, canary.header, canary.cookie, canary.value), to(traffic.to_canary)))
    key = traffic.key_of(who.client, who.user)
    if key or not traffic.is_split:
        return [*found, _Goal((), to(traffic.pick(key or None)))]
    shares = traffic.shares()
    terms = (SPLIT, entry.route.split and entry.route.split.sticky, tuple((live.name, share) for live, share in shares))
    return [*found, *(_Goal((*terms, live.name), to(live)) for live, _ in shares)]


def _goes_by_who(compiled: CompiledRoute) -> bool:
    return compiled.traffic is not None and compiled.traffic.key_of("192.0.2.1", None) is not None


def _undecided(before: Sequence[_Goal], after: Sequence[_Goal]) -> str:
    """Return why it cannot be told which of two lists' goals a request has; empty: it has the only one, or the same on both sides."""
    if len(before) <= 1 and len(after) <= 1:
        return ""
    return str(next(goal.condition[0] for goal in (*before, *after) if goal.condition))


def _reason(way: _Way) -> str:
    host, headers, _ = way.condition
    return HOST if host else HEADERS if headers else PREFLIGHT
