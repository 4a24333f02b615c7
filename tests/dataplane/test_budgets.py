"""Hooks that run out of their budget are cut off; waiting for the client's body does not count."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap


def run(code: str) -> dict[str, object]:
    """Run code under gevent, patched, as in a worker; return the JSON it prints."""
    full = "from gevent import monkey; monkey.patch_all()\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", full], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


PREPARE = """
import json, time, logging
import gevent
from gwproxy import Plugin, hookimpl
from gwproxy.dataplane.budgets import BudgetWatchdog
from tests.service import Gate, Service
logging.disable(logging.CRITICAL)

class Sleeper(Plugin):
    name = "sleeper"
    @hookimpl
    def pre_auth(self, ctx):
        try:
            gevent.sleep(float(ctx.request.headers.get("X-Sleep", "0")))
        except Exception:
            pass
    @hookimpl
    def post_auth(self, ctx):
        ctx.request.get_data()

def gate(**entry):
    g = Gate(Sleeper())
    g.serve([{"path": "/", "upstream": service.url, "plugins": [{"name": "sleeper", **entry}]}])
    BudgetWatchdog(g.app.gateway).start()
    return g
"""


def test_X04_a_hook_that_sleeps_for_ever_is_500_and_others_are_served() -> None:
    result = run(
        PREPARE
        + """
with Service().running() as service:
    g = gate(budget=0.3)
    slow = gevent.spawn(lambda: g.client.get("/", headers={"X-Sleep": "3600"}).status_code)
    quick = gevent.spawn(lambda: g.client.get("/", headers={"X-Sleep": "0.05"}).status_code)
    gevent.joinall([slow, quick], timeout=20)
    print(json.dumps({"slow": slow.value, "quick": quick.value, "left": len(g.app.gateway.in_flight)}))
"""
    )
    assert result["slow"] == 500
    assert result["quick"] == 200


def test_on_error_ignore_goes_on_after_the_budget() -> None:
    result = run(
        PREPARE
        + """
with Service().running() as service:
    g = gate(budget=0.3, on_error="ignore")
    print(json.dumps(g.client.get("/", headers={"X-Sleep": "3600"}).status_code))
"""
    )
    assert result == 200


def test_waiting_for_the_clients_body_is_not_the_plugins_time() -> None:
    result = run(
        PREPARE
        + """
class Slow:
    left = 4
    def read(self, size=-1):
        gevent.sleep(0.25)
        self.left -= 1
        return b"x" if self.left >= 0 else b""

with Service().running() as service:
    g = gate(budget=0.3)
    answer = g.client.post("/", environ_overrides={"wsgi.input": Slow(), "CONTENT_LENGTH": "4"})
    print(json.dumps([answer.status_code, service.seen[0]["body"]]))
"""
    )
    assert result == [200, "xxxx"]


def test_waiting_for_the_upstreams_body_is_not_the_plugins_time() -> None:
    result = run(
        PREPARE
        + """
from gevent.server import StreamServer
class Reader(Plugin):
    name = "reader"
    @hookimpl
    def response(self, ctx):
        ctx.response_headers["X-Read"] = str(len(ctx.response.get_data()))

def slow(sock, address):
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\n")
    for _ in range(4):
        gevent.sleep(0.25)
        sock.sendall(b"x")

server = StreamServer(("127.0.0.1", 0), slow)
server.start()
g = Gate(Reader())
url = f"http://127.0.0.1:{server.server_port}"
g.serve([{"path": "/", "upstream": url, "plugins": [{"name": "reader", "budget": 0.3}]}])
BudgetWatchdog(g.app.gateway).start()
answer = g.client.get("/")
print(json.dumps([answer.status_code, answer.headers["X-Read"], answer.text]))
"""
    )
    assert result == [200, "4", "xxxx"]
