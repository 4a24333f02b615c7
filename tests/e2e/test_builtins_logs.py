"""What is on record of requests: access_log, each key of it, and ``gwproxy logs``, through running workers."""

from __future__ import annotations

import json
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until
from tests.e2e.raw import RawClient, head
from tests.e2e.records import entries, entry_of, lines_of
from tests.e2e.scripted import ScriptedService
from tests.e2e.signers import token
from tests.ports import free_port

pytestmark = pytest.mark.e2e

SECRET = "a-secret-of-more-than-32-bytes-for-tests"
JWT = {"name": "jwt_auth", "config": {"secret": SECRET}}
ALWAYS = {
    *("method", "path", "status", "user_id", "latency_ms", "timestamp", "route", "consumer", "upstream", "request_id", "client_ip"),
    *("bytes", "completed", "host"),
}


def log_to(*sinks: str, **config: Any) -> list[dict[str, Any]]:
    return [{"name": "access_log", "config": {"sinks": list(sinks), **config}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def service() -> Iterator[ScriptedService]:
    service = ScriptedService()
    yield service
    service.close()


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess], redis_server: RedisServer, echo: str, service: ScriptedService, folder: Path
) -> GatewayProcess:
    masked = {"headers": ["User-Agent", "X-Tenant", "Authorization", "Cookie", "X-Api-Key"], "redact": ["e_mail", "x-tenant", "street"]}
    routes: list[dict[str, Any]] = [
        {"path": "/log/default", "upstream": echo},
        {"path": "/log/private", "upstream": echo, "plugins": [JWT]},
        {"path": "/log/limited", "upstream": echo, "plugins": [{"name": "rate_limit", "config": {"limit": 1, "window_seconds": 86400}}]},
        {"path": "/log/shadow", "upstream": echo, "plugins": [{**JWT, "mode": "shadow"}]},
        {"path": "/log/down", "upstream": f"http://127.0.0.1:{free_port()}"},
        {"path": "/log/cut", "upstream": service.url},
        {"path": "/log/masked", "upstream": echo, "plugins": log_to("redis", **masked)},
        {"path": "/log/body", "upstream": service.url, "plugins": log_to("redis", logBody=True, redact=["e_mail"])},
        {"path": "/log/short", "upstream": service.url, "plugins": log_to("redis", log_body=True, body_limit=64)},
        {"path": "/log/stdout", "upstream": echo, "plugins": log_to("stdout")},
        {"path": "/log/file", "upstream": echo, "plugins": log_to("file", file=str(folder / "access.log"))},
        {"path": "/log/all", "upstream": echo, "plugins": log_to("redis", "stdout", "file", file=str(folder / "all.log"))},
        {"path": "/log/nowhere", "upstream": echo, "plugins": log_to("redis", "file", file=str(folder / "no" / "such" / "folder.log"))},
        {"path": "/log/off", "upstream": echo, "plugins": [{"name": "access_log", "enabled": False}]},
    ]
    document = {
        "plugins": [{"name": "access_log"}],
        "consumers": [{"id": "acme", "match": {"user_id": "alice"}}],
        "routes": [{"id": re.sub(r"\W+", "-", route["path"]).strip("-"), **route} for route in routes],
    }
    publish(redis_server, document)
    return start_gateway(folder, GWPROXY_REDIS_URL=redis_server.url, GWPROXY_LOG_LEVEL="debug").ready()


@pytest.fixture
def ident() -> str:
    """Return the id of a request, by which its entry is found."""
    return f"test-{uuid4()}"


def bearer(user: str = "alice") -> dict[str, str]:
    return {"Authorization": f"Bearer {token('HS256', SECRET.encode(), {'sub': user, 'exp': time.time() + 300})}"}


def json_answer(body: Any, *fields: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = ("HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {len(data)}", *fields, "", "")
    return "\r\n".join(lines).encode() + data


# ---- access_log


def test_an_entry_has_these_fields_and_no_others(gateway: GatewayProcess, redis_server: RedisServer, echo: str, ident: str) -> None:
    answer = gateway.get("/log//%70rivate/x", headers={**bearer(), "X-Request-ID": ident})
    entry = entry_of(redis_server, ident)
    assert entry.keys() == ALWAYS
    assert answer.headers["X-Request-ID"] == ident
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("timestamp"))
    assert 0 < entry.pop("latency_ms") < 20_000
    assert entry == {
        "method": "GET",
        "path": "/log/private/x",
        "status": 200,
        "user_id": "alice",
        "route": "log-private",
        "consumer": "acme",
        "upstream": echo,
        "request_id": ident,
        "client_ip": "127.0.0.1",
        "bytes": len(answer.content),
        "completed": True,
        "host": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("path", "status", "route"),
    [
        ("/nowhere", 404, None),
        ("/log/private", 401, "log-private"),
        ("/log/down", 502, "log-down"),
        ("/log/default?status=503", 503, "log-default"),
        ("/log/default/%2e%2e/x", 400, None),
    ],
)
def test_refusals_and_failures_are_logged_too(
    gateway: GatewayProcess, redis_server: RedisServer, ident: str, path: str, status: int, route: str | None
) -> None:
    with RawClient(gateway.port) as client:
        answer = client.ask(path, f"X-Request-ID: {ident}")
    entry = entry_of(redis_server, ident)
    assert (answer.status, entry["status"], entry["route"], entry["user_id"], entry["completed"]) == (status, status, route, None, True)
    assert (entry["bytes"], entry["path"]) == (len(answer.body), path.partition("?")[0])


def test_a_refused_limit_is_logged(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    statuses = [gateway.get("/log/limited", headers={"X-Request-ID": f"{ident}-{n}"}).status_code for n in range(2)]
    assert statuses == [200, 429]
    assert [entry_of(redis_server, f"{ident}-{n}")["status"] for n in range(2)] == statuses


def test_what_ended_too_early_is_not_completed(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    for path in ("/log/cut", "/log/body/cut"):
        service.on(path, b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\nConnection: close\r\n\r\n12345")
    for path, name in (("/log/cut", "upstream"), ("/log/body/cut", "read")):  # the second while it is read for the log
        with RawClient(gateway.port) as client:
            assert client.ask(path, f"X-Request-ID: {ident}-{name}").cut
    with RawClient(gateway.port) as client:
        client.send(head("/log/default?chunks=3", f"X-Request-ID: {ident}-client"))
        client.until(b"data: 0")
    for who in ("upstream", "read", "client"):
        entry = entry_of(redis_server, f"{ident}-{who}")
        assert (entry["status"], entry["completed"]) == (200, False)
    assert [entry_of(redis_server, f"{ident}-{who}")["bytes"] for who in ("upstream", "read")] == [5, 5]


def test_H20_secrets_are_masked_in_queries_and_headers(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    query = "q=1&api_key=K1&user%5Bpassword%5D=P1&e-mail=M1&access_token=T1&code=C1&flag"
    headers = {"User-Agent": "tester/1", "X-Tenant": "N1", "Cookie": "session=S1", "X-Api-Key": "A1", **bearer(), "X-Request-ID": ident}
    gateway.get(f"/log/masked?{query}", headers=headers)
    entry = entry_of(redis_server, ident)
    assert entry.keys() == ALWAYS | {"query", "headers"}
    assert entry["query"] == "q=1&api_key=***&user%5Bpassword%5D=***&e-mail=***&access_token=***&code=***&flag"
    assert entry["headers"] == {"User-Agent": "tester/1", "X-Tenant": "***", "Authorization": "***", "Cookie": "***", "X-Api-Key": "***"}


def test_H19_whatever_a_client_sends_is_one_line_of_json(gateway: GatewayProcess, folder: Path, ident: str) -> None:
    """Quotes, bytes that are no UTF-8, line separators, an escape: in the path, the query, and the fields that are logged."""
    odd = '"}\\ \xff\xe2\x80\xa8\x85 ${jndi:ldap://x}'  # one character a byte
    with RawClient(gateway.port) as client:
        fields = (f"X-Request-ID: {ident}", f"User-Agent: {odd}")
        assert client.ask("/log/all/%22%7D%C2%85?q=%22%1b[31m%0a", *fields).status == 200
    file = folder / "all.log"
    until(lambda: file.exists() and lines_of(file.read_text(), ident), "the entry")
    for line in file.read_bytes().split(b"\n")[:-1]:
        assert json.loads(line)
        assert not re.search(rb"[\x00-\x1f\x7f]", line)


def test_a_refused_target_is_logged_without_its_secrets(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    with RawClient(gateway.port) as client:
        assert client.ask("/log/%zz?api_key=K-of-a-bad-target", f"X-Request-ID: {ident}").status == 400
    entry = entry_of(redis_server, ident)
    assert (entry["path"], entry["query"]) == ("/log/%zz", "api_key=***")
    assert "K-of-a-bad-target" not in gateway.output()


def test_bodies_are_logged_if_asked_for_and_masked(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    service.on("/log/body", json_answer({"items": [{"eMail": "a@b.example", "n": 1}], "refresh_token": "R1"}))
    sent = {"E-Mail": "a@b.example", "deep": [{"new_password": "P1", "ok": True}]}
    gateway.request("POST", "/log/body", json=sent, headers={"X-Request-ID": ident})
    entry = entry_of(redis_server, ident)
    assert entry.keys() == ALWAYS | {"request_body", "response_body"}
    assert entry["request_body"] == {"E-Mail": "***", "deep": [{"new_password": "***", "ok": True}]}
    assert entry["response_body"] == {"items": [{"eMail": "***", "n": 1}], "refresh_token": "***"}
    assert json.loads(service.next("/log/body").body) == sent
    form = {"name": "x", "password": "P2"}
    gateway.request("POST", "/log/body", data=form, headers={"X-Request-ID": f"{ident}-form"})
    assert entry_of(redis_server, f"{ident}-form")["request_body"] == "name=x&password=***"


def test_bodies_that_are_long_or_binary_or_no_json_are_left_alone_and_noted(
    gateway: GatewayProcess, redis_server: RedisServer, service: ScriptedService, ident: str
) -> None:
    service.on("/log/short", json_answer({"long": "x" * 80}))
    cases = {
        "long": (b'{"a": "' + b"x" * 60 + b'"}', "application/json"),
        "binary": (b"\x00", "image/png"),
        "broken": (b"{", "application/json"),
    }
    for name, (body, kind) in cases.items():
        headers = {"X-Request-ID": f"{ident}-{name}", "Content-Type": kind}
        assert gateway.request("POST", "/log/short", data=body, headers=headers).json() == {"long": "x" * 80}
        entry = entry_of(redis_server, f"{ident}-{name}")
        assert entry.keys() == ALWAYS | {"body_unread"}
        assert entry["body_unread"] == ["request", "response"]


def test_what_a_shadowed_plugin_would_have_done_is_logged(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    headers = {"Authorization": "Bearer a.b.c", "X-Request-ID": ident}
    assert gateway.get("/log/shadow", headers=headers).status_code == 200
    entry = entry_of(redis_server, ident)
    assert entry["shadowed"] == [{"plugin": "jwt_auth", "phase": "auth", "action": "abort", "detail": "401"}]
    assert entry["user_id"] is None


def test_the_list_holds_ten_thousand_and_the_newest(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    client = redis_server.client()
    client.rpush("gw:access_log", *(json.dumps({"n": n, "request_id": ""}) for n in range(10_050)))
    gateway.get("/log/default", headers={"X-Request-ID": ident})
    entry_of(redis_server, ident)
    assert client.llen("gw:access_log") == 10_000
    newest = client.lindex("gw:access_log", -1)
    assert json.loads(str(newest))["request_id"] == ident


def test_stdout_file_and_all_of_them(gateway: GatewayProcess, redis_server: RedisServer, folder: Path, ident: str) -> None:
    for name in ("stdout", "file", "all", "off"):
        gateway.get(f"/log/{name}", headers={"X-Request-ID": f"{ident}-{name}"})
    entry = entry_of(redis_server, f"{ident}-all")
    until(lambda: lines_of(gateway.output(), f"{ident}-all"), "the line on standard output")
    until(lambda: lines_of((folder / "all.log").read_text(), f"{ident}-all"), "the line in the file")
    assert lines_of(gateway.output(), f"{ident}-all") == lines_of((folder / "all.log").read_text(), f"{ident}-all") == [entry]
    until(lambda: lines_of(gateway.output(), f"{ident}-stdout"), "the line on standard output")
    assert lines_of(gateway.output(), f"{ident}-stdout")[0].keys() == ALWAYS
    until(lambda: lines_of((folder / "access.log").read_text(), f"{ident}-file"), "the line in the file")
    assert not [name for name in ("stdout", "file", "off") if entries(redis_server, f"{ident}-{name}")]
    assert not lines_of(gateway.output(), f"{ident}-off")


def test_a_file_is_followed_when_it_is_rotated_and_no_line_is_torn_or_lost(gateway: GatewayProcess, folder: Path, ident: str) -> None:
    file, old = folder / "access.log", folder / f"access.log.{ident}"

    def ask(number: int) -> None:
        gateway.get("/log/file", headers={"X-Request-ID": f"{ident}-{number}"})
        if number == 50:
            file.rename(old)

    def texts() -> str:
        return old.read_text() + file.read_text()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(100)))
    until(lambda: texts().count(ident) >= 100, "all lines")
    found = [json.loads(line)["request_id"] for line in texts().splitlines()]
    assert sorted(name for name in found if name.startswith(ident)) == sorted(f"{ident}-{number}" for number in range(100))
    assert stat.S_IMODE(file.stat().st_mode) & 0o027 == 0


def test_entries_wait_while_the_store_is_away_and_no_request_does(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    assert redis_server.process is not None
    redis_server.process.signal(signal.SIGSTOP)
    try:
        answers = [gateway.get("/log/default", headers={"X-Request-ID": f"{ident}-{number}"}) for number in range(20)]
    finally:
        redis_server.process.signal(signal.SIGCONT)
    assert {answer.status_code for answer in answers} == {200}
    wanted = {f"{ident}-{number}" for number in range(20)}

    def found() -> set[str]:
        return {json.loads(entry)["request_id"] for entry in redis_server.client().lrange("gw:access_log", -500, -1)}

    until(lambda: wanted <= found(), "the entries that waited")


def test_what_cannot_be_written_is_counted(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    def dropped() -> int:
        return sum(int(beat["log_dropped"]) for beat in gateway.heartbeats(redis_server.client()))

    before = dropped()
    client = redis_server.client()
    client.rename("gw:access_log", "kept")
    client.set("gw:access_log", "not a list")
    gateway.get("/log/default")
    until(lambda: dropped() > before, "the dropped entry in a heartbeat")
    assert "log_list_refused list=access_log" in gateway.output()
    client.rename("kept", "gw:access_log")
    gateway.get("/log/default", headers={"X-Request-ID": ident})
    assert entry_of(redis_server, ident)["status"] == 200


def test_a_file_that_cannot_be_written_is_no_matter_for_requests_and_said_once(
    gateway: GatewayProcess, redis_server: RedisServer, ident: str
) -> None:
    for number in range(10):
        assert gateway.get("/log/nowhere", headers={"X-Request-ID": f"{ident}-{number}"}).status_code == 200
        assert entry_of(redis_server, f"{ident}-{number}")["route"] == "log-nowhere"
    until(lambda: "folder.log dropped=1 reason=" in gateway.output(), "the warning")
    assert gateway.output().count("log_lines_dropped sink=") <= gateway.workers  # each once a minute
    assert "Traceback" not in gateway.output()


# ---- gwproxy logs


def command(server: RedisServer, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "gwproxy", "logs", "--redis", server.url, *arguments]


def test_logs_shows_the_newest_last(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    for number in range(7):
        gateway.get(f"/log/default/{number}?status={200 + number}", headers={"X-Request-ID": f"{ident}-{number}"})
        entry_of(redis_server, f"{ident}-{number}")
    done = subprocess.run(command(redis_server, "-n", "5", "--json"), capture_output=True, text=True, timeout=60, check=True)
    assert [json.loads(line)["request_id"] for line in done.stdout.splitlines()] == [f"{ident}-{number}" for number in range(2, 7)]
    done = subprocess.run(command(redis_server, "-n", "1"), capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"\S+Z 206 GET     /log/default/6  route=log-default user=- [0-9.]+ms\n", done.stdout)


def test_logs_follows(gateway: GatewayProcess, redis_server: RedisServer, ident: str) -> None:
    gateway.get("/log/default", headers={"X-Request-ID": f"{ident}-before"})
    entry_of(redis_server, f"{ident}-before")
    with subprocess.Popen(command(redis_server, "-n", "1", "-f", "--json"), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["request_id"] == f"{ident}-before"
            for number in range(3):
                gateway.get("/nowhere", headers={"X-Request-ID": f"{ident}-{number}"})
                followed = json.loads(process.stdout.readline())
                assert (followed["request_id"], followed["status"]) == (f"{ident}-{number}", 404)
        finally:
            process.terminate()  # not SIGINT, which a shell's background job has ignored from its start


def test_H20_no_log_of_the_gateway_holds_a_credential(gateway: GatewayProcess, ident: str) -> None:
    credentials = bearer()
    headers = {**credentials, "Cookie": "session=S0meSession", "X-Api-Key": "S0meKey", "X-Request-ID": ident}
    for path in ("/log/stdout?token=T0kenInQuery", "/log/masked?token=T0kenInQuery"):
        gateway.get(path, headers=headers)
    gateway.get("/log/private", headers={"Authorization": credentials["Authorization"] + "x"})
    until(lambda: lines_of(gateway.output(), ident), "the line on standard output")
    until(lambda: "jwt_refused" in gateway.output(), "the refusal to be logged")
    assert "Traceback" not in gateway.output()
    for secret in (SECRET, "S0meSession", "S0meKey", "T0kenInQuery", *credentials["Authorization"].split(".")[1:]):
        assert secret not in gateway.output()
