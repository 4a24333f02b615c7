"""Redis fails in every way it can, under traffic: what a request notices of it, and that all comes back by itself (row Q)."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import redis

from tests.e2e.conftest import until
from tests.e2e.raw import Answer, RawClient
from tests.e2e.redis_bench import SECRET, Bench, Stream, bench_fixture, p95, waited
from tests.e2e.signers import github

pytestmark = pytest.mark.e2e

POLICIES = {"/local": 200, "/allow": 200, "/deny": 503, "/webhook": 503, "/four": 200}
FIRST = 300.0  # milliseconds that a request may wait, however many of its plugins ask
OPEN = 10.0  # milliseconds once the breaker is open


bench = bench_fixture()


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to fail.

    :ivar sees: whether the workers can still read their configuration.
    """

    inflict: Callable[[Bench], object]
    relieve: Callable[[Bench], object]
    sees: bool = False


def kill(bench: Bench) -> None:
    assert bench.server.process is not None
    bench.server.process.signal(signal.SIGKILL)
    bench.server.process.child.wait()


def restart(bench: Bench) -> None:
    bench.server.start()
    bench.publish()


def signalled(number: int) -> Callable[[Bench], object]:
    return lambda bench: bench.server.process.signal(number)  # type: ignore[union-attr]


def muted(mute: bool) -> Callable[[Bench], object]:
    return lambda bench: setattr(bench.relay, "mute", mute)


def refuse(bench: Bench) -> None:
    bench.relay.refusing = True
    bench.relay.cut()


def ask_for_password(bench: Bench) -> None:
    bench.server.client().config_set("requirepass", SECRET)
    bench.relay.cut()  # who is connected already is not asked


def forget_password(bench: Bench) -> None:
    redis.Redis(unix_socket_path=bench.server.path, password=SECRET, socket_timeout=5).config_set("requirepass", "")


FAULTS = {
    "Q03-killed": Fault(kill, restart),
    "Q03-frozen": Fault(signalled(signal.SIGSTOP), signalled(signal.SIGCONT)),
    "Q03-refused": Fault(refuse, lambda bench: setattr(bench.relay, "refusing", False)),
    "Q03-silent": Fault(muted(True), muted(False)),
    "Q11-readonly": Fault(
        lambda bench: bench.server.client().replicaof("127.0.0.1", 1), lambda bench: bench.server.client().replicaof("NO", "ONE"), sees=True
    ),
    "Q11-noreplicas": Fault(
        lambda bench: bench.server.client().config_set("min-replicas-to-write", 1),
        lambda bench: bench.server.client().config_set("min-replicas-to-write", 0),
        sees=True,
    ),
    "Q11-noauth": Fault(ask_for_password, forget_password),
}


def pause(seconds: float) -> bool:
    """Let so much time pass: what is refused for a while must go on to be, and a log that floods must have its time."""
    end = time.monotonic() + seconds
    return bool(until(lambda: time.monotonic() > end, "time to pass"))


def ask(client: RawClient, path: str) -> Answer:
    if path != "/webhook":
        return client.ask(path)
    body = f'{{"delivery": "{time.monotonic_ns()}"}}'.encode()
    (field,) = github(SECRET, body).items()
    return client.ask(path, ": ".join(field), method="POST", body=body)


@pytest.mark.parametrize("name", FAULTS)
def test_Q03_Q11_W11_what_requests_notice_of_a_fault_and_that_it_passes(bench: Bench, name: str) -> None:
    fault, workers = FAULTS[name], bench.gateway.workers
    bench.fill_pools()
    before = bench.logged()
    with Stream(bench) as stream, bench.clients() as clients:
        stream.more(150)
        usual, usual_control = stream.taken()
        fault.inflict(bench)
        try:
            for client in clients:
                for path in ("/four", "/local", "/allow", "/deny", "/webhook") * 2:  # /four first: the worst that can be asked
                    answer = ask(client, path)
                    assert (path, answer.status) == (path, POLICIES[path])
                    assert waited(answer) < FIRST
            until(lambda: bench.logged()["store_breaker_opened"] == before["store_breaker_opened"] + workers, "open breakers")
            for path, status in POLICIES.items():
                answers = [ask(client, path) for client in clients for _ in range(15)]
                assert {(path, answer.status) for answer in answers} == {(path, status)}
                assert statistics.median(map(waited, answers)) < OPEN
            stream.more(150)
            away = "store_breaker_opened" if fault.sees else "source_away"
            until(lambda: bench.logged()[away] == before[away] + workers, "every worker to notice")
            seldom = [waited(ask(client, "/allow")) for _ in range(2) if pause(1.1) for client in clients]
            assert statistics.median(seldom) < OPEN  # who asks seldom is not who finds out whether Redis is back
            affected, affected_control = stream.taken()
            assert p95(affected) < 3 * max(p95(usual), p95(usual_control), p95(affected_control)) + 0.04
            assert {client.ask("/.well-known/gwproxy/ready").status for client in clients} == {200}
        finally:
            fault.relieve(bench)
        took = bench.recovered(name)
    assert stream.failures == []
    assert took < 5  # about a second; a worker that follows by luck alone takes longer
    told = {event: count - before[event] for event, count in bench.logged().items()}
    assert told["store_breaker_closed"] == told["store_breaker_opened"]
    assert max(told.values()) <= workers, told  # once a worker and change, however often it tried
