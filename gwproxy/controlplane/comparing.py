"""What differs between a route of one configuration and a route of another, for a request that takes both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from gwproxy.controlplane.chains import Chains, Placed
from gwproxy.controlplane.effective import plain
from gwproxy.controlplane.trial import Rehearsal
from gwproxy.dataplane.snapshot import CompiledRoute
from gwproxy.dataplane.upstreams import LiveUpstream
from gwproxy.hookspecs import PHASES

_SETTINGS = ("split", "canary", "mirror", "preserve_host", "timeout", "max_body", "max_buffer", "websocket")


class Difference(NamedTuple):
    """One setting that differs.

    :ivar what: e.g. ``timeout.read``, ``upstream.retries``, ``rate_limit`` (whether it runs), ``rate_limit config.limit``.
    :ivar before: as JSON's types, secrets masked; None also where there is none.
    """

    what: str
    before: Any
    after: Any


class _Side(NamedTuple):
    rehearsal: Rehearsal
    route: CompiledRoute | None


def differences(
    before: Rehearsal, route_before: CompiledRoute | None, after: Rehearsal, route_after: CompiledRoute | None
) -> list[Difference]:
    """Return what differs on the way of a request, but for where it goes.

    :param route_before: None: no route matched.
    """
    sides = _Side(before, route_before), _Side(after, route_after)
    found = list(_chains(*sides))
    if route_before is not None and route_after is not None:
        found += _settings(*sides)
    return found


def _settings(before: _Side, after: _Side) -> Iterator[Difference]:
    assert before.route is not None and after.route is not None  # noqa: S101, PT018 - the caller has looked
    for name in _SETTINGS:
        yield from _values(name, getattr(before.route.route, name), getattr(after.route.route, name))
    yield from _upstreams("upstream", before, before.route.upstream, after, after.route.upstream)
    others, theirs = ({live.name: live for live in compiled.upstreams()} for compiled in (before.route, after.route))
    for name in sorted(others.keys() & theirs.keys() - {before.route.upstream.name}):
        yield from _upstreams(f"upstreams.{name}", before, others[name], after, theirs[name])
    lacking = [side.rehearsal.chains.lacks_plugin(side.route) for side in (before, after) if side.route is not None]
    reasons = [side.route.unavailable if lacks else None for side, lacks in zip((before, after), lacking, strict=True) if side.route]
    yield from _values("unavailable", *reasons)


def _upstreams(what: str, before: _Side, ours: LiveUpstream, after: _Side, theirs: LiveUpstream) -> Iterator[Difference]:
    for name in type(ours.described).model_fields:
        if name == "targets":
            urls = [
                [[side.rehearsal.written(target.url), target.weight, *filter(None, [target.resolve])] for target in live.described.targets]
                for side, live in ((before, ours), (after, theirs))
            ]
            yield from _values(f"{what}.targets", *urls)
        else:
            yield from _values(f"{what}.{name}", getattr(ours.described, name), getattr(theirs.described, name))


def _values(what: str, before: Any, after: Any) -> Iterator[Difference]:
    """Yield how two values differ, models field by field."""
    if before == after:
        return
    if isinstance(before, BaseModel) and type(before) is type(after):
        for name in type(before).model_fields:
            yield from _values(f"{what}.{name}", getattr(before, name), getattr(after, name))
    else:
        yield Difference(what, plain(before), plain(after))


def _chains(before: _Side, after: _Side) -> Iterator[Difference]:
    if _listed(before) == _listed(after):
        return  # PERF: as most are
    chains = before.rehearsal.chains.of(before.route), after.rehearsal.chains.of(after.route)
    ours, theirs = map(_entries, chains)
    for key in dict.fromkeys((*ours, *theirs)):
        name = key[0] if not key[1] else f"{key[0]}[{key[1]}]"  # the second of a plugin is [1]
        there, here = ours.get(key, {}), theirs.get(key, {})
        if there.keys() != here.keys():
            yield Difference(name, ", ".join(there) or None, ", ".join(here) or None)
        told: set[str] = set()  # what differs in one phase differs in the others
        for phase in (phase for phase in there if phase in here):
            for found in _entry(name, (before.rehearsal.chains, there[phase]), (after.rehearsal.chains, here[phase])):
                if found.what not in told:
                    told.add(found.what)
                    yield found
    yield from _order(*chains)


def _listed(side: _Side) -> tuple[object, ...]:
    """Return what a chain follows from: two of the same are of the same chain."""
    own = side.route.route.plugins if side.route is not None else None
    return side.rehearsal.snapshot.document.plugins, own


def _entries(chain: Mapping[str, list[Placed]]) -> dict[tuple[str, int], dict[str, Placed]]:
    """Return the entries of a chain by plugin and how many of it come before, each with the phases it runs in."""
    made: dict[tuple[str, int], dict[str, Placed]] = {}
    for phase in PHASES:
        seen: dict[str, int] = {}
        for placed in chain[phase]:
            count = seen[placed.ref.name] = seen.get(placed.ref.name, -1) + 1
            made.setdefault((placed.ref.name, count), {})[phase] = placed
    return made


def _entry(name: str, before: tuple[Chains, Placed], after: tuple[Chains, Placed]) -> Iterator[Difference]:
    (chains, ours), (others, theirs) = before, after
    yield from _values(f"{name} set", ours.owner, theirs.owner)
    yield from _values(f"{name} priority", ours.priority, theirs.priority)
    yield from _values(f"{name} mode", ours.ref.mode, theirs.ref.mode)
    yield from _values(f"{name} on_error", ours.on_error, theirs.on_error)
    yield from _values(f"{name} budget", ours.ref.budget_in(ours.phase), theirs.ref.budget_in(theirs.phase))
    yield from _values(f"{name} breaker", ours.ref.breaker.model_dump(), theirs.ref.breaker.model_dump())
    if ours.config is None or theirs.config is None:
        if ours.ref.config != theirs.ref.config:
            yield Difference(
                f"{name} config", *_told(chains.shown(ours) or chains.written(ours), others.shown(theirs) or others.written(theirs))
            )
        return
    changed = [field for field in type(ours.config).model_fields if getattr(ours.config, field) != getattr(theirs.config, field, None)]
    if changed:
        shown, became = chains.shown(ours), others.shown(theirs)
        for field in changed:
            yield Difference(f"{name} config.{field}", *_told(shown.get(field), became.get(field)))


def _told(before: Any, after: Any) -> tuple[Any, Any]:
    """Return two values that differ so that one sees it, also where it is only in what is masked."""
    return (before, after) if before != after else (before, f"{after} (another)")


def _order(before: Mapping[str, list[Placed]], after: Mapping[str, list[Placed]]) -> Iterator[Difference]:
    for phase in PHASES:
        ours, theirs = ([placed.ref.name for placed in chain[phase]] for chain in (before, after))
        common = set(ours) & set(theirs)
        yield from _values(f"order in {phase}", [name for name in ours if name in common], [name for name in theirs if name in common])
