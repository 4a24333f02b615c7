"""Bad configurations (rows G01 to G30): refused as a whole by every worker, with the reason in the log, in heartbeats and by
``gwproxy check``, while the last good one goes on serving."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gwproxy.cli import main
from tests.e2e.awkward import install
from tests.e2e.bad_configurations import BAD, Bad
from tests.e2e.conftest import GatewayProcess, RedisServer, publish, until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def good(echo: str) -> list[dict[str, object]]:
    return [{"path": "/good", "upstream": echo}]


@pytest.fixture(scope="module")
def gateway(
    start_gateway: Callable[..., GatewayProcess],
    redis_server: RedisServer,
    good: list[dict[str, object]],
    tmp_path_factory: pytest.TempPathFactory,
) -> GatewayProcess:
    publish(redis_server, good)
    return start_gateway(GWPROXY_REDIS_URL=redis_server.url, PYTHONPATH=install(tmp_path_factory.mktemp("site"))).ready()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def lines(gateway: GatewayProcess, event: str, data: bytes) -> list[str]:
    """Return the lines of the log about a configuration."""
    return [line for line in gateway.output().splitlines() if event in line and f"digest={digest(data)[:12]}" in line]


def publish_bytes(server: RedisServer, data: bytes) -> None:
    client = server.client()
    client.set("gw:routes", data)
    client.publish("gw:reload", "")  # a hint: it saves waiting for the next look


def refused_by_all(gateway: GatewayProcess, data: bytes) -> bool:
    return len(lines(gateway, "configuration_refused", data)) == gateway.workers


def applied_by_all(gateway: GatewayProcess, server: RedisServer, text: str) -> None:
    def everywhere() -> bool:
        beats = gateway.heartbeats(server.client())
        return [(beat["state"], beat["digest"]) for beat in beats] == [("ready", digest(text.encode()))] * gateway.workers

    until(everywhere, "every worker to run it")


@pytest.mark.parametrize("row", BAD)
def test_a_bad_configuration_is_refused_and_the_last_good_one_serves(
    gateway: GatewayProcess, redis_server: RedisServer, good: list[dict[str, object]], tmp_path: Path, row: str
) -> None:
    bad, served = BAD[row], digest(json.dumps(good).encode())
    publish_bytes(redis_server, bad.data)
    until(lambda: refused_by_all(gateway, bad.data), "every worker to refuse it")

    def told() -> bool:
        beats = gateway.heartbeats(redis_server.client())
        return len(beats) == gateway.workers and all((beat["state"], bad.said in beat["error"]) == ("refused", True) for beat in beats)

    until(told, f"every heartbeat to say {bad.said!r}")
    line = problem_line(bad, tmp_path)
    for beat in gateway.heartbeats(redis_server.client()):
        assert beat["digest"] == served
        assert line in beat["error"]
    assert line in gateway.output()
    assert "hunter2" not in gateway.output()
    assert {gateway.get("/good").status_code for _ in range(4)} == {200}
    assert gateway.get("/bad").status_code == gateway.get("/r1").status_code == 404


def problem_line(bad: Bad, folder: Path) -> str:
    """Return the beginning of the problem as ``gwproxy check`` tells it, or would."""
    if bad.plugin:  # is not installed here
        line = 1 + bad.data[: bad.data.index(b'"config"')].count(b"\n")
        return f"gw:routes:{line}:"
    file = folder / "bad.json"
    file.write_bytes(bad.data)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["check", "--strict-env", "--json", str(file)]) == 1
    first = json.loads(printed.getvalue())["problems"][0]
    assert first["path"] == bad.path
    assert bad.said in f"found {first['found']}, expected {first['expected']}"
    return f"gw:routes:{first['line']}:{first['column']}: {first['path']}"


def test_G30_the_same_bad_configuration_a_thousand_times_is_one_line(gateway: GatewayProcess, redis_server: RedisServer) -> None:
    data, client = b'[{"path": "/again", "upstrem": "x"}]', redis_server.client()
    publish_bytes(redis_server, data)
    until(lambda: refused_by_all(gateway, data), "every worker to refuse it")
    revision, began, spent = client.get("gw:revision"), time.monotonic(), cpu_seconds(gateway, redis_server)
    for _ in range(1000):
        publish_bytes(redis_server, data)
    publish_bytes(redis_server, b"[{}]")  # what comes after is judged: none of the thousand is still to come
    until(lambda: refused_by_all(gateway, b"[{}]"), "every worker to refuse the next")
    assert len(lines(gateway, "configuration_refused", data)) == gateway.workers
    assert int(client.get("gw:revision")) == int(revision) + 1  # type: ignore[arg-type]
    # Each look costs a round trip, at most ten a second: a small part of a processor for each worker.
    assert cpu_seconds(gateway, redis_server) - spent < gateway.workers * (0.5 + 0.25 * (time.monotonic() - began))


def cpu_seconds(gateway: GatewayProcess, server: RedisServer) -> float:
    """Return the processor time that the workers have used up."""
    pids = [beat["pid"] for beat in gateway.heartbeats(server.client())]
    assert len(pids) == gateway.workers
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(times[11]) + int(times[12]) for times in fields) / os.sysconf("SC_CLK_TCK")


def test_G14_an_empty_list_is_valid_and_serves_nothing(
    gateway: GatewayProcess, redis_server: RedisServer, good: list[dict[str, object]]
) -> None:
    """That ``SET gw:routes []`` was meant nobody can know; ``apply`` will ask."""
    for document, status in (([], 404), (good, 200)):
        applied_by_all(gateway, redis_server, publish(redis_server, document))
        assert {gateway.get("/good").status_code for _ in range(4)} == {status}


YAML: dict[str, tuple[str, str]] = {
    "G17-tag": ("routes: !!python/object/apply:os.system ['touch pwned']", "the tag"),
    "G17-anchors": ("\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)), "the alias *a0"),
    "G17-merge-key": ("routes: []\n<<: {plugins: []}", "the merge key <<"),
    "G19-cut": ("routes:\n  - {path: /a, upstream: 'http://a", "YAML or JSON"),
}


def test_G17_G19_a_bad_file_is_refused_and_the_last_good_one_serves(
    start_gateway: Callable[..., GatewayProcess], good: list[dict[str, object]], tmp_path: Path
) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(json.dumps(good))
    gateway = start_gateway(tmp_path, workers=1, GWPROXY_CONFIG=str(file)).ready()
    for row, (text, said) in YAML.items():
        file.write_text(text)
        until(lambda text=text: lines(gateway, "configuration_refused", text.encode()), f"{row} to be refused")
        assert said in gateway.output()
        assert gateway.get("/good").status_code == 200
    assert not (tmp_path / "pwned").exists()
    gateway.process.stop()


def test_G20_W09_no_configuration_puts_a_transform_before_verification(
    gateway: GatewayProcess, redis_server: RedisServer, echo: str
) -> None:
    """Such an order cannot be written: phases come before priorities. Nothing is refused, the order holds."""
    secret, body = "an example secret", b'{"event": "paid"}'
    transform = {"remove_headers": ["X-Hub-Signature-256"], "add_headers": {"X-Verified": "yes"}, "rewrite_path": "/inbox"}
    plugins = [
        {"name": "request_transform", "priority": -1_000_000, "config": transform},
        {"name": "webhook_signature", "priority": 1_000_000, "config": {"scheme": "github", "secrets": [secret], "replay": False}},
    ]
    applied_by_all(gateway, redis_server, publish(redis_server, [{"path": "/hook", "upstream": echo, "plugins": plugins}]))
    assert gateway.request("POST", "/hook", data=body).status_code == 401
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    answer = gateway.request("POST", "/hook", data=body, headers={"X-Hub-Signature-256": signature})
    seen = dict(answer.json()["headers"])
    assert (answer.status_code, answer.json()["target"], seen["X-Verified"]) == (200, "/inbox", "yes")
    assert "X-Hub-Signature-256" not in seen
