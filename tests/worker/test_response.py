"""Responses: what the app gives, as bytes."""

import json
import re
from urllib.parse import quote

import pytest

from gwproxy.errors import TEXTS
from gwproxy.http.headers import Headers, Shared, field
from gwproxy.worker.response import Response, refusal

STATUS = "200 OK"


def written(chunks, headers=(), status=STATUS, *, head_only=False, http11=True, keep=True):
    """Return the sends of one response, and the response."""
    sends = []
    response = Response(sends.append, head_only=head_only, http11=http11, may_keep=lambda: keep)
    response.start(status, list(headers))
    response.pump(chunks)
    return sends, response


def head_of(sends):
    return sends[0].partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")


def test_head_and_body_leave_in_one_send():
    sends, response = written([b"body"], [("Content-Length", "4")])
    assert len(sends) == 1
    assert sends[0].endswith(b"\r\n\r\nbody")
    assert response.complete
    assert response.keep


def test_the_only_piece_of_a_list_needs_no_chunks():
    sends, _ = written([b"body"])
    assert "Content-Length: 4" in head_of(sends)
    assert len(sends) == 1


def test_pieces_leave_as_they_come():
    sends, _ = written(iter([b"one", b"", b"three"]))
    assert sends[0].endswith(b"\r\n\r\n3\r\none\r\n")
    assert sends[1:] == [b"5\r\nthree\r\n", b"0\r\n\r\n"]


def test_an_empty_first_piece_flushes_the_head():
    sends, _ = written(iter([b"", b"one"]), [("Content-Length", "3")])
    assert sends[0].endswith(b"\r\n\r\n")
    assert sends[1:] == [b"one"]


def test_no_piece_at_all_is_an_empty_body():
    sends, _ = written(iter([]))
    assert "Content-Length: 0" in head_of(sends)


def test_http_1_0_gets_no_chunks_but_the_end_of_the_connection():
    sends, response = written(iter([b"one", b"two"]), http11=False)
    assert b"".join(sends).endswith(b"\r\n\r\nonetwo")
    assert "Connection: close" in head_of(sends)
    assert (response.keep, response.framed) == (False, False)


@pytest.mark.parametrize(("http11", "keep", "lines"), [(True, True, []), (False, True, ["keep-alive"]), (True, False, ["close"])])
def test_connection_is_said_where_it_is_not_the_default(http11, keep, lines):
    sends, response = written([b"a"], http11=http11, keep=keep)
    assert [line.partition(": ")[2] for line in head_of(sends) if line.startswith("Connection")] == lines
    assert response.keep is keep


@pytest.mark.parametrize("checked", [True, False], ids=["gateway", "app"])
def test_B03_a_408_is_the_last_on_its_connection(checked):
    """Even where the rest of the body might still be read away: it is not waited for, so the client is not told that more may follow."""
    sends = []
    response = Response(sends.append, head_only=False, http11=True, may_keep=lambda: True)
    if checked:
        response.start_checked(408, Headers([("Content-Length", "4")]))
    else:
        response.start("408 Request Timeout", [])
    response.pump([b"late"] if not checked else Whole(b"late"))
    assert "Connection: close" in head_of(sends)
    assert response.keep is False


CHANGES = {
    "nothing": lambda headers: None,
    "one more": lambda headers: headers.add("X-B", "2"),
    "one less": lambda headers: headers.remove("X-A"),
    "another value": lambda headers: headers.__setitem__("X-A", "2"),
    "a date": lambda headers: headers.__setitem__("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
    "no date": lambda headers: headers.remove("Date"),
    "a length": lambda headers: headers.__setitem__("Content-Length", "4"),
    "two lengths": lambda headers: headers.add("Content-Length", "4"),
    "no length": lambda headers: headers.remove("Content-Length"),
    "a connection": lambda headers: headers.add("Connection", "close"),
}
FIELDS = [("X-A", "1"), ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("Content-Length", "4"), ("x-a", "3")]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("body", [b"body", b"other"])
@pytest.mark.parametrize("fields", [FIELDS, FIELDS[:1], FIELDS[2:]], ids=["all", "undated", "length first"])
def test_a_head_that_came_before_leaves_as_any_other(fields, change, body, monkeypatch):
    monkeypatch.setattr("gwproxy.worker.response.time.time", lambda: 1.0)
    made = [field(name, value) for name, value in fields]
    left = []
    for headers in (Headers.sharing(Shared(made)), Headers.adopt(made.copy())):
        change(headers)
        sends = []
        response = Response(sends.append, head_only=False, http11=True, may_keep=lambda: True)
        response.start_checked(200, headers)
        try:
            response.pump(Whole(body))
        except ValueError as error:
            sends.append(str(error))
        left.append((sends, response.keep, response.complete))
    assert left[0] == left[1]


class Whole(list):
    """A body of one piece, as the gateway gives it."""

    def __init__(self, whole):
        super().__init__([whole])
        self.whole = whole

    def sent(self, size):
        assert size == len(self.whole)


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified", "101 Switching Protocols"])
def test_U33_no_body_where_none_may_be(status):
    sends, _ = written(iter([b"body"]), [("Content-Length", "4")], status)
    assert b"".join(sends).endswith(b"\r\n\r\n")
    assert ("Content-Length: 4" in head_of(sends)) is status.startswith("304")
    assert not any(line.startswith("Transfer-Encoding") for line in head_of(sends))


def test_U33_head_keeps_the_length_of_the_body_it_does_not_get():
    sends, response = written(iter([]), [("Content-Length", "400")], head_only=True)
    assert "Content-Length: 400" in head_of(sends)
    assert response.complete


def test_R13_a_body_shorter_than_declared_is_never_complete():
    with pytest.raises(ValueError, match="after 3 of 5 bytes"):
        written(iter([b"abc"]), [("Content-Length", "5")])


@pytest.mark.parametrize("chunks", [[b"abc"], iter([])])
def test_R13_seen_before_the_head_leaves(chunks):
    sends = []
    response = Response(sends.append, head_only=False, http11=True, may_keep=lambda: True)
    response.start(STATUS, [("Content-Length", "5")])
    with pytest.raises(ValueError, match="5 are declared"):
        response.pump(chunks)
    assert sends == []


def test_R13_what_is_too_much_is_never_written():
    sends = []
    response = Response(sends.append, head_only=False, http11=True, may_keep=lambda: True)
    response.start(STATUS, [("Content-Length", "5")])
    with pytest.raises(ValueError, match="longer than the 5 bytes"):
        response.pump(iter([b"abc", b"defg", b"h"]))
    response.write(b"more than there was in all")
    assert b"".join(sends).endswith(b"\r\n\r\nabcde")
    assert not response.complete


@pytest.mark.parametrize("value", ["", "-1", "+1", "1_0", "\xb2", "1, 1", "abc"])
def test_no_length(value):
    with pytest.raises(ValueError, match="Content-Length"):
        written([b"a"], [("Content-Length", value)])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "1\r\nX-B: 2"),
        ("X-A", "1\n2"),
        ("X-A", "1\r2"),
        ("X-A", "\0"),
        ("X-A", "\x7f"),
        ("X-A", "\u20ac"),
        ("X A", "1"),
        ("X-A:", "1"),
        ("", "1"),
        ("X-\xe9", "1"),
        ("X-A\r\nX-B", "1"),
    ],
)
def test_H15_no_injection(name, value):
    with pytest.raises(ValueError, match="header"):
        written([b"never"], [(name, value)])


@pytest.mark.parametrize("status", ["200 OK\r\nX-A: 1", "OK", "20", "2000 OK", "99 Low", "", "200\tOK"])
def test_no_status(status):
    with pytest.raises((ValueError, RuntimeError)):
        written([b"never"], [], status)


def test_a_status_without_a_reason_keeps_its_space():
    assert head_of(written([b""], [], "599")[0])[0] == "HTTP/1.1 599 "


def test_a_second_start_is_a_mistake_unless_it_is_for_an_error():
    sends = []
    response = Response(sends.append, head_only=False, http11=True, may_keep=lambda: True)
    response.start(STATUS, [("X-Old", "1")])
    with pytest.raises(RuntimeError, match="twice"):
        response.start(STATUS, [])
    error = KeyError("late")
    response.start("500 Oh", [], (KeyError, error, None))
    response.write(b"")
    assert head_of(sends)[0] == "HTTP/1.1 500 Oh"
    with pytest.raises(KeyError, match="late"):
        response.start("500 Oh", [], (KeyError, error, None))


@pytest.mark.parametrize("status", sorted(TEXTS))
def test_refusals_are_json(status):
    head, _, body = refusal(status, [("Retry-After", "1")]).partition(b"\r\n\r\n")
    assert json.loads(body) == {"error": TEXTS[status]}
    lines = head.decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    assert {"Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", "Retry-After: 1"} <= set(lines)
    assert refusal(status, bodyless=True).endswith(b"\r\n\r\n")


def test_headers_on_the_wire_are_the_apps_without_hop_by_hop(client):
    reply = client.get("/fields")
    assert reply.line == "HTTP/1.1 200 Fine By Me"
    assert reply.headers == [
        ("x-Lower", "1"),
        ("Set-Cookie", "a=1"),
        ("X-Caf", "caf\xe9"),
        ("set-cookie", "b=2"),
        ("Server", "upstream/1"),
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Content-Length", "2"),
    ]
    assert client.get("/echo").status == 200


def test_date_is_added_and_no_server(client):
    reply = client.get("/echo")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} 20\d\d \d\d:\d\d:\d\d GMT", reply["Date"])
    assert not reply.has("Server")


def test_the_app_may_ask_for_the_end_of_the_connection(client):
    assert client.get("/close")["Connection"] == "close"
    assert client.closed()


def test_head_has_no_body_and_the_connection_goes_on(client):
    assert client.get("/status?line=200%20OK&length=7", method="HEAD")["Content-Length"] == "7"
    assert client.get("/status?line=204%20No&body=1").status == 204
    assert client.get("/status?line=304%20Not&length=7").status == 304
    assert client.get("/echo").status == 200


@pytest.mark.parametrize("query", ["value=1%0d%0aX-B:2", "value=%00", f"value={quote(chr(0x20AC))}", "name=X%20A"])
def test_H15_on_the_wire(client, query):
    reply = client.get(f"/inject?{query}")
    assert reply.status == 500
    assert json.loads(reply.body) == {"error": "Internal Server Error"}
    assert not reply.has("X-B")
    assert client.closed()


def test_write_and_a_late_start_response(client):
    assert client.get("/write").body == b"abcd"
    reply = client.get("/retry")
    assert (reply.status, reply["X-New"], reply.has("X-Old")) == (503, "1", False)
