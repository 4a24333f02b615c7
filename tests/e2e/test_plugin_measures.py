"""A bad plugin cannot hurt others, and what plugins and requests come to is seen at a glance: of a running gateway, from outside."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import until
from tests.e2e.running import COMMAND, Running, call
from tests.e2e.scripted import ScriptedService, Seen
from tests.ports import free_port

pytestmark = pytest.mark.e2e

SECRET = "correct-horse-battery-staple-0123456789"
THINKS = 0.1  # seconds that the service takes for /slow
BUDGET = 0.05  # seconds, where it is short


def answer(seen: Seen) -> bytes:
    if seen.target.startswith("/slow"):
        time.sleep(THINKS)
    return b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000


def entry(phase: str = "post_auth", **settings: Any) -> dict[str, Any]:
    return {"name": "stranger_deed", "config": {"phase": phase}, **settings}


def breaker(failures: int, open_for: float) -> dict[str, float]:
    return {"failures": failures, "window": 60, "open_for": open_for}


ROUTES: dict[str, list[dict[str, Any]]] = {
    "slow": [],
    "waits": [entry()],
    "short": [entry(budget_ms={"post_auth": BUDGET * 1000})],
    "other-phase": [entry("pre_auth", budget_ms={"post_auth": BUDGET * 1000})],
    "overruns": [entry(budget_ms=BUDGET * 1000, breaker=breaker(3, 3600))],
    "overruns-ignored": [entry(budget_ms=BUDGET * 1000, on_error="ignore", breaker=breaker(3, 3600))],
    "crashes": [entry(on_error="disable", breaker=breaker(3, 3600))],
    "recovers": [entry(on_error="disable", breaker=breaker(2, 0.5))],
    "auth": [{**entry("auth", on_error="disable", breaker=breaker(2, 0.5)), "name": "hostile"}],
    "ignored": [entry(on_error="ignore", breaker=breaker(1, 3600))],
    "watched": [{"name": "jwt_auth", "config": {"secret": SECRET}, "mode": "shadow"}, {"name": "access_log"}],
    "watched-crash": [entry(mode="shadow")],
    "blocks": [entry()],
    "hoards": [{"name": "stranger_hoard", "config": {"size": "16MiB"}}],
}


class Told:
    """Asks the admin listener for metrics."""

    def __init__(self, gateway: Running) -> None:
        bind = json.loads((gateway.state / "run.json").read_text())["admin_bind"]
        self._url = f"http://{bind}/metrics"
        self._headers = {"Authorization": f"Bearer {(gateway.state / 'admin.token').read_text().strip()}"}

    def __call__(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        answer = requests.get(self._url, headers=self._headers, timeout=20)
        assert answer.status_code == 200, answer.text
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def sum(self, name: str, **labels: str) -> float:
        """The sum of a metric over all samples with these labels; 0.0 if there are none."""
        return sum(value for found, value in self().get(name, ()) if labels.items() <= found.items())


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, service: ScriptedService, strangers: str) -> Iterator[Running]:
    """One worker, so that each of its entries is there once."""
    folder = tmp_path_factory.mktemp("measures")
    for path in ROUTES:
        service.on(f"/{path}", answer)
    routes = [{"id": path, "path": f"/{path}", "upstream": "service", "plugins": plugins} for path, plugins in ROUTES.items()]
    upstreams = {"service": {"targets": [{"url": service.url}], "breaker": {}}}
    (folder / "gateway.json").write_text(json.dumps({"routes": routes, "upstreams": upstreams}))
    argv = ("gateway.json", "--bind", "127.0.0.1:0", "--admin-bind", f"127.0.0.1:{free_port()}", "--workers", "1")
    gateway = Running(folder, "run", *argv, env={"PYTHONPATH": strangers}).ready()
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def told(gateway: Running) -> Told:
    found = Told(gateway)
    until(lambda: found()["gwproxy_worker_state"], "the admin listener")
    return found


def statuses(gateway: Running, path: str, times: int = 1) -> list[int]:
    return [gateway.get(path).status_code for _ in range(times)]


def off(gateway: Running) -> set[str]:
    """The routes on which an entry is switched off."""
    (worker,) = gateway.workers()
    return {row["route"] for row in json.loads(worker["plugin_measures"])["off"]}


# ---- a bad plugin cannot hurt others


def test_a_hook_that_waits_beyond_the_budget_of_its_phase_is_cut_off(gateway: Running, told: Told) -> None:
    began = time.monotonic()
    assert statuses(gateway, "/short?do=wait") == [500]
    assert time.monotonic() - began < 4  # the budget of all phases would be 5 seconds
    assert statuses(gateway, "/other-phase?do=wait_for:0.3") == [200]  # what another phase may take is not its business
    until(lambda: told.sum("gwproxy_plugin_over_budget_total", plugin="stranger_deed", phase="post_auth", how="waited") == 1, "the count")
    assert told.sum("gwproxy_plugin_errors_total", plugin="stranger_deed", phase="post_auth", kind="over_budget") == 1
    assert off(gateway) == set()


def overrun(gateway: Running, route: str, until_status: int) -> None:
    """Ask for what takes longer than its budget, until the entry is off; a hook is served, or cut off where it is seen in time."""
    for _ in range(3):  # or earlier: on a busy machine others of its hooks may be late, too
        status = gateway.get(f"/{route}?do=spin_for:{BUDGET * 1.4}").status_code
        assert status in (200, 500, until_status)
    until(lambda: route in off(gateway), "the entry that is switched off")


def test_running_past_the_budget_is_measured_and_trips_when_it_repeats(gateway: Running, told: Told) -> None:
    """The request of a hook that has come to its end is served; the entry that made others wait is not tried again and again."""
    before = told.sum("gwproxy_plugin_over_budget_total", plugin="stranger_deed", how="ran")
    overrun(gateway, "overruns", 503)
    until(lambda: told.sum("gwproxy_plugin_over_budget_total", plugin="stranger_deed", how="ran") >= before + 3, "the count")
    refused = gateway.get("/overruns")
    assert (refused.status_code, refused.json()) == (503, {"error": "Service Unavailable"})  # on_error: fail
    assert 3500 < int(refused.headers["Retry-After"]) <= 3600
    assert "plugin_ran_over plugin=stranger_deed phase=post_auth route=overruns budget=0.05 seconds=0.0" in gateway.output()
    skipped = told.sum("gwproxy_plugin_decisions_total", decision="skipped", phase="post_auth")
    overrun(gateway, "overruns-ignored", 0)
    assert statuses(gateway, "/overruns-ignored?do=Exception") == [200]  # on_error: ignore
    until(lambda: told.sum("gwproxy_plugin_decisions_total", decision="skipped", phase="post_auth") > skipped, "the skipped hook")


def test_disable_switches_off_what_fails_again_and_again_where_everybody_sees_it(gateway: Running, told: Told) -> None:
    assert statuses(gateway, "/crashes?do=Exception", 3) == [500, 500, 500]
    assert statuses(gateway, "/crashes?do=Exception", 2) == [200, 200]  # without it
    said = gateway.said("plugin_switched_off plugin=stranger_deed")
    assert re.search(
        r"plugin_switched_off plugin=stranger_deed version=1.2 route=crashes phase=post_auth why=raised seconds=3600", gateway.output()
    ), said
    until(lambda: told.sum("gwproxy_plugin_switched_off", plugin="stranger_deed", route="crashes") == 1, "the metric")
    assert told.sum("gwproxy_plugin_errors_total", plugin="stranger_deed", kind="raised") >= 3
    words = "plugin stranger_deed 1.2 is switched off on route crashes, as it failed in post_auth again and again"
    assert words in call(gateway.folder, "status").stdout
    assert statuses(gateway, "/ignored?do=Exception", 3) == [200, 200, 200]
    assert "ignored" not in off(gateway)  # its failures hurt nobody


def test_one_request_tries_it_again_after_a_while(gateway: Running) -> None:
    assert statuses(gateway, "/recovers?do=Exception", 3) == [500, 500, 200]
    until(lambda: gateway.get("/recovers?do=Exception").status_code == 500, "another try")
    assert statuses(gateway, "/recovers?do=Exception") == [200]  # which has failed
    until(
        lambda: gateway.get("/recovers").status_code == 200 and "plugin_switched_on plugin=stranger_deed" in gateway.output(), "a good one"
    )
    assert statuses(gateway, "/recovers?do=Exception") == [500]  # it runs again


def test_without_who_authenticates_nobody_is_let_in(gateway: Running) -> None:
    assert statuses(gateway, "/auth") == [200]
    assert statuses(gateway, "/auth?do=Exception", 2) == [500, 500]
    refused = gateway.get("/auth")
    assert (refused.status_code, refused.json(), "WWW-Authenticate" in refused.headers) == (503, {"error": "Service Unavailable"}, False)
    assert refused.headers["Retry-After"] == "1"
    until(lambda: gateway.get("/auth").status_code == 200, "the plugin, back")


def test_shadow_counts_and_logs_what_would_have_been_blocked(gateway: Running, told: Told) -> None:
    assert statuses(gateway, "/watched", 2) == [200, 200]  # jwt_auth leaves one without a token to others, and there are none
    bad = {"Authorization": "Bearer nonsense"}
    assert gateway.get("/watched", headers=bad).status_code == 200
    until(lambda: told.sum("gwproxy_plugin_decisions_total", plugin="jwt_auth", decision="would_block_4xx") == 3, "the count")
    assert gateway.output().count("plugin_shadowed plugin=jwt_auth phase=auth action=abort detail=401 route=watched") == 3
    entries = until(lambda: len(found := gateway.store().lrange("gw:access_log", 0, -1)) == 3 and found, "the log")
    blocked = [{"plugin": "jwt_auth", "phase": "auth", "action": "abort", "detail": "401"}]
    assert [json.loads(entry)["shadowed"] for entry in entries] == [blocked] * 3  # type: ignore[attr-defined]
    assert statuses(gateway, "/watched-crash?do=Exception") == [200]
    until(lambda: told.sum("gwproxy_plugin_decisions_total", plugin="stranger_deed", decision="would_block_5xx") == 1, "the crash")


def test_who_blocks_a_worker_is_named_with_plugin_line_and_route(gateway: Running, told: Told) -> None:
    assert statuses(gateway, "/blocks?do=spin_for:0.9") == [200]
    said = gateway.said("worker_blocked plugin=stranger_deed phase=post_auth route=blocks")
    assert re.search(r"where=\S+hostile\.py:\d+", said)
    until(lambda: told.sum("gwproxy_plugin_blocked_total", plugin="stranger_deed", phase="post_auth") >= 1, "the count")
    assert re.search(
        r"stranger_deed 1.2 held a worker \d+ times?, last at \S+hostile\.py:\d+ on blocks",
        call(gateway.folder, "plugins", "top", "--once").stdout,
    )


# ---- seen at a glance


def test_time_spent_is_told_from_time_waited(gateway: Running, told: Told) -> None:
    """In what it waits others are served, what it spends is theirs."""

    def seconds(kind: str) -> float:
        return told.sum(f"gwproxy_plugin_{kind}_seconds_sum", plugin="stranger_deed", phase="post_auth")

    before = seconds("spent"), seconds("waited")
    assert statuses(gateway, "/waits?do=wait_for:0.2", 3) == [200] * 3
    until(lambda: seconds("waited") >= before[1] + 0.6, "the waiting")
    assert statuses(gateway, "/waits?do=spin_for:0.2", 2) == [200] * 2
    until(lambda: seconds("spent") >= before[0] + 0.4, "the computing")
    assert seconds("waited") - before[1] < 5  # and none of the computing is in it


def test_each_phase_of_each_plugin_has_its_histograms(gateway: Running, told: Told) -> None:
    version = json.loads(gateway.workers()[0]["plugins"])["access_log"]
    samples = told()["gwproxy_plugin_spent_seconds_bucket"]
    assert {"response", "on_finish"} <= {x["phase"] for x, _ in samples if (x["plugin"], x["version"]) == ("access_log", version)}
    buckets = [(float(x["le"]), value) for x, value in samples if x["plugin"] == "access_log" and x["phase"] == "on_finish"]
    assert buckets == sorted(buckets)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    assert buckets[-1] == (float("inf"), told.sum("gwproxy_plugin_spent_seconds_count", plugin="access_log", phase="on_finish"))


def test_requests_are_counted_by_route_and_status_and_their_time_is_split(gateway: Running, told: Told) -> None:
    for _ in range(3):
        assert len(requests.post(gateway.url + "/slow", data=b"y" * 500, timeout=20).content) == 1000
    assert statuses(gateway, "/nowhere") == [404]
    until(lambda: told.sum("gwproxy_http_requests_total", route="slow", status="2xx") == 3, "the requests")
    assert told.sum("gwproxy_http_requests_total", route="(none)", status="4xx") >= 1
    total, upstream, own = (told.sum(f"gwproxy_http_{name}_seconds_sum", route="slow") for name in ("request", "upstream", "gateway"))
    assert THINKS * 3 <= upstream <= total
    assert 0 < own <= total - upstream
    assert told.sum("gwproxy_http_gateway_seconds_count", route="slow") == 3
    assert told.sum("gwproxy_http_request_bytes_total", route="slow") == 1500
    assert told.sum("gwproxy_http_response_bytes_total", route="slow") == 3000


def test_what_is_in_flight_and_the_state_of_pools_circuits_and_configurations_are_there(gateway: Running, told: Told) -> None:
    found = told()
    for name in ("gwproxy_requests", "gwproxy_upstream_in_flight", "gwproxy_upstream_pool_connections", "gwproxy_worker_revision"):
        assert found[name], name
    assert told.sum("gwproxy_worker_state", state="ready") == 1


def test_top_shows_every_plugin_once_in_the_order_of_what_it_takes(gateway: Running) -> None:
    shown = call(gateway.folder, "plugins", "top", "--once")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("1 worker, since they started\n")
    assert re.search(r"^stranger_deed +1\.2 +post_auth +\d+ .*raised \d+", shown.stdout, re.MULTILINE), shown.stdout
    steps = json.loads(call(gateway.folder, "plugins", "top", "--once", "--json").stdout)["steps"]
    assert [step["spent"]["seconds"] for step in steps] == sorted((step["spent"]["seconds"] for step in steps), reverse=True)
    (step,) = [step for step in steps if (step["plugin"], step["phase"]) == ("stranger_deed", "post_auth")]
    assert step["spent"]["p50"] <= step["spent"]["p99"]


def test_top_goes_on_with_what_came_since(gateway: Running) -> None:
    command = [*COMMAND, "plugins", "top", "--json", "--interval", "2.5"]
    with subprocess.Popen(command, cwd=gateway.folder, env=gateway.environ, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["seconds"] is None
        assert statuses(gateway, "/waits", 7) == [200] * 7
        hooks = 0
        while not hooks:
            second = json.loads(child.stdout.readline())
            hooks = sum(step["hooks"] for step in second["steps"] if (step["plugin"], step["phase"]) == ("stranger_deed", "post_auth"))
        child.terminate()
    assert second["seconds"] >= 2.5
    assert hooks <= 7


def test_memory_that_a_plugin_keeps_is_shown_by_its_version(gateway: Running, told: Told) -> None:
    labels = {"plugin": "stranger_hoard", "version": "0"}
    until(lambda: any(labels.items() <= x.items() for x, _ in told()["gwproxy_plugin_held_bytes"]), "its first weight")
    assert told.sum("gwproxy_plugin_held_bytes", **labels) < 1 << 20
    assert statuses(gateway, "/hoards") == [200]
    until(lambda: told.sum("gwproxy_plugin_grown_bytes", **labels) > 15 << 20, "what it keeps")
    top = json.loads(call(gateway.folder, "plugins", "top", "--once", "--json").stdout)
    (held,) = [row for row in top["memory"] if row["plugin"] == "stranger_hoard"]
    assert held["grown"] > 15 << 20


def test_the_dashboard_asks_for_what_is_there(told: Told) -> None:
    dashboard = (Path(__file__).parents[2] / "deploy" / "grafana-dashboard.json").read_text()
    asked = set(re.findall(r"\bgwproxy_\w+", dashboard))
    assert len(asked) > 15
    assert asked - told().keys() == set()
