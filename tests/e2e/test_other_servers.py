"""Under a WSGI server that is not gwproxy's own worker: it serves, and says once what is lost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.e2e.conftest import Process, RedisServer, publish, until
from tests.ports import free_port

pytestmark = pytest.mark.e2e

THREADS = """
import sys
from werkzeug.serving import run_simple
from gwproxy.wsgi import application
run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
"""


def command(server: str, port: int) -> list[str]:
    if server == "threads":
        return [sys.executable, "-c", THREADS, str(port)]
    return [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}", "gwproxy.wsgi:application"]


@pytest.fixture(params=["gevent", "threads"])
def process(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer, echo: str) -> Iterator[tuple[str, Process]]:
    publish(redis_server, [{"path": "/a", "upstream": echo, "plugins": [{"name": "rate_limit"}]}], prefix=f"{request.param}:")
    env = {"GWPROXY_REDIS_URL": redis_server.url, "GWPROXY_PREFIX": f"{request.param}:", "GWPROXY_STATE_DIR": str(tmp_path / "state")}
    port = free_port()
    process = Process(command(request.param, port), tmp_path / "server.log", env=env, cwd=tmp_path)
    yield f"http://127.0.0.1:{port}", process
    process.child.terminate()
    process.child.wait(30)


def test_it_starts_on_its_first_request_and_follows_changes(
    process: tuple[str, Process], redis_server: RedisServer, echo: str, request: pytest.FixtureRequest
) -> None:
    url, server = process
    until(lambda: requests.get(f"{url}/a", timeout=5).status_code == 200, "the first configuration")
    answer = requests.post(f"{url}/a/b%20c?x=1", data=b"body", timeout=5)
    assert (answer.json()["target"], answer.json()["body"]) == ("/a/b%20c?x=1", "body")
    assert "X-RateLimit-Remaining" in answer.headers
    name = "gevent" if "gevent" in request.node.name else "threads"
    publish(redis_server, [{"path": "/b", "upstream": echo}], prefix=f"{name}:")
    until(lambda: requests.get(f"{url}/b", timeout=5).status_code == 200, "the change")
    assert server.output().count("unsupported_server") == 1
