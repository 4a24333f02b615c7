"""Starting the gateways of a job, and checking that what is measured is the right answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness import gateways
from harness.bench import Bench
from harness.gateways import Direct, Gateway
from harness.load import run
from harness.prober import ask
from harness.process import Failed
from harness.report import Result
from harness.upstream import ITEM


def started(bench: Bench, result: Result, makers: Mapping[str, Callable[[], Gateway]]) -> list[Gateway]:
    """Start the gateways that are wanted, and warm them up; what cannot be measured is noted as missing."""
    running = []
    for name, make in makers.items():
        if not (bench.wants(name) or name == Direct.label):
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


def answers(gateway: Gateway, body: bytes = ITEM) -> Gateway:
    """Check that ``gateway`` gives the upstream's answer.

    :raises Failed: it does not.
    """
    status, _, got = ask(gateway.port, gateway.path, gateway.headers)
    if status != 200 or (gateway.path != "/blob" and got != body):
        raise Failed(f"{gateway.name} answers {status} {got[:100]!r}")
    return gateway


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
