"""What the app is told of a request."""

import json
import time

import pytest

from gwproxy.worker.environ import LONGEST_KEPT, Environs
from gwproxy.worker.quick import QuickHeads


def ask(client, target="/echo", *lines, method="GET"):
    return json.loads(client.get(target, *lines, method=method).body)


def test_keys_of_pep_3333(client, gateway):
    environ = ask(client, "/echo/a%20b%2Fc?x=%20&y", "Content-Type: text/plain", method="PUT")
    assert environ["REQUEST_METHOD"] == "PUT"
    assert environ["PATH_INFO"] == "/echo/a b/c"
    assert environ["QUERY_STRING"] == "x=%20&y"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(gateway.port))
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["REMOTE_PORT"] == str(client.sock.getsockname()[1])
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert "HTTP_CONTENT_TYPE" not in environ
    assert environ["same_socket"] is True


@pytest.mark.parametrize("target", ["/a%2Fb//c/../d", "//host/a", "http://other/a?b", "/a#b", "/%c0%ae", "/a;b=1?c#d"])
def test_raw_uri_is_the_target_as_sent(client, target):
    assert ask(client, target)["RAW_URI"] == target


def test_started_is_when_the_head_was_complete(client):
    client.send(b"GET /echo HTTP/1.1\r\nHost: a\r\n")
    before = time.monotonic()
    client.send(b"\r\n")
    started = json.loads(client.reply().body)["started"]
    assert before <= started <= time.monotonic()


def test_headers_keep_order_case_and_repetitions(client):
    lines = ["x-b: 1", "X-A:2", "X-B:\t3 ", "accept: caf\xe9"]
    assert ask(client, "/echo", *lines)["headers"] == [
        ["Host", "localhost"],
        ["x-b", "1"],
        ["X-A", "2"],
        ["X-B", "3"],
        ["accept", "caf\xe9"],
    ]


def test_H12_repeated_fields_are_joined_for_wsgi(client):
    assert ask(client, "/echo", "X-M: 1", "X-N: 0", "x-m: 2")["HTTP_X_M"] == "1,2"


def test_H10_cookies_on_two_lines_stay_cookies(client):
    assert ask(client, "/echo", "Cookie: a=1", "cookie: b=2")["HTTP_COOKIE"] == "a=1; b=2"


def test_P08_H09_underscores_are_dropped_and_counted(client):
    environ = ask(client, "/echo", "X_User_Id: evil", "X-User-Id: good", "Content_Length: 5", "Transfer_Encoding: chunked")
    assert environ["HTTP_X_USER_ID"] == "good"
    assert [name for name, _ in environ["headers"]] == ["Host", "X-User-Id"]
    assert environ["dropped"] == 3


def test_P07_length_is_canonical(client):
    client.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\nabc")
    assert json.loads(client.reply().body)["CONTENT_LENGTH"] == "3"


def test_no_header_can_set_scheme_or_script_name(client):
    lines = ["X-Forwarded-Proto: https", "X-Forwarded-SSL: on", "Script-Name: /echo", "SCRIPT_NAME: /echo", "Path-Info: /x"]
    environ = ask(client, "/echo/a", *lines)
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"] == "/echo/a"


def test_http_1_0_is_told(client):
    client.send(b"GET /echo HTTP/1.0\r\n\r\n")
    environ = json.loads(client.reply().body)
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert "HTTP_HOST" not in environ


def test_environments_of_requests_with_one_header_are_each_one_s_own() -> None:
    heads, environs, made = QuickHeads(8190, 100, 8190), Environs({"SERVER_NAME": "a"}), []
    for number, header in enumerate([b"Host: h\r\nX: 1", b"Host: h\r\nX: 1", b"Host: h", b"Host: h\r\nX: 1"]):
        data = b"GET /%d?q HTTP/1.1\r\n%b\r\n\r\n" % (number, header)
        head = heads.parse(data, len(data) - 4, environs.block)
        assert head is not None
        environ = environs.make(head, None, len, float(number))
        made.append([environ[key] for key in ("SERVER_NAME", "RAW_URI", "PATH_INFO", "HTTP_HOST", "gwproxy.started")])
        assert ("HTTP_X" in environ) is (b"X" in header)
        assert environ["wsgi.input"].read() == b""
        environ.clear()  # as an app may
    assert made == [["a", f"/{number}?q", f"/{number}", "h", float(number)] for number in range(4)]


def test_a_long_header_is_not_kept() -> None:
    heads, environs = QuickHeads(8190, 100, 8190), Environs({})
    for size, kept in ((LONGEST_KEPT - len("\r\nHost: h\r\nX: "), True), (LONGEST_KEPT, False)):
        data = b"GET / HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"x" * size)
        head = heads.parse(data, len(data) - 4)
        assert head is not None
        assert len(environs.make(head, None, len, 0.0)["HTTP_X"]) == size
        assert (environs.block is head.block) is kept


def test_who_keeps_a_connection_and_changes_the_header_gets_what_it_asks_for(client) -> None:
    asked = [("/echo/1", "X-A: 1"), ("/echo/2?q", "X-A: 1"), ("/echo/3", "X-A: 2"), ("/echo/4", "X-A: 1")]
    got = [ask(client, target, line) for target, line in asked]
    assert [(one["RAW_URI"], f"X-A: {one['HTTP_X_A']}") for one in got] == asked
