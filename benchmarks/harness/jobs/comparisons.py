"""Requests through each gateway in turns: what a core serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import gateways
from harness.bench import Bench
from harness.gateways import Caddy, Direct, ExpressGateway, Fastify, Gateway, Gwproxy, Naive, Nginx, document
from harness.jobs.starting import answers, guarded, started
from harness.load import bad, byte_rate, cost, in_turns, median, p50, rate, ratio, run
from harness.report import Result, Row, times
from harness.upstream import BLOB

COPIES = (1, 11, 51)


def bare(bench: Bench) -> Result:
    """Compare one route without plugins: what proxying itself costs."""
    result = Result("bare", "Bare route")
    with ExitStack() as stack:
        makers: dict[str, Callable[[], Gateway]] = {
            "nginx": lambda: Nginx(bench, stack),
            **{name: partial(Gwproxy, bench, stack, tree, document(bench), name=name) for name, tree in bench.trees.items()},
            "caddy": lambda: Caddy(bench, stack),
            "fastify": lambda: Fastify(bench, stack),
            "express-gateway": lambda: ExpressGateway(bench, stack),
            "naive": lambda: Naive(bench, stack),
        }
        result.runs = in_turns(bench, started(bench, result, makers))
    for name, what in labelled(bench, "bare route"):
        result.rows += [serves(result, name, "nginx", what, 0.4, 0.5), serves(result, name, "caddy", what, 2.0)]
    return result


def five_plugins(bench: Bench) -> Result:
    """Compare the five with nginx and Caddy that do none of it, and with gateways that do: the rate limit is exact, in Redis."""
    result = Result("five-plugins", "Five plugins (nginx and Caddy: bare)")
    headers = gateways.signed_in()
    with ExitStack() as stack:
        makers: dict[str, Callable[[], Gateway]] = {
            "nginx": lambda: Nginx(bench, stack, headers=headers),
            **{name: partial(with_five, bench, stack, name, tree) for name, tree in bench.trees.items()},
            "caddy": lambda: Caddy(bench, stack, headers=headers),
            "fastify": lambda: guarded(Fastify(bench, stack, headers, bench.redis(stack))),
            "express-gateway": lambda: guarded(ExpressGateway(bench, stack, headers, bench.redis(stack))),
            "naive": lambda: guarded(Naive(bench, stack, headers, bench.redis(stack))),
        }
        result.runs = in_turns(bench, started(bench, result, makers))
    for name, what in labelled(bench, "five plugins against bare"):
        result.rows += [serves(result, name, "nginx", what, 0.18, 0.25), serves(result, name, "caddy", what, 1.0)]
    return result


def with_five(bench: Bench, stack: ExitStack, name: str, tree: Path) -> Gateway:
    """Start gwproxy with the five plugins on its route, and its configuration in a Redis."""
    text = document(bench, plugins=gateways.FIVE_PLUGINS)
    return guarded(Gwproxy(bench, stack, tree, text, name=name, headers=gateways.signed_in(), redis=bench.redis(stack)))


def one_more_plugin(bench: Bench) -> Result:
    """Fit a line through the cost of a request with more and more plugins that do nothing."""
    result = Result("one-more-plugin", "One more trivial plugin")
    for tree_name, what in labelled(bench, "one more trivial plugin"):
        with ExitStack() as stack:
            running = []
            for copies in COPIES:
                text = document(bench, plugins=[{"name": "noop"}] * copies)
                name = f"{tree_name}, {copies} of it"
                running.append(answers(Gwproxy(bench, stack, bench.trees[tree_name], text, name=name)))
                run(bench, running[-1], 1)
            runs = in_turns(bench, running, rounds=bench.rounds * 2)
        result.runs |= runs
        slope = fitted(COPIES, [min(map(cost, one)) for one in runs.values()])  # the least: what disturbs only adds, and more than a plugin
        result.rows.append(Row(what, f"{slope:.2f} us of CPU", slope, 1.0, unit=" us", lower=True))
    return result


def fitted(numbers: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the line that fits best."""
    x, y = sum(numbers) / len(numbers), sum(values) / len(values)
    return sum((a - x) * (b - y) for a, b in zip(numbers, values, strict=True)) / sum((a - x) ** 2 for a in numbers)


def large_bodies(bench: Bench) -> Result:
    """Compare responses of 1 MiB, by bytes a second and by CPU."""
    result = Result("large-bodies", "1 MiB responses")
    with ExitStack() as stack:
        text = document(bench, served="/blob")
        makers: Mapping[str, Callable[[], Gateway]] = {
            "nginx": lambda: Nginx(bench, stack, "/blob"),
            **{name: partial(Gwproxy, bench, stack, tree, text, name=name, path="/blob") for name, tree in bench.trees.items()},
            "caddy": lambda: Caddy(bench, stack, "/blob"),
        }
        result.runs = in_turns(bench, started(bench, result, makers))
    for name, what in labelled(bench, f"{BLOB >> 20} MiB responses x nginx"):
        if measured(result, name, "nginx"):
            ours, other = result.runs[name], result.runs["nginx"]
            value = ratio(ours, other, byte_rate)
            shown = f"{value:.2f} by bytes a second ({median(ours, byte_rate) / 1e6:,.0f} MB/s), {ratio(other, ours, cost):.2f} by CPU"
            result.rows.append(Row(what, shown, value, 0.4))
        else:
            result.rows.append(Row(what, "not measured", None, 0.4))
    return result


def latency(bench: Bench) -> Result:
    """Compare what each gateway adds to the time of a request when there is only one connection."""
    result = Result("latency", "One connection")
    with ExitStack() as stack:
        makers: dict[str, Callable[[], Gateway]] = {
            Direct.label: lambda: Direct(bench, stack),
            "nginx": lambda: Nginx(bench, stack),
            **{name: partial(Gwproxy, bench, stack, tree, document(bench), name=name) for name, tree in bench.trees.items()},
            "caddy": lambda: Caddy(bench, stack),
        }
        result.runs = in_turns(bench, started(bench, result, makers), connections=1)
    for name, what in labelled(bench, "latency added at one connection, p50, x nginx"):
        if measured(result, name, "nginx", Direct.label):
            direct = median(result.runs[Direct.label], p50)
            ours, other = (median(result.runs[one], p50) - direct for one in (name, "nginx"))
            shown = f"{ours / other:.2f} ({ours:.0f} us; nginx {other:.0f} us)"
            result.rows.append(Row(what, shown, ours / other, 2.0, lower=True))
        else:
            result.rows.append(Row(what, "not measured", None, 2.0, lower=True))
    return result


def labelled(bench: Bench, what: str) -> Iterator[tuple[str, str]]:
    """Yield each checkout's name, and the name of its row: several are told apart."""
    for name in bench.trees:
        yield name, what if len(bench.trees) == 1 else f"{name}: {what}"


def measured(result: Result, *names: str) -> bool:
    """Whether these were measured, and gave right answers only: a quick refusal is no speed."""
    return all(name in result.runs and not any(map(bad, result.runs[name])) for name in names)


def serves(result: Result, name: str, other: str, what: str, floor: float, goal: float | None = None) -> Row:
    """Return the row that says how many requests a core serves in ``name``, of those it serves in ``other``."""
    label = f"{what} x {other}"
    if not measured(result, name, other):
        return Row(label, "not measured", None, floor, goal)
    ours, theirs = result.runs[name], result.runs[other]
    value, throughput = ratio(theirs, ours, cost), ratio(ours, theirs, rate)
    return Row(
        label, f"{times(value)} by CPU ({median(ours, cost):.1f} us a request), {times(throughput)} by throughput", value, floor, goal
    )
