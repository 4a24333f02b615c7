"""What the app is told of a request."""

import json
import time

import pytest


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
