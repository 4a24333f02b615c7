"""The admin listener as ``gwproxy run`` and ``gwproxy admin`` start it: a process of its own, beside two workers and a real store."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.e2e.conftest import RedisServer, publish, until
from tests.e2e.raw import RawClient
from tests.e2e.running import Running, call, command_line
from tests.ports import free_port

pytestmark = pytest.mark.e2e


class Admin:
    """Asks an admin listener."""

    def __init__(self, bind: str, token: str | None) -> None:
        self.url = f"http://{bind}"
        self.token = token

    def __call__(self, method: str, path: str, **options: object) -> requests.Response:
        headers = {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **options.pop("headers", {})}  # type: ignore[dict-item]
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, headers=headers, timeout=20, **options)  # type: ignore[arg-type]

    def get(self, path: str, **options: object) -> requests.Response:
        return self("GET", path, **options)


def document(echo: str, *extra: dict[str, object]) -> dict[str, object]:
    logged = {"path": "/open", "upstream": echo, "plugins": [{"name": "access_log"}]}
    secret = {"name": "jwt_auth", "config": {"secret": "correct-horse-battery-staple-0123456789"}}
    return {"routes": [logged, {"path": "/shut", "upstream": echo, "plugins": [secret]}, *extra]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, echo: str) -> Iterator[Running]:
    """``gwproxy run`` with its admin listener, and routes that lead to that by several names."""
    folder = tmp_path_factory.mktemp("admin")
    port = free_port()
    names = ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]")
    ways = [{"path": f"/way/{n}", "upstream": f"http://{name}:{port}"} for n, name in enumerate(names)]
    (folder / "gateway.json").write_text(json.dumps(document(echo, *ways)))
    argv = ("gateway.json", "--bind", "127.0.0.1:0", "--admin-bind", f"127.0.0.1:{port}", "--workers", "2")
    gateway = Running(folder, "run", *argv).ready()
    yield gateway
    gateway.kill()


@pytest.fixture(scope="module")
def admin(gateway: Running) -> Admin:
    bind = json.loads((gateway.state / "run.json").read_text())["admin_bind"]
    found = Admin(bind, (gateway.state / "admin.token").read_text().strip())
    until(lambda: found.get("/healthz").status_code == 200, "the admin listener")
    return found


@pytest.fixture(scope="module")
def anonymous(admin: Admin) -> Admin:
    return Admin(admin.url.removeprefix("http://"), None)


def masters(gateway: Running) -> list[int]:
    """The admin listener's processes, the oldest first."""
    return gateway.processes("admin_conf")


# ---- the process


def test_D01_it_listens_on_loopback_unless_told_otherwise(gateway: Running) -> None:
    assert call(gateway.folder, "run", "--help").stdout.count("127.0.0.1:8081") == 1
    assert "127.0.0.1:8081" in call(gateway.folder, "admin", "--help").stdout


def test_D02_its_token_is_made_at_the_first_start_its_owners_only_and_never_printed(gateway: Running, admin: Admin) -> None:
    path = gateway.state / "admin.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    line = gateway.said("gwproxy: admin: ")
    assert line == f"gwproxy: admin: {admin.url.removeprefix('http://')}; its token is in {path}"
    assert str(admin.token) not in gateway.output()
    assert not any(str(admin.token) in command_line(pid) for pid in gateway.processes())
    assert admin.get("/v1/workers").status_code == 200


def test_D02_nothing_but_the_probes_answers_without_a_token(anonymous: Admin) -> None:
    for path in ("/v1/config", "/v1/workers", "/openapi.json", "/", "/metrics"):
        assert anonymous.get(path).status_code == 401, path
    assert anonymous.get("/healthz").json() == {"status": "ok"}
    assert anonymous.get("/readyz").json() == {"status": "ok"}


@pytest.mark.parametrize("way", ["/way/0", "/way/1", "/way/2"])
def test_D03_no_route_leads_to_it(gateway: Running, admin: Admin, way: str) -> None:
    answer = gateway.get(f"{way}/healthz", headers={"Authorization": f"Bearer {admin.token}"})
    assert (answer.status_code, answer.json()) == (502, {"error": "Bad Gateway"})


def test_D03_its_paths_are_not_on_the_data_listener(gateway: Running, admin: Admin) -> None:
    for path in ("/healthz", "/readyz", "/v1/config", "/openapi.json"):
        for host in ("localhost", admin.url.removeprefix("http://")):
            answer = gateway.get(path, headers={"Host": host, "Authorization": f"Bearer {admin.token}"})
            assert answer.json() == {"error": "Route not found"}


@pytest.mark.parametrize("field", ["X-Real-IP", "X-Forwarded-For", "Forwarded"])
def test_D04_no_header_opens_it(gateway: Running, anonymous: Admin, field: str) -> None:
    assert anonymous.get("/v1/config", headers={field: "127.0.0.1"}).status_code == 401
    assert gateway.get("/way/0/v1/config", headers={field: "127.0.0.1"}).status_code == 502


def test_D05_rebinding_and_pages_of_others(admin: Admin) -> None:
    assert admin.get("/v1/config", headers={"Host": "evil.example"}).status_code == 403
    assert admin.get("/v1/config", headers={"Origin": "https://evil.example"}).status_code == 403
    form = {"Content-Type": "text/plain"}
    assert admin("POST", "/v1/validate", data=b'{"routes": []}', headers=form).status_code == 415


@pytest.mark.parametrize("second", ["", "Host: evil.example\r\n"])
def test_D05_no_host_and_two_are_no_way_around(admin: Admin, second: str) -> None:
    bind = admin.url.removeprefix("http://")
    first = f"Host: {bind}\r\n" if second else ""
    with RawClient(int(bind.partition(":")[2])) as client:
        client.send(f"GET /v1/config HTTP/1.1\r\n{first}{second}Authorization: Bearer {admin.token}\r\n\r\n".encode())
        assert client.answer().status == 400


def test_D07_secrets_do_not_leave(gateway: Running, admin: Admin) -> None:
    told = admin.get("/v1/config").text + admin.get("/v1/revisions/1").text + admin.get("/v1/workers").text
    assert "correct-horse" not in told
    assert '"secret":"***"' in told
    assert "correct-horse" not in gateway.output()


# ---- changes


def test_a_change_is_live_on_every_worker_when_the_answer_comes(gateway: Running, admin: Admin, echo: str) -> None:
    answer = admin("PUT", "/v1/routes/added?wait=20&comment=one+more", json={"path": "/added", "upstream": echo})
    assert (answer.status_code, answer.json()["outcome"]) == (200, "applied"), answer.text
    rollout = answer.json()["rollout"]
    assert (rollout["outcome"], [worker["state"] for worker in rollout["workers"]]) == ("done", ["done", "done"])
    assert {gateway.get("/added").status_code for _ in range(20)} == {200}
    gone = admin("DELETE", "/v1/routes/added?wait=20")
    assert gone.status_code == 200
    assert {gateway.get("/added").status_code for _ in range(20)} == {404}


def test_D09_what_was_made_from_an_older_revision_is_refused_and_names_who_changed_what(gateway: Running, admin: Admin, echo: str) -> None:
    got = admin.get("/v1/config")
    etag, document = got.headers["ETag"], got.json()
    theirs = admin("PUT", "/v1/routes/theirs?wait=20", json={"path": "/theirs", "upstream": echo})
    assert theirs.status_code == 200
    mine = admin("PUT", "/v1/config", json={**document, "routes": document["routes"][:1]}, headers={"If-Match": etag})
    assert mine.status_code == 409
    conflict = mine.json()["conflict"]
    assert (conflict["revision"], conflict["actor"]) == (theirs.json()["revision"], "admin")
    assert [change["summary"] for change in conflict["since"]] == ["route theirs added"]
    assert gateway.get("/theirs").status_code == 200
    told = call(gateway.folder, "audit", "--json").stdout.splitlines()
    last = [json.loads(line) for line in told][-2:]
    assert {entry["actor"] for entry in last} == {"admin"}
    assert [(entry["action"], entry["outcome"]) for entry in last] == [("apply", "done"), ("apply", "refused")]


def test_what_the_page_shows_can_be_pasted(gateway: Running, admin: Admin) -> None:
    page = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text()
    first, *blocks = re.findall(r"^```bash\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    alias = next(line for line in first.splitlines() if line.startswith("alias "))
    bash = shutil.which("bash")
    assert bash is not None
    limited = 'curl() { case " $* " in *" -N "*) most=2;; *) most=40;; esac; command curl -m $most -w "\\n[%{http_code}]\\n" "$@"; }'
    script = "\n".join(["shopt -s expand_aliases", limited, f"ADMIN={admin.url}", f"TOKEN={admin.token}", alias, *blocks])
    done = subprocess.run([bash, "-c", script], cwd=gateway.folder, capture_output=True, text=True, timeout=110, check=False)
    assert done.stderr == ""
    statuses = re.findall(r"^\[([0-9]+)\]$", done.stdout, re.MULTILINE)
    assert statuses == ["201", *["200"] * 7], done.stdout
    assert len(statuses) == len(re.findall(r"^api ", "".join(blocks), re.MULTILINE))


def test_D07_a_secret_that_was_told_as_a_mask_stays_in_force(gateway: Running, admin: Admin) -> None:
    before = gateway.store().get("gw:routes")
    got = admin.get("/v1/config")
    answer = admin("PUT", "/v1/config?wait=20", json=got.json(), headers={"If-Match": got.headers["ETag"]})
    assert answer.json()["outcome"] == "unchanged"
    assert gateway.store().get("gw:routes") == before


def test_requests_are_streamed_as_they_come(gateway: Running, admin: Admin) -> None:
    headers = {"Authorization": f"Bearer {admin.token}", "Accept": "text/event-stream"}
    with requests.get(f"{admin.url}/v1/logs?count=1", headers=headers, stream=True, timeout=20) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        lines = answer.iter_lines()
        assert next(lines) == b"retry: 2000"
        ident = gateway.get("/open/streamed").headers["X-Request-ID"]
        seen = next(line for line in lines if line == f"id: {ident}".encode())
        event = json.loads(next(lines).removeprefix(b"data: "))
    assert seen
    assert (event["path"], event["status"]) == ("/open/streamed", 200)


def test_it_is_started_again_when_it_dies_and_the_gateway_never_notices(gateway: Running, admin: Admin) -> None:
    before = masters(gateway)
    for pid in before:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    gateway.said("the admin listener ended by signal 9; it is started again")
    assert gateway.get("/open").status_code == 200
    assert admin.get("/v1/workers").status_code == 200  # whoever asks meanwhile waits: the listener is the same
    assert not set(before) & set(masters(gateway))


def test_tokens_are_made_by_the_command_and_have_their_roles(gateway: Running, admin: Admin) -> None:
    made = call(gateway.folder, "token", "create", "on-call", "--role", "viewer", "--expires", "12h")
    assert made.returncode == 0, made.stderr
    viewer = Admin(admin.url.removeprefix("http://"), made.stdout.strip())
    assert viewer.get("/v1/config").status_code == 200
    assert viewer("POST", "/v1/tokens", json={"name": "mine", "role": "admin"}).status_code == 403
    assert call(gateway.folder, "token", "revoke", "on-call").returncode == 0
    assert viewer.get("/v1/config").status_code == 401


def test_D08_guessing_is_slowed_down(tmp_path: Path, redis_server: RedisServer) -> None:
    bind = f"127.0.0.1:{free_port()}"
    alone = Running(tmp_path, "admin", "--redis", redis_server.url, "--bind", bind, env={"GWPROXY_ADMIN_TOKEN": "the-first-token-of-all"})
    try:
        until(lambda: Admin(bind, None).get("/healthz").status_code == 200, "the admin listener alone")
        statuses = [Admin(bind, f"wrong-{number}").get("/v1/workers").status_code for number in range(30)]
        assert statuses[:10] == [401] * 10
        assert statuses.count(429) >= 15  # one attempt comes back in six seconds
        assert not (alone.state / "admin.token").exists()
        assert alone.stop() == 0
    finally:
        alone.kill()


def test_it_runs_alone_on_a_unix_socket(tmp_path: Path, redis_server: RedisServer) -> None:
    publish(redis_server, [])
    path = tmp_path / "admin.sock"
    alone = Running(tmp_path, "admin", "--redis", redis_server.url, "--bind", f"unix:{path}")
    try:
        until(path.exists, "the socket")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        token = (alone.state / "admin.token").read_text().strip()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.settimeout(20)
            client.sendall(f"GET /v1/config HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n".encode())
            client.sendall(b"Connection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n[]")
        assert alone.stop() == 0
    finally:
        alone.kill()


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path, echo: str) -> None:
    (tmp_path / "gateway.json").write_text(json.dumps(document(echo)))
    with socket.create_server(("127.0.0.1", 0)) as holder:
        bind = f"127.0.0.1:{holder.getsockname()[1]}"
        for argv in (("run", "gateway.json", "--bind", "127.0.0.1:0"), ("admin", "--redis", "unix:///nowhere.sock")):
            option = "--admin-bind" if argv[0] == "run" else "--bind"
            done = call(tmp_path, *argv, option, bind)
            assert done.returncode == 1
            assert f"the admin listener cannot be on {bind}: Address already in use; name another address with --admin-bind" in done.stderr
            assert "Traceback" not in done.stderr
    assert not (tmp_path / "state" / "run.json").exists()


def test_D10_no_control_socket_of_gunicorn_is_opened(gateway: Running) -> None:
    own = {os.readlink(f"/proc/{pid}/fd/{fd}") for pid in masters(gateway) for fd in _descriptors(pid)}
    listening = [line.split() for line in Path("/proc/net/unix").read_text().splitlines() if "gunicorn" in line]
    assert [fields for fields in listening if f"socket:[{fields[6]}]" in own] == []


def _descriptors(pid: int) -> list[str]:
    return [entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()]
