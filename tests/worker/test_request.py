"""Heads on the wire: what is refused and how (reliability.md 2.1, N18, H11, C09), and what is not."""

import json
import re

import pytest

TEXTS = {
    400: "Bad Request",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
}


def assert_refused(client, data, *statuses):
    """The gateway's own JSON, the end of the connection, and no second response."""
    client.send(data)
    reply = client.reply()
    assert reply.status in statuses
    assert reply.line.startswith("HTTP/1.1 ")
    assert json.loads(reply.body) == {"error": TEXTS[reply.status]}
    assert reply["Content-Type"] == "application/json"
    assert reply["Connection"] == "close"
    assert not reply.has("Server")
    assert client.closed()


def post(*lines, body=b"abc", version="1.1"):
    head = "\r\n".join([f"POST /body HTTP/{version}", "Host: a", *lines])
    return head.encode("latin-1") + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "lines", [("Content-Length: 3", "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked", "Content-Length: 3")]
)
def test_P01_length_and_chunked(client, lines):
    assert_refused(client, post(*lines, body=b"0\r\n\r\n"), 400)


@pytest.mark.parametrize("coding", ["xchunked", '"chunked"', "chunked;q=1", "chunked,", "", "gzip", "chunked, chunked"])
def test_P02_unknown_coding(client, coding):
    assert_refused(client, post(f"Transfer-Encoding: {coding}", body=b"0\r\n\r\n"), 400, 501)


@pytest.mark.parametrize("codings", [("chunked", "chunked"), ("gzip", "chunked"), ("identity", "chunked"), ("chunked", "identity")])
def test_P02_two_coding_lines(client, codings):
    assert_refused(client, post(*(f"Transfer-Encoding: {coding}" for coding in codings), body=b"0\r\n\r\n"), 400, 501)


@pytest.mark.parametrize("line", ["Transfer-Encoding : chunked", "Transfer-Encoding: \vchunked", "Transfer-Encoding: chunked, identity"])
def test_P03_disguised_coding(client, line):
    assert_refused(client, post(line, body=b"0\r\n\r\n"), 400)


def test_P03_coding_on_http_1_0(client):
    assert_refused(client, post("Transfer-Encoding: chunked", body=b"0\r\n\r\n", version="1.0"), 400)


@pytest.mark.parametrize("coding", ["identity, chunked", "gzip, chunked", "IDENTITY,chunked"])
def test_P05_coding_other_than_chunked_alone(client, coding):
    assert_refused(client, post(f"Transfer-Encoding: {coding}", body=b"0\r\n\r\n"), 501)


@pytest.mark.parametrize("length", ["3, 3", "+3", "-1", "0x3", "3_0", "\xb2", "", "9" * 5000, "9" * 30, str(2**63)])
def test_P06_bad_length(client, length):
    assert_refused(client, post(f"Content-Length: {length}"), 400)


@pytest.mark.parametrize("second", ["3", "4"])
def test_P06_two_lengths(client, second):
    assert_refused(client, post("Content-Length: 3", f"Content-Length: {second}"), 400)


@pytest.mark.parametrize(
    "head",
    [
        b"Host: a\r\nX-A: 1\r\n folded\r\n",
        b"Host: a\nX-A: 1\r\n",
        b"Host: a\r\nX-A: 1\rX-B: 2\r\n",
        b"Host: a\r\nX-A: 1\x002\r\n",
        b"Host: a\r\nX-A\r\n",
        b"Host: a\r\n: 1\r\n",
        b" X-A: 1\r\nHost: a\r\n",
        b"Host: a\r\nX A: 1\r\n",
    ],
)
def test_P09_line_grammar(client, head):
    assert_refused(client, b"GET / HTTP/1.1\r\n" + head + b"\r\n", 400)


def test_P14_pipelined_requests_are_answered_in_order(client):
    client.send(b"POST /echo/1 HTTP/1.1\r\nHost: a\r\n\r\nGET /echo/2 HTTP/1.1\r\nHost: a\r\n\r\nGET /echo/3 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [json.loads(client.reply().body)["RAW_URI"] for _ in range(3)] == ["/echo/1", "/echo/2", "/echo/3"]


@pytest.mark.parametrize("lines", [("Connection: close, x",), ("Connection: x, Close",), ("Connection: x", "connection: close")])
def test_P15_close_in_any_list_closes(client, lines):
    assert client.get("/echo", *lines)["Connection"] == "close"
    assert client.closed()


def test_P15_http_1_0_stays_only_if_asked(client):
    client.send(b"GET /echo HTTP/1.0\r\nConnection: keep-alive, x\r\n\r\n")
    assert client.reply()["Connection"] == "keep-alive"
    client.send(b"GET /echo HTTP/1.0\r\n\r\n")
    assert client.reply()["Connection"] == "close"
    assert client.closed()


@pytest.mark.parametrize(
    "data",
    [
        b"GET /\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/11\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_P16_no_http_1(client, data):
    assert_refused(client, data, 400)


def test_P17_http_1_2_is_answered_as_1_1(client):
    client.send(b"GET /echo HTTP/1.2\r\nHost: a\r\n\r\n")
    reply = client.reply()
    assert reply.line == "HTTP/1.1 200 OK"
    assert json.loads(reply.body)["SERVER_PROTOCOL"] == "HTTP/1.1"


def test_P18_one_empty_line_before_a_request(client):
    client.send(b"\r\nGET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
    assert client.reply().status == 200


@pytest.mark.parametrize("start", [b"\r\n\r\n", b"\n"])
def test_P18_more_than_that(client, start):
    assert_refused(client, start + b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n", 400)


@pytest.mark.parametrize("method", ["get", "G#T", "A" * 21, "GE T", "G\xc9T"])
def test_P19_no_method(client, method):
    assert_refused(client, f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"), 400)


def test_P19_unknown_method_is_the_apps_business(client):
    assert json.loads(client.get("/echo", method="FOOBAR").body)["REQUEST_METHOD"] == "FOOBAR"


def test_P21_unknown_expectation(client):
    assert_refused(client, post("Expect: foo", "Content-Length: 3"), 417)


def test_P23_too_large_heads(client, gateway):
    assert_refused(client, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X-A: 1\r\n" * 100 + b"\r\n", 431)
    with gateway.client() as another:
        assert_refused(another, b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"1" * 9000 + b"\r\n\r\n", 431)
    with gateway.client() as another:
        assert_refused(another, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414)


def test_P23_large_heads_within_the_limits(client):
    lines = [f"X-{number}: {'v' * 500}" for number in range(99)]
    assert len(json.loads(client.get("/echo/" + "a" * 8000, *lines).body)["headers"]) == 100


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "*"), ("GET", "host:80"), ("GET", "/caf\xe9"), ("GET", "/a\tb"), ("GET", "a"), ("GET", "")]
)
def test_bad_target(client, method, target):
    assert_refused(client, f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1"), 400)


@pytest.mark.parametrize(("method", "target"), [("CONNECT", "h:443"), ("CONNECT", "/echo"), ("TRACE", "/echo")])
def test_N08_connect_and_trace_reach_the_app_and_close(client, method, target):
    reply = client.get(target, method=method)
    assert json.loads(reply.body)["RAW_URI"] == target
    assert reply["Connection"] == "close"
    assert client.closed()


def test_N09_options_asterisk_reaches_the_app(client):
    assert json.loads(client.get("*", method="OPTIONS").body)["RAW_URI"] == "*"


def test_N18_no_host(client):
    assert_refused(client, b"GET /echo HTTP/1.1\r\nX-A: 1\r\n\r\n", 400)


def test_N18_no_fields_at_all(client):
    assert_refused(client, b"GET /echo HTTP/1.1\r\n\r\n", 400)


@pytest.mark.parametrize("host", ["", "a/b@c d", "a, b", "a,b", "user@a", "a b", "a:b", "[::1", "a\x00", "\xe9", "a:80:80", "a%2fb", ":80"])
def test_N18_no_valid_host(client, host):
    assert_refused(client, f"GET /echo HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"), 400)


def test_N18_two_hosts(client):
    assert_refused(client, b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400)


@pytest.mark.parametrize("host", ["a", "A.example.:8080", "[::1]:80", "10.0.0.1", "my_service:80", "a:"])
def test_N18_valid_host(client, host):
    client.send(f"GET /echo HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert json.loads(client.reply().body)["HTTP_HOST"] == host


def test_H11_two_authorizations(client):
    assert_refused(client, b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n", 400)


@pytest.mark.parametrize("lines", ["Origin: http://a\r\nOrigin: http://a", "Origin: http://a, http://b", "Origin: http://a http://b"])
def test_C09_two_origins(client, lines):
    assert_refused(client, f"GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n".encode(), 400)


def test_a_refusal_ends_what_was_pipelined(client):
    client.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\nGET /echo HTTP/1.1\r\n\r\nGET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
    assert [client.reply().status, client.reply().status] == [200, 400]
    assert client.closed()


def test_S09_refusals_are_logged_a_few_a_second_without_what_was_sent(gunicorn, wait_until):
    gateway = gunicorn()
    for _ in range(30):
        with gateway.client() as client:
            assert_refused(client, b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization geheim\r\n\r\n", 400)

    def kept_back():
        with gateway.client() as client:
            assert_refused(client, b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400)
        return re.findall(r"suppressed=([1-9]\d*)", gateway.log())

    wait_until(kept_back)
    assert "request_refused client=127.0.0.1 status=400 reason='InvalidHeader'" in gateway.log()
    assert gateway.log().count("request_refused") < 30
    assert "geheim" not in gateway.log()
