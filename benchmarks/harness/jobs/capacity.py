"""What a worker holds: routes, connections; and what a second one adds."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack

from harness.bench import Bench
from harness.gateways import Gateway, Gwproxy, document
from harness.jobs.comparisons import labelled
from harness.jobs.starting import answers
from harness.load import in_turns, median, rate, ratio, run
from harness.report import Result, Row
from harness.upstream import ITEM

MANY = 10_000
_MIB = 1 << 20


def memory(bench: Bench) -> Result:
    """Weigh a worker that serves, with few and with many routes, its configuration in a Redis."""
    result = Result("memory", "Memory of a worker")
    for name, what in labelled(bench, "memory of a worker"):
        for count, most in ((10, 100), (MANY, 180)):
            with ExitStack() as stack:
                gateway = answers(Gwproxy(bench, stack, bench.trees[name], document(bench, count), name=name, redis=bench.redis(stack)))
                run(bench, gateway, bench.seconds)
                mib = gateway.usage().largest / _MIB
            result.numbers[f"{name}, {count} routes, MiB"] = round(mib, 1)
            result.rows.append(Row(f"{what}, {count:,} routes", f"{mib:.0f} MiB", mib, most, unit=" MiB", lower=True))
    return result


def workers(bench: Bench) -> Result:
    """Compare more workers with one, where load and gateway share all cores."""
    result = Result("workers", "More workers")
    cores = bench.gateway_cores | bench.load_cores
    several, least = (4, 3.6) if len(cores) >= 6 else (2, 1.05)
    for name, what in labelled(bench, f"{several} workers on {len(cores)} cores, load among them, x one"):
        with ExitStack() as stack:
            gateways: list[Gateway] = []
            for count in (1, several):
                label = f"{name}, {count} worker{'s' * (count > 1)}"
                text = document(bench)
                gateway = Gwproxy(bench, stack, bench.trees[name], text, name=label, workers=count, cores=cores)
                gateways.append(answers(gateway))
            with bench.load_on(cores):
                runs = in_turns(bench, gateways)
        one, more = runs.values()
        value = ratio(more, one, rate)
        shown = f"{value:.2f} by throughput ({median(one, rate):,.0f} and {median(more, rate):,.0f} requests a second)"
        result.rows.append(Row(what, shown, value, least))
        result.runs |= runs
    return result


def idle(bench: Bench) -> Result:
    """Open very many connections that each ask once, and later ask again; weigh the worker before and between."""
    result = Result("idle", "Idle keep-alive connections")
    count = min(MANY, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    settings = f"\nworker_connections = {count + 1000}\nkeepalive = 600\n"
    for name, what in labelled(bench, f"{count:,} idle keep-alive connections"):
        with ExitStack() as stack:
            gateway = answers(Gwproxy(bench, stack, bench.trees[name], document(bench), name=name, settings=settings))
            run(bench, gateway, bench.seconds)
            before = gateway.usage().largest
            connections = [stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), 10)) for _ in range(count)]
            once = sum(_ask(connection, gateway) for connection in connections)
            kib = (gateway.usage().largest - before) / count / 1024
            twice = sum(_ask(connection, gateway) for connection in connections)
        served = min(once, twice)
        result.numbers[name] = {"connections": count, "served once": once, "served again": twice, "KiB each": round(kib, 2)}
        result.rows += [
            Row(f"{what}: served", f"{served:,}, each of them twice", served, MANY),
            Row(f"{what}: memory of each", f"{kib:.1f} KiB", kib, 20, unit=" KiB", lower=True),
        ]
    return result


def _ask(connection: socket.socket, gateway: Gateway) -> bool:
    """Ask on a connection that stays open; return whether it was answered with the upstream's body."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in gateway.headers.items())
    data = b""
    try:
        connection.sendall(f"GET {gateway.path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
        while not data.endswith(ITEM):
            if not (more := connection.recv(65_536)):
                return False
            data += more
    except OSError:
        return False
    return data.startswith(b"HTTP/1.1 200 ")
