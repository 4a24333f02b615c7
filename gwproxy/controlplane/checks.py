"""What no single model can see: names that must be unique or defined, patterns, addresses, and what contradicts itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any

from gwproxy.controlplane.masking import shown
from gwproxy.controlplane.places import Path, path_text
from gwproxy.controlplane.report import Report, did_you_mean
from gwproxy.controlplane.text import SELDOM, nothing
from gwproxy.controlplane.urls import check_server, is_url, resolve_problem, url_problem
from gwproxy.dataplane.patterns import compile_host, compile_pattern, match_key
from gwproxy.http.headers import check_field
from gwproxy.model import Consumer, Model, PluginRef, Route, Upstream

#: What the models can express and this version does not do: of which model, in which field, whether it is asked for, and
#: what is expected instead. Such a document is refused: nothing is ignored in silence.
UNSUPPORTED: tuple[tuple[type[Model], str, Callable[[Any], bool], str], ...] = (
    (
        Route,
        "methods",
        lambda methods: "CONNECT" in methods or "TRACE" in methods,
        "methods that are forwarded; CONNECT and TRACE are answered 405 on every route",
    ),
)


def check_supported(model: Model, path: Path, report: Report) -> None:
    """Refuse what :data:`UNSUPPORTED` lists of the model that stands at ``path``."""
    for kind, name, asks, expected in UNSUPPORTED:
        if isinstance(model, kind) and asks(getattr(model, name)):
            report.refuse((*path, name), "what this version does not support", expected)


def check_route(route: Route, index: int, report: Report) -> Hashable:
    """Check one route by itself: its pattern, hosts, header conditions, methods.

    :returns: what it shares with every route that matches the same requests; None if its pattern or a host is not valid.
    """
    path: Path = ("routes", index)
    check_supported(route, path, report)
    key: Hashable = None
    try:
        key = match_key(route)
    except ValueError:
        _complain(compile_pattern, route.path, (*path, "path"), report)
        for position, host in enumerate(route.hosts):
            _complain(compile_host, host, (*path, "hosts", position), report)
    if route.methods:
        _unique(route.methods, lambda i: (*path, "methods", i), "method", report)
    if route.hosts:
        _unique([host.lower() for host in route.hosts], lambda i: (*path, "hosts", i), "host", report)
    _check_traffic(route, path, report)
    if not route.headers:
        return key
    names = list(route.headers)
    for name, value in route.headers.items():
        try:
            check_field(name, value)
        except ValueError as error:
            report.refuse((*path, "headers", name), "a condition that no request meets", f"a header field ({error})", key=True)
    _unique([name.lower() for name in names], lambda i: (*path, "headers", names[i]), "header", report, key=True)
    return key


def _check_traffic(route: Route, path: Path, report: Report) -> None:
    """Check what a route says of other upstreams."""
    canary, split = route.canary, route.split
    if canary is not None and canary.header is None and canary.cookie is None:
        report.refuse((*path, "canary"), "neither a header nor a cookie", "header: NAME or cookie: NAME, by which requests ask for it")
    if split is not None and route.upstream not in split.weights:
        expected = f"the route's own upstream {shown(route.upstream)} among them; with the weight 0 it gets nothing"
        report.refuse((*path, "split", "weights"), "other upstreams only", expected)
    if split is not None and not any(split.weights.values()):
        report.refuse((*path, "split", "weights"), "no weight above 0", "one at least")


def _destinations(route: Route, index: int) -> Iterator[tuple[Path, str, bool]]:
    """Yield every upstream that a route refers to, where, and whether as a key."""
    yield ("routes", index, "upstream"), route.upstream, False
    if route.split is not None:
        yield from ((("routes", index, "split", "weights", name), name, True) for name in route.split.weights if name != route.upstream)
    if route.canary is not None:
        yield ("routes", index, "canary", "upstream"), route.canary.upstream, False
    if route.mirror is not None:
        yield ("routes", index, "mirror", "upstream"), route.mirror.upstream, False


def _complain(parse: Callable[[str], object], text: str, path: Path, report: Report) -> None:
    try:
        parse(text)
    except ValueError as error:
        report.refuse(path, shown(text), str(error))


def check_upstream(name: str, upstream: Upstream, report: Report) -> None:
    """Check one upstream by itself."""
    path: Path = ("upstreams", name)
    check_supported(upstream, path, report)
    for index, target in enumerate(upstream.targets):
        if expected := url_problem(target.url) or (resolve_problem(target.url, target.resolve) if target.resolve else None):
            report.refuse((*path, "targets", index, "url"), shown(target.url), expected)
    if not any(target.weight for target in upstream.targets):
        report.warn((*path, "targets"), "no target with a weight above 0", "one at least; the upstream's routes answer 503")
    _unique([target.url for target in upstream.targets], lambda i: (*path, "targets", i, "url"), "target", report)
    if upstream.algorithm == "consistent_hash" and upstream.hash_on is None:
        report.refuse(path, "algorithm 'consistent_hash' without hash_on", "hash_on: header:NAME, cookie:NAME, client or path")
    if upstream.algorithm != "consistent_hash" and upstream.hash_on is not None:
        report.refuse((*path, "hash_on"), f"hash_on with algorithm {upstream.algorithm!r}", "algorithm: consistent_hash")
    if upstream.algorithm != "consistent_hash" and upstream.hash_balance is not None:
        report.refuse((*path, "hash_balance"), f"hash_balance with algorithm {upstream.algorithm!r}", "algorithm: consistent_hash")
    for position, server in enumerate(upstream.dns.servers):
        _complain(check_server, server, (*path, "dns", "servers", position), report)
    if upstream.dns.min_ttl > upstream.dns.max_ttl:
        report.refuse((*path, "dns", "min_ttl"), f"{upstream.dns.min_ttl:g}, above max_ttl", f"at most {upstream.dns.max_ttl:g}")
    if (ejection := upstream.ejection) is not None and ejection.consecutive_errors is None and ejection.error_rate is None:
        report.refuse((*path, "ejection"), "no rule by which a target is ejected", "consecutive_errors or error_rate")
    if upstream.tls.key is not None and upstream.tls.cert is None:
        report.refuse((*path, "tls", "key"), "a key without a certificate", "cert, the file of its certificate")


def check_destinations(
    routes: Mapping[int, Route], upstreams: Collection[str], report: Report, pause: Callable[[], object] = nothing
) -> None:
    """Check that every route goes to URLs, or to upstreams of these names."""
    fine: set[str] = set()  # URLs that were looked at: many routes go to the same
    for number, (index, route) in enumerate(routes.items()):
        if not number & SELDOM:
            pause()
        for path, upstream, key in _destinations(route, index):
            if upstream in fine or upstream in upstreams:
                continue
            if is_url(upstream):
                if expected := url_problem(upstream):
                    report.refuse(path, shown(upstream), expected, key=key)
                else:
                    fine.add(upstream)
            else:
                hint = did_you_mean(upstream, upstreams)
                expected = f"a URL such as http://10.0.0.5:8000, or the name of a defined upstream{hint}"
                report.refuse(path, shown(upstream), expected, key=key)


def check_routes(
    routes: Mapping[int, Route],
    keys: Mapping[int, Hashable],
    ids: Mapping[int, str],
    report: Report,
    pause: Callable[[], object] = nothing,
) -> None:
    """Check what routes must not share: an id, or both a match and a priority.

    :param keys: what :func:`check_route` returned of each.
    :param ids: of the routes, and of those that are refused anyway.
    """
    _distinct(ids, lambda i: ("routes", i, "id"), "id", report, pause)
    seen: dict[Hashable, int] = {}
    for number, (index, route) in enumerate(routes.items()):
        if not number & SELDOM:
            pause()
        first = seen.setdefault((keys[index], route.priority), index) if keys[index] is not None else index
        if first != index:
            twin = f"{path_text(('routes', first))} ({routes[first].id})"
            report.refuse(
                ("routes", index),
                f"a route that matches what {twin} matches, with the same priority",
                "another path, host, header condition, method or priority",
            )


def check_consumers(consumers: Mapping[int, Consumer], report: Report) -> None:
    """Check what consumers must not share: an id, or what they are found by."""
    _distinct({i: consumer.id for i, consumer in consumers.items()}, lambda i: ("consumers", i, "id"), "id", report)
    matches = {i: frozenset(consumer.match.items()) for i, consumer in consumers.items()}
    _distinct(matches, lambda i: ("consumers", i, "match"), "match", report)


def check_globals(entries: Mapping[int, PluginRef], report: Report) -> None:
    """Check that no plugin applies to every route twice: a route's entry could replace neither."""
    _distinct({i: entry.name for i, entry in entries.items()}, lambda i: ("plugins", i, "name"), "name", report)


def _distinct(
    values: Mapping[int, Hashable], place: Callable[[int], Path], what: str, report: Report, pause: Callable[[], object] = nothing
) -> None:
    seen: dict[Hashable, int] = {}
    for number, (index, value) in enumerate(values.items()):
        if not number & SELDOM:
            pause()
        first = seen.setdefault(value, index)
        if first != index:
            found = shown(value) if isinstance(value, str) else f"the same {what}"
            report.refuse(place(index), f"{found}, which is given twice", f"another {what} than that of {path_text(place(first)[:-1])}")


def _unique(values: Sequence[str], place: Callable[[int], Path], what: str, report: Report, *, key: bool = False) -> None:
    if len(set(values)) == len(values):
        return
    for index, value in enumerate(values):
        if value in values[:index]:
            report.refuse(place(index), f"{shown(value)}, which is given twice", f"each {what} once", key=key)
