"""What commands and the admin API tell of changes and do with them, on a gateway of two workers as ``gwproxy run`` starts it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests

from gwproxy.cli import main
from gwproxy.store.configuration import digest_of
from tests.e2e.conftest import RedisServer, until
from tests.e2e.running import Running, call, clean_environment
from tests.ports import free_port

pytestmark = pytest.mark.e2e

SECRETS = ("the-first-secret-of-32-characters-", "another-secret-that-is-as-long-as-it")
MERGE = {"Content-Type": "application/merge-patch+json"}


class Bench:
    """A gateway, the files of somebody who changes its configuration, and its admin listener."""

    def __init__(self, folder: Path, echo: str) -> None:
        self.folder = folder
        self.echo = echo
        self.write("gateway.json")
        bind = f"127.0.0.1:{free_port()}"
        self.gateway = Running(folder, "run", "gateway.json", "--bind", "127.0.0.1:0", "--admin-bind", bind, "--workers", "2").ready()
        self.admin = f"http://{bind}"
        self.token = (self.gateway.state / "admin.token").read_text().strip()

    def write(self, name: str, *paths: str, secret: str = SECRETS[0], limit: int = 100) -> None:
        users = {
            "id": "users",
            "path": "/users",
            "upstream": self.echo,
            "plugins": [{"name": "jwt_auth", "config": {"secret": secret}}, {"name": "rate_limit", "config": {"limit": limit}}],
        }
        others = [{"id": path.strip("/"), "path": path, "upstream": self.echo} for path in paths]
        document = {"plugins": [{"name": "access_log"}], "routes": [users, *others]}
        (self.folder / name).write_text(json.dumps(document))

    def command(self, *argv: str) -> tuple[int, str, str]:
        """Run a command in this process, as one run here would be: status, output, problems. Starting Python is what takes its time."""
        out, err = io.StringIO(), io.StringIO()
        environ = clean_environment(self.gateway.state)
        with mock.patch.dict(os.environ, environ, clear=True), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main([str(self.folder / part) if (self.folder / part).is_file() else part for part in argv])
        return status, out.getvalue(), err.getvalue()

    def run(self, *argv: str) -> str:
        """Run a command that does what it is asked; return all that it printed."""
        status, out, err = self.command(*argv)
        assert status == 0, (argv, err)
        return out + err

    def told(self, *argv: str) -> Any:
        return json.loads(self.command(*argv, "--json")[1])

    def api(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}", **options.pop("headers", {})}
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.admin + path, headers=headers, timeout=30, **options)

    def serves(self, path: str) -> set[int]:
        """The answers of both workers, in all likelihood."""
        return {self.gateway.get(path).status_code for _ in range(8)}

    @property
    def revision(self) -> int:
        return int(self.gateway.store().get("gw:revision") or 0)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, echo: str) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("bench"), echo)
    until(lambda: bench.api("GET", "/healthz").status_code == 200, "the admin listener")
    yield bench
    bench.gateway.kill()


def test_secrets_are_stored_as_written_and_no_command_prints_them(bench: Bench) -> None:
    bench.write("changed.json", "/open", secret=SECRETS[1], limit=200)
    compared = bench.run("diff", "changed.json")
    assert "plugins.jwt_auth.config.secret: *** -> ***  (changed)" in compared
    printed = [compared, bench.run("apply", "changed.json", "--dry-run"), bench.run("apply", "changed.json", "--wait", "--timeout", "60")]
    _, exported, warned = bench.command("export")
    (bench.folder / "exported.yaml").write_text(exported)
    again = bench.run("apply", "exported.yaml")
    assert again.startswith("nothing to change: ")
    looked = ["status", "audit", "blame users", "diff 1 2", "history", "export --revision 1", "explain GET /users"]
    looked += [f"{command} --json" for command in looked]
    printed += [exported, warned, again, *(bench.run(*command.split()) for command in looked), bench.gateway.output()]
    assert [text for text in printed for secret in SECRETS if secret in text] == []
    store = bench.gateway.store()
    assert SECRETS[1] in str(store.get("gw:routes"))
    assert SECRETS[0] in store.xrange("gw:history")[0][1]["configuration"]  # type: ignore[index]


def test_explain_asks_a_past_revision_why_a_route_won_and_where_each_setting_is_from(bench: Bench) -> None:
    now, before = bench.told("explain", "GET", "/open"), bench.told("explain", "GET", "/open", "--revision", "1")
    assert (now["route"], before["route"], before["status"]) == ("open", None, 404)
    assert {route["id"]: route["reason"] for route in now["routes"]} == {
        "users": "path /open does not match /users",
        "open": "host, path, method and headers fit",
    }
    chain = {entry["plugin"]: entry for entries in bench.told("explain", "GET", "/users")["chain"].values() for entry in entries}
    assert (chain["access_log"]["source"], chain["rate_limit"]["source"]) == ("global", "route")
    assert chain["rate_limit"]["config"]["limit"] == 200
    assert {name: chain["rate_limit"]["sources"]["config"][name] for name in ("limit", "window_seconds")} == {
        "limit": "route",
        "window_seconds": "default",
    }
    text = bench.run("explain", "GET", "/open?a=b")
    assert f"{bench.echo}/open?a=b" in text
    assert "X-Forwarded-For" in text


def test_a_canary_is_looked_at_aborted_and_promoted_by_hand(bench: Bench) -> None:
    bench.write("canary.json", "/open", "/tried", secret=SECRETS[1], limit=200)
    revision = bench.revision
    bench.run("apply", "canary.json", "--canary", "100%", "--wait")
    assert bench.serves("/tried") == {200}
    assert bench.revision == revision
    seen = until(lambda: _answered(bench, 8), "both workers' counts")
    assert (seen["5xx"], seen["4xx"]) == (0, 0)
    assert 0 < seen["p50_ms"] <= seen["p90_ms"] <= seen["p99_ms"]
    assert "canary" in bench.run("canary", "status")
    bench.run("canary", "abort", "--reason", "not yet")
    until(lambda: bench.serves("/tried") == {404}, "the live configuration for everybody")
    assert bench.told("canary", "status")["last"]["reason"] == "not yet"
    bench.run("apply", "canary.json", "--canary", "5%", "--wait")
    assert bench.told("canary", "promote")["revision"] == revision + 1
    until(lambda: bench.serves("/tried") == {200}, "what was promoted, for everybody")


def _answered(bench: Bench, number: int) -> dict[str, Any] | None:
    side: dict[str, Any] = bench.told("canary", "status")["candidate"]["sides"]["candidate"]
    return side if side["requests"] >= number else None


def test_one_thing_is_changed_and_removed_through_the_running_listener(bench: Bench) -> None:
    stale = {"If-Match": f'"{bench.revision - 1}"'}
    assert bench.api("PATCH", "/v1/routes/open", json={"path": "/moved"}, headers=MERGE | stale).status_code == 409
    assert bench.api("PATCH", "/v1/routes/open", json={"path": "/moved"}, headers=MERGE).status_code == 200
    moved = bench.api("GET", "/v1/routes/open")
    assert moved.json()["path"] == "/moved"
    until(lambda: (bench.serves("/moved"), bench.serves("/open")) == ({200}, {404}), "the route where it is now")
    removed = bench.api("DELETE", "/v1/routes/open?wait=20")
    assert (removed.status_code, removed.json()["rollout"]["outcome"]) == (200, "done")
    assert bench.serves("/moved") == {404}
    back = bench.api("POST", "/v1/rollback?wait=20", json={"revision": bench.revision - 1})
    assert (back.status_code, back.json()["rollout"]["outcome"]) == (200, "done")
    assert bench.serves("/moved") == {200}


def test_a_canary_is_begun_and_ended_through_the_running_listener(bench: Bench) -> None:
    config = bench.api("GET", "/v1/config").json()
    config["routes"].append({"id": "late", "path": "/late", "upstream": bench.echo})
    assert bench.api("POST", "/v1/canary", json={"config": config, "share": 100}).status_code in (200, 201, 202)
    until(lambda: bench.serves("/late") == {200}, "the canary")
    assert bench.api("GET", "/v1/canary").json()["candidate"]["share"] == 100
    assert bench.api("POST", "/v1/canary/abort", json={"reason": "seen"}).status_code == 200
    until(lambda: bench.serves("/late") == {404}, "its end")


def test_everything_that_can_be_read_is_answered_by_the_running_listener(bench: Bench) -> None:
    described = bench.api("GET", "/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    paths = [path for path, methods in described["paths"].items() if "get" in methods and "{" not in path and path != "/v1/diff"]
    assert {"/v1/config", "/v1/revisions", "/v1/workers", "/v1/plugins", "/v1/logs", "/v1/audit", "/v1/health"} <= set(paths)
    assert {path: bench.api("GET", path).status_code for path in paths} == dict.fromkeys(paths, 200)
    plugins = bench.api("GET", "/v1/plugins").json()
    limits = next(plugin for plugin in plugins["plugins"] if plugin["name"] == "rate_limit")
    assert limits["config"]["properties"]["limit"]["default"] == 100
    assert bench.api("POST", "/v1/explain", json={"method": "GET", "url": "/moved"}).json()["route"] == "open"
    texts = [bench.api("GET", path).text for path in paths]
    assert [text for text in texts for secret in SECRETS if secret in text] == []


def test_what_is_older_than_is_kept_is_forgotten_but_for_what_is_live(tmp_path: Path, redis_server: RedisServer, echo: str) -> None:
    client = redis_server.client()
    live = json.dumps([{"path": "/old", "upstream": echo}])
    month = 30 * 86_400
    for number in (1, 2):
        entry = {"revision": number, "digest": digest_of(live.encode()), "at": "2026-10-01T00:00:00Z", "actor": "ann", "comment": ""}
        ident = f"{int((time.time() - month) * 1000)}-{number}"
        client.xadd("aged:history", {**entry, "configuration": live}, id=ident)  # type: ignore[arg-type]
    client.mset({"aged:routes": live, "aged:revision": 2})
    env = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_PREFIX": "aged:", "GWPROXY_HISTORY_DAYS": "7"}

    def kept() -> list[int]:
        return [entry["revision"] for entry in json.loads(call(tmp_path, "history", "--json", env=env).stdout)]

    file = tmp_path / "gateway.json"
    file.write_text(live)
    assert call(tmp_path, "apply", file, env=env).stdout.startswith("nothing to change")
    assert 2 in kept()  # old, and live
    file.write_text(json.dumps([{"path": "/new", "upstream": echo}]))
    assert call(tmp_path, "apply", file, env=env).returncode == 0
    assert kept() == [3]
