from __future__ import annotations

import pytest

from gwproxy.controlplane.trial import environ_of
from gwproxy.dataplane.ingress import Ingress


@pytest.mark.parametrize(
    ("url", "target", "host", "scheme"),
    [
        ("http://u:p@a.example:81/x?y#z", "/x?y", "a.example:81", "http"),
        ("HTTPS://a.example", "/", "a.example", "https"),
        ("http://a.example?q", "/?q", "a.example", "http"),
        ("http://[::1]:8080//x/%2F", "//x/%2F", "[::1]:8080", "http"),
        ("/x#y", "/x#y", "localhost", "http"),
    ],
)
def test_a_url_becomes_the_request_that_a_client_would_send(url: str, target: str, host: str, scheme: str) -> None:
    environ = environ_of("GET", url, [])
    assert (environ["RAW_URI"], environ["gwproxy.fields"][0][0][2], environ["wsgi.url_scheme"]) == (target, host, scheme)


def test_the_environ_is_read_as_a_request_without_a_body() -> None:
    request, ident, refused = Ingress(()).read(environ_of("POST", "/a?b", [("X-Request-ID", "abc"), ("hOst", "h.example")]))
    assert refused is None
    assert (request.method, request.path, request.query_string, request.host, ident) == ("POST", "/a", "b", "h.example", "abc")
    assert request.get_data() == b""
