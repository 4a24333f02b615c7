"""Why a request takes one route and not another, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from gwproxy.dataplane.precedence import Entry
from gwproxy.http.headers import Headers
from gwproxy.model import Route

#: What decided, by the name of the criterion in :class:`~gwproxy.dataplane.precedence.Precedence`.
DECIDED = {
    "priority": "its priority is higher",
    "host": "its host is more specific",
    "wildcard": "its wildcard is longer",
    "path": "an exact path comes before a regex, and that before a template or prefix",
    "regex_order": "its regex is earlier in the list",
    "literal_segments": "its path has more literal segments",
    "segments": "its path has more segments",
    "template": "a template comes before a prefix",
    "header_conditions": "it has more header conditions",
    "methods": "it says which methods it takes",
    "order": "it is earlier in the list",
}


class Explanation(NamedTuple):
    """What became of one route.

    :ivar won: whether the request takes it; true of one at most.
    :ivar reason: why, or why not: one phrase.
    """

    route: Route
    won: bool
    reason: str


def explain(
    routes: Sequence[Sequence[Entry[Any]]], host: str, path: str, method: str, headers: Headers, preflight: bool
) -> list[Explanation]:
    """Judge every route by itself, without the router's index.

    :param routes: the entries of each route, in list order.
    """
    judged = [_judge(entries, host, path, method, headers, preflight) for entries in routes]
    fitting = [verdict for verdict in judged if isinstance(verdict, Entry)]
    winner = min(fitting, key=lambda entry: entry.precedence, default=None)
    explained = []
    for entries, verdict in zip(routes, judged, strict=True):
        if isinstance(verdict, str):
            reason = verdict
        elif winner is None or verdict is winner:
            reason = "host, path, method and headers fit" + (", and it comes first" if len(fitting) > 1 else "")
        else:
            decided = next(
                name
                for name, ours, its in zip(verdict.precedence._fields, verdict.precedence, winner.precedence, strict=True)
                if ours != its
            )
            reason = f"fits, but {winner.route.id} comes first: {DECIDED[decided]}"
        explained.append(Explanation(entries[0].route, verdict is winner and winner is not None, reason))
    return explained


def _judge(entries: Sequence[Entry[Any]], host: str, path: str, method: str, headers: Headers, preflight: bool) -> Entry[Any] | str:
    """Return the entry of a route that fits best, or why none does."""
    within = [entry for entry in entries if entry.takes_host(host)]
    if not within:
        return f"host {host or '(none)'} is not among {', '.join(entry.host for entry in entries)}"
    best = min(within, key=lambda entry: entry.precedence)
    if best.pattern.take(path) is None:
        return f"path {path} does not match {best.route.path}"
    if best.methods and method not in best.methods:
        return f"method {method} is not among {', '.join(sorted(best.methods))}"
    if not best.fits(method, headers, preflight):
        missing = next(name for name, value in best.headers if value not in headers.getlist(name))
        return f"header {missing} is " + ("not the value asked for" if missing in headers else "missing")
    return best
