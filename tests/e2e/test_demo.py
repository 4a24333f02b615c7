"""``gwproxy demo`` as a real process: what it prints is tried, word for word, as a reader would."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import until
from tests.e2e.running import Running, call

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Curled:
    """What a curl line brought.

    :ivar fields: by lower-case name.
    """

    status: int
    fields: dict[str, str]
    body: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The demo, in a folder and an environment that hold what it must not heed."""
    assert shutil.which("curl"), "these tests need curl"
    folder = tmp_path_factory.mktemp("demo")
    (folder / "gunicorn.conf.py").write_text("raise SystemExit('not the demo\\'s')\n")
    strange = {
        "GWPROXY_PROXY_PROTOCOL": "v2",
        "GWPROXY_PROXY_FROM": "10.0.0.0/8",
        "GWPROXY_ENV_ALLOW": "NONE",
        "GWPROXY_REDIS_URL": "unix:///no",
    }
    demo = Running(folder, "demo", "--bind", "127.0.0.1:0", "--admin-bind", "off", env=strange).ready()
    demo.said("Ctrl-C ends the demo")
    yield demo
    demo.kill()


@pytest.fixture(scope="module")
def lines(demo: Running) -> dict[str, str]:
    """The curl lines, by what each is about."""
    found = re.findall(r"^  # (.+)\n  (curl .+)$", demo.output(), re.MULTILINE)
    assert len(found) == 4
    words = {"public": "a public route", "anonymous": "401 without", "admin": "200 with one", "webhook": "a webhook route"}
    return {name: next(line for comment, line in found if word in comment) for name, word in words.items()}


def curl(line: str) -> Curled:
    """Run a printed line as a shell would."""
    done = subprocess.run(
        ["sh", "-c", line.replace("curl ", "curl -s --noproxy '*' ", 1)], capture_output=True, text=True, timeout=20, check=True
    )
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    first, *fields = head.split("\n")
    pairs = (field.split(": ", 1) for field in fields)
    return Curled(int(first.split()[1]), {name.lower(): value for name, value in pairs}, body)


def until_limited(line: str, limit: int) -> list[Curled]:
    """Ask ``limit`` + 1 times within one window of the limiter; return the answers."""

    def asked() -> list[Curled] | None:
        answers = [curl(line)]
        if answers[0].fields.get("x-ratelimit-remaining") != str(limit - 1):
            return None  # a window that began before
        answers += [curl(line) for _ in range(limit)]
        resets = [int(answer.fields["x-ratelimit-reset"]) for answer in answers]
        return answers if resets == sorted(resets, reverse=True) else None  # it ended meanwhile

    return until(asked, "a new window", within=40)  # type: ignore[return-value]


def test_the_public_route_answers_with_cors_and_20_times_in_10_seconds(lines: dict[str, str]) -> None:
    answers = until_limited(lines["public"], 20)
    assert [answer.status for answer in answers] == [200] * 20 + [429]
    assert [user["name"] for user in json.loads(answers[0].body)["users"]] == ["Ada Lovelace", "Alan Turing"]
    assert {answer.fields["access-control-allow-origin"] for answer in answers} == {"https://app.example.com"}
    assert {answer.fields["x-ratelimit-limit"] for answer in answers} == {"20"}
    assert json.loads(answers[-1].body) == {"error": "Rate limit exceeded"}


def test_the_admin_route_wants_a_token(lines: dict[str, str]) -> None:
    answer = curl(lines["anonymous"])
    assert (answer.status, json.loads(answer.body)) == (401, {"error": "Authentication required"})
    assert answer.fields["www-authenticate"].startswith("Bearer")
    forged = curl(re.sub(r"Bearer \S+\.\S+\.", lambda found: found[0][:-1] + "x.", lines["admin"]))
    assert (forged.status, json.loads(forged.body)) == (401, {"error": "Invalid token"})


def test_the_admin_route_lets_the_token_in_5_times_in_10_seconds(lines: dict[str, str]) -> None:
    answers = until_limited(lines["admin"], 5)
    assert [answer.status for answer in answers] == [200] * 5 + [429]
    told = json.loads(answers[0].body)
    assert (told["asked_by"], told["consumer"], len(told["orders"])) == ("acme-service", "acme", 2)


def test_the_webhook_route_wants_the_right_signature(lines: dict[str, str]) -> None:
    line = lines["webhook"]
    answer = curl(line)
    assert answer.status == 200
    assert json.loads(answer.body) == {"received": len('{"event": "ping"}'), "path": "/api/webhooks/github"}
    wrong = curl(line.replace('"ping"', '"pong"'))
    assert (wrong.status, json.loads(wrong.body)) == (401, {"error": "Invalid token"})
    missing = curl(re.sub(r" -H 'X-Hub-Signature-256: \S+'", "", line))
    assert (missing.status, json.loads(missing.body)) == (401, {"error": "Authentication required"})
    assert curl(line.replace("-X POST", "-X PUT")).status == 404


def test_the_commands_it_names_find_it(demo: Running, lines: dict[str, str]) -> None:
    curl(lines["webhook"])
    printed = re.findall(r"^  gwproxy (\w+)(.*)$", demo.output(), re.MULTILINE)
    assert [name for name, _ in printed] == ["logs", "status", "explain"]
    for name, rest in printed:
        assert call(demo.folder, name, *shlex.split(rest)).returncode == 0

    def webhook_is_logged() -> bool:
        entries = [json.loads(line) for line in call(demo.folder, "logs", "--json").stdout.splitlines()]
        return any((entry["path"], entry["status"], entry["route"]) == ("/api/webhooks/github", 200, "webhooks") for entry in entries)

    until(webhook_is_logged, "the request to be in the log")
    status = json.loads(call(demo.folder, "status", "--json").stdout)
    assert [worker["state"] for worker in status["workers"]] == ["ready", "ready"]
    assert status["behind"] == []
    explained = json.loads(call(demo.folder, "explain", "--json", "GET", f"{demo.url}/api/admin").stdout)
    assert "admin" in json.dumps(explained)
    assert "GW_DEMO_ORDERS" in json.dumps(explained)


def test_a_second_demo_names_the_first(demo: Running) -> None:
    second = call(demo.folder, "demo", "--bind", "127.0.0.1:0")
    assert second.returncode == 1
    assert f"{demo.state / 'demo'} is in use by gwproxy run, process {demo.child.pid}" in second.stderr
    assert "curl" not in second.stdout


def test_a_port_that_is_taken_is_told_before_there_is_anything_to_try(demo: Running, tmp_path: Path) -> None:
    second = call(tmp_path, "demo", "--bind", demo.url.removeprefix("http://"))
    assert (second.returncode, second.stdout) == (1, "")
    assert "Address already in use; name another address with --bind" in second.stderr


def test_SIGINT_ends_it_and_leaves_nothing_behind(demo: Running) -> None:
    assert len(demo.processes()) == 5  # services, store, master, two workers
    assert demo.stop(signal.SIGINT) == 0
    assert "Traceback" not in demo.output()
    assert not (demo.state / "demo" / "run.json").exists()
