"""The connections of upstreams, across changes of the configuration."""

from __future__ import annotations

import threading
import time
from typing import Any

from gwproxy.dataplane.transport import UpstreamRequest
from gwproxy.dataplane.upstreams import LiveUpstream, Upstreams
from gwproxy.model import Target, Timeouts, Upstream

PATIENT = Timeouts(connect=5.0, head=5.0, read=5.0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSES = object()  # a script's step that is neither an answer nor something to say: the upstream closes


def described(upstream: Any, weight: int = 1) -> Upstream:
    return Upstream(targets=(Target(url=f"http://127.0.0.1:{upstream.origin.port}", weight=weight),))


def ask(live: LiveUpstream) -> None:
    target = live.targets[0]
    request = UpstreamRequest("GET", target.origin, b"/", [("Host", target.authority)], timeouts=PATIENT)
    raw = live.session.exchange(request)
    assert b"".join(raw.stream()) == b"ok"
    raw.close()


def idle(live: LiveUpstream) -> int:
    return sum(count for _, count in live._adapter.connections())


def test_S07_an_upstream_that_is_described_anew_leaves_no_connection_behind(serve: Any) -> None:
    upstream, them = serve([OK]), Upstreams()
    before = them.named("users", described(upstream))
    ask(before)
    after = them.named("users", described(upstream, weight=2))
    assert idle(before) == 1, "the snapshot before serves until the swap"
    them.keep([after])
    assert idle(before) == 0
    upstream.wait(ended=1)


def test_S07_a_request_that_outlives_its_upstream_s_description_leaves_its_connection_to_nobody(serve: Any) -> None:
    go = threading.Event()

    def slowly(peer: Any) -> None:
        peer.request()
        peer.say(OK[:-2])
        assert go.wait(5)
        peer.say(b"ok")
        peer.wait_closed()

    upstream, them = serve(slowly), Upstreams()
    before = them.named("users", described(upstream))
    request = UpstreamRequest("GET", before.targets[0].origin, b"/", [("Host", "a")], timeouts=PATIENT)
    raw = before.session.exchange(request)
    them.keep([them.named("users", described(upstream, weight=2))])
    go.set()
    assert b"".join(raw.stream()) == b"ok"
    raw.close()
    assert idle(before) == 0
    upstream.wait(ended=1)


def test_upstreams_that_plugins_choose_are_counted_under_one_label() -> None:
    """Their URLs may be made of what a client sent."""
    them = Upstreams()
    for name in "ab":
        live = them.direct(f"http://{name}.example")
        assert live.places._busy("full").status == 503
    assert them.tally.shown() == {"upstream_refused:direct": 2}


def test_S04_connections_that_upstreams_have_closed_are_let_go_wherever_they_were_chosen(serve: Any) -> None:
    upstream, them = serve([OK, CLOSES], [OK, CLOSES]), Upstreams()
    url = f"http://127.0.0.1:{upstream.origin.port}"
    chosen = [them.of_url(url), them.direct(url)]  # by a route, and by a plugin
    for live in chosen:
        ask(live)
    upstream.wait(ended=2)
    deadline = time.monotonic() + 5
    while any(map(idle, chosen)) and time.monotonic() < deadline:
        them.prune()
    assert [idle(live) for live in chosen] == [0, 0]
