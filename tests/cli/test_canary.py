"""``gwproxy canary``, against a real store with what workers have written there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from gwproxy.controlplane.candidates import Candidates
from gwproxy.controlplane.rules import Rules
from gwproxy.store.audit import AuditLog
from gwproxy.store.candidates import Candidate, CandidateStore
from gwproxy.store.configuration import ConfigurationStore
from tests.cli.conftest import Result
from tests.conftest import Server

Cli = Callable[..., Result]


class Gateway:
    """A gateway with one revision and two workers, as its store shows it."""

    def __init__(self, client: redis.Redis) -> None:
        self.live, self.store, self.audit = ConfigurationStore(client), CandidateStore(client), AuditLog(client)
        self.live.publish(b"[]", actor="alice")
        self.people = Candidates(self.store, self.live, self.audit, "bob")

    def canary(self, *states: str) -> Candidate:
        rules = Rules.of(["5xx > 1%", "p99 > live * 1.5"], promote_after=600.0)
        made = self.people.canary(b"[ ]", base=1, share=5.0, rules=rules, comment="faster")
        for number, state in enumerate(states):
            beat = {
                "host": "gw-1",
                "pid": str(number),
                "state": "ready",
                "candidate": json.dumps({"id": made.id, "state": state, "error": "why"}),
            }
            self.live.heartbeat(f"w{number}", beat)
        counts = {
            "live:requests": 1900,
            "live:4xx": 19,
            "live:b20": 1900,
            "candidate:requests": 100,
            "candidate:5xx": 2,
            "candidate:b30": 100,
        }
        self.store.report(made.id, "w1", 1, counts)
        return made


@pytest.fixture
def gateway(client: redis.Redis, server: Server, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv("GWPROXY_REDIS_URL", server.url)
    monkeypatch.setenv("GWPROXY_ACTOR", "carol")
    return Gateway(client)


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_status_shows_both_sides(gateway: Gateway, cli: Cli) -> None:
    gateway.canary("built", "built")
    shown = cli("canary", "status")
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0].startswith("canary: 5% of clients, since ")
    assert lines[0].endswith(", by bob, made from revision 1: faster")
    assert lines[1] == "ends: aborted if 5xx > 1% or p99 > live * 1.5 (from 100 requests), promoted after 600 s"
    table = words(shown.out)
    assert table[3] == ["side", "share", "requests", "errors", "5xx", "4xx", "p50", "p90", "p99"]
    assert table[4][:6] == ["live", "95%", "1,900", "0%", "0%", "1%"]
    assert table[5][:6] == ["candidate", "5%", "100", "2%", "2%", "0%"]
    assert lines[-1] == "all 2 workers have built it"


def test_status_names_workers_that_do_not_serve_it(gateway: Gateway, cli: Cli) -> None:
    gateway.canary("built", "refused")
    out = cli("canary", "status").out
    assert ["gw-1", "1", "refused", "why"] in words(out)
    assert out.endswith("1 of 2 workers have not built it\n")


def test_status_as_json(gateway: Gateway, cli: Cli) -> None:
    made = gateway.canary("built")
    found = json.loads(cli("canary", "status", "--json").out)
    candidate = found["candidate"]
    assert found["last"] is None
    assert (candidate["id"], candidate["share"], candidate["share_seen"], candidate["base"]) == (made.id, 5.0, 5.0, 1)
    assert candidate["sides"]["candidate"]["5xx_percent"] == 2.0
    assert candidate["rules"] == {"abort_if": ["5xx > 1%", "p99 > live * 1.5"], "promote_after": 600.0, "min_requests": 100}
    assert candidate["workers"][0]["state"] == "built"
    assert "data" not in candidate


def test_without_one_it_tells_of_the_last(gateway: Gateway, cli: Cli) -> None:
    assert cli("canary", "status").out == "there is no canary, and none has been here\n"
    gateway.canary()
    assert cli("canary", "abort", "--reason", "smells") == Result(0, "aborted: revision 1 serves all clients\n", "")
    lines = cli("canary", "status").out.splitlines()
    assert lines[0].startswith("there is no canary; the last one ended ")
    assert lines[0].endswith("ago, by carol")
    assert lines[1] == "aborted: smells"
    assert lines[-1].split()[:3] == ["candidate", "5%", "100"]


def test_promote(gateway: Gateway, cli: Cli) -> None:
    made = gateway.canary()
    told = json.loads(cli("canary", "promote", "--json").out)
    assert told == {"outcome": "promoted", "revision": 2, "digest": made.digest}
    assert (gateway.live.read().data, gateway.live.history(1)[0].actor) == (b"[ ]", "carol")
    assert "promoted as revision 2: by carol" in cli("canary", "status").out
    assert [(entry.actor, entry.action) for entry in gateway.audit.entries()] == [("bob", "canary"), ("carol", "canary promote")]


def test_promote_waits_for_the_workers_if_told_so(gateway: Gateway, cli: Cli) -> None:
    made = gateway.canary()
    held = {"host": "gw-1", "state": "ready"}
    gateway.live.heartbeat("w1", {**held, "pid": "1", "digest": made.digest, "revision": "2"})
    gateway.live.heartbeat("w2", {**held, "pid": "2", "digest": "another", "revision": "1"})
    late = cli("canary", "promote", "--wait", "--timeout", "0.3")
    assert late.status == 1
    assert late.out.splitlines()[0].startswith("promoted: it is revision 2 now")
    assert [row[4] for row in words(late.out)[2:]] == ["done", "waiting"]
    assert "gw-1/2 did not answer within 0.3 s" in late.err.splitlines()[-1]
    entry = gateway.audit.entries(1)[0]
    assert (entry.actor, entry.action, entry.outcome, entry.revision) == ("carol", "canary promote", "refused", 2)


@pytest.mark.parametrize("command", ["promote", "abort"])
def test_where_there_is_none_nothing_can_be_done(gateway: Gateway, cli: Cli, command: str) -> None:
    refused = cli("canary", command)
    assert (refused.status, refused.out) == (1, "")
    assert refused.err == "gwproxy: error: there is no canary; 'gwproxy canary status' tells how the last one ended\n"


def test_one_that_was_superseded_cannot_be_promoted(gateway: Gateway, cli: Cli) -> None:
    gateway.canary()
    gateway.live.publish(b"[  ]", actor="dan")
    assert cli("canary", "promote").status == 1
    assert "superseded: the live configuration is revision 2 now, by dan" in cli("canary", "status").out


@pytest.mark.parametrize(("end", "status"), [("promote", 0), ("abort", 1)])
def test_watching_ends_with_it(gateway: Gateway, cli: Cli, monkeypatch: pytest.MonkeyPatch, end: str, status: int) -> None:
    gateway.canary()
    looked = threading.Event()

    def sleep(seconds: float) -> None:
        looked.set()
        getattr(gateway.people, end)()

    monkeypatch.setattr("gwproxy.cli.canary.time.sleep", sleep)
    watched = cli("canary", "status", "--watch", "--json")
    assert watched.status == status
    first, second = map(json.loads, watched.out.splitlines())
    assert (first["candidate"]["share"], second["candidate"]) == (5.0, None)
    assert looked.is_set()


def test_no_gateway_no_canary(cli: Cli) -> None:
    assert "no gateway found" in cli("canary", "status").err


def test_watching_waits_for_a_store_that_is_away(gateway: Gateway, cli: Cli, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.kill()

    def sleep(seconds: float) -> None:
        server.start()

    monkeypatch.setattr("gwproxy.cli.canary.time.sleep", sleep)
    assert cli("canary", "status").status == 1
    watched: Any = cli("canary", "status", "--watch")
    assert watched.out == "there is no canary, and none has been here\n"
