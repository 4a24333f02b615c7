"""``gwproxy apply --stage`` and ``--canary``, against a real store and workers that say what the test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from gwproxy.store.candidates import CandidateStore
from gwproxy.store.configuration import ConfigurationStore
from tests.cli.conftest import Result
from tests.cli.reporting import Reporting
from tests.conftest import Server, until

Cli = Callable[..., Result]

NEXT = json.dumps([{"id": "next", "path": "/next", "upstream": "http://127.0.0.1:9"}])


class Workers(Reporting):
    """Two workers that report on a candidate as soon as they see it, until closed.

    :ivar answers: what each says.
    """

    def __init__(self, client: redis.Redis, live: ConfigurationStore) -> None:
        self.answers: dict[str, dict[str, object]] = {name: {"state": "built", "error": "", "build_ms": 3.0} for name in ("1", "2")}
        self._live, self._candidates = live, CandidateStore(client)
        self.begin()

    def report(self) -> None:
        look = self._candidates.look()
        for pid, answer in self.answers.items():
            said = json.dumps({"id": look.candidate, **answer}) if look.candidate and answer else "{}"
            self._live.heartbeat(f"w{pid}", {"host": "gw-1", "pid": pid, "state": "ready", "candidate": said, "plugins": "{}"})


@pytest.fixture
def live(client: redis.Redis, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ConfigurationStore:
    monkeypatch.setenv("GWPROXY_REDIS_URL", server.url)
    monkeypatch.setenv("GWPROXY_ACTOR", "ann")
    monkeypatch.chdir(tmp_path)
    Path("next.json").write_text(NEXT)
    store = ConfigurationStore(client)
    store.publish(b"[]", actor="alice")
    return store


@pytest.fixture
def workers(client: redis.Redis, live: ConfigurationStore) -> Iterator[Workers]:
    workers = Workers(client, live)
    yield workers
    workers.close()


def test_what_all_have_built_is_live(cli: Cli, live: ConfigurationStore, workers: Workers) -> None:
    done = cli("apply", "next.json", "--stage", "--comment", "try")
    assert (done.status, done.out.splitlines()[-1]) == (0, "published as revision 2")
    assert "staged: 2 of 2 workers built it" in done.err
    newest = live.history(1)[0]
    assert (json.loads(newest.configuration), newest.actor, newest.comment) == (json.loads(NEXT), "ann", "try")


UNBUILT = [({"state": "refused", "error": "no GW_KEY"}, "gw-1/2 refuses it: no GW_KEY"), ({}, "after 0.3 s gw-1/2 has not built it")]


@pytest.mark.parametrize(("answer", "reason"), UNBUILT)
def test_what_one_has_not_changes_nothing(
    cli: Cli, live: ConfigurationStore, workers: Workers, answer: dict[str, object], reason: str
) -> None:
    workers.answers["2"] = answer
    refused = cli("apply", "next.json", "--stage", "--timeout", "0.3")
    assert refused.status == 1
    assert refused.err.splitlines()[-1] == f"gwproxy: error: nothing was changed: {reason}"
    told = json.loads(cli("apply", "next.json", "--stage", "--timeout", "0.3", "--json").out)
    assert (told["outcome"], told["reason"], len(told["staged"])) == ("refused", reason, 2)
    assert live.read().revision == 1


def test_a_canary_begins_and_is_given_another_share(cli: Cli, client: redis.Redis, workers: Workers) -> None:
    rules = ("--abort-if", "5xx>1%", "--abort-if", "p99 > live + 20ms", "--promote-after", "10m", "--min-requests", "50")
    begun = cli("apply", "next.json", "--canary", "5%", *rules)
    assert begun.status == 0
    assert "canary: 2 of 2 workers built it" in begun.err
    assert begun.out.splitlines()[-3:] == [
        "canary: 5% of clients; revision 1 serves all others",
        "all 2 workers serve it",
        "how it does: gwproxy canary status --watch",
    ]
    first = CandidateStore(client).read()
    assert first is not None
    assert json.loads(first.rules) == {"abort_if": ["5xx>1%", "p99 > live + 20ms"], "promote_after": 600.0, "min_requests": 50}
    told = json.loads(cli("apply", "next.json", "--canary", "25", "--json").out)
    assert (told["outcome"], told["canary"]["id"], told["canary"]["share"]) == ("canary", first.id, 25.0)


@pytest.mark.parametrize(("answer", "reason"), UNBUILT)
def test_a_canary_that_a_worker_does_not_build_is_taken_back(
    cli: Cli, client: redis.Redis, live: ConfigurationStore, workers: Workers, answer: dict[str, object], reason: str
) -> None:
    workers.answers["2"] = answer
    refused = cli("apply", "next.json", "--canary", "5%", "--timeout", "0.3")
    assert refused.status == 1
    assert refused.err.splitlines()[-1] == f"gwproxy: error: nothing was changed: {reason}"
    store = CandidateStore(client)
    assert store.read() is None
    last = store.last()
    assert last is not None
    assert (last.outcome, last.reason, last.by) == ("refused", reason, "ann")
    told = json.loads(cli("apply", "next.json", "--canary", "5%", "--timeout", "0.3", "--json").out)
    assert (told["outcome"], told["reason"], len(told["staged"])) == ("refused", reason, 2)
    assert live.read().revision == 1


def test_without_workers_there_is_no_canary(cli: Cli, client: redis.Redis, live: ConfigurationStore) -> None:
    refused = cli("apply", "next.json", "--canary", "5%")
    assert (refused.status, refused.err) == (1, "gwproxy: error: nothing was changed: no worker is there to build it\n")
    assert CandidateStore(client).read() is None


def test_a_canary_that_is_there_already_is_not_taken_back(cli: Cli, client: redis.Redis, workers: Workers) -> None:
    assert cli("apply", "next.json", "--canary", "5%").status == 0
    workers.answers["2"] = {}
    until(lambda: client.hget("gw:worker:w2", "candidate") == b"{}")
    late = cli("apply", "next.json", "--canary", "25%", "--timeout", "0.3")
    reason = "after 0.3 s gw-1/2 has not built it; the canary goes on, 'gwproxy canary abort' ends it"
    assert (late.status, late.err.splitlines()[-1]) == (1, f"gwproxy: error: {reason}")
    found = CandidateStore(client).read()
    assert found is not None
    assert found.share == 25.0


def test_one_at_a_time(cli: Cli, live: ConfigurationStore, workers: Workers) -> None:
    assert cli("apply", "next.json", "--canary", "5%").status == 0
    Path("other.json").write_text(NEXT.replace("next", "other"))
    for option in (("--canary", "5%"), ("--stage",)):
        busy = cli("apply", "other.json", *option)
        assert busy.status == 1
        assert busy.err.splitlines()[-1].startswith("gwproxy: error: there is a candidate already: a canary by ann, since ")
        assert json.loads(cli("apply", "other.json", *option, "--json").out)["outcome"] == "busy"
    assert cli("apply", "other.json").status == 0  # whoever changes what is live supersedes it
    assert "superseded: the live configuration is revision 2 now, by ann" in cli("canary", "status").out


@pytest.mark.parametrize("option", [("--canary", "5%"), ("--stage",)])
def test_it_is_based_on_what_is_live(cli: Cli, live: ConfigurationStore, workers: Workers, option: tuple[str, ...]) -> None:
    live.publish(b"[ ]", actor="bob")
    conflict = cli("apply", "next.json", *option, "--based-on", "1", "--json")
    assert (conflict.status, json.loads(conflict.out)["outcome"]) == (1, "conflict")


@pytest.mark.parametrize("option", [("--canary", "5%"), ("--stage",)])
def test_a_dry_run_begins_nothing(cli: Cli, client: redis.Redis, workers: Workers, option: tuple[str, ...]) -> None:
    assert cli("apply", "next.json", *option, "--dry-run").status == 0
    assert CandidateStore(client).read() is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--canary", "0%"), "no share of clients"),
        (("--canary", "many"), "no share of clients"),
        (("--canary", "100.5%"), "no share of clients"),
        (("--abort-if", "5xx > 1%"), "--canary PERCENT is missing"),
        (("--promote-after", "10m"), "--canary PERCENT is missing"),
        (("--canary", "5%", "--stage"), "two ways"),
        (("--canary", "5%", "--abort-if", "5xx"), "is no rule"),
        (("--canary", "5%", "--promote-after", "soon"), "is no time"),
        (("--canary", "5%", "--promote-after", "nan"), "is no time"),
        (("--canary", "5%", "--wait", "--rollback-on-failure"), "not for a canary"),
    ],
)
def test_wrong_usage_says_what_is_right(cli: Cli, live: ConfigurationStore, options: tuple[str, ...], said: str) -> None:
    wrong = cli("apply", "next.json", *options)
    assert (wrong.status, wrong.out) == (2, "")
    assert said in " ".join(wrong.err.split())
