"""The jobs of the table: each measures one thing, side by side, and says it in rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from harness import gateways
from harness.bench import Bench
from harness.gateways import Caddy, ExpressGateway, Fastify, Gateway, Gwproxy, Naive, Nginx, document
from harness.load import Run, ask, in_turns, median, ratio, run
from harness.process import Failed
from harness.report import Result, Row
from harness.upstream import ITEM


def cost(run: Run) -> float:
    return run.cost


def rate(run: Run) -> float:
    return run.rate


def started(bench: Bench, result: Result, makers: dict[str, Callable[[], Gateway]]) -> list[Gateway]:
    """Start the gateways that are wanted, and warm them up; what cannot be measured is noted as missing."""
    running = []
    for name, make in makers.items():
        if not bench.wants(name):
            continue
        try:
            gateway = make()
            answers(gateway)
            run(bench, gateway, max(1, bench.seconds // 2))
        except Failed as failed:
            result.missing[name] = " ".join(str(failed).split())[:300]
        else:
            running.append(gateway)
    return running


def answers(gateway: Gateway) -> None:
    """Check that what is measured is the right answer."""
    status, _, body = ask(gateway.port, gateway.path, gateway.headers)
    if status != 200 or body.strip() != ITEM.strip():
        raise Failed(f"{gateway.name} answers {status} {body[:100]!r}")


def bare(bench: Bench) -> Result:
    """Compare one route without plugins: what proxying itself costs."""
    result = Result("bare", "Bare route")
    with ExitStack() as stack:
        ours = {
            name: lambda name=name, tree=tree: Gwproxy(bench, stack, tree, document(bench), name=name) for name, tree in bench.trees.items()
        }
        makers: dict[str, Callable[[], Gateway]] = {
            "nginx": lambda: Nginx(bench, stack),
            **ours,
            "caddy": lambda: Caddy(bench, stack),
            "fastify": lambda: Fastify(bench, stack),
            "express-gateway": lambda: ExpressGateway(bench, stack),
            "naive": lambda: Naive(bench, stack),
        }
        result.runs = in_turns(bench, started(bench, result, makers))
    for name in bench.trees:
        result.rows += [
            against(result.runs, name, "nginx", f"bare route ({name})", 0.4, 0.5),
            against(result.runs, name, "caddy", f"bare route ({name})", 2.0),
        ]
    return result


def five_plugins(bench: Bench) -> Result:
    """Compare cors, jwt_auth, an exact rate_limit in Redis, request_transform and access_log with nginx and Caddy that do none of it."""
    result = Result("five-plugins", "Five plugins")
    headers = gateways.signed_in()
    with ExitStack() as stack:
        ours = {name: lambda name=name, tree=tree: _five(bench, stack, name, tree, headers) for name, tree in bench.trees.items()}
        makers: dict[str, Callable[[], Gateway]] = {
            "nginx": lambda: Nginx(bench, stack, headers=headers),
            **ours,
            "caddy": lambda: Caddy(bench, stack, headers=headers),
            "fastify": lambda: guarded(Fastify(bench, stack, headers, bench.redis(stack))),
            "express-gateway": lambda: guarded(ExpressGateway(bench, stack, headers, bench.redis(stack))),
            "naive": lambda: guarded(Naive(bench, stack, headers, bench.redis(stack))),
        }
        result.runs = in_turns(bench, started(bench, result, makers))
    for name in bench.trees:
        result.rows += [
            against(result.runs, name, "nginx", f"five plugins ({name}), bare", 0.18, 0.25),
            against(result.runs, name, "caddy", f"five plugins ({name}), bare", 1.0),
        ]
    return result


def _five(bench: Bench, stack: ExitStack, name: str, tree: object, headers: dict[str, str]) -> Gateway:
    text = document(bench, plugins=gateways.FIVE_PLUGINS)
    return guarded(Gwproxy(bench, stack, tree, text, name=name, headers=headers, redis=bench.redis(stack)))  # type: ignore[arg-type]


def guarded(gateway: Gateway) -> Gateway:
    """Check that the plugins are at work: no token, no answer; and a page may read the answer.

    :raises Failed: they are not; comparing it would be unfair.
    """
    without = {name: value for name, value in gateway.headers.items() if name != "Authorization"}
    status, _, _ = ask(gateway.port, gateway.path, without)
    allowed, answer, _ = ask(gateway.port, gateway.path, gateway.headers)
    origin = answer.get("access-control-allow-origin")
    if status != 401 or allowed != 200 or origin != gateways.ORIGIN:
        raise Failed(f"{gateway.name} answers {status} without a token, {allowed} with one, and allows the origin {origin}")
    return gateway


def against(runs: dict[str, list[Run]], name: str, other: str, what: str, floor: float, goal: float | None = None) -> Row:
    """Return the row that says how many requests a core serves in ``name``, of those it serves in ``other``."""
    if name not in runs or other not in runs:
        return Row(f"{what} x {other}", "not measured", None, floor, goal)
    value, throughput = ratio(runs[other], runs[name], cost), ratio(runs[name], runs[other], rate)
    shown = f"{value:.2f} by CPU ({median(runs[name], cost):.1f} us a request), {throughput:.2f} by throughput"
    return Row(f"{what} x {other}", shown, value, floor, goal)


JOBS: Sequence[Callable[[Bench], Result]] = (bare, five_plugins)
