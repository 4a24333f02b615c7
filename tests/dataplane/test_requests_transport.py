"""What is particular to requests' own adapter; what both transports do is in test_transport_*.py."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from requests.adapters import HTTPAdapter

from gwproxy.dataplane.requests_exchange import RequestsResponse
from gwproxy.dataplane.requests_transport import RequestsAdapter
from gwproxy.dataplane.transport import UpstreamFailed, UpstreamRequest
from gwproxy.dataplane.upstreams import Upstreams
from gwproxy.model import Timeouts

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def adapter() -> Iterator[RequestsAdapter]:
    made = RequestsAdapter()
    yield made
    made.close()


def exchange(adapter: RequestsAdapter, upstream: Any, target: bytes = b"/") -> Any:
    request = UpstreamRequest("GET", upstream.origin, target, [("Host", "a")], timeouts=Timeouts(connect=5.0, head=5.0, read=5.0))
    return adapter.send(request).raw


def test_R1_requests_and_urllib3_make_the_exchange_and_log_nothing_of_it(
    adapter: RequestsAdapter, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    upstream = serve([OK])
    with caplog.at_level(logging.DEBUG, "urllib3"):
        raw = exchange(adapter, upstream, b"/?token=secret")
    assert isinstance(adapter, HTTPAdapter)
    assert isinstance(raw, RequestsResponse)
    assert caplog.messages == ['http://upstream:None "GET / HTTP/1.1" 200 2']
    assert upstream.requests == [b"GET /?token=secret HTTP/1.1\r\nHost: a\r\n\r\n"]


def test_upstreams_send_by_the_transport_that_was_chosen(serve: Any) -> None:
    them = Upstreams(transport=RequestsAdapter)
    for live in (them.of_url("http://a.example"), them.direct("http://b.example")):
        assert isinstance(live.session.get_adapter("http://a.example/"), RequestsAdapter)


def test_chunks_that_came_together_leave_together(adapter: RequestsAdapter, serve: Any) -> None:
    raw = exchange(adapter, serve([CHUNKED + b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"]))
    assert list(raw.stream()) == [b"abcde"]


@pytest.mark.parametrize(
    "body",
    [b"2;a=" + b"x" * 70_000 + b"\r\nok\r\n0\r\n\r\n", b"2\r\nok\r\n0\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"],
    ids=["extension", "trailer"],
)
def test_R13_what_http_client_reads_otherwise_is_cut(adapter: RequestsAdapter, serve: Any, body: bytes) -> None:
    upstream = serve([CHUNKED + body])
    raw = exchange(adapter, upstream)
    with pytest.raises(UpstreamFailed, match="LineTooLong") as caught:
        list(raw.stream())
    assert caught.value.phase == "body"
    raw.close()


def test_a_response_that_is_closed_leaves_nothing_to_the_collector(adapter: RequestsAdapter, serve: Any) -> None:
    upstream = serve([OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n", CHUNKED + b"2\r\no"])
    gc.collect()
    gc.disable()
    try:
        for number in range(4):
            raw = exchange(adapter, upstream)
            if number < 3:
                list(raw.stream())
            raw.close()
            del raw
            assert not [found for found in gc.get_objects() if isinstance(found, RequestsResponse)]
    finally:
        gc.enable()
