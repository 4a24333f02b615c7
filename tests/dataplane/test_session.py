"""A session that remembers nothing (reliability R2, R3, R4; design rule 5)."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gwproxy.dataplane.session import UpstreamSession
from gwproxy.dataplane.transport import GatewayAdapter, RawResponse, UpstreamRequest
from gwproxy.model import Timeouts
from tests.dataplane.conftest import Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def session(transport: Transport) -> Iterator[UpstreamSession]:
    with UpstreamSession(transport()) as made:
        yield made


def made(upstream: Any, *fields: tuple[str, str]) -> UpstreamRequest:
    return UpstreamRequest("GET", upstream.origin, b"/", [("Host", "a"), *fields], timeouts=Timeouts(connect=2.0, head=2.0, read=2.0))


def read(session: UpstreamSession, sent: UpstreamRequest) -> RawResponse:
    raw = session.exchange(sent)
    list(raw.stream())
    raw.close()
    return raw


def test_R2_one_client_s_cookie_is_not_sent_with_another_s_request(session: UpstreamSession, serve: Any) -> None:
    setting = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=alice; Path=/\r\nContent-Length: 0\r\n\r\n"
    upstream = serve([setting, OK, setting, OK])
    read(session, made(upstream, ("Cookie", "own=1")))
    read(session, made(upstream))
    session.send(made(upstream)).close()
    session.send(made(upstream)).close()
    assert b"Cookie: own=1" in upstream.requests[0]
    assert [b"cookie" in sent.lower() for sent in upstream.requests] == [True, False, False, False]
    assert list(session.cookies) == []


def test_R2_the_jar_keeps_nothing_even_when_it_is_asked_to(session: UpstreamSession) -> None:
    class Answer:
        def info(self) -> Any:
            from email.message import Message

            message = Message()
            message["Set-Cookie"] = "session=alice; Path=/"
            return message

    from urllib.request import Request

    session.cookies.extract_cookies(Answer(), Request("http://a.example/"))  # type: ignore[arg-type]
    assert list(session.cookies) == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_R3_a_redirect_is_handed_back_not_followed(session: UpstreamSession, serve: Any, status: int) -> None:
    upstream = serve([b"HTTP/1.1 %d Moved\r\nLocation: /else\r\nContent-Length: 4\r\n\r\nbody" % status] * 2)
    raw = session.exchange(made(upstream))
    assert (raw.status, b"".join(raw.stream())) == (status, b"body")
    raw.close()
    response = session.send(made(upstream), allow_redirects=True)
    assert (response.status_code, response.history, response.content) == (status, [], b"body")
    assert len(upstream.requests) == 2


def test_R3_a_location_that_is_no_url_harms_nothing(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([b"HTTP/1.1 302 Found\r\nLocation: http://[::1/\xff\r\nContent-Length: 0\r\n\r\n"])
    assert read(session, made(upstream)).status == 302


def test_R4_proxies_of_the_environment_are_not_used(session: UpstreamSession, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream, proxy = serve([OK]), serve([OK])
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
        monkeypatch.setenv(name, str(proxy.origin))
    monkeypatch.delenv("no_proxy", raising=False)
    read(session, made(upstream))
    assert (len(upstream.requests), proxy.accepted) == (1, 0)


def test_R4_netrc_does_not_replace_the_caller_s_authorization(
    session: UpstreamSession, serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    upstream = serve([OK, OK])
    read(session, made(upstream, ("Authorization", "Bearer mine")))
    read(session, made(upstream))
    assert b"Authorization: Bearer mine\r\n" in upstream.requests[0]
    assert b"authorization" not in upstream.requests[1].lower()


def test_H16_the_session_adds_no_field(session: UpstreamSession, serve: Any) -> None:
    session.headers["X-Default"] = "1"
    session.auth = ("user", "password")
    session.params = {"x": "1"}
    upstream = serve([OK])
    read(session, made(upstream))
    assert upstream.requests == [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"]


def test_hooks_of_the_session_are_not_called(session: UpstreamSession, serve: Any) -> None:
    called: list[object] = []
    session.hooks["response"].append(lambda *args, **more: called.append(args))
    upstream = serve([OK, OK])
    read(session, made(upstream))
    session.send(made(upstream)).close()
    assert called == []


def test_nothing_but_the_adapter_leads_out(session: UpstreamSession, serve: Any) -> None:
    upstream = serve([OK])
    with pytest.raises(TypeError):
        session.get(str(upstream.origin))
    with pytest.raises(requests.exceptions.InvalidSchema):
        session.get_adapter("ftp://a.example/")
    assert upstream.accepted == 0


def test_a_response_can_be_read_as_one_of_requests(session: UpstreamSession, serve: Any) -> None:
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 7\r\n\r\n"
    upstream = serve([answer + b'{"a":1}', OK])
    response = session.send(made(upstream))
    assert (response.status_code, response.ok, response.url) == (404, False, f"{upstream.origin}/")
    assert (response.headers["content-type"], response.json()) == ("application/json", {"a": 1})
    response.close()
    assert read(session, made(upstream)).reused


def test_closing_the_session_closes_its_connections(serve: Any) -> None:
    upstream = serve([OK])
    session = UpstreamSession(GatewayAdapter())
    read(session, made(upstream))
    session.close()
    upstream.wait(ended=1)
    assert upstream.accepted == 1


def test_an_adapter_cannot_be_pickled(transport: Transport) -> None:
    with pytest.raises(TypeError, match="sockets"):
        pickle.dumps(transport())
