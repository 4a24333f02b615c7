"""From an environ to a request, under our worker and under others."""

from __future__ import annotations

import io
from ipaddress import ip_network
from typing import Any

import pytest

from gwproxy.dataplane.ingress import Ingress
from gwproxy.errors import HttpError
from gwproxy.http.forwarding import entries_of


def environ(target: str = "/", fields: list[tuple[str, str]] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "RAW_URI": target,
        "REMOTE_ADDR": "192.0.2.7",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(b""),
        "gwproxy.fields": entries_of(fields if fields is not None else [("Host", "api.example.com")]),
        **more,
    }


def read(*args: Any, trusted: str = "", **more: Any) -> Any:
    networks = [ip_network(trusted)] if trusted else []
    return Ingress(networks).read(environ(*args, **more))


def test_order_case_and_repetitions_of_fields_survive() -> None:
    fields = [("Host", "h"), ("X-B", "1"), ("x-a", "2"), ("X-B", "3")]
    request, _, error = read("/", fields)
    assert error is None
    assert request.headers.items() == [("X-B", "1"), ("x-a", "2"), ("X-B", "3")]


def test_the_target_is_canonical_and_the_query_as_sent() -> None:
    request, _, error = read("//a%41/%2f?x=%41&&y")
    assert error is None
    assert (request.path, request.query_string) == ("/aA/%2f", "x=%41&&y")


def test_an_absolute_target_replaces_the_host() -> None:
    request, _, error = read("http://Other.example:81/x", [("Host", "h")])
    assert error is None
    assert (request.host, request.host_header, request.path) == ("other.example", "Other.example:81", "/x")


@pytest.mark.parametrize(
    ("target", "fields", "status"),
    [
        ("/", [], 400),
        ("http://h/", [], 400),
        ("/", [("Host", "a/b@c d")], 400),
        ("/", [("Host", "h"), ("Host", "h")], 400),
        ("/a/../b", [("Host", "h")], 400),
        ("*", [("Host", "h")], 400),
        ("/", [("Host", "h"), ("Authorization", "a"), ("Authorization", "b")], 400),
    ],
)
def test_N18_what_can_be_read_two_ways_is_refused_but_shown(target: str, fields: list[tuple[str, str]], status: int) -> None:
    request, ident, error = read(target, fields)
    assert isinstance(error, HttpError)
    assert error.status == status
    assert ident
    assert request.method == "GET"


def test_a_refused_target_is_shown_without_control_characters() -> None:
    request, _, error = read("/a\x1b[31m\x00")
    assert error is not None
    assert request.path == "/a\\x1b[31m\\x00"


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/a%zz?api_key=k1", "/a%zz"),
        ("/a#access_token=k1", "/a"),
        ("/a/../b\n?api_key=k1\nk1", "/a/../b\\n"),
        ("http://me:k1@h/%zz?k1", "http://h/%zz"),
        ("k1:k1@h:443", "h:443"),
        ("/mail@h/%zz", "/mail@h/%zz"),
    ],
)
def test_a_refused_target_is_shown_without_what_may_be_a_secret(target: str, shown: str) -> None:
    request, _, error = read(target)
    assert error is not None
    assert request.path == shown


def test_H05_forwarding_headers_of_an_untrusted_peer_are_dropped() -> None:
    fields = [("Host", "h"), ("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-Proto", "https"), ("X-Real-IP", "1.1.1.1")]
    request, _, _ = read("/", fields)
    assert (request.remote_addr, request.scheme, request.forwarded) == ("192.0.2.7", "http", None)
    assert request.headers.items() == []


def test_H06_those_of_a_trusted_peer_are_believed() -> None:
    fields = [("Host", "h"), ("X-Forwarded-For", "1.1.1.1, 203.0.113.9, 192.0.2.1"), ("X-Forwarded-Proto", "https")]
    request, _, _ = read("/", fields, trusted="192.0.2.0/24")
    assert (request.remote_addr, request.scheme) == ("203.0.113.9", "https")


def test_the_body_is_declared_chunked_or_none() -> None:
    assert read("/")[0].body.length == 0
    assert read("/", CONTENT_LENGTH="5")[0].body.length == 5
    assert read("/", HTTP_TRANSFER_ENCODING="chunked")[0].body.length is None


def test_under_a_server_that_keeps_nothing_raw() -> None:
    plain = environ(HTTP_HOST="h", HTTP_X_A="1", CONTENT_TYPE="text/plain", PATH_INFO="/a b/\xc3\xa9", QUERY_STRING="q=1")
    del plain["gwproxy.fields"], plain["RAW_URI"]
    request, _, error = Ingress(()).read(plain)
    assert error is None
    assert (request.path, request.query_string) == ("/a%20b/%C3%A9", "q=1")
    assert request.headers["X-A"] == "1"
    assert request.headers["Content-Type"] == "text/plain"
