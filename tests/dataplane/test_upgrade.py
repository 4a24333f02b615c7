"""An upgrade on its way through the phases: what plugins see and may do, and what is told at the end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import pytest
from werkzeug.test import TestResponse

from gwproxy import Context, Plugin, PluginConfig, hookimpl
from tests.service import Gate

WANTED = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "a"}
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: b\r\n\r\n"


class MeddlerConfig(PluginConfig):
    does: str = "nothing"


class Meddler(Plugin):
    """Records the phases, and does something to the response."""

    name = "meddler"
    config_model = MeddlerConfig

    def __init__(self) -> None:
        self.seen: list[object] = []

    @hookimpl
    def pre_auth(self, ctx: Context) -> None:
        ctx.on_finish(lambda outcome: self.seen.append((outcome.status, outcome.completed)))
        self.seen.append("pre_auth")

    @hookimpl
    def pre_proxy(self, ctx: Context, config: MeddlerConfig) -> None:
        self.seen.append("pre_proxy")
        if config.does == "abort early":
            ctx.abort(403, {"error": "Forbidden"})

    @hookimpl
    def post_proxy(self, ctx: Context, config: MeddlerConfig) -> None:
        assert ctx.response is not None
        self.seen.append(("post_proxy", ctx.response.status, ctx.response.headers.get("Sec-WebSocket-Accept"), ctx.response.get_data()))
        if config.does == "abort":
            ctx.abort(403, {"error": "Forbidden"})
        if config.does == "rewrite":
            ctx.response.set_data(b"a body")
        if config.does == "status":
            ctx.response.status = 200

    @hookimpl
    def response(self, ctx: Context) -> None:
        assert ctx.response is not None
        self.seen.append(("response", ctx.response.status))


@pytest.fixture
def meddler() -> Meddler:
    return Meddler()


@pytest.fixture
def gate(meddler: Meddler) -> Gate:
    return Gate(meddler)


def route(upstream: Any, does: str = "nothing", **keys: Any) -> list[dict[str, Any]]:
    plugins = [{"name": "meddler", "config": {"does": does}}]
    return [{"path": "/", "upstream": str(upstream.origin), "websocket": True, "plugins": plugins, **keys}]


def ask(gate: Gate, **headers: str) -> TestResponse:
    """Ask for an upgrade; giving the connection away is the test's failure."""

    def hijack() -> None:
        raise AssertionError("no tunnel was expected")

    return gate.client.get("/", headers={**WANTED, **headers}, environ_overrides={"gwproxy.hijack": hijack})


def test_an_upgrade_runs_all_phases_and_a_plugin_may_still_refuse_it(gate: Gate, meddler: Meddler, serve: Any) -> None:
    upstream = serve([SWITCHING])
    gate.serve(route(upstream, "abort"))
    answer = ask(gate)
    assert (answer.status_code, answer.json) == (403, {"error": "Forbidden"})
    answer.close()
    assert meddler.seen == ["pre_auth", "pre_proxy", ("post_proxy", 101, "b", b""), ("response", 403), (403, True)]
    upstream.wait(ended=1)  # its connection was not left open


def test_a_refusal_before_it_leaves_the_upstream_alone(gate: Gate, meddler: Meddler, serve: Any) -> None:
    upstream = serve([SWITCHING])
    gate.serve(route(upstream, "abort early"))
    assert ask(gate).status_code == 403
    assert upstream.accepted == 0


def test_a_plugin_that_gives_an_upgrade_a_body_gets_500(gate: Gate, meddler: Meddler, serve: Any) -> None:
    upstream = serve([SWITCHING])
    gate.serve(route(upstream, "rewrite"))
    answer = ask(gate)
    assert (answer.status_code, answer.json) == (500, {"error": "Internal Server Error"})
    assert answer.headers["Content-Length"] == str(len(answer.data))
    upstream.wait(ended=1)


def test_a_plugin_may_make_an_ordinary_response_of_it(gate: Gate, meddler: Meddler, serve: Any) -> None:
    upstream = serve([SWITCHING])
    gate.serve(route(upstream, "status"))
    answer = ask(gate)
    assert (answer.status_code, answer.data) == (200, b"")
    answer.close()
    upstream.wait(ended=1)


def test_an_upstream_that_switches_to_another_protocol_is_502(gate: Gate, serve: Any) -> None:
    upstream = serve([SWITCHING.replace(b"websocket", b"echo")])
    gate.serve(route(upstream))
    assert ask(gate).status_code == 502
    upstream.wait(ended=1)


@pytest.mark.parametrize(("first", "status", "second"), [("answers", 503, 0), ("refuses", 404, 1)])
def test_another_target_is_asked_only_if_the_first_could_not_be_connected_to(
    gate: Gate, serve: Any, first: str, status: int, second: int
) -> None:
    upstreams = [serve([answer(503)]), serve([answer(404)])]
    targets = [{"url": str(upstream.origin)} for upstream in upstreams]
    if first == "refuses":
        with socket.create_server(("127.0.0.1", 0)) as closed:
            targets[0] = {"url": f"http://127.0.0.1:{closed.getsockname()[1]}"}
    described = {"both": {"targets": targets, "retries": {"attempts": 2, "on": ["connect", "reset", 503]}}}
    gate.serve({"routes": [{"path": "/", "upstream": "both", "websocket": True}], "upstreams": described})
    assert ask(gate).status_code == status
    assert upstreams[1].accepted == second


def answer(status: int) -> bytes:
    return b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status


def test_without_a_server_that_gives_connections_away_it_is_501(gate: Gate, meddler: Meddler, serve: Any) -> None:
    upstream = serve([SWITCHING])
    gate.serve(route(upstream))
    answer = gate.client.get("/", headers=WANTED)
    assert (answer.status_code, answer.json) == (501, {"error": "Not Implemented"})
    assert upstream.accepted == 0


def test_a_route_without_it_is_501(gate: Gate, serve: Any) -> None:
    gate.serve(route(serve([SWITCHING]), websocket=False))
    assert ask(gate).status_code == 501


TUNNEL = r"""
from gevent import monkey; monkey.patch_all()
import json, socket, threading
from werkzeug.test import create_environ
from gwproxy import Plugin, hookimpl
from tests.service import Gate

SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
outcomes = []

class Watcher(Plugin):
    name = "watcher"
    @hookimpl
    def response(self, ctx):
        ctx.on_finish(lambda outcome: outcomes.append([outcome.status, outcome.bytes_in, outcome.bytes_out, outcome.completed]))

def upstream():
    sock, _ = listener.accept()
    with sock, sock.makefile("rb") as stream:
        while stream.readline() != b"\r\n":
            pass
        sock.sendall(SWITCHING + b"first")
        assert stream.read(14) == b"early and more"
        sock.sendall(b" and last")

listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=upstream, daemon=True).start()
gate = Gate(Watcher())
url = f"http://127.0.0.1:{listener.getsockname()[1]}"
gate.serve([{"path": "/", "upstream": url, "websocket": True, "plugins": [{"name": "watcher"}]}])
client, server = socket.socketpair()
client.sendall(b" and more")
environ = create_environ("/", headers={"Connection": "Upgrade", "Upgrade": "websocket"})
environ["gwproxy.hijack"] = lambda: (server, b"early")
chunks = gate.app(environ, None)  # start_response is not called: the head is the tunnel's own
sent = list(chunks)
before = list(outcomes)
chunks.close()
server.close()
with client.makefile("rb") as stream:
    got = stream.read().decode()
left = len(gate.app.gateway.in_flight) + len(gate.app.gateway.tunnels)
print(json.dumps({"sent": len(sent), "before": before, "outcomes": outcomes, "got": got, "left": left}))
"""


def test_the_end_of_a_tunnel_is_told_with_what_went_both_ways() -> None:
    done = subprocess.run([sys.executable, "-c", TUNNEL], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    head, _, carried = told.pop("got").partition("\r\n\r\n")
    assert carried == "first and last"
    assert head.startswith("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-ID: ")
    assert told == {"sent": 0, "before": [], "outcomes": [[101, 14, 14, False]], "left": 0}
