"""What features of upstreams cost, and how well they balance: ``python benchmarks/upstreams.py``; README.md tells how to read it."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from harness import balancers, machine, report, tools
from harness.balancers import DELAYS, Service
from harness.bench import HERE, TREE, Bench
from harness.gateways import BARE, Gateway, Gwproxy
from harness.jobs.starting import answers
from harness.load import Run, bad, cost, median, p50, p99, rate, ratio, run, together
from harness.process import Child, Failed, free_port
from harness.report import Result, Row
from harness.upstream import Upstream

TARGET = 1.05  # times the CPU time of a request to a plain URL
BALANCED = 64  # connections, of clients that never pause
RESULTS = HERE / "results"
MARKS = ("<!-- upstreams -->", "<!-- end of upstreams -->")

RETRIES = {"attempts": 3, "on": ["connect", "reset", "502", "503"], "methods": ["GET", "HEAD", "OPTIONS"]}
HEALTH = {"path": "/healthz", "interval": 1}
EJECTION = {"consecutive_errors": 5, "error_rate": 0.5}
BREAKER = {"failures": 5, "window": 10, "open_for": 10}

SERVICE = "_http._tcp.pool.bench"  # in DNS, with the servers of all upstreams

#: What is measured, beside a route whose upstream is a URL: keys of an upstream, with three targets if it says nothing of them.
FEATURES: Mapping[str, Mapping[str, object]] = {
    "one target, by name": {"targets": 1},
    "round_robin": {},
    "round_robin by weight": {"targets": 3, "weight": 2},
    "least_connections": {"algorithm": "least_connections"},
    "two_choices": {"algorithm": "two_choices"},
    "random": {"algorithm": "random"},
    "consistent_hash by client": {"algorithm": "consistent_hash", "hash_on": "client"},
    "consistent_hash by header": {"algorithm": "consistent_hash", "hash_on": "header:User-Agent"},
    "hash_balance": {"algorithm": "consistent_hash", "hash_on": "header:User-Agent", "hash_balance": 2},
    "resolve": {"resolve": "srv"},
    "slow_start": {"slow_start": 30},
    "ejection": {"ejection": EJECTION},
    "when_all_down": {"health": HEALTH, "when_all_down": "try_anyway"},
    "retries": {"targets": 1, "retries": RETRIES},
    "health": {"targets": 1, "health": HEALTH},
    "breaker": {"targets": 1, "breaker": BREAKER},
    "concurrency": {"targets": 1, "concurrency": {"limit": 64}},
    "concurrency.adaptive": {"targets": 1, "concurrency": {"limit": 64, "adaptive": {"initial": 64, "min": 32}}},
    "split": {"targets": 1, "route": {"split": {"weights": {"pool": 1, "other": 1}}}},
    "split, sticky": {"targets": 1, "route": {"split": {"weights": {"pool": 1, "other": 1}, "sticky": "client"}}},
    "split, sticky by cookie": {
        "targets": 1,
        "route": {"split": {"weights": {"pool": 1, "other": 1}, "sticky": "cookie:side"}},
        "client": {"Cookie": "session=b9c1f0; theme=dark; side=5e3a7c9d11f04b26"},
    },
    "canary": {"targets": 1, "route": {"canary": {"upstream": "other", "header": "X-Canary"}}},
    "mirror, one of a hundred": {"targets": 1, "route": {"mirror": {"upstream": "other", "share": 0.01}}},
    "all of the upstream's": {
        "slow_start": 30,
        "retries": RETRIES,
        "health": HEALTH,
        "ejection": EJECTION,
        "breaker": BREAKER,
        "concurrency": {"limit": 64},
    },
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=JOBS, metavar="JOB", help=f"one job, may be repeated: {', '.join(JOBS)}")
    parser.add_argument("--choose", default="", metavar="A,B", help="only features and balancers with one of these in their names")
    parser.add_argument("--rounds", type=int, default=8, help="runs of each, in turns (8)")
    parser.add_argument("--seconds", type=int, default=1, help="seconds a run (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all numbers go")
    parser.add_argument("--keep", action="store_true", help="write the tables to results/ and README.md")
    return parser.parse_args()


def main() -> int:
    asked = options()
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian keeps servers
    chosen = tuple(filter(None, asked.choose.split(",")))
    try:
        tools.debian()
        with Bench(asked.seconds, asked.rounds) as bench:
            results = []
            for job in asked.only or JOBS:
                busy, began = machine.others(), time.monotonic()
                results.append(JOBS[job](bench, chosen))
                results[-1].others, results[-1].seconds = busy, time.monotonic() - began
    except Failed as failed:
        print(f"Error: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    text = shown(results, asked)
    print(text)
    settings = {"seconds": asked.seconds, "rounds": asked.rounds, "connections": bench.connections}
    if asked.json:
        report.write_json(asked.json, results, settings)
    if asked.keep:
        report.write_json(RESULTS / "upstreams.json", results, settings)
        readme = HERE / "README.md"
        before, _, rest = readme.read_text().partition(MARKS[0])
        readme.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    return 0


# ---- what a feature costs


def costs(bench: Bench, chosen: Sequence[str]) -> Result:
    """Measure a worker with each feature and one whose route has a URL, at the same time on the same core."""
    result = Result("cost", "Cost of a feature")
    with ExitStack() as stack:
        more = [stack.enter_context(Upstream(bench.place("upstream"), bench.load_cores)) for _ in range(2)]
        urls = [bench.upstream.url, *(upstream.url for upstream in more)]
        asked = names(bench, stack, [bench.upstream.port, *(upstream.port for upstream in more)])
        plain = worker(bench, stack, "a URL", {"routes": [{"path": "/api", "upstream": urls[0]}]})
        for name in among(FEATURES, chosen):
            with ExitStack() as own:
                pair = [worker(bench, own, name, document(urls, FEATURES[name], asked)), plain]
                for gateway in pair:
                    gateway.headers = {**BARE, **client(FEATURES[name])}
                ours, beside = zip(*(together(bench, pair, bench.seconds) for _ in range(bench.rounds)), strict=True)
            result.rows.append(compared(name, ours, beside))
            result.runs[name] = list(ours)
            result.numbers[name] = {plain.name: [one.shown() for one in beside]}
    return result


def among(names: Iterable[str], chosen: Sequence[str]) -> list[str]:
    """Return those that were chosen; all if none was."""
    return [name for name in names if not chosen or any(part in name for part in chosen)]


def names(bench: Bench, stack: ExitStack, ports: Sequence[int]) -> dict[str, object]:
    """Start a DNS server that knows the upstreams' ports as a service; return what asks it."""
    folder, port = bench.place("dns"), free_port()
    service = [f"0 1 {port} one.pool.bench" for port in ports]
    zone = {f"SRV {SERVICE}": {"ttl": 1, "records": service}, "A one.pool.bench": {"ttl": 1, "records": ["127.0.0.1"]}}
    (folder / "zone.json").write_text(json.dumps(zone))
    command = [sys.executable, str(TREE / "tests" / "dns_service.py"), str(port), str(folder)]
    stack.enter_context(Child(command, folder / "dns.log", bench.load_cores)).listening(port)
    return {"servers": [f"127.0.0.1:{port}"]}


def client(keys: Mapping[str, object]) -> dict[str, str]:
    """Return what its clients send beside the usual."""
    sent = keys.get("client", {})
    assert isinstance(sent, dict)
    return sent


def document(urls: Sequence[str], keys: Mapping[str, object], dns: Mapping[str, object] | None = None) -> dict[str, object]:
    """Return a configuration whose upstream has these keys.

    :param keys: ``targets`` is how many, ``weight`` that of the first, ``resolve`` that of one that stands for all, ``route`` has keys of
        the route, ``client`` fields of the requests.
    :param dns: who is asked for that one.
    """
    described = {name: value for name, value in keys.items() if name not in ("targets", "weight", "resolve", "route", "client")}
    count = int(str(keys.get("targets", len(urls))))
    targets: list[dict[str, object]] = [{"url": url} for url in urls[:count]]
    targets[0]["weight"] = keys.get("weight", 1)
    if "resolve" in keys:
        targets, described["dns"] = [{"url": f"http://{SERVICE}", "resolve": keys["resolve"]}], dns
    pools = {"pool": {"targets": targets, **described}, "other": {"targets": [{"url": urls[-1]}]}}
    asked = keys.get("route", {})
    assert isinstance(asked, dict)
    return {"upstreams": pools, "routes": [{"path": "/api", "upstream": "pool", **asked}]}


def worker(bench: Bench, stack: ExitStack, name: str, configuration: Mapping[str, object]) -> Gateway:
    """Start a gateway, and warm it up."""
    gateway = answers(Gwproxy(bench, stack, TREE, json.dumps(configuration), name=name))
    run(bench, gateway, 1)
    return gateway


def compared(name: str, ours: Sequence[Run], plain: Sequence[Run]) -> Row:
    """Return the row of a feature: the median over the rounds of its cost by that of a URL."""
    if any(map(bad, [*ours, *plain])):
        return Row(name, "not measured: bad answers", None, TARGET, lower=True)
    value = ratio(ours, plain, cost)
    return Row(name, f"{value:.3f} ({median(ours, cost):.1f} us; a URL {median(plain, cost):.1f} us)", value, TARGET, lower=True)


# ---- how well it balances


def balance(bench: Bench, chosen: Sequence[str]) -> Result:
    """Measure each balancer before four services of which one takes ten times as long."""
    result = Result("balance", "Balance before a slow target")
    with ExitStack() as stack:
        services = [Service(bench, stack, delay) for delay in DELAYS]
        makers = balancers.makers(bench, stack, services)
        for name in among(makers, chosen):
            try:
                gateway = answers(makers[name](), b"ok")
            except Failed as failed:
                result.missing[name] = " ".join(str(failed).split())[:300]
                continue
            before = [service.answered for service in services]
            result.runs[name] = [run(bench, gateway, bench.seconds, BALANCED) for _ in range(bench.rounds)]
            served = [service.answered - was for service, was in zip(services, before, strict=True)]
            result.numbers[name] = {"served": served, "share": served[-1] / sum(served)}
    return result


def balanced(result: Result) -> str:
    """Return the table of what clients and the slow target saw, in Markdown."""
    lines = ["| balancer, algorithm | requests a second | p50 | p99 | of them to the slow target |", "| --- | --- | --- | --- | --- |"]
    for name, runs in result.runs.items():
        share = result.numbers[name]["share"]  # type: ignore[index]
        latencies = " | ".join(f"{median(runs, number) / 1000:.0f} ms" for number in (p50, p99))
        lines.append(f"| {name} | {median(runs, rate):,.0f} | {latencies} | {share:.1%} |")
    return "\n".join([*lines, *(f"| {name} | missing: {reason} | | | |" for name, reason in result.missing.items())])


def shown(results: Sequence[Result], asked: argparse.Namespace) -> str:
    """Return the whole report in Markdown."""
    about = "{cores} cores of {processor}, Python {python}".format(**machine.described())
    noise = statistics.median(result.others for result in results)
    parts = [f"{about}. {asked.rounds} rounds of {asked.seconds} s. Others used {noise:.0%} of the machine before it."]
    parts += [report.table([result]) if result.job == "cost" else balanced(result) for result in results]
    return "\n\n".join(parts) + "\n"


JOBS = {"cost": costs, "balance": balance}

if __name__ == "__main__":
    sys.exit(main())
