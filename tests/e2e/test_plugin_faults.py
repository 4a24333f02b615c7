"""Plugins that raise, spin, block or wait: what they cost, who else notices, and where it can be read."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.hostile import RAISED, WRONG
from tests.e2e.raw import Answer, RawClient, head
from tests.e2e.scripted import ScriptedService, Seen

pytestmark = pytest.mark.e2e

PHASES = ["pre_auth", "auth", "post_auth", "pre_proxy", "post_proxy", "response", "on_finish"]
BUDGET = 1.0  # seconds: the thread that names who holds the loop looks four times in it, also on a busy machine
TOLD = "s3cr3t-that-a-plugin-tells"


def echo_target(seen: Seen) -> bytes:
    body = seen.target.encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, service: ScriptedService, strangers: str
) -> GatewayProcess:
    """One worker, so that everybody shares its loop."""

    def route(path: str, name: str, **config: object) -> dict[str, object]:
        often = {"failures": 10_000}  # what is done here again and again would switch an entry off
        entry = {"name": name, "config": config, "on_error": "fail", "budget": BUDGET, "breaker": often}
        service.on(path, echo_target)
        return {"id": path.rpartition("/")[2], "path": path, "upstream": service.url, "plugins": [entry]}

    service.on("/plain", echo_target)
    routes = [route(f"/in/{phase}", "hostile", phase=phase) for phase in PHASES]
    routes += [route("/wrong", "wrong"), route("/memory", "memory"), {"path": "/plain", "upstream": service.url}]
    both = route("/twice", "twice")
    both["plugins"] *= 2  # type: ignore[operator]
    shadow = route("/shadow", "hostile")
    shadow["plugins"][0]["mode"] = "shadow"  # type: ignore[index]
    talkative = route("/talkative", "hostile", keys={"a": "${GW_TOLD}"})
    publish(redis_server, [*routes, both, shadow, talkative])
    return start_gateway(workers=1, GW_TOLD=TOLD, GWPROXY_REDIS_URL=redis_server.url, PYTHONPATH=strangers).ready()


@pytest.fixture(autouse=True)
def alive(gateway: GatewayProcess) -> Iterator[None]:
    """No test here costs the worker its life."""
    before = worker_pid(gateway)
    yield
    assert worker_pid(gateway) == before


def worker_pid(gateway: GatewayProcess) -> str:
    master = gateway.process.child.pid
    return Path(f"/proc/{master}/task/{master}/children").read_text()


class Neighbours:
    """Clients that ask on connections of their own all the while, each for its own nonce."""

    def __init__(self, gateway: GatewayProcess, clients: int = 4) -> None:
        self.answered = 0
        self.wrong: list[object] = []
        self._port = gateway.port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Neighbours:
        for thread in self._threads:
            thread.start()
        until(lambda: self.answered > 20, "answers for the neighbours")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, number: int) -> None:
        with RawClient(self._port, timeout=30) as client:
            asked = 0
            while not self._stop.is_set():
                asked += 1
                target = f"/plain?n={number}-{asked}"
                answer = client.ask(target)
                if (answer.status, answer.body) == (200, target.encode()):
                    self.answered += 1
                else:
                    self.wrong.append(answer)


def surrounded(client: RawClient, target: str, nonce: str) -> Answer:
    """Ask for ``target`` between two other requests, all three in one send; return its answer, the others being right."""
    before, after = f"/plain?before={nonce}", f"/plain?after={nonce}"
    client.send(head(before) + head(target) + head(after))
    answers = [client.answer() for _ in range(3)]
    assert [answers[i].status for i in (0, 2)] == [200, 200], answers
    assert [answers[i].body for i in (0, 2)] == [before.encode(), after.encode()]
    return answers[1]


@pytest.mark.parametrize("phase", PHASES)
def test_X01_R30_whatever_a_plugin_raises_costs_one_500_and_desyncs_nothing(gateway: GatewayProcess, phase: str) -> None:
    with RawClient(gateway.port) as client:
        for deed in (*RAISED, "recurse"):
            target = f"/in/{phase}?do={deed}"
            answer = surrounded(client, target, deed)
            if phase == "on_finish":  # the response has left
                assert (answer.status, answer.body) == (200, target.encode()), deed
            else:
                assert (answer.status, answer.json()) == (500, {"error": "Internal Server Error"}), deed


def test_R30_a_kill_from_outside_still_ends_the_request(gateway: GatewayProcess) -> None:
    with RawClient(gateway.port) as client:
        client.send(head("/in/post_auth?do=killed"))
        assert client.ended()


@pytest.mark.parametrize("wrong", WRONG)
def test_X06_X10_what_a_plugin_leaves_wrong_is_500_and_touches_nothing_else(gateway: GatewayProcess, wrong: str) -> None:
    with RawClient(gateway.port) as client:
        answer = surrounded(client, f"/wrong?wrong={wrong}", wrong)
        assert (answer.status, answer.json()) == (500, {"error": "Internal Server Error"})
        assert answer.get("X-B") is None
        after = client.ask("/wrong?wrong=nothing")  # X06: what is shared is as it was
        assert (after.status, after.get("X-Config")) == (200, "post_auth ['first'] ['first'] /wrong")


def test_X10_of_two_short_circuits_one_leaves(gateway: GatewayProcess) -> None:
    with RawClient(gateway.port) as client:
        answer = surrounded(client, "/twice", "twice")
        assert (answer.status, answer.body) == (402, b"second")


def test_X07_what_a_plugin_keeps_of_a_request_stays_with_it(gateway: GatewayProcess) -> None:
    def ask(number: int) -> bool:
        with RawClient(gateway.port) as client:
            targets = [f"/memory?nonce={number}-{round}" for round in range(5)]
            answers = [client.ask(target) for target in targets]
            said = [(answer.status, answer.body.decode(), answer.get("X-Nonce")) for answer in answers]
            return said == [(200, target, target.partition("=")[2]) for target in targets]

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(ask, range(100)))

    def finished() -> list[tuple[str, str]]:
        return re.findall(r"finished nonce=(\S+) asked=(\S+) status=200", gateway.output())

    until(lambda: len(finished()) == 500, "the end of the last one, whose client has its answer before")
    assert all(nonce == asked for nonce, asked in finished())


def test_X08_a_secret_that_a_plugin_logs_or_raises_is_in_no_log(gateway: GatewayProcess) -> None:
    mark = len(gateway.output())
    with RawClient(gateway.port) as client:
        answer = surrounded(client, "/talkative?tell=1", "tell")
    assert (answer.status, answer.json()) == (500, {"error": "Internal Server Error"})
    said = gateway.output()
    assert "in plain text ***\n" in said[mark:]
    assert "ValueError: ***\n" in said[mark:]
    assert TOLD not in said


@pytest.mark.parametrize("phase", ["post_auth", "response"])
@pytest.mark.parametrize("deed", ["wait", "wait_swallowing"])
def test_X04_a_hook_that_waits_beyond_its_budget_is_cut_off(gateway: GatewayProcess, phase: str, deed: str) -> None:
    with Neighbours(gateway) as neighbours, RawClient(gateway.port) as client:
        assert surrounded(client, f"/in/{phase}?do={deed}", deed).status == 500
    assert neighbours.wrong == []


def test_X04_a_finisher_that_waits_does_not_keep_the_next_request_for_ever(gateway: GatewayProcess) -> None:
    mark = len(gateway.output())
    with RawClient(gateway.port) as client:
        assert surrounded(client, "/in/on_finish?do=wait", "wait").status == 200
    until(lambda: "plugin_over_budget plugin=hostile phase=on_finish route=on_finish" in gateway.output()[mark:], "the log")


@pytest.mark.parametrize("phase", ["pre_auth", "response", "on_finish"])
@pytest.mark.parametrize("deed", ["spin", "spin_logging", "spin_swallowing", "native_sleep"])
def test_X03_X11_a_hook_that_holds_the_loop_is_named_and_cut_off_alone(gateway: GatewayProcess, phase: str, deed: str) -> None:
    mark = len(gateway.output())
    with Neighbours(gateway) as neighbours, RawClient(gateway.port, timeout=30) as client:
        expected = 200 if phase == "on_finish" else 500
        assert surrounded(client, f"/in/{phase}?do={deed}", deed).status == expected
        enough = neighbours.answered + 20
        until(lambda: neighbours.answered > enough, "the neighbours to be served")
    assert neighbours.wrong == []
    named = f"plugin=hostile phase={phase} route={phase}"
    until(lambda: f"worker_unblocked {named} seconds=" in gateway.output()[mark:], "the end in the log")
    said = gateway.output()[mark:]
    assert re.search(rf"worker_blocked {named} seconds=\d+\.\d where=\S+hostile\.py:\d+( in=\S+\.py:\d+)?\n", said), said
    assert f"plugin_over_budget {named} " in said


@pytest.mark.parametrize("deed", ["hold_lock", "compute"])
def test_X11_c_calls_are_named_and_end_their_request_when_they_return(gateway: GatewayProcess, deed: str) -> None:
    mark = len(gateway.output())
    with Neighbours(gateway) as neighbours, RawClient(gateway.port, timeout=30) as client:
        assert surrounded(client, f"/in/post_auth?do={deed}", deed).status == 500
    assert neighbours.wrong == []
    said = gateway.output()[mark:]
    assert re.search(r"worker_blocked plugin=hostile phase=post_auth route=post_auth seconds=\S+ where=\S+hostile\.py:\d+\n", said), said


def test_X03_only_the_hook_over_its_budget_is_hit(gateway: GatewayProcess) -> None:
    """Hooks end around the moment of the signal, one after the other without a pause, while others wait in theirs."""
    times = [BUDGET + offset / 100 for offset in range(-8, 24, 4)]
    with Neighbours(gateway) as neighbours, RawClient(gateway.port) as waiting:
        for seconds in times:
            waiting.send(head(f"/memory?nonce={seconds}"))
            with RawClient(gateway.port) as client:
                began = time.monotonic()
                answer = surrounded(client, f"/in/post_auth?do=spin_for:{seconds}", str(seconds))
                took = time.monotonic() - began
            assert answer.status == 200 or (answer.status == 500 and took > BUDGET), (seconds, answer)
            if seconds < BUDGET:
                assert answer.status == 200
            answer = waiting.answer()
            assert (answer.status, answer.get("X-Nonce")) == (200, str(seconds))
    assert neighbours.wrong == []


def test_X03_a_plugin_in_shadow_mode_is_cut_off_and_the_request_goes_on(gateway: GatewayProcess) -> None:
    mark = len(gateway.output())
    with Neighbours(gateway) as neighbours, RawClient(gateway.port) as client:
        for deed in ("spin", "wait", "GreenletExit"):
            assert surrounded(client, f"/shadow?do={deed}", deed).status == 200
    assert neighbours.wrong == []
    said = gateway.output()[mark:]
    assert said.count("plugin_over_budget plugin=hostile phase=post_auth route=shadow") == 2
    assert said.count("plugin_shadowed plugin=hostile phase=post_auth action=error") == 3


def test_X03_a_signal_without_a_reason_and_a_pause_of_the_process_hit_nobody(gateway: GatewayProcess) -> None:
    mark, pid = len(gateway.output()), int(worker_pid(gateway))
    with Neighbours(gateway) as neighbours:
        for _ in range(200):
            os.kill(pid, signal.SIGURG)
            time.sleep(0.001)
        for _ in range(6):  # each time, which thread wakes first is chance
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.5)  # longer than a loop may be blocked
            os.kill(pid, signal.SIGCONT)
            enough = neighbours.answered + 10
            until(lambda enough=enough: neighbours.answered > enough, "the neighbours to be served")  # type: ignore[misc]
        enough = neighbours.answered + 100
        until(lambda: neighbours.answered > enough, "the neighbours to be served")
    assert neighbours.wrong == []
    assert "worker_blocked" not in gateway.output()[mark:]


def test_X03_G27_a_configuration_whose_check_never_ends_is_refused(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    client, mark = redis_server.client(), len(gateway.output())
    live = str(client.get("gw:routes"))
    entry = {"name": "hostile", "config": {"spin": True}}
    with Neighbours(gateway) as neighbours:
        publish(redis_server, [{"path": "/plain", "upstream": "http://127.0.0.1:9", "plugins": [entry]}])
        until(lambda: [beat["state"] for beat in gateway.heartbeats(client)] == ["refused"], "it to be refused")
    assert neighbours.wrong == []
    said = gateway.output()[mark:]
    assert "worker_blocked plugin=hostile phase=configuration route=None" in said
    assert "a configuration over which plugin 'hostile' raised BudgetExceeded" in said
    client.set("gw:routes", live)
    until(lambda: [beat["state"] for beat in gateway.heartbeats(client)] == ["ready"], "the one before to be confirmed")


def test_X03_X04_X11_everything_was_counted(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    """Last: as often as the log of all tests above says."""
    with RawClient(gateway.port) as client:
        assert surrounded(client, "/in/post_auth?do=spin", "last").status == 500
    said = gateway.output()

    def counted(name: str, label: str) -> int | None:
        (beat,) = gateway.heartbeats(redis_server.client())
        return json.loads(beat["counters"]).get(f"{name}:{label}")  # type: ignore[no-any-return]

    until(lambda: counted("budget_exceeded", "hostile") == said.count("plugin_over_budget plugin=hostile"), "the budgets")
    until(lambda: counted("loop_blocked", "hostile") == said.count("worker_blocked plugin=hostile"), "the blocks")
